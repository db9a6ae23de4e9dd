"The checks of heatmaps: right on maps whose truth is known, and no better than chance on chance"
import json, random
import cv2, numpy as np, pytest, torch
from pytorch_grad_cam.metrics.perturbation_confidence import RemoveLeastRelevantFirst, RemoveMostRelevantFirst
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADLeastRelevantFirst, ROADMostRelevantFirst
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy import stats
from torch import nn
from cifar_fastai.heatmaps.checks import HeatmapChecks, check_heatmaps, map_correlations, with_random_weights
from cifar_fastai.base.messages import BadInput
from cifar_fastai.base.intervals import mean_interval
from cifar_fastai.heatmaps.pointing import edge_maps, gaussian_maps, heat_inside, peak, pointing_hits
from cifar_fastai.heatmaps.road import REMOVED, CellImputer, cell_grid, random_maps, rank_pixels, road_scores


class SquareFinder(nn.Module):
    "Class 0 is the light of bright patches: it looks at the figure and nowhere else"
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 5, padding=2)
        nn.init.constant_(self.patches.weight, 1/75); nn.init.constant_(self.patches.bias, -.9)
        self.found = nn.ReLU()
        self.head = nn.Linear(4, 2)
        with torch.no_grad(): self.head.weight.copy_(torch.tensor([[30.]*4, [-30.]*4])); self.head.bias.zero_()
    def forward(self, images): return self.head(self.found(self.patches(images)).mean((2, 3)))


@pytest.fixture(scope='module')
def squares():
    "Noise with one bright 6×6 square, and its mask"
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.randn(24, 3, 16, 16, generator=generator)*.2, np.zeros((24, 16, 16), bool)
    for image, mask, (row, column) in zip(images, masks, torch.randint(0, 11, (24, 2), generator=generator).tolist()):
        image[:, row:row + 6, column:column + 6] += 2
        mask[row:row + 6, column:column + 6] = True
    return images, masks


# ---- pointing ----

def test_pointing_by_hand():
    "A 2×2 figure grows to 4×4; the peak beside it hits, two off misses, on the border hits, a dead map misses"
    masks = np.zeros((5, 8, 8), bool)
    masks[:4, 3:5, 3:5] = True
    masks[4, 0, 7] = True
    maps = np.zeros((5, 8, 8), np.float32)
    maps[0, 2, 5] = maps[1, 1, 3] = maps[2, 4, 4] = maps[4, 1, 6] = 1
    maps[0, 7, 7], maps[2, 0, 0] = .5, .25
    assert pointing_hits(maps, masks).tolist() == [True, False, True, False, True]
    assert heat_inside(maps, masks) == pytest.approx([1/1.5, 0, 1/1.25, 0, 1])
    assert pointing_hits(maps.transpose(0, 2, 1), masks).tolist() == [True, False, True, False, False]


def test_peak_of_a_plateau():
    plateau = np.zeros((9, 9)); plateau[5:9, 5:9] = 1
    assert peak(plateau) in [(row, column) for row in (6, 7) for column in (6, 7)]
    two = np.zeros((9, 9)); two[0, 0] = two[8, 8] = 1
    assert peak(two) in [(0, 0), (8, 8)]


def test_maps_that_know_nothing(squares):
    images = squares[0].numpy()
    for image, edges in zip(images, edge_maps(images)):
        grey = image.mean(0)
        by_opencv = np.hypot(*(cv2.Sobel(grey, cv2.CV_64F, *which, ksize=3, borderType=cv2.BORDER_REFLECT) for which in ((1, 0), (0, 1))))
        np.testing.assert_allclose(edges, by_opencv/by_opencv.max(), atol=1e-5)
    gaussian = gaussian_maps((2, 20, 30))[0]
    assert peak(gaussian) in [(9, 14), (9, 15), (10, 14), (10, 15)] and gaussian.shape == (20, 30)
    assert gaussian[10, 22]/gaussian[10, 15] == pytest.approx(np.exp(-.5*(7.5**2 - .5**2)/7.5**2))
    assert edge_maps(np.ones((1, 3, 8, 8))).max() == 0


# ---- faithfulness ----

def test_the_imputer_fills_a_slope_exactly():
    "Equal weights left and right: the solution for a linear slope is the slope itself"
    rows, columns = np.mgrid[:12, :12]
    image = torch.tensor(np.stack([rows + 2*columns, 5 - rows, columns]), dtype=torch.float32)
    kept = torch.ones(12, 12); kept[3:9, 4:10] = 0
    imputer = CellImputer(noise=0)
    torch.testing.assert_close(imputer(image, kept), image, atol=1e-4, rtol=0)
    noisy = CellImputer()(image, kept)
    assert torch.equal(noisy[:, kept > 0], image[:, kept > 0]) and .003 < (noisy - image)[:, kept == 0].std() < .03


@pytest.mark.parametrize('shape, share', [((12, 12), .3), ((32, 32), .7), ((9, 20), .5)])
def test_the_imputer_fills_as_the_package_does(shape, share):
    draws = torch.Generator().manual_seed(0)
    image, kept = torch.randn(3, *shape, generator=draws), (torch.rand(shape, generator=draws) > share).float()
    kept[:2, :3] = 0  # a hole at the border
    torch.manual_seed(1)
    theirs = NoisyLinearImputer()(image, kept)
    torch.manual_seed(1)
    torch.testing.assert_close(CellImputer()(image, kept), theirs, atol=1e-6, rtol=0)


def test_cells_of_a_large_picture():
    assert cell_grid(32, 32) == (32, 32) and cell_grid(64, 48) == (64, 48)
    assert cell_grid(96, 96) == (48, 48) and cell_grid(224, 224) == (56, 56) and cell_grid(225, 130) == (57, 33)
    image = torch.linspace(0, 1, 224).expand(3, 224, 224).contiguous()
    kept = torch.ones(56, 56); kept[20:30, 20:30] = 0
    filled = CellImputer(noise=0)(image, kept)
    hole = torch.zeros(224, 224, dtype=torch.bool); hole[80:120, 80:120] = True
    assert torch.equal(filled[:, ~hole], image[:, ~hole])
    assert (filled - image)[:, hole].abs().max() < .01


@pytest.mark.parametrize('order', [RemoveMostRelevantFirst, RemoveLeastRelevantFirst])
def test_every_map_loses_the_same_number_of_pixels(order):
    "Also maps that are mostly zero, whose ties the package would take all at once"
    maps = np.zeros((3, 20, 20), np.float32)
    maps[0, :3, :3] = 1; maps[1] = np.random.default_rng(0).random((20, 20)); maps[1][maps[1] < .8] = 0
    ranks, raw = rank_pixels(maps), []
    for percent in REMOVED:
        taken = []
        for each in ranks: order(100 - percent, lambda image, kept: taken.append(int((kept == 0).sum())))(None, torch.from_numpy(each))
        assert taken == [percent*4]*3
    order(100 - 90, lambda image, kept: raw.append(int((kept == 0).sum())))(None, torch.from_numpy(maps[0]))
    assert raw != [360]
    assert (ranks[0][:3, :3].min() > np.sort(ranks[0][3:].ravel())).all() and np.array_equal(ranks, rank_pixels(maps))


def test_road_agrees_with_the_packages_own(squares):
    images, masks = squares[0][:10], squares[1][:10]
    network, ranks = SquareFinder().eval(), rank_pixels(masks + 1e-3*random_maps(masks.shape, (5, 5)))
    targets = [ClassifierOutputSoftmaxTarget(0)]*10
    expected = np.mean([(least(100 - percent)(images, ranks, targets, network) - most(100 - percent)(images, ranks, targets, network))/2
        for percent in REMOVED for least, most in [(ROADLeastRelevantFirst, ROADMostRelevantFirst)]], 0)
    found = road_scores(network, images, ranks, [0]*10)
    np.testing.assert_allclose(found, expected, atol=.02)
    assert found.mean() > .1
    torch.rand(3) # the noise is drawn from the seed, wherever the caller's generator stands
    assert np.array_equal(found, road_scores(network, images, ranks, [0]*10))


def test_truth_beats_chance_and_chance_does_not(squares):
    images, masks = squares
    scores = {name: road_scores(SquareFinder().eval(), images, maps, [0]*len(images)) for name, maps in {
        'truth': masks.astype(np.float32), 'false': 1 - masks.astype(np.float32), 'chance': random_maps(masks.shape, (5, 5), 1)}.items()}
    assert mean_interval(scores['truth'])['low'] > .1 and mean_interval(scores['false'])['high'] < -.1
    assert abs(mean_interval(scores['chance'])['value']) < .1


# ---- sanity ----

def test_rank_correlation():
    generator = np.random.default_rng(0)
    before, after = generator.random((3, 6, 7)), generator.random((3, 6, 7)).round(1)
    after[2] = 0
    found = map_correlations(before, after)
    for one, two, value in zip(before[:2], after[:2], found): assert value == pytest.approx(stats.spearmanr(one.ravel(), two.ravel())[0])
    assert np.isnan(found[2])


def test_random_weights(squares):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    network(squares[0])
    network.scale = nn.Parameter(torch.arange(50.))
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    other = with_random_weights(network)
    for name, value in network.state_dict().items(): assert torch.equal(value, kept[name])
    assert (other[1].running_mean == 0).all() and not torch.equal(other[0].weight, network[0].weight)
    assert other.scale.sum() == 1225 and not torch.equal(other.scale, network.scale)
    assert not torch.equal(with_random_weights(network, 1)[0].weight, other[0].weight)


def test_a_map_that_ignores_the_weights_is_found_out(squares):
    "A layer ahead of every weight: EigenCAM of the picture itself"
    network = nn.Sequential(nn.Identity(), SquareFinder())
    found = check_heatmaps(network, squares[0], methods=('eigencam',), layer='0', parts=('sanity',)).sanity[0]
    assert found['correlation']['value'] == pytest.approx(1) and found['verdict'] == 'hardly follows the weights'
    found = check_heatmaps(nn.Sequential(nn.Identity(), SquareFinder()), squares[0], methods=('hirescam',), layer='1.found', parts=('sanity',)).sanity[0]
    assert found['verdict'] != 'hardly follows the weights'


# ---- all of it ----

def test_checks_of_a_network_that_looks_at_the_figure(squares):
    images, masks = squares
    network = SquareFinder().train()
    weights, states = network.patches.weight.clone(), (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    checks = check_heatmaps(network, images, np.zeros(24, int), masks, sample=20, layer='found')
    assert network.training and torch.equal(weights, network.patches.weight)
    assert states[:2] == (random.getstate(), str(np.random.get_state())) and torch.equal(states[2], torch.get_rng_state())
    pointing = {row['map']: row for row in checks.pointing}
    assert pointing['gradcam']['points']['value'] == 1 and pointing['gradcam']['heat']['low'] > .8
    assert pointing['uniform']['points']['value'] == pytest.approx(pointing['uniform']['heat']['value'])
    assert pointing['centred Gaussian']['points']['high'] < .8
    road = {row['map']: row for row in checks.faithfulness}
    for method in ('gradcam', 'hirescam', 'layercam'): assert road[method]['verdict'] == 'better than random'
    assert (checks.images, checks.image_size, checks.layer, checks.map_size, checks.accuracy) == (20, [16, 16], 'found', [16, 16], 1)
    assert 'better than random (ROAD)' in checks.verdict('gradcam') and checks.verdict('scorecam') == 'not checked'
    text = json.dumps(checks.to_dict(), allow_nan=False)
    assert HeatmapChecks(**json.loads(text)) == checks
    again = check_heatmaps(network, images, np.zeros(24, int), masks, sample=20, layer='found')
    again.seconds = checks.seconds
    assert again == checks
    for word in ('gradcam++', 'better than random', 'uniform', 'Seconds'): assert word in checks._repr_markdown_()


def test_a_network_that_looks_elsewhere_is_found_out(squares):
    "It answers to the corner that holds no figure: heat there, and the verdict says what it is worth"
    class Corner(SquareFinder):
        def forward(self, images): return self.head(self.found(self.patches(images)*0 + 1).mean((2, 3)))
    checks = check_heatmaps(Corner(), *squares[:1], masks=squares[1], methods=('gradcam',), layer='found')
    assert checks.pointing[0]['points']['value'] == 0 and checks.pointing[0]['dead'] == 24
    assert checks.pointing[0]['verdict'].startswith('points no better')
    assert checks.faithfulness[0]['verdict'].startswith('no better than random')
    assert checks.sanity[0]['verdict'] == 'dead once the weights are drawn anew' and checks.sanity[0]['correlation'] is None


def test_the_checks_of_an_interpretation_take_each_image_with_its_own_mask(monkeypatch):
    from cifar_fastai.data.loaders import image_dataloaders
    from cifar_fastai.data.sources import shapes_data
    from cifar_fastai.interpretation import analysis
    from cifar_fastai.interpretation.interpretation import CifarInterpretation
    from cifar_fastai.recipes.recipe import Recipe
    from cifar_fastai.training.learner import cifar_learner
    data, recipe = shapes_data(train=60, test=40), Recipe(data='shapes', arch='resnet20', width=4, batch_size=20, precision='fp32', device='cpu', holdout=20)
    learner, given = cifar_learner(image_dataloaders(data, recipe), recipe), {}
    def look(model, images, labels, masks, *more): given.update(images=images, labels=labels, masks=masks)
    monkeypatch.setattr(analysis, 'check_heatmaps', look)
    analysis.check_interpretation(CifarInterpretation.from_learner(learner), sample=15)
    mean, deviation = (np.array(values)[:, None, None] for values in learner.dls.statistics)
    pixels = ((given['images'].numpy()*deviation + mean)*255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    known = {image.tobytes(): place for place, image in enumerate(data.images)}
    places = [known[image.tobytes()] for image in pixels]
    assert len(places) == 15 and min(places) >= 60
    np.testing.assert_array_equal(given['masks'], data.masks[places])
    np.testing.assert_array_equal(given['labels'], data.labels[places])


def test_without_masks_and_refusals(squares):
    images, masks = squares
    checks = check_heatmaps(SquareFinder(), images[:4], methods=('gradcam',), parts=('pointing',))
    assert checks.pointing is None and 'takes a mask' in checks._repr_markdown_() and checks.accuracy is None
    for options, words in [(dict(masks=masks[:3]), '3 masks for 24'), (dict(labels=[0]), '1 labels for 24'), (dict(sample=1), 'at least two'),
            (dict(masks=masks[:, 1:]), 'masks of'), (dict(methods=('grad',)), "unknown heatmap method"), (dict(parts=('road',)), 'unknown check'),
            (dict(layer='head'), 'has no map')]:
        with pytest.raises(BadInput, match=words): check_heatmaps(SquareFinder(), images, **options)
