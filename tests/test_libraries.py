"Networks of libraries: their weights, their fine-tuning, and that a run of one stops and goes on bit for bit"
import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from fastai.callback.schedule import ParamScheduler
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from torch import nn
from torchvision import models

from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.images import balanced_order, image_data, uneven_notes
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.heatmaps.gradcam import heatmaps
from cifar_fastai.models.libraries import library_network, match_weights, read_state
from cifar_fastai.recipes.libraries import split_name, weights_statistics
from cifar_fastai.recipes.named import named_recipe
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.recipes.resolved import resolve
from cifar_fastai.runs.files import load_run, weights_fingerprint
from cifar_fastai.training.losses import ClassificationLoss, balanced_weights
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.schedules import schedule

SMALL = dict(arch='torchvision:squeezenet1_1', image_size=32, precision='fp32', device='cpu', progressive=0, augment='crop_flip')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A squeezenet's weights under other names, as another library would have them"
    torch.manual_seed(5)
    full = models.squeezenet1_1()
    path = tmp_path_factory.mktemp('weights')/'other.pth'
    torch.save({name.replace('features', 'stages'): value for name, value in full.state_dict().items()}, path)
    return path, full


def test_weights_of_a_file_are_those_of_the_network(weights):
    path, full = weights
    model = library_network(Recipe(**SMALL, weights=str(path)), 4, 32).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.body(images), full.eval().features(images))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4) and model.origin.startswith('other.pth ')


def test_other_weights_are_refused_by_the_first_tensor_that_differs(weights, tmp_path):
    state, _ = read_state(weights[0])
    wanted = {name.replace('stages', 'features'): value for name, value in state.items()}
    head = {name for name in wanted if name.startswith('classifier')}
    names = list(state)
    turned = {name: state[name] for name in [names[1], names[0], *names[2:]]}
    with pytest.raises(BadInput, match='tensor 1 does not match'): match_weights(turned, wanted, head, 'x')
    grown = {**state, names[4]: torch.zeros(7, 7)}
    with pytest.raises(BadInput, match=r"tensor 5 does not match: '.*' \(7, 7\)"): match_weights(grown, wanted, head, 'x')
    with pytest.raises(BadInput, match='no order to go by'): match_weights(state, wanted, head, 'x', ordered=False)
    with pytest.raises(BadInput, match='the file has 3 tensors'): match_weights(dict(list(state.items())[:3]), wanted, head, 'x')
    found = match_weights({f'module.{name}': value for name, value in wanted.items()}, wanted, head, 'x', ordered=False)
    assert found.keys() == wanted.keys() - head and all(found[name] is wanted[name] for name in found)
    (tmp_path/'evil.pth').write_bytes(b'\x80\x04cos\nsystem\n(S"true"\ntR.')
    with pytest.raises(BadInput, match='cannot be read'): read_state(tmp_path/'evil.pth')


def test_names_and_missing_libraries_are_refused_with_a_way_out(monkeypatch):
    with pytest.raises(BadInput, match="did you mean 'resnet18'"): split_name('torchvision:resnet81')
    with pytest.raises(BadInput, match='unknown library'): Recipe(arch='keras:resnet18')
    with pytest.raises(BadInput, match='--pretrained no --freeze-epochs 0'): dataclasses.replace(named_recipe('photos'), arch='resnet9')
    with pytest.raises(BadInput, match='leaves none'): Recipe(arch='torchvision:resnet18', epochs=2, freeze_epochs=2)
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(BadInput, match=r'pip install .cifar_fastai\[timm\]'): split_name('timm:resnet18')


def test_weights_that_cannot_be_fetched_are_named_with_the_way_out(monkeypatch):
    def nothing(*args, **kwargs): raise OSError('no route to host')
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', nothing)
    monkeypatch.setattr(models._api, 'load_state_dict_from_url', nothing)
    with pytest.raises(BadInput, match='no route to host(.|\n)*--weights FILE'): library_network(Recipe(**SMALL, pretrained=True), 2, 32)


def test_the_two_parts_of_a_fine_tuning_are_those_of_fastai(monkeypatch):
    fitted = []
    class Noted(Learner):
        def fit(self, epochs, **kwargs):
            course = next(part for part in kwargs['cbs'] if isinstance(part, ParamScheduler)).scheds
            fitted.append((epochs, course))
    body, head = nn.Linear(3, 3), nn.Linear(3, 2)
    learner = Noted(None, nn.Sequential(body, head), CrossEntropyLossFlat(), Adam, splitter=lambda model: [list(part.parameters()) for part in model], moms=(0.95, 0.85, 0.95))
    learner.fine_tune(4, 0.02, freeze_epochs=1)
    recipe = Recipe(arch='torchvision:resnet18', optimizer='adamw', lr=0.02, epochs=5, freeze_epochs=1, body_lr=0.01, anneal='cosine', pct_start=0.3, div=5)
    ours = schedule(resolve(recipe), (0.95, 0.85, 0.95), 2)
    (one, first), (four, then) = fitted
    assert (one, four) == (1, 4)
    for share in (0.01, 0.3, 0.7, 0.98):
        np.testing.assert_allclose(ours['lr'](share*0.2), first['lr'](share))
        np.testing.assert_allclose(ours['lr'](0.2 + share*0.8), then['lr'](share))
        np.testing.assert_allclose([ours['mom'](share*0.2), ours['mom'](0.2 + share*0.8)], [first['mom'](share), then['mom'](share)])


def made(counts=(12, 12), seed=0, side=32):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.arange(len(counts)).repeat(4)])
    images = random.integers(0, 150, (len(labels), side, side, 3), dtype=np.uint8)
    images[np.arange(len(labels)), ..., labels] += 100
    return image_data(images, labels, tuple('abc'[:len(counts)]), [str(number) for number in range(len(labels))], sum(counts))


def test_the_head_learns_alone_first_and_the_whole_network_afterwards(weights):
    recipe = Recipe(**SMALL, weights=str(weights[0]), epochs=2, freeze_epochs=1, body_lr=0.1, batch_size=8, optimizer='adamw', lr=0.01)
    learner = cifar_learner(image_dataloaders(made(), recipe), recipe)
    assert learner.dls.statistics[0] == pytest.approx(weights_statistics(recipe.arch)[0], abs=1e-6)
    seen = []
    def look(): seen.append(([p.detach().clone() for p in learner.model.body.parameters()], [p.detach().clone() for p in learner.model.head.parameters()]))
    from fastai.callback.core import Callback
    class Look(Callback):
        order = 80
        def after_epoch(self): look()
    look()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, cbs=[Look()])
    def moved(one, two, part): return any(not torch.equal(a, b) for a, b in zip(seen[one][part], seen[two][part]))
    assert (moved(0, 1, 0), moved(0, 1, 1), moved(1, 2, 0)) == (False, True, True)
    assert all(p.requires_grad for p in learner.model.parameters())


@pytest.mark.parametrize('keeps', [True, False])
def test_the_body_s_norms_keep_their_statistics_and_the_head_s_do_not(tmp_path, keeps):
    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path/'weights.pth')
    recipe = Recipe(**{**SMALL, 'arch': 'torchvision:shufflenet_v2_x0_5'}, weights=str(tmp_path/'weights.pth'), epochs=2, freeze_epochs=1, keep_norms=keeps, batch_size=8, optimizer='adamw', lr=0.01)
    learner = cifar_learner(image_dataloaders(made(), recipe), recipe)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner)
    after = learner.model.state_dict()
    def moved(part, kind): return {not torch.equal(value, after[name]) for name, value in before.items() if name.startswith(part) and kind in name}
    for kind in ('running_mean', 'running_var', 'num_batches_tracked'): assert (moved('body', kind), moved('head', kind)) == ({not keeps}, {True})
    assert True in moved('body', '.weight')  # trained all the same


def test_heatmaps_are_taken_from_the_end_of_the_body():
    model = library_network(Recipe(**SMALL), 2, 64)
    maps = heatmaps(model, torch.randn(2, 3, 64, 64))
    assert maps.shape == (2, 64, 64) and model.heatmap_layer == 'body' and len(model.stages) >= 2
    assert not hasattr(library_network(Recipe(**SMALL), 2, 32), 'heatmap_layer')  # its last map has one pixel there


def test_a_run_stopped_in_either_part_goes_on_bit_for_bit(weights, tiny_folder, tmp_path):
    from fastai.callback.core import Callback
    from cifar_fastai.runs.session import train_session
    recipe = Recipe(**{**SMALL, 'data': str(tiny_folder)}, weights=str(weights[0]), epochs=3, freeze_epochs=1, body_lr=0.1, batch_size=24, optimizer='adamw',
                    class_weights='balanced', sampler='balanced')
    quiet = dict(say=lambda line: None, explained=False, checkpoint_every=1e-9)
    whole = train_session(recipe, tmp_path, 'whole', **quiet)
    for at in (1, 3):
        class Stop(Callback):
            order = 95
            def after_batch(self):
                if self.training and self.learn.epoch*self.n_iter + self.iter == at: raise KeyboardInterrupt
        import cifar_fastai.runs.session as session
        kept = session.stopping_callbacks
        session.stopping_callbacks = lambda *args: [*kept(*args), Stop()]
        try:
            with pytest.raises(KeyboardInterrupt): train_session(recipe, tmp_path, f'stopped{at}', **quiet)
        finally: session.stopping_callbacks = kept
        again = train_session(None, tmp_path, resume=tmp_path/f'stopped{at}', **quiet)
        assert weights_fingerprint(again.learner.model) == weights_fingerprint(whole.learner.model)
    loaded = load_run(whole.path, whole.learner.dls)
    assert weights_fingerprint(loaded.model) == weights_fingerprint(whole.learner.model)
    assert json.loads((whole.path/'recipe.json').read_text())['resolved']['weights'].startswith('other.pth ')


def test_epochs_and_batches_follow_from_the_size_of_the_data():
    recipe = named_recipe('photos')
    found = [(each.epochs, each.freeze_epochs) for each in (resolve(recipe, count=count) for count in (100, 1000, 20_000))]
    assert found == [(20, 4), (12, 2), (4, 1)] and resolve(recipe).epochs is None


def test_uneven_classes_are_said_and_weighed_and_drawn_alike():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    assert "'a' has 60 training images, 'c' 10" in uneven_notes(labels, ('a', 'b', 'c'))[0]
    assert uneven_notes(labels, ('a', 'b', 'c'), balanced=True) == () == uneven_notes(labels[50:70], ('a', 'b'))
    order = balanced_order(labels, torch.Generator().manual_seed(1))
    counts = np.bincount(labels[order])
    assert counts.sum() == 100 and np.ptp(counts) <= 1 and np.ptp(np.bincount(order)[90:]) <= 1
    logits, target = torch.randn(100, 3), torch.from_numpy(labels)
    each = nn.functional.cross_entropy(logits, target, reduction='none')
    wanted = torch.stack([each[target == label].mean() for label in range(3)]).mean()
    loss = ClassificationLoss(class_weights=balanced_weights(labels, 3))
    torch.testing.assert_close(loss.train()(logits, target), wanted)
    torch.testing.assert_close(loss.eval()(logits, target), each.mean())
