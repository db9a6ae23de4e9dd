import copy
import random

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import LRFinder, minimum, slide, steep, valley
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.training.history import History
from cifar_fastai.training.lr_find import find_rates, lr_find, sweep
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.training.learner import cifar_learner, fit_recipe


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    import matplotlib
    matplotlib.use('Agg')
    yield
    from matplotlib import pyplot
    pyplot.close('all')


def plain(seed=0, cbs=(), path='.', **kwargs):
    "A fastai Learner that is none of ours: dropout, batch norm, fastai's own shuffling"
    torch.manual_seed(seed)
    random.seed(seed)
    x = torch.randn(96, 6)
    pairs = list(zip(x, (x[:, 0] > 0).long()))
    loaders = DataLoaders(DataLoader(pairs, bs=16, shuffle=True), DataLoader(pairs, bs=48), device='cpu')
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    return Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), cbs=list(cbs), path=path, **kwargs)


def ours(data, recipe, cbs=(), **kwargs):
    return cifar_learner(image_dataloaders(data, recipe), recipe, cbs=list(cbs), **kwargs)


def state(learner):
    "All that a fit depends on or leaves, as values"
    model = {name: value.clone() for name, value in learner.model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in learner.model.parameters()]
    modes = [module.training for module in learner.model.modules()]
    optimizer = copy.deepcopy(learner.opt.state_dict()) if learner.opt else None
    loader = learner.dls.train
    order = [loader.rng.getstate()] + [getattr(loader, name, None) for name in ('epoch', 'looks', 'order')]
    if hasattr(loader, 'random'): order += [loader.random.seed, loader.random.epoch, loader.random.batch, loader.random.generator.get_state()]
    recorder = {name: copy.deepcopy(value) for name, value in vars(learner.recorder).items() if name in ('hps', 'log')}
    steps = 'lrs', 'losses', 'values', 'iters'  # of the last fit, or of the finder
    kept = [{name: value for name, value in vars(cb).items() if name not in steps and isinstance(value, (int, float, str, list, bool))} for cb in learner.cbs]
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    return copy.deepcopy([model, gradients, modes, optimizer, order, recorder, kept, sorted(vars(learner)), drawn])


def same(one, two):
    if isinstance(one, torch.Tensor): return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, np.ndarray): return np.array_equal(one, two)
    if isinstance(one, dict): return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)): return len(one) == len(two) and all(map(same, one, two))
    return one == two


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('fitted', [0, 2])
@pytest.mark.parametrize('kind', ['plain', 'ours', 'everything'])
def test_nothing_is_left_behind(kind, fitted, tiny_data, tiny_recipe, tmp_path):
    cbs = [CSVLogger(), SaveModelCallback(monitor='valid_loss'), EarlyStoppingCallback(patience=1)]
    many = Recipe(arch='resnet9', width=4, epochs=2, batch_size=24, progressive=0.5, precision='fp32', device='cpu',
                  ema=0.9, mixup=0.2, cutmix=1., clip_norm=1., augment='trivial')
    learner = plain(cbs=cbs, path=tmp_path) if kind == 'plain' else ours(tiny_data, tiny_recipe if kind == 'ours' else many, cbs, path=tmp_path)
    with learner.no_bar(), learner.no_logging():
        if fitted: learner.fit(fitted, 0.01)
        before, written, held = state(learner), files(tmp_path), (learner.model, learner.opt, list(learner.cbs), learner.dls.train)
        found = lr_find(learner, num_it=40, seeds=2, suggest_funcs=None)
        after = state(learner)
        assert (learner.model, learner.opt, list(learner.cbs), learner.dls.train) == held
    for what, one, two in zip(('model', 'gradients', 'modes', 'optimizer', 'order', 'recorder', 'callbacks', 'attributes', 'random'), before, after):
        assert same(one, two), what
    assert files(tmp_path) == written
    assert (learner.recorder.lrs, learner.recorder.values) == (found.curve.lr.tolist(), []) and np.allclose(learner.recorder.losses, found.curve.loss)


def weights_of(learner): return [p.detach().clone() for p in learner.model.state_dict().values()]


def test_fastai_s_own_finder_does_leave_something(tmp_path):
    "So that the test above can fail"
    learner = plain(cbs=[CSVLogger()], path=tmp_path)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 0.01)
        before, written = state(learner), files(tmp_path)
        Learner.lr_find(learner, num_it=30, show_plot=False)
    assert not same(before, state(learner)) and files(tmp_path)['history.csv'] != written['history.csv']


@pytest.mark.parametrize('kind', ['plain', 'ours'])
def test_a_fit_after_the_finder_is_the_fit_alone(kind, tiny_data, tiny_recipe, tmp_path):
    results = []
    for finds in (False, True):
        torch.manual_seed(1)
        learner = plain(path=tmp_path) if kind == 'plain' else ours(tiny_data, tiny_recipe, path=tmp_path)
        history = History()
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, 0.01)
            if finds: (learner.lr_find if kind == 'ours' else lambda **words: lr_find(learner, **words))(num_it=30)
            learner.fit(2, 0.02, cbs=history)
        results.append((weights_of(learner), [{**row, 'seconds': 0} for row in history.rows], list(learner.recorder.losses)))
    assert same(*results)


def test_the_curve_is_fastai_s(tmp_path):
    mine, theirs = plain(path=tmp_path), plain(path=tmp_path)
    with theirs.no_bar(), theirs.no_logging():
        torch.manual_seed(5)
        theirs.fit(6, cbs=LRFinder(1e-6, 1, 30))
        torch.manual_seed(5)
        curve = sweep(mine, 1e-6, 1, 30)
    np.testing.assert_allclose(curve.lr, theirs.recorder.lrs, rtol=1e-5)
    np.testing.assert_allclose(curve.loss, [float(loss) for loss in theirs.recorder.losses], rtol=1e-4)


def test_suggestions_are_fastai_s_and_unpack(tmp_path):
    mine, theirs = plain(path=tmp_path), plain(path=tmp_path)
    methods = (valley, slide, minimum, steep)
    with mine.no_bar(), theirs.no_bar(), mine.no_logging():
        torch.manual_seed(5)
        theirs = theirs.lr_find(num_it=60, suggest_funcs=methods, show_plot=False)
        torch.manual_seed(5)
        found = lr_find(mine, num_it=60, suggest_funcs=methods, show_plot=False)
    assert found._fields == theirs._fields == ('valley', 'slide', 'minimum', 'steep')
    np.testing.assert_allclose(found, theirs, rtol=1e-4)
    assert set(found.found.suggestions) == set(found._fields)


def test_several_seeds_in_one_plot_and_a_csv(tiny_data, tiny_recipe, tmp_path):
    from matplotlib import pyplot
    learner = ours(tiny_data, tiny_recipe)
    with learner.no_bar(): found = learner.lr_find(num_it=30, seeds=3, csv=tmp_path/'curve.csv').found
    assert len(pyplot.get_fignums()) == 1 and len(pyplot.gca().get_lines()) == 3 + 1 + 1
    table = pd.read_csv(tmp_path/'curve.csv')
    assert list(table) == ['lr', 'loss', 'loss_1', 'loss_2', 'loss_3'] and len(table) == len(found.curve)
    np.testing.assert_allclose(table[['loss_1', 'loss_2', 'loss_3']].mean(axis=1), table.loss)
    assert not np.allclose(table.loss_1, table.loss_2)
    with learner.no_bar(): assert np.allclose(find_rates(learner, 1e-7, 10, 30).curve.loss[:len(table)], table.loss_1)


def test_it_starts_low_and_stops_where_the_loss_diverges(tmp_path):
    learner = plain(path=tmp_path)
    with learner.no_bar():
        curve = sweep(learner, 1e-7, 1e6, 60)
        assert curve.lr[0] == pytest.approx(1e-7) and len(curve) < 60
        assert curve.loss.iloc[-1] > 4*curve.loss.min() and (curve.loss.iloc[:-1] <= 4*curve.loss.cummin().iloc[:-1]).all()
        assert len(sweep(learner, 1e-7, 1e6, 60, stop=False)) == 60
        with torch.no_grad(): learner.model[0].weight.fill_(float('nan'))
        assert len(sweep(learner, 1e-7, 1e6, 60)) == 1
        with pytest.raises(BadInput, match='too few for valley'): lr_find(learner)


def test_a_start_that_is_too_high_is_said(tmp_path, notices):
    learner = plain(path=tmp_path)
    with learner.no_bar(): find_rates(learner, 300., 3e4, 40, stop=False)
    assert 'start the finder lower' in notices()


def test_groups_of_parameters_keep_their_own_rates(tmp_path):
    learner = plain(path=tmp_path, splitter=lambda model: [list(model[0].parameters()), list(model[1:].parameters())])
    seen = []
    class Rates(Callback):
        order = 80
        def before_step(self): seen.append([group['lr'] for group in self.opt.hypers])
    learner.add_cb(Rates())
    with learner.no_bar(): curve = sweep(learner, [1e-6, 1e-4], [1e-2, 1.], 20)
    assert seen[0] == pytest.approx([1e-6, 1e-4]) and seen[10] == pytest.approx([1e-4, 1e-2])
    assert curve.lr[0] == pytest.approx(1e-4) and len(curve) == 20


def test_a_callback_that_cannot_be_copied_is_named(tmp_path, notices):
    class Open(Callback):
        def __init__(self): self.file = open(tmp_path/'log.txt', 'w')
        def after_batch(self): self.file.write('seen')
    learner = plain(cbs=[Open()], path=tmp_path)
    with learner.no_bar(): sweep(learner, steps=10)
    learner.open.file.close()
    assert 'without open, which cannot be copied' in notices() and not (tmp_path/'log.txt').read_text()
