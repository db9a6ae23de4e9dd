"Lookahead, freezing and test-time augmentation against their definitions"
import dataclasses
import json
import numpy as np, pytest, torch
from torch.nn import functional as F
from cifar_fastai.data.loaders import cifar_dataloaders
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.runs.files import load_run, read_predictions
from cifar_fastai.runs.session import train_session
from cifar_fastai.interpretation.inference import SeveralViews
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from fastai.callback.core import Callback


class Watch(Callback):
    "The weights after each step, and what is trained"
    order = 90
    def __init__(self): self.weights, self.trained = [], []
    def after_step(self):
        self.weights.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        self.trained.append({name.split('.')[0] for name, p in self.model.named_parameters() if p.grad is not None})


@pytest.fixture(scope='module')
def recipe(tiny_folder):
    return Recipe(data=str(tiny_folder), arch='cifarnet', width=4, epochs=4, batch_size=20, augment='none', precision='fp32', device='cpu', progressive=0)


def watched(recipe):
    learner, watch = cifar_learner(cifar_dataloaders(recipe), recipe), Watch()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.1, [watch])
    return learner, watch


def test_lookahead_by_its_definition(recipe):
    "Sixty images in steps of twenty: three an epoch, so that the epoch's end falls between two goings back"
    _, plain = watched(dataclasses.replace(recipe, epochs=1))
    learner, ahead = watched(dataclasses.replace(recipe, epochs=1, lookahead=2))
    start = dict(cifar_learner(learner.dls, recipe).model.named_parameters())
    for name, first in start.items():
        torch.testing.assert_close(ahead.weights[0][name], plain.weights[0][name])
        torch.testing.assert_close(ahead.weights[1][name], (first + plain.weights[1][name])/2)
        torch.testing.assert_close(learner.model.get_parameter(name), (ahead.weights[1][name] + ahead.weights[2][name])/2)


def test_lookahead_needs_no_average_beside_it(recipe):
    with pytest.raises(BadInput, match='Take one of them'): dataclasses.replace(recipe, ema=0.9, lookahead=5)


def test_parts_stop_one_after_another(recipe):
    "Twelve steps: the stem stops after half of them, and each of the three parts a sixth later"
    learner, watch = watched(dataclasses.replace(recipe, freeze=0.5))
    everything = {'stem', 'stage1', 'stage2', 'stage3', 'linear'}
    expected = [everything]*6 + [everything - {'stem'}]*2 + [everything - {'stem', 'stage1'}]*2 + [{'stage3', 'linear'}]*2
    assert watch.trained == expected
    for before, after, trained in zip(watch.weights, watch.weights[1:], expected[1:]):
        assert {name.split('.')[0] for name in after if not torch.equal(before[name], after[name])} == trained
    assert all(p.requires_grad for p in learner.model.parameters())  # as it was, for a fit that follows


def test_whitened_filters_stay_frozen_after_freezing(recipe):
    learner, _ = watched(dataclasses.replace(recipe, freeze=0.5, whiten=True, epochs=1))
    assert [name for name, p in learner.model.named_parameters() if not p.requires_grad] == ['stem.0.weight']


@pytest.mark.parametrize('kind,offsets', [('none', [(0, 0, 1)]), ('mirror', [(0, 0, 1)]), ('shift', [(0, 0, .5), (-1, -1, .25), (1, 1, .25)])])
def test_views_by_hand(kind, offsets):
    generator = np.random.default_rng(0)
    images, weight = generator.normal(size=(3, 3, 6, 6)), generator.normal(size=(3*36, 4))
    class Any(torch.nn.Module):
        def forward(self, x): return (x.flatten(1) @ torch.from_numpy(weight)).tanh()
    said = lambda x: np.tanh(x.reshape(3, -1) @ weight)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='reflect')
    expected = 0
    for y, x, share in offsets:
        view = padded[:, :, 1 + y:7 + y, 1 + x:7 + x]
        expected = expected + share*(said(view) if kind == 'none' else (said(view) + said(view[..., ::-1]))/2)
    np.testing.assert_allclose(SeveralViews(Any(), kind)(torch.from_numpy(images)).numpy(), expected)


def test_a_run_states_both_accuracies(recipe, tmp_path):
    lines = []
    run = train_session(dataclasses.replace(recipe, epochs=1, tta='mirror', whiten=True), tmp_path, say=lines.append, explained=False)
    metrics = json.loads((run.path/'metrics.json').read_text())
    kept = read_predictions(run.path/'predictions.npz')
    assert metrics['test_accuracy'] == (kept.logits.argmax(1) == kept.target).mean()
    learner = load_run(run.path)
    images, targets = (t.as_subclass(torch.Tensor) for t in learner.dls.test.one_batch())
    learner.model.eval()
    with torch.no_grad(): logits = learner.model(images) + learner.model(images.flip(3))
    assert metrics['tta']['kind'] == 'mirror' and metrics['tta']['test_accuracy'] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert metrics['tta']['test_loss'] == pytest.approx(F.cross_entropy(logits/2, targets).item(), rel=1e-4)
    assert f"tta      {metrics['tta']['test_accuracy']:.2%} with test-time augmentation (mirror)" in lines[-1]


def test_a_run_without_it_says_nothing_of_it(recipe, tmp_path):
    lines = []
    run = train_session(dataclasses.replace(recipe, epochs=1), tmp_path, say=lines.append, explained=False)
    assert 'tta' not in json.loads((run.path/'metrics.json').read_text()) and 'tta' not in lines[-1]


def test_lookahead_and_freezing_go_on_from_a_checkpoint(recipe, tmp_path):
    "Stopped in the middle and gone on with, the weights are those of a run that was not"
    wanted = dataclasses.replace(recipe, lookahead=5, freeze=0.5, whiten=True)
    whole = train_session(wanted, tmp_path, 'whole', say=str, explained=False)

    class Stop(Callback):
        order = 99
        def after_batch(self):
            if self.training and self.epoch == 2 and self.iter == 0: raise KeyboardInterrupt
    from cifar_fastai.runs import session
    kept = session.fit_recipe
    session.fit_recipe = lambda learner, cbs: kept(learner, cbs=[*cbs, Stop()])
    try:
        with pytest.raises(KeyboardInterrupt): train_session(wanted, tmp_path, 'parts', say=str, explained=False)
    finally: session.fit_recipe = kept
    parts = train_session(resume=tmp_path/'parts', say=str, explained=False)
    assert parts.metrics['fingerprints']['weights'] == whole.metrics['fingerprints']['weights']
