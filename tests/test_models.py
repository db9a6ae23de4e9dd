"Networks against torchvision's and against small ones written here from the papers"
import copy, math, pickle
import pytest, torch, torchvision
from torch import nn
from torch.nn import functional as F
from cifar_fastai.base.messages import BadInput
from cifar_fastai.models.layers import MaxPool2x2
from cifar_fastai.models.networks import network, networks_table, parameter_count, summary_line
from cifar_fastai.recipes.choices import NETWORKS

PARAMETERS = {
    'resnet9': 6_573_130, 'cifarnet': 1_972_802, 'resnet18': 11_173_962, 'resnet34': 21_282_122, 'resnet50': 23_520_842,
    'preact_resnet18': 11_172_170, 'resnet20': 269_722, 'resnet56': 853_018, 'resnet110': 1_727_962,
    'wrn28_10': 36_479_194}


@pytest.mark.parametrize('arch', PARAMETERS)
def test_parameter_counts(arch):
    with torch.device('meta'): assert parameter_count(network(arch)) == PARAMETERS[arch]


def test_wrn16_4_count_by_hand():
    block = lambda inputs, outputs: (2*inputs + 9*inputs*outputs + 2*outputs + 9*outputs**2
                                     + (inputs*outputs if inputs != outputs else 0))
    stages = sum(block(a, b) + block(b, b) for a, b in ((16, 64), (64, 128), (128, 256)))
    with torch.device('meta'):
        assert parameter_count(network('wrn16_4')) == 27*16 + stages + 2*256 + 256*10 + 10


# ---- the same weights in, the same outputs out

def randomise(model):
    "Weights and running statistics that make every part count"
    generator = torch.Generator().manual_seed(0)
    draw = lambda tensor, low, high: torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)*(high - low) + low
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('num_batches_tracked'): continue
            if tensor.ndim == 4: tensor.copy_(draw(tensor, -1, 1) * math.sqrt(6/tensor[0].numel()))
            elif name.endswith(('running_mean', 'bias')): tensor.copy_(draw(tensor, -.3, .3))
            elif tensor.ndim == 1: tensor.copy_(draw(tensor, .5, 1.5))
    return model


def assert_twins(ours, reference, size=32):
    "Copy the reference's weights in order; outputs agree in both modes, and so do the gradients of the images"
    ours, reference = ours.double(), randomise(reference.double())
    theirs, mine = reference.state_dict(), ours.state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in mine.values()]
    ours.load_state_dict(dict(zip(mine, theirs.values())))
    images = torch.rand(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    for mode in (False, True):
        results = []
        for model in (ours, reference):
            x = images.clone().requires_grad_()
            logits = model.train(mode)(x)
            (logits * torch.arange(logits.numel()).view_as(logits)).sum().backward()
            results.append((logits.detach(), x.grad))
        (a, da), (b, db) = results
        assert a.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(da, db, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('arch', ['resnet18', 'resnet34', 'resnet50'])
def test_torchvision_twin(arch):
    reference = torchvision.models.get_model(arch, weights=None, num_classes=10)
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    assert_twins(network(arch), reference, size=16)


class PaperPreact(nn.Module):
    "He et al. 2016b and Zagoruyko and Komodakis 2016, written from the papers"
    def __init__(self, stem, widths, depth):
        super().__init__()
        self.first, self.blocks, inputs = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.ModuleList(), stem
        for number, width in enumerate(widths):
            for place in range(depth):
                stride = 2 if number and not place else 1
                layers = [nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                          nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)]
                if (stride, inputs) != (1, width): layers.append(nn.Conv2d(inputs, width, 1, stride, bias=False))
                self.blocks.append(nn.ModuleList(layers))
                inputs = width
        self.norm, self.out = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.first(x)
        for norm1, conv1, norm2, conv2, *skip in self.blocks:
            y = F.relu(norm1(x))
            x = (skip[0](y) if skip else x) + conv2(F.relu(norm2(conv1(y))))
        return self.out(F.relu(self.norm(x)).mean((2, 3)))


@pytest.mark.parametrize('arch,stem,widths,depth', [
    ('preact_resnet18', 64, (64, 128, 256, 512), 2), ('wrn16_4', 16, (64, 128, 256), 2)])
def test_preact_twin(arch, stem, widths, depth):
    assert_twins(network(arch), PaperPreact(stem, widths, depth), size=16)


def test_wrn28_10_shape_for_shape():
    with torch.device('meta'):
        ours, reference = network('wrn28_10'), PaperPreact(16, (160, 320, 640), 4)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in reference.parameters()]


class PaperCifarResNet(nn.Module):
    "He et al. 2016a, section 4.2: three stages, shortcuts of option A"
    def __init__(self, depth):
        super().__init__()
        norm_conv = lambda i, o, s: nn.ModuleList([nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)])
        self.first, self.blocks, inputs = norm_conv(3, 16, 1), nn.ModuleList(), 16
        for width in (16, 32, 64):
            for _ in range((depth-2)//6):
                self.blocks.append(nn.ModuleList([norm_conv(inputs, width, width//inputs), norm_conv(width, width, 1)]))
                inputs = width
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        run = lambda pair, x: pair[1](pair[0](x))
        x = F.relu(run(self.first, x))
        for first, second in self.blocks:
            y = run(second, F.relu(run(first, x)))
            if y.shape != x.shape: x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x)[:, :, ::2, ::2]], 1)
            x = F.relu(x + y)
        return self.out(x.mean((2, 3)))


@pytest.mark.parametrize('arch,depth', [('resnet20', 20), ('resnet56', 56)])
def test_cifar_resnet_twin(arch, depth): assert_twins(network(arch), PaperCifarResNet(depth))


class PlainResNet9(nn.Module):
    "The custom ResNet as tutorials write it: ReLU, then pooling"
    def __init__(self):
        super().__init__()
        widths = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
        self.layers = nn.ModuleList([nn.ModuleList([nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o)]) for i, o in widths])
        self.out = nn.Linear(512, 10)

    def forward(self, x):
        one, two, three, four, five, six, seven, eight = [lambda x, l=l: F.relu(l[1](l[0](x))) for l in self.layers]
        x = F.max_pool2d(two(one(x)), 2)
        x = x + four(three(x))
        x = F.max_pool2d(six(F.max_pool2d(five(x), 2)), 2)
        x = x + eight(seven(x))
        return self.out(x.flatten(2).max(2).values)


def test_resnet9_twin(): assert_twins(network('resnet9'), PlainResNet9())


class PaperCifarnet(nn.Module):
    "Jordan 2024, figure 4 and listing, with ReLU and the pooling after it"
    def __init__(self):
        super().__init__()
        widths = [(24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256)]
        self.first = nn.Conv2d(3, 24, 2)
        self.layers = nn.ModuleList([nn.ModuleList([nn.Conv2d(i, o, 3, padding='same', bias=False), nn.BatchNorm2d(o)]) for i, o in widths])
        self.out = nn.Linear(256, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        for number, (convolution, norm) in enumerate(self.layers):
            x = convolution(x)
            if number % 2 == 0: x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
            x = F.relu(norm(x))
        return self.out(x.amax((2, 3)))


def test_cifarnet_twin(): assert_twins(network('cifarnet'), PaperCifarnet())


# ---- every width, norm and size

@pytest.mark.parametrize('norm', ['batch', 'group', 'layer'])
@pytest.mark.parametrize('arch', NETWORKS)
def test_widths_and_norms(arch, norm):
    torch.manual_seed(0)
    for width in (8, 16, 12):
        model = network(arch, classes=7, width=width, norm=norm)
        kinds = {type(m) for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))}
        assert kinds == {nn.BatchNorm2d if norm == 'batch' else nn.GroupNorm}
        if norm == 'layer': assert all(m.num_groups == 1 for m in model.modules() if isinstance(m, nn.GroupNorm))
        first = next(m for m in model.stage1.modules() if isinstance(m, nn.Conv2d))
        assert (first.in_channels if arch == 'resnet9' else first.out_channels) == width
        logits = model(torch.randn(4, 3, 8, 8))
        assert logits.shape == (4, 7)
        F.cross_entropy(logits, torch.arange(4)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('arch', ['resnet9', 'cifarnet', 'resnet18', 'resnet50', 'preact_resnet18', 'resnet20', 'wrn16_4'])
def test_nothing_is_dead(arch):
    "After a step, each parameter has a gradient: zero weights at the start pass the second step"
    torch.manual_seed(0)
    model, images = network(arch, width=8), torch.randn(16, 3, 32, 32)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(images), torch.arange(16) % 10).backward()
        with torch.no_grad():
            for p in model.parameters(): p -= 0.05*p.grad
    assert not [name for name, p in model.named_parameters() if p.grad.abs().max() == 0]


@pytest.mark.parametrize('arch', NETWORKS)
def test_first_logits_are_small(arch):
    torch.manual_seed(0)
    logits = network(arch, width=16)(torch.randn(32, 3, 32, 32))
    assert abs(F.cross_entropy(logits, torch.arange(32) % 10).item() - math.log(10)) < 0.4


def test_initial_weights_follow_the_rules():
    torch.manual_seed(0)
    model = network('resnet18')
    conv = model.stage3[1].conv2
    for wider in (conv, model.stage3[0].conv1): assert wider.weight.std().item() == pytest.approx(math.sqrt(2/(9*256)), rel=0.02)  # by the channels that leave
    assert model.linear.weight.std().item() == pytest.approx(0.01, rel=0.05) and not model.linear.bias.any()
    for name in ('resnet9', 'resnet20', 'resnet50'):
        assert all((m.weight == 1).all() for m in network(name).modules() if isinstance(m, nn.BatchNorm2d))
    torch.manual_seed(0)
    assert torch.equal(network('resnet18').stage3[1].conv2.weight, conv.weight)


@pytest.mark.parametrize('arch', ['resnet9', 'cifarnet', 'resnet20'])
def test_dirac_convolutions_pass_their_input_on(arch):
    layers = [layer for layer in network(arch, width=32, dirac=True).modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    hidden = [layer for layer in layers if layer.in_channels > 3]
    assert len(hidden) >= 6
    for layer in hidden:
        images = torch.randn(2, layer.in_channels, 6, 6)
        torch.testing.assert_close(F.conv2d(images, layer.weight, padding=1)[:, :layer.in_channels], images)


@pytest.mark.parametrize('arch', NETWORKS)
def test_stages_are_maps(arch):
    model, seen = network(arch, width=8).eval(), {}
    assert len(model.stages) == 4
    for name in {*model.stages.values(), model.heatmap_layer}:
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape[2:]}))
    with torch.no_grad(): model(torch.randn(1, 3, 32, 32))
    sides = [seen[name][0] for name in model.stages.values()]
    assert sides == ([31, 15, 7, 3] if arch == 'cifarnet' else [32, 32, 16, 8] if arch.startswith('wrn') or arch in ('resnet20', 'resnet56', 'resnet110') else [32, 16, 8, 4])
    assert seen[model.heatmap_layer][0] == sides[-1]


@pytest.mark.parametrize('classes,size', [(1, 8), (2, 9), (100, 32), (10, 96)])
def test_classes_and_sizes(classes, size):
    for arch in ('resnet9', 'cifarnet', 'resnet50', 'resnet20', 'wrn16_4'):
        model = network(arch, classes, width=8).eval()
        with torch.no_grad(): assert model(torch.randn(1, 3, size, size)).shape == (1, classes)


# ---- what others do with a network

def test_copies_pickles_and_compiles():
    model = network('resnet9', width=8).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        again = pickle.loads(pickle.dumps(model))
        assert torch.equal(again(images), expected) and again.stages == model.stages
        assert torch.allclose(torch.compile(model, backend='eager')(images), expected, atol=1e-6)


def test_channels_last_and_bf16():
    model = network('resnet9', width=16).eval().to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    seen = []
    model.stage3.register_forward_hook(lambda m, i, o: seen.append(o.is_contiguous(memory_format=torch.channels_last)))
    with torch.no_grad():
        plain = model(images)
        with torch.autocast('cpu', torch.bfloat16): low = model(images)
    assert seen == [True, True]
    assert torch.allclose(plain, low.float(), atol=0.05*plain.abs().max().item())


def test_fastai_summary():
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    import fastai.callback.hook  # gives `Learner` its `summary`
    pairs = [(torch.randn(3, 32, 32), 0) for _ in range(4)]
    loaders = DataLoaders(DataLoader(pairs, bs=2), DataLoader(pairs, bs=2), device='cpu')
    text = str(Learner(loaders, network('resnet9'), loss_func=nn.CrossEntropyLoss()).summary())
    assert '6,573,130' in text and 'Linear' in text


def test_listings():
    assert dict((row[0], row[2]) for row in networks_table().rows).items() >= PARAMETERS.items()
    assert summary_line(network('resnet20', norm='group')) == 'resnet20, width 16, group norm: 269,722 parameters'


@pytest.mark.parametrize('words,told', [
    (dict(arch='resnet-18'), "unknown network 'resnet-18'; did you mean 'resnet18'"),
    (dict(norm='btach'), "did you mean 'batch'"),
    (dict(width=0), 'width 0'), (dict(width=2.5), 'width 2.5'), (dict(width=True), 'width True'),
    (dict(width='wide'), "width 'wide'"), (dict(classes=0), 'classes 0')])
def test_bad_words(words, told):
    with pytest.raises(BadInput, match=told): network(**words)


# ---- pooling

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(4, 3, 8, 6), (2, 1, 2, 2), (3, 5, 7, 8), (9, 64, 64, 64)])
def test_pooling_has_pytorch_s_values_and_gradients(shape, dtype):
    torch.manual_seed(0)
    maps = torch.randint(-3, 3, shape).to(dtype).to(memory_format=torch.channels_last).requires_grad_()  # many are equal
    ours, theirs = MaxPool2x2()(maps), F.max_pool2d(maps, 2)
    weights = torch.randn_like(theirs)
    assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    assert torch.equal(*(torch.autograd.grad(found, maps, weights)[0] for found in (ours, theirs)))
    assert ('GreatestOfFour' in ours.grad_fn.name()) == (shape[2]%2 == 0)


@pytest.mark.parametrize('arch', ['resnet9', 'cifarnet'])
def test_a_network_s_step_is_that_of_pytorch_s_pooling(arch):
    torch.manual_seed(0)
    ours = network(arch, width=8).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    for name, pool in [*theirs.named_modules()]:
        if type(pool) is MaxPool2x2: theirs.set_submodule(name, nn.MaxPool2d(2))
        elif isinstance(pool, MaxPool2x2): pool.forward = lambda x: F.max_pool2d(x, 2)
    image = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    for one in (ours, theirs):
        with torch.autocast('cpu', torch.bfloat16): one(image).float().square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert sum(isinstance(part, MaxPool2x2) for part in ours.modules()) == 3


def test_pooling_can_be_differentiated_twice_and_by_torch_func():
    torch.manual_seed(0)
    maps = torch.randn(3, 2, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    def loss(pool, maps): return (pool(maps.sin())**3).sum()
    leaf = maps.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda maps: MaxPool2x2()(maps.sin())**3, leaf)
    for of in (lambda pool: torch.func.grad(lambda maps: loss(pool, maps))(maps), lambda pool: torch.func.vmap(torch.func.grad(lambda one: loss(pool, one[None])))(maps),
               lambda pool: torch.func.jvp(lambda maps: loss(pool, maps), (maps,), (maps,))[1], lambda pool: torch.func.hessian(lambda maps: loss(pool, maps))(maps)):
        torch.testing.assert_close(of(MaxPool2x2()), of(torch.nn.MaxPool2d(2)))
    with torch.autograd.forward_ad.dual_level():
        dual = [torch.autograd.forward_ad.unpack_dual(pool(torch.autograd.forward_ad.make_dual(leaf, maps))).tangent for pool in (MaxPool2x2(), torch.nn.MaxPool2d(2))]
    assert torch.equal(*dual)


def test_pooling_is_pytorch_s_where_operations_are_followed():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), MaxPool2x2()).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 10, 10).to(memory_format=torch.channels_last)
    assert 'GreatestOfFour' in network(image).grad_fn.name()
    expected = network(image)
    for followed in (torch.jit.trace(network, image), torch.fx.symbolic_trace(network), torch.export.export(network, (image,)).module(), torch.compile(network, backend='eager', fullgraph=True)):
        assert torch.equal(followed(image), expected)
    assert 'max_pool2d' in str(torch.jit.trace(network, image).inlined_graph)
