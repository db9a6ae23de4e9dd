"The data set that draws itself: balance, masks, seeds, and figures against Matplotlib's geometry"
import hashlib

import numpy as np
import pytest
from matplotlib.path import Path
from scipy import ndimage

from cifar_fastai.data.shapes import FIGURES, draw_sets, draw_shapes, polygon_distance, star_corners
from cifar_fastai.data.sources import load_images


DIGESTS = ['3ee6f760e2d60c7e', 'e7826b4fd885a97e', '81f8d854e2eec322'] # of images, labels and masks


@pytest.fixture(scope='module')
def shapes(): return draw_shapes(1000, 205, seed=3)


def test_balance_and_form(shapes):
    images, labels, masks, classes = shapes
    assert images.shape == (1205, 32, 32, 3) and images.dtype == np.uint8 and masks.shape == (1205, 32, 32) and masks.dtype == bool
    assert classes == tuple(sorted(FIGURES)) and len(classes) == 10
    assert np.array_equal(np.bincount(labels[:1000]), [100]*10) and np.ptp(np.bincount(labels[1000:])) == 1


def test_seeds(shapes):
    images, labels, masks, _ = shapes
    for one in range(3): draw_shapes(10, 5, seed=one)
    assert draw_shapes(1000, 205, seed=3)[0] is images and not images.flags.writeable  # kept for the next call, whatever small sets come between
    again = draw_sets.__wrapped__(1000, 205, 3, 32)
    assert all(np.array_equal(mine, other) for mine, other in zip(again[:3], shapes))
    assert not np.array_equal(draw_shapes(100, 5, seed=4)[0], images[:105])
    fewer = draw_shapes(200, 205, seed=3) # the test set is its own
    assert np.array_equal(fewer[0][200:], images[1000:]) and np.array_equal(fewer[2][200:], masks[1000:])
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_same_everywhere():
    "A change here changes every number measured on shapes: it has to be meant"
    images, labels, masks, _ = draw_shapes(100, 20)
    digests = [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16] for array in (images, labels, masks)]
    assert digests == DIGESTS


def test_masks_are_one_figure_each(shapes):
    images, labels, masks, classes = shapes
    holes = np.array([ndimage.label(np.pad(~mask, 1, constant_values=True))[1]-1 for mask in masks])
    pieces = np.array([ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks])
    assert np.mean(pieces == 1) > .99 # the tip of a thin crescent may come off
    assert not holes.any()
    area = masks.sum((1, 2))
    assert area.min() >= 25 and area.max() <= 500 and .08 < masks.mean() < .2


def test_a_figure_is_seen(shapes):
    "Inside and outside differ in brightness, on the whole, although strokes and noise lie over them"
    images, labels, masks, _ = shapes
    brightness = images@np.array([.299, .587, .114])
    inside = np.array([np.median(picture[mask]) for picture, mask in zip(brightness, masks)])
    outside = np.array([np.median(picture[ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask)])
                        for picture, mask in zip(brightness, masks)])
    assert np.mean(np.abs(inside-outside) > 15) > .97


def test_colour_and_place_say_nothing(shapes):
    "The nearest class mean, by colours or by where the mask lies, does little better than chance"
    images, labels, masks, _ = shapes
    coordinates = np.indices((32, 32)).reshape(2, -1)
    place = masks.reshape(len(masks), -1)@coordinates.T/masks.sum((1, 2))[:, None]
    for features in (images.mean((1, 2)), images.std((1, 2)), place):
        means = np.stack([features[:1000][labels[:1000] == label].mean(0) for label in range(10)])
        guess = ((features[1000:, None]-means)**2).sum(-1).argmin(1)
        assert np.mean(guess == labels[1000:]) < .25


@pytest.mark.parametrize('corners', [[(-1., -1.), (1., -.5), (.3, 1.)], star_corners(5, .42), [(0., -1.), (1., 1.), (0., .2), (-1., 1.)]])
def test_polygons_against_matplotlib(corners):
    x, y = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 4000))
    distance = polygon_distance(x, y, corners)
    assert np.array_equal(distance < 0, Path([*corners, corners[0]], closed=True).contains_points(np.stack([x, y], 1)))
    closed = np.array([*corners, corners[0]])
    outline = np.concatenate([np.linspace(start, end, 3000) for start, end in zip(closed, closed[1:])]) # the outline, finely
    nearest = [np.sqrt(((outline-point)**2).sum(1).min()) for point in np.stack([x, y], 1)[:300]]
    assert np.allclose(np.abs(distance[:300]), nearest, atol=1e-3)


@pytest.mark.parametrize('name', FIGURES)
def test_figures_fill_the_unit_circle(name):
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
    inside, radius = FIGURES[name](x, y) < 0, np.sqrt(x**2+y**2)
    assert .75 < radius[inside].max() <= 1.3 and inside.mean() > .05


def test_other_sizes():
    images, labels, masks, _ = draw_shapes(20, 10, size=64)
    small, _, coarse, _ = draw_shapes(20, 10)
    assert images.shape == (30, 64, 64, 3)
    halved = masks.reshape(30, 32, 2, 32, 2).mean((2, 4)) >= .5 # the same figures, in finer pixels
    assert np.mean(halved == coarse) > .99


def test_load_images_gives_the_masks():
    data = load_images('shapes')
    images, labels, masks, classes = draw_shapes(10, 2000) # the test set does not depend on how many come before
    assert (data.name, data.train_count, len(data.labels), data.classes) == ('shapes', 10_000, 12_000, classes)
    assert np.array_equal(data.images[10_000:], images[10:]) and np.array_equal(data.masks[10_000:], masks[10:])
    assert np.array_equal(data.labels[10_000:], labels[10:])
    assert data.names[0] == f'train/{classes[data.labels[0]]}/00000' and data.names[10_000] == f'test/{classes[labels[10]]}/10000'
    assert len(set(data.names)) == 12_000
