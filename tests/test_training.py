import copy
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn
from torch.nn import functional as F

from cifar_fastai.training.losses import ClassificationLoss
from cifar_fastai.training.averaging import AverageWeights
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.training.history import History
from cifar_fastai.recipes.resolved import resolve
from cifar_fastai.training.lr_find import find_learning_rate
from cifar_fastai.base.messages import BadInput
from cifar_fastai.training.optimizers import Muon, NesterovSGD, matrix_dtype, optimizer_function, orthogonalise
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.training.schedules import cost_share, schedule, training_size
from cifar_fastai.training.stopping import EarlyStopping, UntilAccuracy, until_reached
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.interpretation.inference import run_inference, steady_loader


def learner_of(data, recipe, **fields):
    recipe = dataclasses.replace(recipe, **fields)
    return cifar_learner(image_dataloaders(data, recipe), recipe)


def fitted(data, recipe, cbs=(), **fields):
    learner = learner_of(data, recipe, **fields)
    history = History()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [history, *cbs])
    return learner, history


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values()))


# Optimizers

def stepped(make, weight, gradients):
    weight = nn.Parameter(weight.clone())
    optimizer = make([weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_nesterov_sgd_is_pytorch_s():
    torch.manual_seed(0)
    weight, gradients = torch.randn(5, 3), torch.randn(4, 5, 3)
    ours = stepped(lambda p: NesterovSGD(p, 0.1, mom=0.9, wd=0.01), weight, gradients)
    torchs = stepped(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True), weight, gradients)
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize('shape', [(16, 64), (64, 16), (32, 32)])
def test_orthogonalised_is_near_the_polar_factor(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix).float()
    assert F.cosine_similarity(found.flatten(), (left @ right).flatten(), 0) > 0.95
    assert torch.linalg.svdvals(found).min() > 0.3 and torch.linalg.svdvals(found).max() < 1.3


def newton_schulz(matrix, steps):
    "Step by step, as the blog post has it, in double precision"
    rows = matrix.double()/(matrix.double().norm() + 1e-7)
    for _ in range(steps):
        square = rows @ rows.T
        rows = 3.4445*rows + (-4.7750*square + 2.0315*square @ square) @ rows
    return rows.float()


@pytest.fixture(params=[True, False], ids=['bf16', 'fp32'])
def native(request, monkeypatch):
    monkeypatch.setattr('cifar_fastai.training.optimizers.bf16_is_native', lambda device: request.param)
    matrix_dtype.cache_clear()
    yield request.param
    matrix_dtype.cache_clear()


def test_iterations_of_muon_are_its_newton_schulz_steps_in_bf16_only_where_it_is_native(native):
    dtype, tolerance = (torch.bfloat16, 1e-3) if native else (torch.float32, 1e-6)  # bf16 rounds; a step more or less moves it by 0.01
    assert orthogonalise(torch.randn(4, 8)).dtype == dtype
    torch.manual_seed(4)
    weight, gradient = torch.randn(8, 16, 3, 3), torch.randn(1, 8, 16, 3, 3)
    for steps in range(1, 6):
        expected = weight*(8**0.5/weight.norm()) - 0.1*newton_schulz(gradient[0].flatten(1), steps).view_as(weight)
        build = optimizer_function(resolve(Recipe(optimizer='muon', muon_steps=steps)))
        found = stepped(lambda p: build(p, lr=0.1), weight, gradient)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('momentum', [0.5, 0.95])
def test_muon_s_matrices_go_on_along_their_own_momentum(momentum, native):
    "Several steps: in the first, momentum does nothing"
    torch.manual_seed(5)
    weight, gradients = torch.randn(8, 16, 3, 3), torch.randn(4, 8, 16, 3, 3)
    expected, average = weight, 0.
    for gradient in gradients:
        average = 0.6*average + gradient
        step = newton_schulz((gradient + 0.6*average).flatten(1), 5).view_as(weight)
        expected = expected*(8**0.5/expected.norm()) - step
    build = optimizer_function(resolve(Recipe(optimizer='muon', momentum=momentum)))
    torch.testing.assert_close(stepped(lambda p: build(p, lr=1.), weight, gradients), expected, rtol=0, atol=0.02 if native else 1e-5)  # another momentum moves it by 0.03


@pytest.mark.parametrize('shape', [(8, 16, 3, 3), (16, 8, 1, 1), (8, 16, 1, 3)])
def test_muon_s_step_does_not_depend_on_how_the_weights_lie_in_memory(shape):
    torch.manual_seed(6)
    weight, gradients = torch.randn(shape), torch.randn(2, *shape)
    plain = stepped(lambda p: Muon(p, lr=0.1), weight, gradients)
    lying = stepped(lambda p: Muon(p, lr=0.1), weight.to(memory_format=torch.channels_last), gradients)
    torch.testing.assert_close(lying, plain, rtol=0, atol=2e-3)
    assert not torch.equal(plain, weight)
    wide = nn.Parameter(torch.zeros(*shape[:3], 2*shape[3]))
    part = nn.Parameter(wide.data[..., ::2])
    part.data.copy_(weight)
    optimizer = Muon([part], lr=0.1)
    for gradient in gradients:
        part.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(part.data, plain, rtol=0, atol=2e-3)


def test_muon_steps_hidden_convolutions_along_the_polar_factor_and_the_rest_as_sgd():
    torch.manual_seed(2)
    weight, gradient = torch.randn(8, 16, 3, 3), torch.randn(1, 8, 16, 3, 3)
    moved = stepped(lambda p: Muon(p, 0.1), weight, gradient)
    left, _, right = torch.linalg.svd(gradient.flatten(2)[0], full_matrices=False)
    step = (weight*(8**0.5/weight.norm()) - moved)/0.1
    assert F.cosine_similarity(step.flatten(), (left @ right).flatten(), 0) > 0.95
    for shape, share in (((8, 3, 3, 3), 1), ((10, 32), 8/32), ((8,), 1)):
        weight, gradients = torch.randn(shape), torch.randn(3, *shape)
        torch.testing.assert_close(stepped(lambda p: Muon(p, 0.1, mom=0.85, wd=0.01), weight, gradients),
            stepped(lambda p: torch.optim.SGD(p, 0.04*share, momentum=0.85, weight_decay=0.01, nesterov=True), weight, gradients))


@pytest.mark.parametrize('name, reference', [
    ('sgd', lambda p, lr, wd: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=wd, nesterov=True)),
    ('adamw', lambda p, lr, wd: torch.optim.AdamW(p, lr, betas=(0.9, 0.99), eps=1e-5, weight_decay=wd))])
def test_a_rate_of_its_own_is_that_of_a_group_in_pytorch(name, reference):
    "Four times the learning rate, and a quarter of the decay"
    torch.manual_seed(0)
    weight, gradients = torch.randn(5, 3), torch.randn(4, 5, 3)
    def ours(parameters):
        parameters[0].lr_scale = 4.
        return optimizer_function(resolve(Recipe(optimizer=name, weight_decay=0.04)))(parameters, lr=0.1)
    torch.testing.assert_close(stepped(ours, weight, gradients), stepped(lambda p: reference(p, 0.4, 0.01), weight, gradients))


def test_rates_and_norms_of_a_recipe(tiny_data, tiny_recipe):
    class Once(Callback):
        def after_step(self): raise CancelFitException
    def moved(**fields):
        recipe = dataclasses.replace(tiny_recipe, optimizer='sgd', momentum=0., weight_decay=0., schedule='constant', **fields)
        learner = cifar_learner(image_dataloaders(tiny_data, recipe), recipe)
        before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.1, [Once()])
        return {name: p.detach() - before[name] for name, p in learner.model.named_parameters()}, learner.model
    plain, _ = moved()
    other, model = moved(bias_lr=4., head_lr=3., norm_weights=False, norm_momentum=0.5)
    times = {'stem.1.bias': 4, 'stage3.1.branch.1.1.bias': 4, 'linear.weight': 3, 'linear.bias': 1, 'stem.0.weight': 1, 'stem.1.weight': 0}
    for name, factor in times.items():
        assert plain[name].abs().max() > 0
        torch.testing.assert_close(other[name], factor*plain[name], rtol=1e-3, atol=1e-6)
    assert {part.momentum for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)} == {0.5}


# Schedules

@pytest.mark.parametrize('fields, expected', [
    (dict(schedule='one_cycle', anneal='linear', pct_start=0.2, div=10, div_final=100), {0: 0.1, 0.1: 0.55, 0.2: 1, 0.6: 0.505, 1: 0.01}),
    (dict(schedule='one_cycle', anneal='cosine', pct_start=0.5, div=10, div_final=10), {0: 0.1, 0.25: 0.55, 0.5: 1, 0.75: 0.55}),
    (dict(schedule='constant'), {0: 1, 0.5: 1, 1: 1}),
    (dict(schedule='cosine'), {0: 1, 0.5: 0.5, 1/3: 0.75, 1: 0}),
    (dict(schedule='flat_cos', pct_start=0.5, div_final=1e9), {0: 1, 0.5: 1, 0.75: 0.5, 1: 0})])
def test_schedules_by_hand(fields, expected):
    course = schedule(resolve(Recipe(lr=1., **fields)))['lr']
    for share, value in expected.items(): assert math.isclose(course(share), value, abs_tol=1e-6), share


def test_one_cycle_is_fastai_s(tiny_data, tiny_recipe):
    ours = learner_of(tiny_data, tiny_recipe, anneal='cosine', pct_start=0.3, div=25, div_final=1e4, optimizer='sgd')
    theirs = learner_of(tiny_data, tiny_recipe, optimizer='sgd')
    for learner in (ours, theirs): learner.model = copy.deepcopy(ours.model)
    with ours.no_bar(), ours.no_logging(): fit_recipe(ours, 0.05)
    with theirs.no_bar(), theirs.no_logging(): theirs.fit_one_cycle(2, 0.05, pct_start=0.3, div_final=1e4)
    np.testing.assert_allclose(ours.recorder.lrs, theirs.recorder.lrs, rtol=1e-6)
    assert same_weights(ours, theirs)


def test_the_momentum_goes_the_other_way(tiny_data, tiny_recipe):
    learner = learner_of(tiny_data, tiny_recipe, momentum=0.95, momentum_low=0.85, pct_start=0.5)
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05)
    momentum = learner.recorder.hps['mom']
    assert momentum[0] == pytest.approx(0.95) and min(momentum) == pytest.approx(0.85, abs=1e-6) and momentum[-1] > 0.92


def test_progressive_sizes(tiny_data, tiny_recipe):
    sizes = []
    class Sizes(Callback):
        order = 20
        def before_batch(self): sizes.append((self.training, self.x.shape[-1]))
    fitted(tiny_data, tiny_recipe, [Sizes()], progressive=0.75, epochs=2)
    assert [size for training, size in sizes if training] == [8]*8 + [16]*2
    assert {size for training, size in sizes if not training} == {16}
    assert cost_share(0.8, 1) == 1 and 0 < cost_share(0.8, 0.5) < 0.5
    assert [training_size(96, 0.5, done) for done in (0, 0.3, 0.6)] == [48, 72, 96]


# The loss, and what is recorded

def test_the_loss_smooths_in_training_only():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = ClassificationLoss(0.2)
    by_hand = -(logits.log_softmax(1)[range(6), target]).mean()
    torch.testing.assert_close(loss(logits, target), by_hand)
    shares = F.one_hot(target, 4)*0.8 + 0.05
    torch.testing.assert_close(loss.train()(logits, target), -(shares*logits.log_softmax(1)).sum(1).mean())


def test_history_is_what_a_second_look_finds(tiny_data, tiny_recipe):
    class Keep(Callback):
        order, seen = 39, []
        def after_batch(self):
            if self.training: self.seen.append(self.loss.item())
    learner, history, keep = learner_of(tiny_data, tiny_recipe, label_smoothing=0.2), History(), Keep()
    for loader in learner.dls.loaders[1:]: loader.bs = 7  # five batches, the last one smaller
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [history, keep])
    last, rates = history.rows[-1], learner.recorder.lrs
    assert len(learner.dls.valid) == 5 and last['train_loss'] == pytest.approx(np.mean(keep.seen[5:]), rel=1e-5)
    logits, target = run_inference(learner.model, steady_loader(learner.dls.test))
    losses = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(target), reduction='none')
    assert last['valid_loss'] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert last['valid_accuracy'] == pytest.approx((logits.argmax(1) == tiny_data.labels[120:]).mean())
    assert [row['epoch'] for row in history.rows] == [1, 2] and target.tolist() == tiny_data.labels[120:].tolist()
    assert last['lr'] == pytest.approx(rates[-1])
    fastai_loss, fastai_accuracy = learner.validate()
    assert fastai_loss == pytest.approx(last['valid_loss'], rel=1e-4) and fastai_accuracy == pytest.approx(last['valid_accuracy'])


def test_seconds_of_training_leave_evaluation_out_and_images_a_second_the_first_ten_steps(tiny_data, tiny_recipe, monkeypatch):
    "By a clock that only the steps move: 100 s each for ten of them, 1 s after that, 7 s for a batch of evaluation"
    from types import SimpleNamespace
    from cifar_fastai.training import history as module
    now = [0.]
    class Spend(Callback):
        order = 20
        def before_batch(self): now[0] += 7 if not self.training else 100 if self.history.steps < 10 else 1
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=lambda: now[0]))
    _, history = fitted(tiny_data, tiny_recipe, [Spend()], epochs=4)
    assert history.train_seconds == 10*100 + 10 and history.images_per_second == 24
    assert [row['seconds'] for row in history.rows] == [507, 507, 12, 12]


def test_a_loss_that_is_not_finite_ends_the_fit(tiny_data, tiny_recipe):
    learner = learner_of(tiny_data, tiny_recipe)
    with torch.no_grad(): next(learner.model.parameters()).fill_(float('nan'))
    with pytest.raises(BadInput, match='epoch 1, step 1, at learning rate'), learner.no_bar(), learner.no_logging():
        fit_recipe(learner, 0.05, [History()])


# Reproducible

def test_same_seed_same_weights_other_seed_others(tiny_data, tiny_recipe):
    extras = dict(cutmix=1., mixup=0.2, ema=0.9, augment='trivial')
    one, first = fitted(tiny_data, tiny_recipe, **extras)
    torch.rand(3); np.random.rand(3)
    two, second = fitted(tiny_data, tiny_recipe, **extras)
    assert same_weights(one, two) and first.table.drop(columns='seconds').equals(second.table.drop(columns='seconds'))
    assert not same_weights(one, fitted(tiny_data, tiny_recipe, **extras, seed=1)[0])


def test_random_numbers_drawn_by_others_change_nothing(tiny_data, tiny_recipe):
    class Draws(Callback):
        def before_batch(self): torch.rand(5); np.random.rand(2)
    assert same_weights(fitted(tiny_data, tiny_recipe)[0], fitted(tiny_data, tiny_recipe, [Draws()])[0])


def test_a_fit_after_lr_find_is_the_fit_alone(tiny_data, tiny_recipe):
    alone, _ = fitted(tiny_data, tiny_recipe)
    learner = learner_of(tiny_data, tiny_recipe, lr_steps=40)
    before = torch.get_rng_state()
    found = find_learning_rate(learner)
    assert torch.equal(before, torch.get_rng_state()) and set(found.suggestions) == {'valley', 'steep', 'minimum', 'slide'}
    learner.dls.train.one_batch()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [History()])
    assert same_weights(alone, learner)
    assert found.curve.lr.iloc[0] == pytest.approx(1e-6, rel=1e-3) and len(found.curve) <= 41


# Callbacks

def test_averaged_weights_by_hand(tiny_data, tiny_recipe):
    "The weights that are averaged are those of a run without an average"
    class Keep(Callback):
        def __init__(self): self.seen = []
        def after_step(self): self.seen.append(self.model.linear.weight.detach().clone())
    keep, plain, average = Keep(), Keep(), learner_of(tiny_data, tiny_recipe).model.linear.weight.detach().clone()
    learner, _ = fitted(tiny_data, tiny_recipe, [keep], ema=0.5)
    fitted(tiny_data, tiny_recipe, [plain])
    assert len(plain.seen) == 10 and all(map(torch.equal, keep.seen, plain.seen))
    for step, weight in enumerate(plain.seen, 1):
        decay = min(0.5, (1 + step)/(10 + step))
        average = decay*average + (1 - decay)*weight
    torch.testing.assert_close(learner.model.linear.weight.detach(), average)


def test_early_stopping_brings_the_best_epoch_back(tiny_data, tiny_recipe):
    lines = []
    stopping = EarlyStopping(2, lines.append)
    learner, history = fitted(tiny_data, tiny_recipe, [stopping], epochs=12, holdout=30, schedule='constant', optimizer='adam')
    losses = history.table.valid_loss
    assert len(losses) == min(12, losses.idxmin() + 1 + 2) and stopping.best_epoch == losses.idxmin() + 1
    logits, target = (torch.from_numpy(found) for found in run_inference(learner.model, steady_loader(learner.dls.valid)))
    assert F.cross_entropy(logits, target).item() == pytest.approx(losses.min(), rel=1e-4)
    assert lines[0].startswith('  saved: lowest hold-out loss so far') and len(lines) == len(losses)


def test_a_fit_until_an_accuracy_ends_with_the_epoch_that_reaches_it(tiny_data, tiny_recipe):
    fields, lines = dict(epochs=8, holdout=30, optimizer='adam'), []
    whole = fitted(tiny_data, tiny_recipe, **fields)[1].table
    wanted = float(whole.valid_accuracy.iloc[4])
    first = int((whole.valid_accuracy >= wanted).to_numpy().argmax()) + 1
    _, history = fitted(tiny_data, tiny_recipe, [UntilAccuracy(wanted, lines.append)], **fields)
    pd.testing.assert_frame_equal(history.table.drop(columns='seconds'), whole.head(first).drop(columns='seconds'))  # the schedule is that of 8 epochs
    assert len(lines) == 1 and until_reached(history.rows, wanted, 9.) == {
        'accuracy': wanted, 'reached': True, 'epochs': first, 'train_seconds': 9., 'best': history.rows[-1]['valid_accuracy'], 'best_epoch': first}
    never = until_reached(whole.to_dict('records'), 1.1, 9.)
    assert not never['reached'] and never['epochs'] is None and never['best'] == whole.valid_accuracy.max()


def test_mixed_targets_are_counted_by_the_heavier_label(tiny_data, tiny_recipe):
    class Keep(Callback):
        order = 39
        def __init__(self): self.seen = []
        def after_batch(self):
            if self.training: self.seen.append((self.pred.detach().clone(), self.y.clone()))
    keep = Keep()
    learner, history = fitted(tiny_data, tiny_recipe, [keep], cutmix=1., epochs=1)
    said, shares = (torch.cat(parts) for parts in zip(*keep.seen))
    order = shares.argsort(1)  # the lightest first
    heavier, second = ((said.argmax(1) == order[:, -place]).float().mean().item() for place in (1, 2))
    assert history.rows[0]['train_accuracy'] == pytest.approx(heavier) and abs(heavier - second) > 0.05
    by_hand = -(shares*0.9 + 0.1/3).mul(said.log_softmax(1)).sum(1).mean().item()
    assert history.rows[0]['train_loss'] == pytest.approx(by_hand, rel=1e-4)


def test_mixup_beside_cutmix_takes_each_about_as_often_with_its_own_alpha(tiny_data, tiny_recipe, monkeypatch):
    from cifar_fastai.training import callbacks
    taken = []
    def watched(name):
        mix = getattr(callbacks, name)
        def watch(images, targets, alpha, random):
            taken.append((name, alpha))
            return mix(images, targets, alpha, random)
        return watch
    for name in ('mixup', 'cutmix'): monkeypatch.setattr(callbacks, name, watched(name))
    fitted(tiny_data, tiny_recipe, mixup=0.3, cutmix=0.7, epochs=4)
    counts = [taken.count(pair) for pair in (('mixup', 0.3), ('cutmix', 0.7))]
    assert sum(counts) == 20 and min(counts) >= 5
    for fields in (dict(mixup=0.3), dict(cutmix=0.7)):
        taken.clear()
        fitted(tiny_data, tiny_recipe, epochs=1, **fields)
        assert set(taken) == set(fields.items()) and len(taken) == 5


def test_gradients_are_clipped(tiny_data, tiny_recipe):
    class Largest(Callback):
        order, value, norm = 90, 0., 0.
        def before_step(self):
            gradients = [p.grad for p in self.model.parameters()]
            self.value = max(self.value, max(float(g.abs().max()) for g in gradients))
            self.norm = max(self.norm, float(torch.stack([g.norm() for g in gradients]).norm()))
    for fields, name, limit in ((dict(clip_value=1e-3), 'value', 1e-3), (dict(clip_norm=0.01), 'norm', 0.01)):
        look = Largest()
        fitted(tiny_data, tiny_recipe, [look], epochs=1, **fields)
        assert getattr(look, name) == pytest.approx(limit, rel=1e-3)


def test_bf16_keeps_fp32_weights_and_the_loss_near(tiny_data, tiny_recipe):
    full, reduced = fitted(tiny_data, tiny_recipe)[1], fitted(tiny_data, tiny_recipe, precision='bf16')
    assert {p.dtype for p in reduced[0].model.parameters()} == {torch.float32}
    assert reduced[1].rows[0]['train_loss'] == pytest.approx(full.rows[0]['train_loss'], rel=0.1)
    assert reduced[1].rows[0]['train_loss'] != full.rows[0]['train_loss']


def test_an_error_in_a_batch_leaves_no_autocast_behind(tiny_data, tiny_recipe):
    class Fails(Callback):
        order = 20
        def before_batch(self): raise KeyError('on purpose')
    with pytest.raises(KeyError): fitted(tiny_data, tiny_recipe, [Fails()], precision='bf16')
    assert not torch.is_autocast_enabled('cpu') and torch.autocast_decrement_nesting() == -1
    torch.autocast_increment_nesting()


def test_emulated_bf16_is_warned_of_once_with_what_it_costs(monkeypatch, notices):
    from cifar_fastai.base import devices
    cpu, state = torch.device('cpu'), torch.get_rng_state()
    devices.emulation_cost.cache_clear()
    cost = devices.emulation_cost(cpu)
    assert 0.01 < cost < 100 and devices.emulation_cost(cpu) == cost and torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(devices, 'bf16_is_native', lambda device: False)
    for _ in range(2): assert devices.choose_precision('bf16', cpu) == 'bf16'
    text = notices()
    assert text.count('emulated') == 1 and f'takes {cost:.1f} times as long as in fp32' in text and '--precision auto' in text
    assert devices.choose_precision('auto', cpu) == 'fp32' and not notices()


def test_decay_spares_norms_and_biases_on_request(tiny_data, tiny_recipe):
    for decay, spared in ((True, False), (False, True)):
        learner = learner_of(tiny_data, tiny_recipe, decay_norms=decay)
        learner.create_opt()
        bias = learner.model.linear.bias
        assert (learner.opt.state[bias].get('do_wd', True) is False) == spared


# fastai's own ways

def test_fastai_s_own_ways_with_our_learner(tiny_data, tiny_recipe, tmp_path):
    learner = learner_of(tiny_data, tiny_recipe)
    learner.path = tmp_path
    assert '1' in str(learner.summary()) and 'Total params' in str(learner.summary())
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 0.01)
        learner.fit_one_cycle(1, 0.01, cbs=SaveModelCallback(fname='best'))
    assert (tmp_path/'models'/'best.pth').exists()
    label, index, shares = learner.predict(tiny_data.images[0])
    mean, deviation = (np.array(values) for values in learner.dls.statistics)
    pixels = torch.from_numpy((tiny_data.images[0]/255 - mean)/deviation).permute(2, 0, 1)[None].float()
    with torch.no_grad(): by_hand = learner.model.eval()(pixels)[0].softmax(0)
    np.testing.assert_allclose(np.asarray(shares), by_hand, atol=1e-4)
    assert int(index) == by_hand.argmax() and label == tiny_data.classes[by_hand.argmax()]
    learner.export(tmp_path/'learner.pkl')
    assert (tmp_path/'learner.pkl').stat().st_size < 2_000_000
    from fastai.learner import load_learner
    assert load_learner(tmp_path/'learner.pkl').predict(tiny_data.images[0])[0] == label


def test_lr_find_gives_a_suggestion(tiny_data, tiny_recipe):
    import matplotlib
    matplotlib.use('Agg')
    learner = learner_of(tiny_data, tiny_recipe)
    with learner.no_bar(): suggestion = learner.lr_find(num_it=30)
    assert 1e-7 < suggestion.valley < 10
