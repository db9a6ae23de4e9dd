"Batch norm with what follows it in few passes, against PyTorch's layers one after another in float64"
import copy
import gc
import pickle
import weakref
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar_fastai.models import fused_norms
from cifar_fastai.models.fused_norms import STEPS, Compiled, FusedNorm, batch_norms
from cifar_fastai.models.layers import Add, Layers, apply_in_order
from cifar_fastai.models.networks import network


@cache
def compiler():
    "None where code can be compiled, or why not"
    try: torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error: return str(error).splitlines()[0]


@pytest.fixture(params=['eager', 'inductor'])
def backend(request):
    if request.param == 'inductor' and compiler(): pytest.skip(f'no compiler here: {compiler()}')
    return request.param


def maps(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(memory_format=torch.channels_last)


def a_norm(channels, seed=1):
    norm, draw = nn.BatchNorm2d(channels, momentum=0.3), torch.Generator().manual_seed(seed)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean): value.normal_(generator=draw)
    return norm


def answers(layers, x, other=None):
    "What the layers give, and every gradient of a function of it that no symmetry makes zero"
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    other = None if other is None else other.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layers(x, other)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    wanted = [x, *(p for part in layers.parts for p in part.parameters()), *([] if other is None else [other])]
    return [y.detach(), *torch.autograd.grad((y*weight).sum(), wanted), *(b for part in layers.parts for b in part.buffers())]


class Stack:
    "A norm and what follows it"
    def __init__(self, norm, *rest): self.parts = norm, *rest
    def __call__(self, x, other):
        norm, *rest = self.parts
        return apply_in_order(x, norm, *(Add(other) if layer is SUM else layer for layer in rest))


class Sum(nn.Module):
    "Stands for the sum with what `answers` is given"

SUM, RELU = Sum(), nn.ReLU(inplace=True)
CASES = {(): [], ('relu',): [RELU], ('pool',): [nn.MaxPool2d(2)], ('pool', 'relu'): [nn.MaxPool2d(2), nn.ReLU()],
         ('add',): [SUM], ('add', 'relu'): [SUM, RELU], ('relu', 'add'): [RELU, SUM]}

def done(fused): return [kind[3] for kind in fused.passes]


def test_every_case_is_tried(): assert set(CASES) == set(STEPS)


@pytest.mark.parametrize('case', CASES)
def test_the_layers_in_float64(case, backend):
    "Weights of both signs, so that the smallest pixel of a square is kept as well"
    rest = CASES[case]
    x, other = maps(4, 24, 6, 10), maps(4, 24, 6, 10, seed=5) if 'add' in case else None
    norm = a_norm(24)
    exact = answers(Stack(copy.deepcopy(norm).double(), *rest), x.double(), None if other is None else other.double())
    norm.fused = FusedNorm(backend)
    found = answers(Stack(norm, *rest), x, other)
    for one, two in zip(found, exact, strict=True): torch.testing.assert_close(one, two.to(one.dtype), rtol=1e-4, atol=2e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last) and found[1].is_contiguous(memory_format=torch.channels_last)
    assert done(norm.fused) == [case]


def test_of_equal_pixels_the_first_gets_the_gradient(backend):
    x = maps(3, 8, 4, 4).round().clamp(-1, 1)
    norm = a_norm(8)
    plain = answers(Stack(copy.deepcopy(norm), nn.MaxPool2d(2), nn.ReLU()), x)
    norm.fused = FusedNorm(backend)
    for one, two in zip(answers(Stack(norm, nn.MaxPool2d(2), nn.ReLU()), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


def test_the_variance_of_numbers_far_from_zero(backend):
    "No difference of two squares: values of 1000 ± 0.1 have a variance of 0.01, and a corner may lie elsewhere"
    x, norm = maps(8, 16, 8, 8)*0.1 + 1000, nn.BatchNorm2d(16, momentum=1.)
    x[0, :, 0, 0] -= 0.5
    norm.fused = FusedNorm(backend)
    y = Layers(norm)(x)
    torch.testing.assert_close(norm.running_var, x.double().var((0, 2, 3)).float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(y.detach(), F.batch_norm(x.double(), None, None, training=True).float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('case', [('pool', 'relu'), ('add', 'relu'), ('relu', 'add')])
def test_bf16_is_rounded_once(case, backend):
    "Answers and gradients of bf16 maps lie within one rounding of those in float64; the layers one after another round a sum twice"
    x, other = maps(4, 16, 8, 8).bfloat16(), maps(4, 16, 8, 8, seed=5).bfloat16() if 'add' in case else None
    norm = a_norm(16)
    exact = answers(Stack(copy.deepcopy(norm).double(), *CASES[case]), x.double(), None if other is None else other.double())
    norm.fused = FusedNorm(backend)
    found = answers(Stack(norm, *CASES[case]), x, other)
    assert found[0].dtype == found[1].dtype == torch.bfloat16 and done(norm.fused) == [case]
    torch.testing.assert_close(found[0].double(), exact[0], rtol=2**-8, atol=1e-6)
    slopes = (found[1].double() - exact[1]).abs()/exact[1].abs().mean()  # where the ReLU or the largest is a matter of the last place, another pixel gets it
    assert slopes.median() < 2**-7 and (slopes > 0.05).float().mean() < 0.01


def test_a_weight_of_zero_passes_the_first_pixel_on():
    x, norm = maps(4, 8, 6, 6), a_norm(8)
    norm.weight.data.zero_()
    plain = answers(Stack(copy.deepcopy(norm), nn.MaxPool2d(2)), x)
    norm.fused = FusedNorm('eager')
    for one, two in zip(answers(Stack(norm, nn.MaxPool2d(2)), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


WAYS_TO_LOOK = {
    'forward': lambda layer, seen: layer.register_forward_hook(lambda *_: seen.append(layer)),
    'before': lambda layer, seen: layer.register_forward_pre_hook(lambda *_: seen.append(layer)),
    'backward': lambda layer, seen: layer.register_full_backward_hook(lambda *_: seen.append(layer)),
    'before backward': lambda layer, seen: layer.register_full_backward_pre_hook(lambda *_: seen.append(layer)),
    'its own forward': lambda layer, seen: setattr(layer, 'forward', lambda x, usual=layer.forward: seen.append(layer) or usual(x)),
    'compiled': lambda layer, seen: seen.append(layer) or layer.compile(backend='eager')}

@pytest.mark.parametrize('way', WAYS_TO_LOOK)
@pytest.mark.parametrize('which', ['norm', 'pool', 'ReLU', 'layers within layers'])
def test_what_somebody_looks_at_is_called(which, way):
    "By hooks, a `forward` of its own, or compiled by itself; what is looked at is done once, and with the same result"
    x, norm, seen = maps(4, 8, 6, 6).requires_grad_(), a_norm(8), []
    layers = Layers(norm, *([nn.MaxPool2d(2)] if which == 'pool' else []), nn.ReLU())
    other = torch.ones_like(layers(x)).contiguous(memory_format=torch.channels_last)
    def result():
        y = apply_in_order(x, layers, Add(other))
        return y, *torch.autograd.grad(y.square().sum(), [x, *layers.parameters()])
    plain = result()
    norm.fused = FusedNorm('eager')
    for one, two in zip(result(), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert done(norm.fused) == [('pool', 'relu') if which == 'pool' else ('relu', 'add')]
    norm.fused.passes.clear()
    looked_at = {'norm': norm, 'pool': layers[1], 'ReLU': layers[-1], 'layers within layers': layers}[which]
    WAYS_TO_LOOK[way](looked_at, seen)
    for one, two in zip(result(), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert seen == [looked_at]
    compiled_around = (which, way) == ('layers within layers', 'compiled')
    assert done(norm.fused) == ([] if compiled_around else {'norm': [], 'pool': [()], 'ReLU': [()], 'layers within layers': [('relu',)]}[which])


def test_functions_among_the_layers():
    x, norm = maps(4, 8, 6, 6), a_norm(8)
    expected = torch.tanh(norm(x))
    norm.fused = FusedNorm('eager')
    torch.testing.assert_close(apply_in_order(x, norm, torch.tanh), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('other', [torch.ones(4, 8, 1, 1), maps(4, 8, 6, 6, seed=5).double(), maps(4, 8, 6, 6, seed=5).contiguous()], ids=['broadcast', 'float64', 'contiguous'])
def test_a_sum_that_does_not_fit(other):
    x, norm, relu = maps(4, 8, 6, 6), a_norm(8), nn.ReLU()
    plain = answers(Stack(copy.deepcopy(norm), relu, SUM), x, other)
    norm.fused = FusedNorm('eager')
    for one, two in zip(answers(Stack(norm, relu, SUM), x, other), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
    assert done(norm.fused) == [('relu',)]


@pytest.mark.parametrize('what', ['evaluation', 'contiguous', 'odd', 'overlapping', 'no running statistics', 'bf16 weights', 'bf16 bias', 'float64 statistics', 'weights as bias'])
def test_what_does_not_fit_is_done_by_the_layers_themselves(what):
    x, norm, pool = maps(4, 8, 6, 6), a_norm(8), nn.MaxPool2d(2)
    if what == 'evaluation': norm.eval()
    if what == 'contiguous': x = x.contiguous()
    if what == 'odd': x = maps(4, 8, 7, 7)
    if what == 'overlapping': pool = nn.MaxPool2d(3, 2, padding=1)
    if what == 'bf16 weights': x, norm = x.bfloat16(), norm.bfloat16()
    if what == 'bf16 bias': norm.bias = nn.Parameter(norm.bias.bfloat16())
    if what == 'float64 statistics': norm.running_mean, norm.running_var = norm.running_mean.double(), norm.running_var.double()
    if what == 'weights as bias': norm.bias = norm.weight
    if what == 'no running statistics': norm = nn.BatchNorm2d(8, track_running_stats=False)
    norm.fused = FusedNorm('eager')
    if what in ('bf16 bias', 'float64 statistics'):  # which PyTorch refuses, and with it so do we
        with pytest.raises(RuntimeError): norm(x)
        with pytest.raises(RuntimeError): apply_in_order(x, norm)
        return
    plain = answers(Stack(copy.deepcopy(norm), pool, nn.LeakyReLU(inplace=True)), x)
    for one, two in zip(answers(Stack(norm, pool, nn.LeakyReLU(inplace=True)), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
    assert len(norm.fused.passes) == (what in ('odd', 'overlapping'))


def test_a_layer_that_writes_in_place_behind_it():
    x, norm = maps(4, 8, 6, 6), a_norm(8)
    plain = answers(Stack(copy.deepcopy(norm), nn.LeakyReLU(inplace=True)), x)
    norm.fused = FusedNorm('eager')
    for one, two in zip(answers(Stack(norm, nn.LeakyReLU(inplace=True)), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


# layers that norms take along: ReLUs, and poolings (resnet9: three) or sums (two)
TAKEN = {'resnet9': 8 + 3 + 2, 'cifarnet': 6, 'resnet18': 17 + 8, 'resnet20': 19 + 9, 'resnet50': 49 + 16, 'preact_resnet18': 17, 'wrn16_4': 13}

@pytest.mark.parametrize('arch', TAKEN)
def test_every_kind_of_network_learns_the_same(arch):
    "Loss, gradients and running statistics of a step, as in float64 without; every norm is one"
    torch.manual_seed(0)
    width = 4 if arch == 'resnet50' else 8  # PyTorch 2.14 on AVX2 gets gradients of 1×1 convolutions from 4 channels with stride 2 wrong
    model = network(arch, width=width).to(memory_format=torch.channels_last)
    images, labels = maps(16, 3, 16, 16), torch.arange(16)%10
    def step(model, images):
        loss = F.cross_entropy(model(images), labels)
        return [loss, *torch.autograd.grad(loss, list(model.parameters())), *model.buffers()]
    exact = step(copy.deepcopy(model).double(), images.double())
    taken = []
    class Counted(FusedNorm):
        def __call__(self, norm, x, rest):
            before = len(rest)
            y = super().__call__(norm, x, rest)
            taken.append(before - len(rest))
            return y
    fused, norms = Counted('eager'), batch_norms(model)
    for norm in norms: norm.fused = fused
    for one, two in zip(step(model, images), exact, strict=True): assert (one - two).double().norm() <= 1e-3*two.double().norm() + 1e-6
    assert len(taken) == len(norms) and sum(taken) == TAKEN[arch] and fused.passes


def test_what_is_compiled_is_found_by_all_that_it_depends_on(backend):
    "Momentum, eps and the number of threads changed between two calls; a second call like the first compiles nothing"
    norm, twin, relu, threads = a_norm(8), a_norm(8), nn.ReLU(), torch.get_num_threads()
    norm.fused = FusedNorm(backend)
    def same(count):
        for one, two in zip(answers(Stack(norm, relu), maps(4, 8, 6, 6)), answers(Stack(twin, relu), maps(4, 8, 6, 6)), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
        assert len(norm.fused.passes) == count
    same(1)
    same(1)
    norm.momentum = twin.momentum = 0.9
    same(2)
    norm.eps = twin.eps = 0.5
    same(3)
    try:
        torch.set_num_threads(threads + 1)
        same(4)
    finally: torch.set_num_threads(threads)


@pytest.mark.parametrize('shape', [(1, 8, 4, 4), (4, 1, 4, 4), (16, 8, 1, 1), (4, 8, 1, 4)], ids=str)
def test_strides_of_one_pixel_image_or_channel(shape, backend):
    "Where a side is 1 its stride means nothing; the same passes do for any"
    x, other, fused = maps(*shape), maps(*shape, seed=3), FusedNorm(backend)
    strange = lambda t: t.as_strided(t.shape, [777 if size == 1 else stride for size, stride in zip(t.shape, t.stride())])
    for change in (lambda t: t, strange):
        norm, plain = a_norm(shape[1]), a_norm(shape[1])
        norm.fused = fused
        for one, two in zip(answers(Stack(norm, SUM, RELU), change(x), change(other)), answers(Stack(plain, SUM, RELU), x, other), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
    assert done(fused) == [('add', 'relu')]


def test_a_subclass_of_tensor_is_left_to_pytorch():
    from fastai.torch_core import TensorImage
    norm = a_norm(8)
    norm.fused = FusedNorm('eager')
    expected = nn.functional.batch_norm(maps(4, 8, 6, 6), None, None, norm.weight, norm.bias, True)
    torch.testing.assert_close(torch.Tensor(apply_in_order(TensorImage(maps(4, 8, 6, 6)), norm)), expected)
    assert not norm.fused.passes


def test_what_is_compiled_keeps_no_maps(backend):
    norm = a_norm(8)
    norm.fused = FusedNorm(backend)
    for _ in range(2):
        x = maps(4, 8, 6, 6).requires_grad_()
        y = apply_in_order(x, norm, nn.MaxPool2d(2), nn.ReLU())
        y.square().sum().backward()
        seen = [weakref.ref(value) for value in (x, y, x.grad)]
        del x, y
        gc.collect()
        assert not any(value() is not None for value in seen)
    assert norm.fused.passes


def test_more_kinds_than_are_compiled(monkeypatch):
    monkeypatch.setattr(fused_norms, 'MOST_PASSES', 2)
    norm, twin, relu = a_norm(8), a_norm(8), nn.ReLU()
    norm.fused = FusedNorm('eager')
    for momentum in (0.1, 0.2, 0.3, 0.1):
        norm.momentum = twin.momentum = momentum
        for one, two in zip(answers(Stack(norm, relu), maps(4, 8, 6, 6)), answers(Stack(twin, relu), maps(4, 8, 6, 6)), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
    assert len(norm.fused.passes) == 2 and norm.fused.done == 3


def test_what_cannot_be_kept_is_done_all_the_same():
    "PyTorch told not to compile, then to; a tensor given twice"
    function = Compiled(lambda x, y: (x + 2*y, None, x*y), 'eager')
    one, two = torch.tensor(3.), torch.tensor(4.)
    with torch.compiler.set_stance('force_eager'): assert function(one, two) == (11, None, 12) and function.run is None
    assert function(one, one) == (9, None, 9) and function.run is None
    assert function(one, two) == (11, None, 12) and function.run and function(two, one) == (10, None, 12)


def test_nothing_piles_up_where_the_passes_are_written():
    before = len(vars(fused_norms))
    norm = a_norm(8)
    for _ in range(3):
        norm.fused = FusedNorm('eager')
        answers(Stack(norm, nn.ReLU()), maps(4, 8, 6, 6))
    assert len(norm.fused.passes) == 1 and len(vars(fused_norms)) == before


def test_copies_and_pickles():
    norm = a_norm(4)
    norm.fused = FusedNorm('eager')
    Layers(norm)(maps(2, 4, 2, 2))
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert twin.fused.backend == 'eager' and not twin.fused.passes


def test_the_same_bits_each_time():
    if compiler(): pytest.skip(f'no compiler here: {compiler()}')
    def once():
        norm = a_norm(16)
        norm.fused = FusedNorm()
        return answers(Stack(norm, nn.MaxPool2d(2), nn.ReLU()), maps(16, 16, 8, 8).bfloat16())
    for one, two in zip(once(), once(), strict=True): assert torch.equal(one, two)
