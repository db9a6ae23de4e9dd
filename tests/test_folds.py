"Parts of the training images left out one by one, images followed over the epochs: exact, also where a run was stopped"
import dataclasses
import signal

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from scipy.stats import spearmanr
from torch.nn import functional as F

from cifar_fastai.base.messages import BadInput
from cifar_fastai.comparison.folds import fold_plan, gather_folds, train_folds
from cifar_fastai.data.near_copies import find_near_copies, fold_numbers, fold_positions
from cifar_fastai.data.images import image_data
from cifar_fastai.data.positions import Positions
from cifar_fastai.data.loaders import image_dataloaders, load_recipe_images
from cifar_fastai.interpretation.inference import run_inference, steady_loader
from cifar_fastai.labels.scores import logit_margin
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.runs.checkpoints import Checkpoints
from cifar_fastai.runs.files import load_run, read_dynamics, read_predictions
from cifar_fastai.training.learner import cifar_learner, fit_recipe

TINY = Recipe(arch='resnet9', width=8, epochs=2, batch_size=24, progressive=0, precision='fp32', device='cpu', augment='crop_flip', track_images=True)


def test_parts_are_disjoint_cover_all_and_hold_each_class_alike():
    labels = np.random.default_rng(0).integers(0, 7, 1003)
    numbers = fold_numbers(labels, np.arange(1003), 4, seed=3)
    counts = np.stack([np.bincount(labels[numbers == part], minlength=7) for part in range(1, 5)])
    assert (counts.max(0) - counts.min(0) <= 1).all() and counts.sum() == 1003 and np.ptp(counts.sum(1)) <= 1
    assert np.array_equal(numbers, fold_numbers(labels, np.arange(1003), 4, seed=3)) and not np.array_equal(numbers, fold_numbers(labels, np.arange(1003), 4, seed=4))


def test_near_copies_are_found_also_mirrored_darker_and_saved_anew_and_stay_in_one_part():
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (60, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    noisy = np.clip(pictures[5].astype(int) + draw.integers(-8, 9, pictures[5].shape), 0, 255).astype(np.uint8)
    copies = np.stack([pictures[3], noisy, pictures[7][:, ::-1], np.clip(noisy.astype(int) - 5, 0, 255).astype(np.uint8)[:, ::-1]])
    images = np.concatenate([pictures, copies])
    groups = find_near_copies(images)
    assert groups[60:].tolist() == [3, 5, 7, 5] and np.array_equal(groups[:60], np.arange(60))
    data = image_data(images, np.r_[np.arange(60)%3, 0, 2, 1, 2], ('a', 'b', 'c'), np.arange(64), 64)
    parts = [fold_positions(data, f'{part}/4') for part in range(1, 5)]
    assert sorted(np.concatenate(parts)) == list(range(64))
    for pair in ((3, 60), (5, 61), (7, 62), (61, 63)): assert any(set(pair) <= set(part.tolist()) for part in parts)
    assert np.array_equal(find_near_copies(np.zeros((5, 16, 16, 3), np.uint8)), np.zeros(5))


def test_a_part_is_neither_trained_on_nor_held_out(tiny_data):
    seen = [image_dataloaders(tiny_data, dataclasses.replace(TINY, fold=f'{part}/3', holdout=9, limit=90)).positions for part in (1, 2, 3)]
    folds = np.concatenate([one['fold'] for one in seen])
    assert len(folds) == len(set(folds)) == 90
    for one in seen:
        parts = [one['fold'], one['train'], one['valid']]
        assert sum(map(len, parts)) == 90 == len(set(np.concatenate(parts))) and len(one['valid']) == 9


@pytest.mark.parametrize('fold', ['1', '0/3', '4/3', '1/1', 'a/b', '-1/3', '1/3/5', '1.0/3'])
def test_what_is_no_part_is_refused(fold):
    with pytest.raises(BadInput, match='no part of several'): Recipe(fold=fold)


def test_more_parts_than_images_and_mixed_images_are_refused(tiny_data):
    with pytest.raises(BadInput, match='120 training images for 200 parts'): image_dataloaders(tiny_data, dataclasses.replace(TINY, fold='1/200'))
    with pytest.raises(BadInput, match='mixup and cutmix mix them'): dataclasses.replace(TINY, mixup=0.4)


def test_a_part_with_all_of_a_class_is_said(tiny_data):
    images = tiny_data.images[:15].copy()
    images[9:12] = images[9]
    data = image_data(images, np.r_[np.repeat([0, 1], [5, 4]), 2, 2, 2, 0, 1, 2], ('a', 'b', 'c'), np.arange(15), 12)
    refused = 0
    for part in (1, 2):
        try: image_dataloaders(data, dataclasses.replace(TINY, fold=f'{part}/2', batch_size=2))
        except BadInput as error: refused += 'has all images of a class' in str(error)
    assert refused == 1


class Follows(Callback):
    "Loss, margin and probabilities of each image, written down in another way"
    order = 31
    def __init__(self): self.seen = []
    def after_loss(self):
        if not self.training: return
        logits = torch.as_tensor(self.pred.detach()).as_subclass(torch.Tensor)
        for place, row, target in zip(self.dl.random.positions.tolist(), logits, self.y.tolist()):
            others = torch.cat([row[:target], row[target+1:]])
            self.seen.append((self.epoch, place, float(F.cross_entropy(row[None], torch.tensor([target]))), float(row[target] - others.max()), row.softmax(0).numpy()))


def fit(data, recipe, *cbs):
    learner = cifar_learner(image_dataloaders(data, recipe), recipe, cbs=list(cbs))
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner)
    return learner


def test_what_is_kept_is_what_was_trained_on_and_changes_nothing(tiny_data):
    recipe = dataclasses.replace(TINY, label_smoothing=0.2, fold='2/3')
    learner = fit(tiny_data, recipe, follows := Follows())
    arrays, rows = learner.track_images.arrays(), {place: row for row, place in enumerate(learner.dls.positions['train'].tolist())}
    assert arrays['loss'].shape == (2, 80) and len(follows.seen) == 2*24*(80//24)
    sums = {}
    for epoch, place, loss, margin, probabilities in follows.seen:
        assert np.allclose([arrays['loss'][epoch, rows[place]], arrays['margin'][epoch, rows[place]]], [loss, margin], rtol=2e-3, atol=2e-3)
        sums.setdefault(place, []).append(probabilities)
    for place, found in sums.items(): assert np.allclose(arrays['probabilities'][rows[place]], np.mean(found, 0), atol=1e-3)
    assert np.isnan(arrays['loss']).sum() == 2*80 - len(follows.seen)
    plain = fit(tiny_data, dataclasses.replace(recipe, track_images=False))
    assert all(torch.equal(one, two) for one, two in zip(learner.model.state_dict().values(), plain.model.state_dict().values()))


class StopAt(Callback):
    order = 80
    def __init__(self, *place): self.place = place
    def after_batch(self):
        if (self.epoch, self.iter, self.training) == self.place: self.checkpoints.stops.asked = signal.SIGINT


@pytest.fixture(scope='module')
def figures(tiny_folder):
    recipe = dataclasses.replace(TINY, data=str(tiny_folder), batch_size=9, holdout=3)
    return recipe, load_recipe_images(recipe)


@pytest.fixture(scope='module')
def folds(figures, tmp_path_factory):
    out = tmp_path_factory.mktemp('folds')
    recipe, data = figures
    return train_folds(fold_plan(recipe, 2, data, out), out, lambda line: None), out


def test_the_parts_are_put_together_in_order_by_networks_that_did_not_see_them(figures, folds):
    (recipe, data), (paths, out) = figures, folds
    assert [path.name[-16:] for path in paths] == ['2-seed0-fold1of2', '2-seed0-fold2of2'] and not fold_plan(recipe, 2, data, out).missing
    found = gather_folds(paths, data)
    assert len(found.kept) == 60 and (np.diff(found.positions) > 0).all() and np.array_equal(found.kept.targets, data.labels[found.positions])
    learner = load_run(paths[0])
    where = learner.dls.positions['fold']
    logits, _ = run_inference(learner.model, steady_loader(learner.dls.test_dl(where.view(Positions), with_labels=True)))
    assert np.allclose(found.kept.logits[np.isin(found.positions, where)], logits, atol=1e-5)
    kept, means = [read_dynamics(path/'image_dynamics.npz') for path in paths], []
    for first in range(2):
        margins = {name: np.nanmean(row[first:].astype(float)) for one in kept for name, row in zip(one.name, one.margin.T) if np.isfinite(row[first:]).any()}
        means.append(np.array([margins.get(name, np.nan) for name in found.kept.names]))
    own = logit_margin(found.kept.logits, found.kept.targets)
    agreement = [spearmanr(own[np.isfinite(values)], values[np.isfinite(values)]).statistic for values in means]
    assert np.allclose(found.margins, means[int(np.argmax(agreement))], equal_nan=True) and agreement[0] != agreement[1]
    with pytest.raises(BadInput, match='in two of the parts'): gather_folds([paths[0], paths[0]], data)


@pytest.mark.parametrize('place', [(0, 1, True), (1, 0, False)])
def test_a_part_that_was_stopped_goes_on_to_the_same_files(figures, folds, tmp_path, monkeypatch, place):
    (recipe, data), (paths, _) = figures, folds
    once = Checkpoints.before_fit
    def stopping(self):
        once(self)
        if not list(tmp_path.glob('*/checkpoint/*.json')): self.learn.add_cb(StopAt(*place))
    monkeypatch.setattr(Checkpoints, 'before_fit', stopping)
    with pytest.raises(KeyboardInterrupt): train_folds(fold_plan(recipe, 2, data, tmp_path), tmp_path, lambda line: None)
    monkeypatch.setattr(Checkpoints, 'before_fit', once)
    plan = fold_plan(recipe, 2, data, tmp_path)
    assert [bool(run.begun) for run in plan.runs] == [True, False] and len(plan.missing) == 2
    plan.runs[1].path = paths[1]  # one part is enough to see
    again = train_folds(plan, tmp_path, lambda line: None)[0]
    for name, read in (('image_dynamics.npz', read_dynamics), ('out_of_fold.npz', read_predictions)):
        one, two = read(paths[0]/name), read(again/name)
        for field, value in vars(one).items(): assert value.tobytes() == getattr(two, field).tobytes(), field


def test_a_part_that_cannot_be_trained_is_said(figures, tmp_path):
    recipe, data = figures
    with pytest.raises(BadInput, match='part 1/2 could not be trained: .*batch_size 300'):
        train_folds(fold_plan(dataclasses.replace(recipe, batch_size=300), 2, data, tmp_path), tmp_path, lambda line: None)
