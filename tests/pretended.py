"""A GPU that is only pretended: tensors on it compute on the CPU, and what would have waited for a GPU, or mixed two devices, is noticed

What a tensor says of its device is a lie told in Python; PyTorch itself takes it for one of the CPU. So an operation that PyTorch builds
differently for a GPU is not seen as it would be there.
"""
import traceback
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device('cuda', 0)
ASKS = ('_local_scalar_dense', 'nonzero', 'equal', 'masked_select', '_unique2')  # whose answer Python needs at once


class Noticed:
    "What happened: names of operations, and where something waited"
    def __init__(self): self.names, self.waits = set(), []
    def wait(self, what):
        lines = [f"{frame.filename.rpartition('/')[2]} {frame.name}" for frame in traceback.extract_stack() if 'fastai' in frame.filename]
        self.waits.append(f"{what}: {' < '.join(reversed(lines[-2:]))}")


noticed = Noticed()


class OnGpu(torch.Tensor):
    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype, device='cpu')
    def __init__(self, inside): self.inside = inside

    device, is_cuda = property(lambda self: GPU), property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return pretend(func, args, kwargs or {})

    def as_subclass(self, kind): return self
    def cpu(self): return self.to('cpu')
    def __repr__(self, **_): return f'OnGpu({self.inside})'
    def tolist(self): return noticed.wait('tolist') or self.inside.tolist()
    def to(self, *args, non_blocking=False, **kwargs):
        device = next((value for value in (*args, kwargs.pop('device', None)) if isinstance(value, (str, torch.device))), GPU)
        args = [value for value in args if not isinstance(value, (str, torch.device, bool))]
        if torch.device(device).type == 'cpu': return (None if non_blocking else noticed.wait('to the CPU')) or self.inside.to(*args, **kwargs)
        return super().to(*args, **kwargs) if args or kwargs else self


def pretend(func, args, kwargs):
    "Do on the CPU what was asked of the GPU"
    name, tensors = func.overloadpacket.__name__, [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = [value for value in tensors if isinstance(value, OnGpu)]
    noticed.names.add(name)
    on_gpu, kwargs, patient = bool(there), dict(kwargs), not kwargs.get('non_blocking') and not (name == 'copy_' and len(args) > 2 and args[2])
    if kwargs.get('device') is not None:
        moved, on_gpu = on_gpu, torch.device(kwargs['device']).type == 'cuda'
        kwargs['device'] = torch.device('cpu')
        if name == '_to_copy' and moved != on_gpu and patient: noticed.wait('a copy')
    if name == 'copy_':
        on_gpu = isinstance(args[0], OnGpu)
        if len(there) == 1 and patient: noticed.wait('a copy')
    elif there and any(value.dim() for value in tensors if not isinstance(value, OnGpu)): raise RuntimeError(f'{name} of tensors on two devices')
    if there and name in ASKS: noticed.wait(name)
    if name == '_pin_memory': return args[0]
    inside = lambda value: value.inside if isinstance(value, OnGpu) else value
    found, known = func(*tree_map(inside, args), **tree_map(inside, kwargs)), {id(value.inside): value for value in there}
    def wrap(value):
        if not isinstance(value, torch.Tensor) or not on_gpu: return value
        return known[id(value)] if id(value) in known else OnGpu(value)
    return tree_map(wrap, found)


class Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return pretend(func, args, kwargs or {})


class Event:
    def record(self): pass
    def query(self): return True


@contextmanager
def pretended_gpu(monkeypatch):
    "Inside, `device='cuda'` works; what is noticed begins anew"
    torch._C._ensureCUDADeviceGuardSet()
    for place, name, value in ((torch.cuda, '_initialized', True), (torch.cuda, 'Event', Event), (torch.cuda, 'get_rng_state', lambda *_: torch.zeros(1)),
                               (torch.cuda, 'set_rng_state', lambda *_: None), (torch.cuda, 'get_device_capability', lambda *_: (9, 0)), (torch.nn.Module, 'to', lambda model, *_, **__: model), (torch.Tensor, 'pin_memory', lambda tensor, *_: tensor)):
        monkeypatch.setattr(place, name, value)
    noticed.__init__()
    with Pretending(): yield noticed


def move_model(model):
    "Put a network's weights and buffers on the pretended GPU"
    for part in model.modules():
        for values, wrap in ((part._parameters, lambda value: torch.nn.Parameter(OnGpu(value.detach()), value.requires_grad)), (part._buffers, OnGpu)):
            for name, value in values.items():
                if value is None: continue
                values[name] = wrap(value)
                vars(values[name]).update({own: kept for own, kept in vars(value).items() if own == 'lr_scale'})
