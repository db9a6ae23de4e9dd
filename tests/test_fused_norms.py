"Batch norm with what follows it in few passes, against PyTorch's layers one after another in float64"
import copy
import pickle
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar_fastai.fused_norms import FusedNorm, fused_norms
from cifar_fastai.layers import Add, Layers, in_order
from cifar_fastai.models import network


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
        return in_order(x, norm, *([] if other is None else [Add(other)]), *rest)


CASES = {'alone': ([], False), 'ReLU': ([nn.ReLU(inplace=True)], False), 'pool': ([nn.MaxPool2d(2)], False),
         'pool and ReLU': ([nn.MaxPool2d(2), nn.ReLU()], False), 'sum': ([], True), 'sum and ReLU': ([nn.ReLU(inplace=True)], True)}


@pytest.mark.parametrize('case', CASES)
def test_the_layers_in_float64(case, backend):
    "Weights of both signs, so that the smallest pixel of a square is kept as well"
    rest, added = CASES[case]
    x, other = maps(4, 24, 6, 10), maps(4, 24, 6, 10, seed=5) if added else None
    norm = a_norm(24)
    exact = answers(Stack(copy.deepcopy(norm).double(), *rest), x.double(), None if other is None else other.double())
    norm.fused = FusedNorm(backend)
    found = answers(Stack(norm, *rest), x, other)
    for one, two in zip(found, exact, strict=True): torch.testing.assert_close(one, two.to(one.dtype), rtol=1e-4, atol=2e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last) and found[1].is_contiguous(memory_format=torch.channels_last)
    assert len(norm.fused.passes) == 1


def test_of_equal_pixels_the_first_gets_the_gradient(backend):
    x = maps(3, 8, 4, 4).round().clamp(-1, 1)
    norm = a_norm(8)
    plain = answers(Stack(copy.deepcopy(norm), nn.MaxPool2d(2), nn.ReLU()), x)
    norm.fused = FusedNorm(backend)
    for one, two in zip(answers(Stack(norm, nn.MaxPool2d(2), nn.ReLU()), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


def test_the_variance_of_numbers_far_from_zero(backend):
    "No difference of two squares: values of 1000 ± 0.1 have a variance of 0.01"
    x, norm = maps(8, 16, 8, 8)*0.1 + 1000, nn.BatchNorm2d(16, momentum=1.)
    norm.fused = FusedNorm(backend)
    y = Layers(norm)(x)
    torch.testing.assert_close(norm.running_var, x.double().var((0, 2, 3)).float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(y.detach(), F.batch_norm(x.double(), None, None, training=True).float(), rtol=1e-2, atol=1e-2)


def test_bf16_is_rounded_once(backend):
    x = maps(4, 16, 8, 8).bfloat16()
    norm = a_norm(16)
    exact = F.max_pool2d(F.batch_norm(x.double(), None, None, norm.weight.double(), norm.bias.double(), True), 2).relu()
    norm.fused = FusedNorm(backend)
    found = Layers(norm, nn.MaxPool2d(2), nn.ReLU())(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize('what', ['evaluation', 'contiguous', 'odd', 'overlapping', 'no running statistics'])
def test_what_does_not_fit_is_done_by_the_layers_themselves(what):
    x, norm, pool = maps(4, 8, 6, 6), a_norm(8), nn.MaxPool2d(2)
    if what == 'evaluation': norm.eval()
    if what == 'contiguous': x = x.contiguous()
    if what == 'odd': x = maps(4, 8, 7, 7)
    if what == 'overlapping': pool = nn.MaxPool2d(3, 2, padding=1)
    if what == 'no running statistics': norm = nn.BatchNorm2d(8, track_running_stats=False)
    plain = answers(Stack(copy.deepcopy(norm), pool, nn.LeakyReLU(inplace=True)), x)
    norm.fused = FusedNorm('eager')
    for one, two in zip(answers(Stack(norm, pool, nn.LeakyReLU(inplace=True)), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)
    assert len(norm.fused.passes) == (what in ('odd', 'overlapping'))


def test_a_layer_that_writes_in_place_behind_it():
    x, norm = maps(4, 8, 6, 6), a_norm(8)
    plain = answers(Stack(copy.deepcopy(norm), nn.LeakyReLU(inplace=True)), x)
    norm.fused = FusedNorm('eager')
    for one, two in zip(answers(Stack(norm, nn.LeakyReLU(inplace=True)), x), plain, strict=True): torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('arch', ['resnet9', 'cifarnet', 'resnet18', 'resnet20', 'resnet50', 'preact_resnet18', 'wrn16_4'])
def test_every_kind_of_network_learns_the_same(arch):
    "Loss, gradients and running statistics of a step, as in float64 without; every norm is one"
    torch.manual_seed(0)
    model = network(arch, width=4).to(memory_format=torch.channels_last)
    images, labels = maps(16, 3, 16, 16), torch.arange(16)%10
    def step(model, images):
        loss = F.cross_entropy(model(images), labels)
        return [loss, *torch.autograd.grad(loss, list(model.parameters())), *model.buffers()]
    exact = step(copy.deepcopy(model).double(), images.double())
    runs = []
    class Counted(FusedNorm):
        def __call__(self, norm, x, rest): runs.append(norm); return super().__call__(norm, x, rest)
    fused = Counted('eager')
    for norm in fused_norms(model): norm.fused = fused
    for one, two in zip(step(model, images), exact, strict=True): assert (one - two).double().norm() <= 1e-3*two.double().norm() + 1e-6
    assert sorted(map(id, runs)) == sorted(map(id, fused_norms(model))) and fused.passes


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
