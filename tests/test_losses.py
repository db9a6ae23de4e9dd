"Losses that bear wrong labels, soft labels and the choice of images, each against its definition written out"
import dataclasses
import math

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.recipes.choices import LOSSES
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.recipes.resolved import resolve
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.losses import ClassificationLoss, kept_share

CLASSES = 4


def drawn(count=7, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(0, 2, (count, CLASSES)), draw.integers(0, CLASSES, count), draw.dirichlet(np.ones(CLASSES), count)


def by_definition(loss, parameter, p, t):
    "The papers' sums, class by class; a share of nothing is 1e-4 in the reverse"
    total = 0.
    for c in range(CLASSES):
        if loss == 'ce': total += -t[c]*math.log(p[c])
        if loss == 'symmetric': total += -parameter*t[c]*math.log(p[c]) - p[c]*math.log(max(t[c], 1e-4))
        if loss == 'generalized': total += t[c]*(1 - p[c]**parameter)/parameter
        if loss == 'bootstrapped': total += -(parameter*t[c] + (1 - parameter)*(c == int(np.argmax(p))))*math.log(p[c])
    return total


def softmax(logits): return [np.exp(row)/np.exp(row).sum() for row in logits]


@pytest.mark.parametrize('targets', ['classes', 'shares'])
@pytest.mark.parametrize('loss, parameter', [('ce', None), ('symmetric', 0.1), ('symmetric', 2.), ('generalized', 0.7), ('generalized', 1.), ('bootstrapped', 0.8)])
def test_a_loss_is_its_definition(loss, parameter, targets):
    logits, labels, shares = drawn()
    rows = np.eye(CLASSES)[labels] if targets == 'classes' else shares
    module = ClassificationLoss(0., 'none', None, loss, parameter).train()
    target = torch.tensor(labels) if targets == 'classes' else torch.tensor(shares).float()
    wanted = [by_definition(loss, parameter, p, t) for p, t in zip(softmax(logits), rows)]
    np.testing.assert_allclose(module(torch.tensor(logits), target), wanted, rtol=1e-4)
    module.reduction = 'mean'
    assert module(torch.tensor(logits), target).item() == pytest.approx(np.mean(wanted), rel=1e-4)
    plain = [by_definition('ce', None, p, t) for p, t in zip(softmax(logits), rows)]
    assert module.eval()(torch.tensor(logits), target).item() == pytest.approx(np.mean(plain), rel=1e-4)  # what is reported


@pytest.mark.parametrize('loss', ['symmetric', 'generalized', 'bootstrapped'])
def test_smoothing_and_class_weights_come_with_each_loss(loss):
    logits, labels, _ = drawn(seed=1)
    weights, parameter = np.array([0.5, 1., 2., 4.]), LOSSES[loss].parameter
    rows = np.eye(CLASSES)[labels]*0.8 + 0.2/CLASSES
    losses = np.array([by_definition(loss, parameter, p, t) for p, t in zip(softmax(logits), rows)])
    module = ClassificationLoss(0.2, class_weights=torch.tensor(weights).float(), loss=loss, parameter=parameter).train()
    found = module(torch.tensor(logits), torch.tensor(labels)).item()
    assert found == pytest.approx((losses*weights[labels]).sum()/weights[labels].sum(), rel=1e-4)


@pytest.mark.parametrize('loss', LOSSES)
def test_the_images_with_the_smallest_losses_count(loss):
    logits, labels, _ = drawn(10, 2)
    losses = np.array([by_definition(loss, LOSSES[loss].parameter, p, t) for p, t in zip(softmax(logits), np.eye(CLASSES)[labels])])
    module, given = ClassificationLoss(loss=loss, parameter=LOSSES[loss].parameter).train(), torch.tensor(logits).float().requires_grad_()
    module.keep = 0.64
    found = module(given, torch.tensor(labels))
    found.backward()
    kept = np.sort(losses)[:6]
    assert found.item() == pytest.approx(kept.mean(), rel=1e-4)
    assert sorted(np.flatnonzero(given.grad.abs().sum(1) > 0)) == sorted(np.argsort(losses)[:6])
    module.keep = 0.01
    assert module(given, torch.tensor(labels)).item() == pytest.approx(losses.min(), rel=1e-4)
    assert module.eval()(given, torch.tensor(labels)).item() == pytest.approx(torch.nn.functional.cross_entropy(given, torch.tensor(labels)).item())


def test_what_a_loss_takes():
    assert [resolve(Recipe(loss=name)).loss_parameter for name in LOSSES] == [None, 0.1, 0.7, 0.8]
    assert resolve(Recipe(loss='generalized', loss_parameter=0.3)).to_dict()['loss_parameter'] == 0.3
    assert 'loss_parameter' not in resolve(Recipe()).to_dict()
    for fields, message in [(dict(loss='bootstrapped', loss_parameter=1.5), 'at most 1'), (dict(loss='generalized', loss_parameter=0), 'above 0'),
                            (dict(loss_parameter=0.5), 'cross-entropy has none'), (dict(loss='symetric'), "did you mean 'symmetric'"), (dict(keep_share=0), 'above 0')]:
        with pytest.raises(BadInput, match=message): Recipe(**fields)


class Watch(Callback):
    "What the network is trained on: targets, the images' places, and the share that is kept"
    order = 19
    def __init__(self): self.batches = []
    def before_batch(self):
        if self.training: self.batches.append((self.y.clone(), self.dls.train.random.positions.clone(), self.loss_func.keep))


def fit(data, recipe):
    learner, watch = cifar_learner(image_dataloaders(data, recipe), recipe), Watch()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [watch])
    return learner, watch


def with_soft(data, places, shares):
    rows = np.full(len(data.labels), -1)
    rows[places] = np.arange(len(places))
    return dataclasses.replace(data, soft=(rows, np.array(shares, np.float32)))


def test_soft_labels_and_the_share_reach_the_loss(tiny_data, tiny_recipe):
    places, shares = [3, 50, 119], [[0.2, 0.3, 0.5], [0., 1., 0.], [0.5, 0.5, 0.]]
    recipe = dataclasses.replace(tiny_recipe, labels='any', keep_share=0.5, keep_warmup=2, epochs=4, loss='generalized', class_weights='balanced', precision='bf16')
    learner, watch = fit(with_soft(tiny_data, places, shares), recipe)
    wanted = np.eye(3)[tiny_data.labels]
    wanted[places] = shares
    for targets, where, _ in watch.batches: np.testing.assert_allclose(targets, wanted[where], atol=1e-6)
    assert len(watch.batches) == 20 and [watch.batches[5*epoch][2] for epoch in range(4)] == [1., 0.75, 0.5, 0.5]
    assert learner.loss_func.keep is None
    assert [kept_share(0.8, 0, epoch) for epoch in (0, 9)] == [0.8, 0.8]


def test_soft_labels_are_mixed(tiny_data, tiny_recipe):
    "Under mixup every target is between its own and a partner's; hard labels are mixed as before"
    shares = [[0.2, 0.3, 0.5]]*120
    _, watch = fit(with_soft(tiny_data, np.arange(120), shares), dataclasses.replace(tiny_recipe, labels='any', mixup=0.4, epochs=1))
    for targets, *_ in watch.batches: np.testing.assert_allclose(targets, np.tile([0.2, 0.3, 0.5], (len(targets), 1)), atol=1e-6)


def test_soft_labels_ask_for_our_loader(tiny_data, tiny_recipe):
    data = with_soft(tiny_data, [0], [[0.5, 0.5, 0.]])
    recipe = dataclasses.replace(tiny_recipe, labels='any')
    learner = cifar_learner(image_dataloaders(data, recipe), recipe)
    learner.dls.train.array = None  # each image by itself, as fastai does it
    with learner.no_bar(), learner.no_logging(), pytest.raises(BadInput, match='our own loader'): fit_recipe(learner, 0.05)
