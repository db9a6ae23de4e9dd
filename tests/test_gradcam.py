"Heatmaps: right side up, right class, equal to what is computed by hand, and nothing of the network changed"
import random
import numpy as np, pytest, torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, resnet18
from cifar_fastai.heatmaps.prepared import layer_names, map_size
from cifar_fastai.heatmaps.gradcam import CLASSLESS_METHODS, METHODS, heatmaps, is_dead
from cifar_fastai.base.messages import BadInput
from cifar_fastai.interpretation.galleries import choose_layers

QUICK = [method for method in METHODS if method not in ('scorecam', 'ablationcam')]
WITH_CLASS = [method for method in METHODS if method not in CLASSLESS_METHODS]
CORNERS = {'top left': (0, 0), 'top right': (0, 1), 'bottom left': (1, 0), 'bottom right': (1, 1)}


class CornerWatcher(nn.Module):
    "Class k answers to brightness in corner k and to nothing else"
    def __init__(self, height, width):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.watched = nn.Identity()
        nn.init.constant_(self.features.weight, 1/9)
        windows = torch.zeros(4, height, width)
        for window, (down, right) in zip(windows, CORNERS.values()):
            window[down*height//2:(down + 1)*height//2, right*width//2:(right + 1)*width//2] = 1
        self.register_buffer('windows', windows)

    def forward(self, images): return self.watched(self.features(images)*self.windows).sum((2, 3))


def corner_patches(height, width):
    "One image with a bright 3×3 patch in each corner, two pixels off the border"
    image = torch.zeros(1, 3, height, width)
    for rows in (slice(2, 5), slice(height - 5, height - 2)):
        for columns in (slice(2, 5), slice(width - 5, width - 2)): image[:, :, rows, columns] = 1
    return image


def corner_of(heatmap):
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    return int(row >= heatmap.shape[0]//2), int(column >= heatmap.shape[1]//2)


@pytest.mark.parametrize('method', WITH_CLASS)
@pytest.mark.parametrize('corner', CORNERS)
@pytest.mark.parametrize('size', [(24, 24), (20, 32)])
def test_peak_lies_in_the_corner_of_the_class(method, corner, size):
    found = heatmaps(CornerWatcher(*size), corner_patches(*size), list(CORNERS).index(corner), method, layer='watched')
    assert found.shape == (1, *size) and found.dtype == np.float32 and 0 <= found.min() and .9 < found.max() <= 1
    assert corner_of(found[0]) == CORNERS[corner]
    mirrored = CORNERS[corner][::-1]
    if size[0] == size[1]: assert corner_of(found[0].T) == mirrored
    assert (mirrored == CORNERS[corner]) == (corner in ('top left', 'bottom right'))


@pytest.mark.parametrize('corner', CORNERS)
def test_eigencam_peaks_at_the_only_patch_whatever_the_sign(corner):
    "EigenCAM has no class: one patch, features that are positive or negative there, and projections of either sign"
    down, right = CORNERS[corner]
    image = .05*torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) # without noise the sign is always right
    image[:, :, 2 + 17*down:5 + 17*down, 2 + 17*right:5 + 17*right] = 1
    turned = 0
    for seed in range(12):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        found = heatmaps(network, image, method='eigencam', layer='0')
        assert corner_of(found[0]) == CORNERS[corner]
        assert np.array_equal(found, heatmaps(network, image, 1, 'eigencam', layer='0'))
        plain = get_2d_projection(network[0](image).detach().numpy())
        turned += bool(-plain.min() > plain.max())
    assert 0 < turned < 12


class Tiny(nn.Module):
    "Convolution, norm, in-place ReLU, convolution, head over every place: small enough to differentiate by hand"
    def __init__(self, side=6, classes=3):
        super().__init__()
        self.first, self.norm, self.relu = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True)
        self.head = nn.Linear(5*side*side, classes)
    def forward(self, images): return self.head(self.relu(self.norm(self.first(images))).flatten(1))


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    network = Tiny()
    for _ in range(3): network(torch.randn(8, 3, 6, 6)*2 + 1) # running statistics that aren't 0 and 1
    return network.eval()


def by_hand(network, images, wanted, layer):
    "The layer's activations and the gradient of one logit by them: for a linear head, rows of its weight"
    with torch.no_grad():
        normed = network.norm(network.first(images))
        after = normed.clamp(min=0)
        gradient = network.head.weight[wanted].reshape(1, *after.shape[1:]).expand_as(after)
        if layer == 'norm': return normed, gradient*(normed > 0)
        return after, gradient


def unit(maps):
    maps = maps.clamp(min=0)
    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    return ((maps - low)/(high - low)).detach().numpy()


@pytest.mark.parametrize('layer', ['relu', 'norm']) # 'norm' is overwritten in place by the ReLU behind it
@pytest.mark.parametrize('method', ['gradcam', 'hirescam', 'layercam'])
def test_maps_equal_those_computed_by_hand(tiny, method, layer):
    images = torch.randn(4, 3, 6, 6)
    activations, gradients = by_hand(tiny, images, 2, layer)
    expected = {'gradcam': gradients.mean((2, 3), True)*activations, 'hirescam': gradients*activations,
        'layercam': gradients.clamp(min=0)*activations}[method].sum(1)
    found = heatmaps(tiny, images, 2, method, layer=layer)
    alive = (expected.clamp(min=0).amax((1, 2)) > 0).numpy()
    assert alive.sum() >= 2
    np.testing.assert_allclose(found[alive], unit(expected)[alive], atol=1e-5)
    assert not found[~alive].any()


def test_contrast_is_predicted_minus_actual(tiny):
    images = torch.randn(5, 3, 6, 6)
    predicted = tiny(images).argmax(1)
    actual = (predicted + 1) % 3
    found = heatmaps(tiny, images, 'contrast', 'hirescam', layer='relu', targets=actual)
    activations = by_hand(tiny, images, 0, 'relu')[0]
    rows = (tiny.head.weight[predicted] - tiny.head.weight[actual]).detach().reshape(activations.shape)
    np.testing.assert_allclose(found, unit((rows*activations).sum(1)), atol=1e-5)
    assert is_dead(heatmaps(tiny, images, 'contrast', targets=predicted, layer='relu')).all()


def test_targets(tiny):
    images = torch.randn(4, 3, 6, 6)
    predicted = tiny(images).argmax(1)
    kept = heatmaps(tiny, images, layer='relu')
    assert np.array_equal(kept, heatmaps(tiny, images, 'actual', targets=predicted, layer='relu'))
    images = torch.randn(6, 3, 6, 6)
    predicted = tiny(images).argmax(1)
    actual = (predicted + torch.tensor([1, 1, 1, 2, 2, 2])) % 3
    assert (actual[3:] != actual[:3]).any()
    for target, classes in (('predicted', predicted), ('actual', actual)):
        activations = by_hand(tiny, images, 0, 'relu')[0]
        expected = unit((tiny.head.weight[classes].detach().reshape(activations.shape)*activations).sum(1))
        found = heatmaps(tiny, images, target, 'hirescam', layer='relu', targets=actual, batch_size=3)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    one = heatmaps(tiny, images, 1, layer='relu')
    assert np.array_equal(one, heatmaps(tiny, images, 'bird', classes=('cat', 'bird', 'dog'), layer='relu'))
    np.testing.assert_allclose(one, heatmaps(tiny, images, 1, layer='relu', batch_size=3), atol=1e-6)
    assert np.array_equal(one, heatmaps(tiny, images.numpy(), np.int64(1), layer=tiny.relu))


def test_ablation_map_does_not_turn_over_with_a_negative_logit(tiny):
    "Only the drop counts: a bias that makes every logit negative must not change the map"
    images = torch.randn(2, 3, 6, 6)
    before = heatmaps(tiny, images, 0, 'ablationcam', layer='relu')
    with torch.no_grad(): tiny.head.bias -= 50
    np.testing.assert_allclose(before, heatmaps(tiny, images, 0, 'ablationcam', layer='relu'), atol=1e-3)
    assert before.any()


# ---- nothing of the network changed ----

def everything(network):
    "All that a heatmap might change, in comparable form"
    return dict(
        tensors={name: (id(value), value.dtype, value.requires_grad, value.data_ptr(), value._version, value.stride(),
                        value.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes()) for name, value
                 in [*network.named_parameters(), *network.named_buffers()]},
        gradients={name: None if value.grad is None else (id(value.grad), value.grad.clone().reshape(-1).view(torch.uint8).numpy().tobytes())
                   for name, value in network.named_parameters()},
        modes=[module.training for module in network.modules()], parts=[name for name, _ in network.named_modules()],
        identities=[id(module) for module in network.modules()],
        hooks=[(len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)) for module in network.modules()],
        random=(random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()),
        grad_mode=torch.is_grad_enabled())


class Drawing(nn.Module):
    "A part that draws random numbers and counts its passes, even in eval mode"
    def __init__(self):
        super().__init__()
        self.register_buffer('passes', torch.zeros((), dtype=torch.long))
    def forward(self, images):
        self.passes += 1
        return images + 1e-6*torch.rand_like(images)*random.random()*np.random.rand()


def eventful_network(dtype=torch.float32):
    "Mixed modes, a frozen part, gradients from a step, hooks of its owner"
    torch.manual_seed(2)
    network = nn.Sequential(Drawing(), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    network = network.to(dtype, memory_format=torch.channels_last).train()
    network[1].requires_grad_(False)
    network[2].eval()
    network(torch.randn(4, 3, 9, 9, dtype=dtype)).sum().backward()
    network[5].register_forward_hook(lambda module, inputs, output: None)
    return network


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_network_is_found_unchanged(method, dtype):
    network = eventful_network(dtype)
    before = everything(network)
    found = heatmaps(network, torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0)), 1, method)
    assert everything(network) == before
    assert found.shape == (3, 9, 9) and np.isfinite(found).all()


class Failing(RuntimeError): "What goes wrong half-way"


@pytest.mark.parametrize('error', [Failing, IndexError]) # grad-cam's own __exit__ swallows IndexError
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('passes', [1, 2, 3, 4])
def test_the_network_is_found_unchanged_after_a_failure(method, error, passes):
    network = eventful_network()
    alive = []
    def fail(module, inputs):
        alive.append(1)
        if len(alive) > passes: raise error('half-way')
    network[6].register_forward_pre_hook(fail)
    before = everything(network)
    images = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    if passes == 4 and method in QUICK: # three passes before and one to explain: all of it succeeds
        assert heatmaps(network, images, 1, method).shape == (3, 9, 9)
    else:
        with pytest.raises(error, match='half-way'): heatmaps(network, images, 1, method)
    assert everything(network) == before


def test_three_more_steps_give_the_same_weights():
    def weights(look):
        random.seed(3); np.random.seed(3)
        network = eventful_network()
        optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], .1, momentum=.9)
        for step in range(6):
            if look and step == 3: heatmaps(network, torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
            optimizer.zero_grad(); network(torch.randn(4, 3, 9, 9)).square().sum().backward(); optimizer.step()
        return [value.detach().numpy().tobytes() for value in network.state_dict().values()]
    assert weights(look=False) == weights(look=True)


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16),
    lambda: torch.autograd.set_grad_enabled(True)])
def test_any_caller(tiny, context):
    images = torch.randn(3, 3, 6, 6)
    plain = heatmaps(tiny, images, 1, layer='relu')
    with context():
        inside = heatmaps(tiny, images, 1, layer='relu')
        made_inside = heatmaps(tiny, images.clone(memory_format=torch.channels_last), 1, layer='relu')
    np.testing.assert_allclose(plain, inside, atol=1e-6)
    np.testing.assert_allclose(plain, made_inside, atol=1e-5)


def test_network_made_in_inference_mode():
    with torch.inference_mode():
        torch.manual_seed(1)
        network = Tiny()
    assert heatmaps(network, torch.randn(2, 3, 6, 6)).shape == (2, 6, 6)


def test_bf16_weights_give_the_map_of_their_fp32_copy(tiny):
    images = torch.randn(3, 3, 6, 6)
    tiny.bfloat16()
    low = heatmaps(tiny, images.bfloat16().float(), 1, layer='relu')
    assert np.array_equal(low, heatmaps(tiny, images.bfloat16(), 1, layer='relu'))
    np.testing.assert_allclose(low, heatmaps(tiny.float(), images.bfloat16().float(), 1, layer='relu'), atol=1e-6)


def test_compiled_network(tiny):
    "It runs as it was written: compiled code may pass hooks by, and compiling again for a heatmap takes seconds"
    images, compiled_parts = torch.randn(3, 3, 6, 6), []
    def backend(graph, inputs): compiled_parts.append(graph); return graph.forward
    plain = heatmaps(tiny, images, 1, layer='relu')
    compiled = torch.compile(tiny, backend=backend)
    compiled(images)
    assert np.array_equal(plain, heatmaps(compiled, images, 1, layer='relu'))
    assert np.array_equal(plain, heatmaps(compiled, images, 1, layer='_orig_mod.relu'))
    tiny.compile(backend=backend)
    tiny(images)
    count = len(compiled_parts)
    assert np.array_equal(plain, heatmaps(tiny, images, 1, layer=tiny.relu))
    assert 0 < count == len(compiled_parts)


def test_torchvision_network():
    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=3)
    assert map_size(network, 64) == (2, 2) and layer_names(network, 64)['layer1'] == (16, 16)
    images = torch.randn(2, 3, 64, 96)
    default, named = heatmaps(network, images), heatmaps(network, images, layer='layer4')
    assert default.shape == (2, 64, 96) and np.array_equal(default, named)
    assert np.array_equal(default, heatmaps(network, images, layer=network.layer4))
    for method in QUICK: assert np.isfinite(heatmaps(network, images, method=method, layer='layer4.1.bn2')).all()
    before = everything(network)
    ablated = heatmaps(network, images[:1, :, :32, :32], method='ablationcam', layer='layer3') # a layer with layers in it
    assert ablated.any() and everything(network) == before


def test_smoothing(tiny):
    images = torch.randn(2, 3, 6, 6)
    def maps(images, **options): return heatmaps(tiny, images, 1, layer='relu', **options)
    activations, gradients = by_hand(tiny, images, 1, 'relu')
    weighed = (gradients.mean((2, 3), True)*activations).detach().flatten(2).transpose(1, 2)
    component = torch.linalg.svd(weighed - weighed.mean(1, keepdim=True)).Vh[:, :1]
    projected = ((weighed - weighed.mean(1, keepdim=True))*component).sum(2).reshape(2, 6, 6)
    for found, *signs in zip(maps(images, eigen_smooth=True), unit(projected), unit(-projected)):
        assert min(np.abs(found - sign).max() for sign in signs) < 1e-4
    for eigen in (False, True):
        changed = [maps(images*factor, eigen_smooth=eigen) for factor in (0.9, 1, 1.1)]
        changed += [maps(images.flip(3)*factor, eigen_smooth=eigen)[..., ::-1] for factor in (0.9, 1, 1.1)]
        np.testing.assert_allclose(maps(images, eigen_smooth=eigen, aug_smooth=True), np.mean(changed, 0), atol=1e-5)


# ---- dead maps ----

@pytest.mark.parametrize('method', [*METHODS])
def test_dead_maps_stay_zero(method):
    "No light, no evidence; and rounding noise or an even map is no picture either"
    network = CornerWatcher(8, 8)
    assert is_dead(heatmaps(network, torch.zeros(2, 3, 8, 8), 0, method, layer='watched')).all()


def test_even_and_tiny_maps():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(16, 2))
    nn.init.ones_(network[0].weight); nn.init.ones_(network[2].weight)
    even = torch.ones(1, 1, 4, 4)
    assert is_dead(heatmaps(network, even, 0)).all()
    assert is_dead(heatmaps(network, even + 1e-6*torch.rand(1, 1, 4, 4), 0)).all()
    faint = torch.zeros(1, 1, 4, 4); faint[0, 0, 1, 2] = 1e-12
    found = heatmaps(network, faint, 0)[0]
    assert found[1, 2] == pytest.approx(1) and found.sum() == pytest.approx(1)


# ---- refusals ----

@pytest.mark.parametrize('options, words', [
    (dict(layer='layer9'), "no layer 'layer9'; did you mean 'layer"), (dict(layer='avgpool'), "'avgpool' has no map: its output is"),
    (dict(layer='fc'), "'fc' has no map"), (dict(layer=''), "no layer ''"), (dict(layer=nn.ReLU()), 'is no layer of the network'),
    (dict(layer='layer1.0.relu'), 'runs 2 times'), (dict(method='gradcam+'), "did you mean 'gradcam"),
    (dict(target='actual'), 'needs targets'), (dict(target='contrast', targets=[0]), '1 targets for 2 images'),
    (dict(target='actual', targets=[0, 3]), 'no class 3'), (dict(target=-1), 'no class -1'), (dict(target=1.5), 'no class 1.5'), (dict(target='dog', classes=('cat', 'dot', 'frog')), "did you mean 'd"),
])
def test_refusals(options, words):
    network, images = resnet18(weights=None, num_classes=3), torch.randn(2, 3, 32, 32)
    before = everything(network)
    with pytest.raises(BadInput) as refusal: heatmaps(network, images, **options)
    text = str(refusal.value)
    assert words in text and len(text.splitlines()) <= 5
    assert everything(network) == before
    if 'layer' in options: assert 'layer1 (8×8)' in text


def test_other_refusals(tiny):
    images = torch.randn(2, 3, 6, 6)
    with pytest.raises(BadInput, match='no layer of this Sequential'): heatmaps(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), images)
    with pytest.raises(BadInput, match='uint8'): heatmaps(tiny, torch.zeros(2, 3, 6, 6, dtype=torch.uint8))
    with pytest.raises(BadInput, match=r'\(3, 6, 6\)'): heatmaps(tiny, images[0])
    with pytest.raises(BadInput, match='logits of shape'): heatmaps(tiny.first, images)
    with pytest.raises(BadInput, match='pass its .model'): heatmaps('resnet9', images)
    assert heatmaps(tiny, images[:0]).shape == (0, 6, 6)
    with torch.no_grad(): tiny.head.weight[0, 0] = float('nan')
    with pytest.raises(BadInput, match='2 of 2 images are NaN'): heatmaps(tiny, images)


def test_fastai_network_and_batch():
    "A vision model as fastai cuts it, on a batch of its own tensor type; the last map there is, is the body's"
    from fastai.torch_core import TensorImage
    from fastai.vision.learner import create_vision_model
    network = create_vision_model(resnet18, 3, pretrained=False)
    images = TensorImage(torch.randn(2, 3, 64, 64))
    found = heatmaps(network, images)
    assert type(found) is np.ndarray and np.array_equal(found, heatmaps(network, images, layer='0'))
    assert map_size(network, 64) == (2, 2) and np.array_equal(found, heatmaps(network, images, layer=network[0][-1][-1]))


class TurnedWatcher(CornerWatcher):
    "A `CornerWatcher` whose watched layer has its channels last, or tokens behind two that are no place"
    def __init__(self, height, width, layout):
        super().__init__(height, width)
        self.layout = layout

    def forward(self, images):
        seen = (self.features(images)*self.windows).movedim(1, -1)
        if self.layout == 'tokens': seen = torch.cat([images.new_full((len(images), 2, 4), 9.), seen.flatten(1, 2)], 1)
        seen = self.watched(seen)
        return seen.sum((1, 2)) if self.layout == 'last' else seen[:, 2:].sum(1)


@pytest.mark.parametrize('method', WITH_CLASS)
@pytest.mark.parametrize('layout', ['last', 'tokens'])
@pytest.mark.parametrize('size', [(24, 24), (20, 32)])
def test_maps_with_channels_last_and_of_tokens_lie_right(method, layout, size):
    model = TurnedWatcher(*size, layout)
    assert map_size(model, size, 'watched') == size
    for place, corner in enumerate(CORNERS.values()):
        assert corner_of(heatmaps(model, corner_patches(*size), place, method, layer='watched')[0]) == corner


def transformer(kind):
    torch.manual_seed(0)
    if kind == 'swin': return SwinTransformer(patch_size=[2, 2], embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=3)
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize('method', ['gradcam', 'hirescam', 'layercam'])
@pytest.mark.parametrize('kind, layer', [('vit', 'encoder.layers.encoder_layer_2.ln_1'), ('vit', 'encoder.layers.encoder_layer_1'), ('vit', 'conv_proj'),
                                         ('swin', 'norm'), ('swin', 'features.1'), ('swin', 'features.0.0')])
def test_transformers_as_the_package_with_a_reshape_has_them(kind, layer, method):
    if (method, layer) == ('hirescam', 'encoder.layers.encoder_layer_1'): return  # a layer norm follows: its input times its gradient is rounding noise
    model, images = transformer(kind).eval(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    def places(output):
        if layer in ('conv_proj', 'features.0.0'): return output
        return output[:, 1:].transpose(1, 2).reshape(len(output), 16, 4, 4) if kind == 'vit' else output.permute(0, 3, 1, 2)
    found = heatmaps(model, images, 1, method, layer)
    expected = METHODS[method](model, [model.get_submodule(layer)], reshape_transform=places)(images, [ClassifierOutputTarget(1)]*2)
    assert not is_dead(found).any()
    for one, two in zip(found, expected): np.testing.assert_allclose(one, two/two.max(), atol=1e-3)


@pytest.mark.parametrize('kind, layer', [('vit', 'encoder.layers.encoder_layer_2.ln_1'), ('swin', 'norm')])
def test_a_transformer_s_default_layer_is_near_its_end_and_alive(kind, layer):
    "Behind the last attention of a network that reads its class token, the patches' tokens have no part in the answer"
    model, images = transformer(kind), torch.randn(2, 3, 32, 32)
    assert list(layer_names(model, 32))[-1] == layer
    assert (heatmaps(model, images) == heatmaps(model, images, layer=layer)).all() and not is_dead(heatmaps(model, images)).any()
    if kind == 'vit': assert is_dead(heatmaps(model, images, layer='encoder.ln')).all()


def test_tokens_that_lie_on_no_grid_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.Flatten(2), nn.Linear(16, 30), nn.Flatten(), nn.Linear(180, 2))
    with pytest.raises(BadInput, match=r"layer '2' has no map: its output is \(6, 30\)"): map_size(model, 32, '2')


class Staged(nn.Module):
    "As timm's networks have it: `stages` is a module"
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1))
        self.head = nn.Linear(6, 3)

    def forward(self, images): return self.head(self.stages(images).mean((2, 3)))


def test_stages_that_are_a_module_are_no_names_of_stages():
    model, images = Staged(), torch.randn(2, 3, 32, 32)
    assert choose_layers(model, images, 'all') == [('stages.0', (16, 16)), ('stages', (8, 8))]
    assert choose_layers(model, images, 'stages.1') == [('stages.1', (8, 8))]
    with pytest.raises(BadInput, match=r'Layers with a map: stages.0 \(16×16\)'): map_size(model, 32, 'stage9')


class Affine(nn.Module):
    "A scale and a shift: what a network without norms has in their place"
    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, tokens): return tokens*self.scale + self.shift


class Asker(nn.MultiheadAttention): "Attention by another name, as timm has it"


class Tokens(nn.Module):
    "16 patches as tokens, a block without attention, and the mean; or a class token that comes late, and is all that is read"
    def __init__(self, norm=nn.LayerNorm, late=False, shuffled=False):
        super().__init__()
        self.patches, self.before, self.block = nn.Conv2d(3, 8, 8, stride=8), norm(8), nn.Linear(8, 8)
        if late: self.key, self.asks, self.after = norm(8), Asker(8, 2, batch_first=True), norm(8)
        self.late, self.head = late, nn.Linear(8, 3)
        self.order = torch.tensor([5, 0, 10, 15, 1, 4, 11, 14, 2, 7, 8, 13, 3, 6, 9, 12] if shuffled else range(16))

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT[:, self.order]
        tokens = tokens + self.block(self.before(tokens)).relu()
        if not self.late: return self.head(tokens.mean(1))
        alone = tokens.mean(1, keepdim=True)*0
        known = self.key(torch.cat([alone, tokens], 1))
        asked = alone + self.asks(known[:, :1], known, known)[0]
        return self.head(self.after(torch.cat([asked, tokens], 1))[:, 0])


@pytest.mark.parametrize('given, layer', [(dict(late=True), 'key'), (dict(norm=Affine), 'block'), (dict(), 'before')], ids=['a late class token', 'no norms', 'the mean of tokens'])
def test_the_default_layer_of_tokens_is_the_last_that_the_answer_asks(given, layer):
    torch.manual_seed(0)
    model, images = Tokens(**given), torch.randn(4, 3, 32, 32)
    assert (heatmaps(model, images) == heatmaps(model, images, layer=layer)).all() and not is_dead(heatmaps(model, images)).all()
    nn.init.zeros_(model.head.weight)
    assert list(layer_names(model, 32))[-1] == layer, 'a head that is all zero asks for nothing yet'


class OneWay(nn.Module):
    "A residual block whose first convolution still has a map where the block has none: evidence passes beside it"
    def __init__(self):
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 1)
        self.wide, self.beside = nn.Conv2d(6, 6, 3, stride=4, padding=1), nn.Conv2d(6, 6, 1, stride=4)
        self.head = nn.Linear(6, 3)

    def forward(self, images):
        seen = self.stem(images).relu()
        return self.head((self.wide(self.narrow(seen).relu()) + self.beside(seen)).mean((2, 3)))


def test_the_default_layer_is_none_that_evidence_passes_beside():
    model, images = OneWay(), torch.randn(2, 3, 8, 8)
    assert list(layer_names(model, 8)) == ['stem', 'narrow']
    assert (heatmaps(model, images) == heatmaps(model, images, layer='stem')).all()


class Then(nn.Module):
    "A convolution or a norm, and another order of what it gives"
    def __init__(self, part, turn=lambda output: output, before=lambda maps: maps):
        super().__init__()
        self.part, self.turn, self.before = part, turn, before

    def forward(self, maps): return self.turn(self.part(self.before(maps)))


class Read(nn.Module):
    "8×8 maps of 8 channels, a layer, the mean of its places"
    def __init__(self, layer, places):
        super().__init__()
        self.maps, self.layer, self.head, self.places = nn.Conv2d(3, 8, 4, stride=4), layer, nn.Linear(8, 3), places

    def forward(self, images): return self.head(self.layer(self.maps(images)).mean(self.places))


def last(maps): return maps.movedim(1, -1)
def first(maps): return maps.movedim(-1, 1)


# A layer whose shape says too little, where its places are, and how grad-cam has to be told
READINGS = {
    'a convolution that gives its channels last': (lambda: Then(nn.Conv2d(8, 8, 1), last), (1, 2), first),
    'a norm of as many channels as places a side': (lambda: Then(nn.LayerNorm(8), first, last), (2, 3), None),
    'tokens in a grid that no convolution cut': (lambda: Then(nn.AvgPool2d(2), lambda maps: maps.flatten(2).mT), 1, lambda tokens: tokens.mT.unflatten(2, (4, 4))),
}


@pytest.mark.parametrize('name', READINGS)
def test_a_layer_is_read_as_the_picture_lies(name):
    make, places, reshape = READINGS[name]
    torch.manual_seed(0)
    model, images = Read(make(), places).eval(), torch.randn(4, 3, 32, 32)
    found = heatmaps(model, images, 1, layer='layer')
    expected = METHODS['gradcam'](model, [model.layer], reshape_transform=reshape)(images, [ClassifierOutputTarget(1)]*4)
    assert not is_dead(found).all()
    for one, two in zip(found, expected): np.testing.assert_allclose(one, two/max(two.max(), 1e-9), atol=1e-3)


def test_a_convolution_over_the_parts_of_patches_has_no_map():
    model = Read(Then(nn.Conv2d(8, 8, 1), before=lambda maps: maps.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).flatten(2, 3).mT), (2, 3))
    assert list(layer_names(model, 32)) == ['maps']
    with pytest.raises(BadInput, match=r"layer 'layer' has no map: its output is \(8, 4, 16\)"): map_size(model, 32, 'layer')


def test_tokens_in_another_order_than_the_picture_s_are_refused():
    for layer in (None, 'before'):
        with pytest.raises(BadInput, match="the tokens of layer 'before' do not lie as the picture does"): heatmaps(Tokens(shuffled=True), torch.randn(2, 3, 32, 32), layer=layer)
    assert heatmaps(Tokens(shuffled=True), torch.randn(2, 3, 32, 32), layer='patches').any()
