"Where time goes: each part of a step gets what was spent in it, nothing is changed by the measuring, and the benchmarks' arithmetic"
import json
import subprocess
import sys
from argparse import Namespace
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fasttransform import Transform
from torch import nn

from cifar_fastai.profiling import step_profile
from cifar_fastai.base.commands import run_command
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.profiling.layer_profile import profile_layers
from cifar_fastai.models.networks import network
from cifar_fastai.profiling.peak import step_flops
from cifar_fastai.profile import main
from cifar_fastai.profiling.step_profile import STEP_PARTS, AtShare, Turns, profile_step, fit_for_turns, count_waits
from cifar_fastai.training import learner as learner_module
from cifar_fastai.training.learner import cifar_learner, fit_recipe


@pytest.fixture
def learner(tiny_data, tiny_recipe): return cifar_learner(image_dataloaders(tiny_data, tiny_recipe), tiny_recipe)


class Costly(Transform):
    "A batch transform that takes its time"
    order = 70
    def __init__(self, spend): super().__init__(); self.spend = spend
    def __call__(self, batch, **kwargs): self.spend(17); return batch


class Dear(Callback):
    "A callback that takes its time"
    def __init__(self, spend): self.spend = spend
    def before_batch(self): self.spend(2)
    def after_batch(self): self.spend(4)


def test_each_part_gets_the_time_that_was_spent_in_it(learner, monkeypatch):
    now = [0]
    def spend(seconds): now[0] += seconds
    def before(function, seconds):
        def first(*args, **kwargs): spend(seconds); return function(*args, **kwargs)
        return first
    monkeypatch.setattr(step_profile, 'clock', lambda device: (lambda part: now[0], lambda first, second: second - first))
    batches = learner.dls.train.create_batches
    learner.dls.train.create_batches = lambda samples: (spend(19) or batch for batch in batches(samples))
    learner.dls.train.after_batch.add(Costly(spend))
    learner.model.register_forward_pre_hook(lambda *_: spend(7))
    learner.loss_func = before(learner.loss_func, 3)
    learner.model.linear.weight.register_hook(lambda _: spend(11))
    learner.create_opt()
    monkeypatch.setattr(learner.opt, 'step', before(learner.opt.step, 13))
    monkeypatch.setattr(learner.opt, 'zero_grad', before(learner.opt.zero_grad, 1))
    learner.add_cb(Dear(spend))
    found = profile_step(learner, steps=4, warm_up=1, share=0., peak_seconds=0)
    spent = {'loading': 19, 'augmentation': 17, 'forward': 7, 'loss': 3, 'backward': 11, 'optimizer': 14, 'callbacks': 6}
    assert {part: found.of(part) for part in STEP_PARTS} == {part: spent.get(part, 0) for part in STEP_PARTS}
    assert (found.seconds['augmentation · Costly'], found.seconds['callbacks · Dear']) == (17, 6)
    assert found.step_seconds == found.fastest == found.slowest == 77
    assert found.images_per_second == 24/77
    assert '| forward ' in str(found) and ' 7,000 ' in str(found)


def test_the_measured_steps_are_those_of_a_training(tiny_data, tiny_recipe):
    def trained(fit):
        learner = cifar_learner(image_dataloaders(tiny_data, tiny_recipe), tiny_recipe)
        fit(learner)
        return learner

    class Enough(Callback):
        def after_batch(self):
            if self.train_iter == 4: raise CancelFitException

    measured = trained(lambda learner: fit_for_turns(learner, Turns(lambda part: 0, 3, skip=1), share=0.5))
    def plain(learner):
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, learner.lr, [AtShare(0.5), Enough()])
    other = trained(plain)
    assert all(torch.equal(a, b) for a, b in zip(measured.model.state_dict().values(), other.model.state_dict().values()))
    assert type(measured) is type(other) and not hasattr(measured, 'turns')
    assert [type(f) for f in measured.dls.train.after_batch.fs] == [type(f) for f in other.dls.train.after_batch.fs]


def test_more_steps_than_an_epoch_has_and_images_that_grow(tiny_data, tiny_recipe):
    from dataclasses import replace
    def sizes(share):
        recipe = replace(tiny_recipe, progressive=0.5)
        found = profile_step(cifar_learner(image_dataloaders(tiny_data, recipe), recipe), steps=12, share=share, peak_seconds=0)
        return found.image_size, found.steps
    assert (sizes(None), sizes(0.)) == ((16, 12), (8, 12))


def test_values_that_python_asks_for_are_counted_where_it_asks(learner):
    class Asks(Callback):
        def after_loss(self): self.loss.item(), float(self.pred.max())

    before = count_waits(learner, 0.)[0]
    learner.add_cb(Asks())
    after, seconds = count_waits(learner, 0.)
    assert after.pop('callbacks · Asks') == 2 and after == before
    assert seconds == 0  # a CPU has nothing to wait for
    assert all(before.get(part, 0) == 0 for part in ('forward', 'loss', 'backward', 'optimizer'))


def by_hand(model, side):
    "Operations of the forward pass of a batch of 2, from shapes, and those of its first convolution"
    counts, hooks = [], []
    def note(layer, inputs, out):
        each = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels*layer.kernel_size[0]*layer.kernel_size[1]
        counts.append(2*out.numel()*each)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)): hooks.append(layer.register_forward_hook(note))
    model(torch.randn(2, 3, side, side))
    for hook in hooks: hook.remove()
    return sum(counts), counts[0]


@pytest.mark.parametrize('arch', ['resnet9', 'resnet18', 'wrn16_4', 'resnet20'])
def test_operations_are_those_of_the_shapes(arch):
    model = network(arch, width=8)
    forward, first = by_hand(model, 32)
    assert step_flops(model, (2, 3, 32, 32)) == (forward, 2*forward - first)
    layers = profile_layers(model, (2, 3, 32, 32), 'fp32', rounds=1, peak=1e9, copied=1e9)
    total = [sum(len(layer.names)*layer.flops[way] for layer in layers.layers) for way in (0, 1)]
    assert total == [forward, 2*forward - first]
    leaves = {name for name, layer in model.named_modules() if not list(layer.children())}
    assert {name for layer in layers.layers for name in layer.names} == leaves
    assert len(layers.table.rows[0]) == len(layers.table.header) and layers.table.rows[-1][0] == 'all'


def test_a_frozen_layer_asks_for_less_and_bf16_layers_are_measured():
    model = network('resnet9', width=4, norm='group')
    whole = step_flops(model, (2, 3, 16, 16))
    model.stage3[0][0].weight.requires_grad_(False)
    frozen = step_flops(model, (2, 3, 16, 16))
    assert frozen[0] == whole[0] and frozen[1] == whole[1] - 2*2*4*4*32*16*9
    layers = profile_layers(model, (2, 3, 16, 16), 'bf16', rounds=1, peak=1e9, copied=1e9)
    assert {layer.call.dtype for layer in layers.layers if 'convolution' in layer.call.what} == {torch.float32, torch.bfloat16}
    assert json.dumps(layers.to_dict())


def test_the_command_prints_and_keeps_its_numbers(tiny_folder, tmp_path, capsys):
    kept = tmp_path/'new'/'profile.json'
    words = ['--data', str(tiny_folder), '--width', '4', '--batch-size', '16', '--device', 'cpu', '--precision', 'fp32', '--steps', '2', '--out', str(kept.parent)]
    assert run_command(main, [*words, '--layers']) == 0
    said, content = capsys.readouterr().out, json.loads(kept.read_text())
    assert all(f'| {part} ' in said for part in STEP_PARTS) and 'convolution 3→4, 3×3' in said and 'file: ' in said
    assert content['step']['step_seconds'] == pytest.approx(sum(content['step']['seconds'].values()))
    assert content['step']['batch_size'] == 16 and content['recipe']['width'] == 4 and content['layers']['layers']


@pytest.mark.parametrize('words, status, text', [
    (['--steps', '0'], 2, '--steps 0 is not a whole number of at least 1'), (['--at', '1.5'], 2, '--at 1.5 is not a number of at least 0 and at most 1'),
    (['--arch', 'resnet8'], 2, "did you mean 'resnet"), (['--recipe', 'nothing'], 2, 'nothing'), (['--out', 'a.json'], 2, 'the name of a file'),
    (['--out', '/proc/nowhere'], 1, '--out'), (['--data', 'nowhere'], 1, 'nowhere')])
def test_bad_words_are_refused_in_a_few_lines(words, status, text, capsys):
    assert run_command(main, words) == status
    said = capsys.readouterr().err
    assert text in said and 'Traceback' not in said and len(said.strip().splitlines()) <= 5


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, '-X', 'importtime', '-m', 'cifar_fastai.profile', '--help'], capture_output=True, text=True, check=True)
    assert '--layers' in done.stdout and '--arch' in done.stdout
    assert not any(f' {name}\n' in done.stderr for name in ('torch', 'fastai', 'numpy'))


@pytest.fixture
def training_speed(benchmark_module, monkeypatch):
    module = benchmark_module('training_speed')
    monkeypatch.setattr(module, 'SIDE', 16)
    return module


@pytest.mark.parametrize('arm', ['usual-0', 'ours-no', 'ours-yes', 'lean', 'lean-memory', 'lean-both', 'loader', 'files-0', 'layers'])
def test_every_arm_of_the_speed_benchmark_runs(arm, training_speed, tiny_folder, tmp_path, capsys, monkeypatch):
    training_speed.write_files(str(tiny_folder), tmp_path)
    called = []
    monkeypatch.setattr(learner_module, 'CompileModel', partial(learner_module.CompileModel, backend='eager'))  # a compiler takes a minute
    if arm == 'lean-both': monkeypatch.setattr(torch.nn.Module, 'compile', lambda model: called.append(type(model)))
    training_speed.one(Namespace(arm=arm, arch='resnet9:4,resnet18', batch_size=16, data=str(tiny_folder), device='cpu', seconds=0.02, folder=str(tmp_path), tcmalloc=''))
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['memory'] > 0 and ('convolution 3→4' in said['table'] if arm == 'layers' else said['rate'] > 0)
    assert len(called) == (arm == 'lean-both')
    if arm.startswith(('ours', 'lean')): assert said['peak'] > 0 and said['flops'] == sum(step_flops(network('resnet9', width=4), (1, 3, 16, 16)))


def test_ratios_are_taken_within_a_round(training_speed, benchmark_module):
    "Three rounds; of the lean loops the compiled one is the fastest by its median, though not in the first round"
    common = benchmark_module('common')
    def result(rate, **more): return dict(rate=rate, memory=1., **more)
    def a_round(ours, lean, compiled, usual, other):
        return {'a usual-0': result(usual), 'a usual-2': result(other), 'a ours-yes': result(ours, peak=100., flops=.5), 'a lean': result(lean, peak=80., flops=.5),
                'a lean-compiled': result(compiled, peak=80., flops=.5)}
    rounds = [a_round(60, 50, 40, 20, 10), a_round(30, 20, 30, 5, 15), a_round(90, 20, 30, 10, 30)]
    row = training_speed.network_row('a', 'yes', rounds)
    assert row == ('a', 'yes', '1.50 (1.00…3.00, n = 3)', 'lean-compiled', '3.00 (2.00…3.00, n = 3)', '60 (30…90, n = 3)', '30% (15%…45%, n = 3)', '15% (15%…20%, n = 3)',
                   '1.00 / 1.00', '0')
    assert training_speed.lean_row('a', rounds) == ('a', '20 (20…50, n = 3)', '', '30 (30…40, n = 3)', '')
    ours = [{'a ours-yes': done['a ours-yes']} for done in rounds]
    assert training_speed.network_row('a', 'yes', ours) == ('a', 'yes', '', '', '', '60 (30…90, n = 3)', '30% (15%…45%, n = 3)', '', '1.00 / ', '0')
    assert training_speed.networks('resnet9,resnet9:16') == ['resnet9', 'resnet9:16']
    assert training_speed.lean_arms('cuda') == ('lean', 'lean-compiled') and set(training_speed.lean_arms('cpu')) == {*training_speed.LEAN}
    for wrong in ('resnet8', 'resnet9:x', 'resnet9:'):
        with pytest.raises(ValueError): training_speed.networks(wrong)
    assert common.spread([1, 2, 4]) == '2.00 (1.00…4.00, n = 3)'
