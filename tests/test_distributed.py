"One training on several processes, against the same on one"
import dataclasses
import json
import os
import signal
import threading
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file, save_file

from processes import start_processes, wait_for

from cifar_fastai.base.commands import run_command, terminate
from cifar_fastai.base.files import read_json
from cifar_fastai.base.messages import BadInput
from cifar_fastai.cli import dispatch
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.runs.folder import processes_lines
from cifar_fastai.runs.session import make_learner, train_session
from cifar_fastai.training.distributed import end_when_stuck, join_learner, join_processes, read_processes
from cifar_fastai.training.history import History
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.lr_find import find_learning_rate
from cifar_fastai.training.stopping import stopping_callbacks


class Seen(Callback):
    "The loss of each step, and how many images the network computed; in float64, so that rounding hides nothing"
    order = 19
    def before_fit(self): self.seen, self.computed = [], {True: 0, False: 0}
    def before_batch(self):
        empty = hasattr(self.learn, 'share_batch') and self.share_batch.rows.stop == self.share_batch.rows.start
        self.computed[self.training] += 0 if empty else len(self.x)
        self.learn.xb = (self.x.double(),)

    def after_batch(self):
        if self.training: self.seen.append(self.loss.item())


def fit(data, recipe, out):
    "Train, and leave what came out in a file of this process"
    with join_processes() as processes:
        torch.manual_seed(1), np.random.seed(1)
        learner, history, seen = join_learner(cifar_learner(image_dataloaders(data, recipe), recipe), processes), History(), Seen()
        learner.model.double()
        learner.add_cb(seen)
        rate = find_learning_rate(learner).lr if recipe.lr == 'find' else 0.05
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, rate, [history, *stopping_callbacks(learner, lambda text: None)])
        rows = [{name: value for name, value in row.items() if name != 'seconds'} for row in history.rows]
        found = {'rate': rate, 'losses': seen.seen, 'rows': rows, 'computed': list(seen.computed.values()), 'values': [list(map(float, row)) for row in learner.recorder.values]}
        save_file({name: value.contiguous() for name, value in learner.model.state_dict().items()}, out/f'{processes.rank}.safetensors')
        (out/f'{processes.rank}.json').write_text(json.dumps(found))


def fit_on(count, data, recipe, out):
    out.mkdir(exist_ok=True)
    if count == 1: fit(data, recipe, out)
    else: assert wait_for(start_processes(count, fit, data, recipe, out)) == [0]*count
    return [(json.loads((out/f'{rank}.json').read_text()), load_file(out/f'{rank}.safetensors')) for rank in range(count)]


CASES = {
    'plain': dict(optimizer='sgd', augment='crop_flip_cutout8'),
    'mixed': dict(optimizer='adamw', mixup=0.4, cutmix=1., ema=0.9, clip_norm=1.),
    'weighted': dict(optimizer='sgd', class_weights='balanced', sampler='balanced', progressive=0.6, clip_value=0.1, freeze=0.5),
    'stopped': dict(optimizer='lamb', augment='trivial', early_stopping=1, lookahead=2, schedule='constant'),
    'searched': dict(optimizer='sgd', lr='find', lr_steps=10, lr_start=1e-4, lr_end=0.1, augment='crop_alternating_cutout8')}


@pytest.mark.parametrize('count, name', [(2, name) for name in CASES] + [(3, 'plain')])
def test_as_on_one_process(tiny_data, tiny_recipe, tmp_path, count, name):
    recipe = dataclasses.replace(tiny_recipe, width=8, norm='group', batch_size=25, epochs=2, **CASES[name])
    (one, weights), = fit_on(1, tiny_data, recipe, tmp_path/'one')
    several = fit_on(count, tiny_data, recipe, tmp_path/'several')
    for other, others in several:
        np.testing.assert_allclose(other['losses'], one['losses'], rtol=1e-6)
        for row, same in zip(other['rows'], one['rows'], strict=True): assert row == pytest.approx(same, rel=1e-6)
        np.testing.assert_allclose(other['values'], one['values'], rtol=1e-6)
        assert other['rate'] == pytest.approx(one['rate'], rel=1e-6)
        for key, value in weights.items(): torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-7)
    assert all(other['losses'] == several[0][0]['losses'] and other['rows'] == several[0][0]['rows'] for other, _ in several)
    assert all(all(torch.equal(value, several[0][1][key]) for key, value in others.items()) for _, others in several)
    assert np.sum([other['computed'] for other, _ in several], axis=0).tolist() == one['computed']


class Norms(Callback):
    "What the first batch norm is given in the first step, and its running statistics after it"
    def before_fit(self):
        self.kept, self.norm = [], next(part for part in self.model.modules() if isinstance(part, torch.nn.BatchNorm2d))
        def keep(part, given):
            if not self.kept: self.kept.append(given[0].detach().clone().contiguous())
        self.hook = self.norm.register_forward_pre_hook(keep)

    def after_batch(self):
        if self.training and len(self.kept) == 1: self.kept += [self.norm.running_mean.clone(), self.norm.running_var.clone()]

    def after_fit(self): self.hook.remove()


def fit_norms(data, recipe, out):
    with join_processes() as processes:
        torch.manual_seed(1), np.random.seed(1)
        learner, norms = join_learner(cifar_learner(image_dataloaders(data, recipe), recipe), processes), Norms()
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [norms])
        save_file(dict(zip(('given', 'mean', 'variance'), norms.kept)), out/f'{processes.rank}.safetensors')


def test_running_statistics_are_the_mean_of_the_shares(tiny_data, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, width=8, norm='batch', batch_size=25, epochs=1, optimizer='sgd')
    assert wait_for(start_processes(2, fit_norms, tiny_data, recipe, tmp_path)) == [0, 0]
    found = [load_file(tmp_path/f'{rank}.safetensors') for rank in range(2)]
    weights = [len(one['given'])/25 for one in found]
    assert sorted(len(one['given']) for one in found) == [12, 13]
    momentum, start = recipe.norm_momentum, {'mean': 0., 'variance': 1.}
    for name, measure in (('mean', lambda x: x.mean((0, 2, 3))), ('variance', lambda x: x.var((0, 2, 3)))):
        wanted = sum(weight*((1 - momentum)*start[name] + momentum*measure(one['given'].double())) for weight, one in zip(weights, found))
        for one in found: torch.testing.assert_close(one[name].double(), wanted, rtol=1e-5, atol=1e-6)


def test_batch_norms_have_the_statistics_of_all_shares(tiny_data, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, width=8, norm='batch', batch_size=25, epochs=1, optimizer='sgd', ema=0.9)
    (one, _), (first, weights), (second, others) = fit_on(1, tiny_data, recipe, tmp_path/'one') + fit_on(2, tiny_data, recipe, tmp_path/'two')
    assert first['losses'] == second['losses'] and all(torch.equal(value, others[name]) for name, value in weights.items())
    assert any(name.endswith('running_var') for name in weights) and first['losses'][0] == pytest.approx(one['losses'][0], rel=0.2)


@pytest.fixture(scope='module')
def folder_recipe(tiny_folder, tiny_recipe):
    return dataclasses.replace(tiny_recipe, data=str(tiny_folder), width=8, norm='group', batch_size=15, epochs=2, optimizer='sgd', ema=0.9, holdout=10)


def session(words):
    def main(_): train_session(**words, explained=False, checkpoint_every=1e-9)
    return run_command(main, [])


def weights_of(path): return load_file(path/'model.safetensors')
def same(one, two): return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope='module')
def whole(folder_recipe, tmp_path_factory):
    "A run of two processes, and what they said"
    out = tmp_path_factory.mktemp('whole')
    statuses = wait_for(start_processes(2, session, dict(recipe=folder_recipe, out=out, name='run'), said=out/'said'))
    assert statuses == [0, 0], (out/'said').read_text()
    return out/'run', (out/'said').read_text()


def test_a_session_on_two_processes_leaves_one_run(whole, folder_recipe, tmp_path):
    path, said = whole
    metrics, about = read_json(path/'metrics.json'), read_json(path/'recipe.json')
    assert metrics['status'] == 'complete' and about['resolved']['processes'] == 2 and about['resolved']['batch_size'] == 15
    assert [one.name for one in path.parent.iterdir() if one.is_dir()] == ['run'] and not (path/'checkpoint').exists()
    assert said.count('share    2 processes share each batch of 15 images') == 1
    assert said.count('epoch 1/2') == said.count('epoch 2/2') == said.count('data  ') == 1 and 'Traceback' not in said
    one = train_session(folder_recipe, tmp_path, say=lambda line: None, explained=False)
    assert metrics['test_accuracy'] == pytest.approx(one.metrics['test_accuracy'], abs=0.2) and 'processes' not in one.record.about['resolved']
    np.testing.assert_allclose(np.loadtxt(path/'history.csv', delimiter=',', skiprows=1)[:, 1], one.history.train_loss, rtol=1e-3)


@pytest.mark.parametrize('rank, place', [(0, (1, 2)), (1, (0, 1))], ids=['first', 'second'])
def test_a_killed_process_ends_both_and_the_run_goes_on(whole, folder_recipe, tmp_path, monkeypatch, rank, place):
    counted = History.after_batch
    def killed(self):
        counted(self)
        if os.environ.get('RANK') == str(rank) and (self.epoch, self.iter, self.training) == (*place, True): os.kill(os.getpid(), signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setattr(History, 'after_batch', killed)
        statuses = wait_for(start_processes(2, session, dict(recipe=folder_recipe, out=tmp_path, name='run')))
    assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] == 1
    path = tmp_path/'run'
    assert read_json(path/'metrics.json')['status'] == 'interrupted' and any((path/'checkpoint').glob('*.json'))
    if rank == 0:
        with pytest.raises(BadInput, match=r'begun by 2 processes(.|\n)*torchrun --nproc-per-node 2'): train_session(resume=path, explained=False)
    assert wait_for(start_processes(2, session, dict(resume=path))) == [0, 0]
    assert same(weights_of(path), weights_of(whole[0])) and (path/'history.csv').read_text().count('\n') == 3


@pytest.mark.parametrize('rank', [0, 1])
def test_a_process_killed_before_the_first_step_ends_both(folder_recipe, tmp_path, monkeypatch, rank):
    def killed(*words):
        if os.environ.get('RANK') == str(rank): os.kill(os.getpid(), signal.SIGKILL)
        return make_learner(*words)
    monkeypatch.setattr('cifar_fastai.runs.session.make_learner', killed)
    statuses = wait_for(start_processes(2, session, dict(recipe=folder_recipe, out=tmp_path, name='run'), said=tmp_path/'said'))
    assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] == 1
    assert 'another of the 2 processes ended' in (tmp_path/'said').read_text()
    if rank: assert read_json(tmp_path/'run'/'metrics.json')['status'] == 'interrupted'


def test_one_signal_to_one_process_stops_both_with_a_checkpoint(whole, folder_recipe, tmp_path, monkeypatch):
    counted = History.after_batch
    def asked(self):
        counted(self)
        if os.environ.get('RANK') == '1' and (self.epoch, self.iter, self.training) == (0, 1, True): os.kill(os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(History, 'after_batch', asked)
        assert wait_for(start_processes(2, session, dict(recipe=folder_recipe, out=tmp_path, name='run'))) == [143, 143]
    assert read_json(tmp_path/'run'/'metrics.json')['status'] == 'interrupted'
    assert wait_for(start_processes(2, session, dict(resume=tmp_path/'run'))) == [0, 0]
    assert same(weights_of(tmp_path/'run'), weights_of(whole[0]))


def wait_in_vain():
    os.environ['WORLD_SIZE'] = '2'
    signal.signal(signal.SIGTERM, terminate)
    waits = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    waits.start()
    with join_processes(): pass


def test_a_process_that_waits_for_others_which_never_come_ends_when_it_is_asked_to(monkeypatch):
    monkeypatch.setattr('cifar_fastai.training.distributed.end_when_stuck', partial(end_when_stuck, seconds=0.5))
    assert wait_for(start_processes(1, wait_in_vain), 20.) == [143]


def refused(words, said, count=2):
    assert wait_for(start_processes(count, session, words, said=said)) == [1]*count
    text = said.read_text()
    said.unlink()
    return text


def test_what_cannot_be_shared_is_refused_once(folder_recipe, tmp_path):
    small = dataclasses.replace(folder_recipe, batch_size=2)
    assert refused(dict(recipe=small, out=tmp_path), tmp_path/'said', 3).splitlines() == ['batch size 2 cannot be shared among 3 processes', 'Take a larger --batch-size, or fewer processes']
    assert 'one GPU' in refused(dict(recipe=dataclasses.replace(folder_recipe, device='cuda:1'), out=tmp_path), tmp_path/'said')
    assert not [*tmp_path.iterdir()]


TORCHRUN = {'WORLD_SIZE': '2', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500'}


@pytest.mark.parametrize('environment, text', [
    ({'WORLD_SIZE': '2'}, 'RANK is not set(.|\n)*torchrun --nproc-per-node 2'), ({'WORLD_SIZE': 'two'}, "WORLD_SIZE is 'two'"),
    ({**TORCHRUN, 'RANK': '5'}, "RANK is '5', and not a whole number below 2(.|\n)*torchrun --nproc-per-node 2"), ({**TORCHRUN, 'LOCAL_RANK': 'zero'}, "LOCAL_RANK is 'zero'"), ({**TORCHRUN, 'MASTER_PORT': '70000'}, 'below 65536'),
    ({'ACCELERATE_MIXED_PRECISION': 'no', 'MASTER_PORT': '29500'}, 'started one alone(.|\n)*accelerate launch --multi_gpu')])
def test_half_a_start_is_refused(monkeypatch, environment, text):
    for name, value in environment.items(): monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=text): read_processes()


@pytest.mark.parametrize('words', ['compare runs/a runs/b', 'search --vary lr=0.1..1'])
def test_several_processes_share_a_training_and_nothing_else(monkeypatch, capfd, words):
    monkeypatch.setenv('WORLD_SIZE', '2'), monkeypatch.setenv('RANK', '0')
    assert run_command(dispatch, words.split()) == 2
    said = capfd.readouterr().err
    assert '2 processes were started together, and only train shares its work among them\n' in said and 'Traceback' not in said, said


def test_batch_norms_own_statistics_are_said(tiny_data, tiny_recipe):
    def lines(norm):
        recipe = dataclasses.replace(tiny_recipe, norm=norm, batch_size=25)
        learner = cifar_learner(image_dataloaders(tiny_data, recipe), recipe)
        learner.resolved = learner.resolved.on(2)
        return processes_lines(learner).splitlines()
    assert len(lines('group')) == 1 and "each process's own 12 images" in lines('batch')[1]
