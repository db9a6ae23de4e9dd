"What a GPU would be asked: every path of benchmarks/gpu.py on a CPU, and training steps on a GPU that is only pretended"
import dataclasses
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest
import torch
from fastai.callback.core import CancelFitException
from fastai.data.transforms import Normalize

from pretended import GPU, move_model, pretended_gpu

from cifar_fastai.base.commands import run_command
from cifar_fastai.data.augment import BatchAugment
from cifar_fastai.data.loaders import ImageLoader, image_dataloaders
from cifar_fastai.models.layers import MaxOfMap
from cifar_fastai.runs import folder, session
from cifar_fastai.training.callbacks import Autocast
from cifar_fastai.training.history import History, ProgressLine
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.run_callback import RunCallback


@pytest.fixture
def gpu(benchmark_module): return benchmark_module('gpu')


AIRBENCH = '''
import torch
class CifarNet(torch.nn.Module): pass
def main(run, model):
    known = [torch.load(f'cifar10/{name}.pt') for name in ('train', 'test')]
    assert known[0]['images'].dtype == torch.uint8 and known[0]['images'].shape[1:] == (16, 16, 3) and len(known[1]['labels']) == 15 and len(known[0]['classes']) == 3
    print('|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |')
    print(f'|  {run}  |      7  |     0.9000  |   0.8000  |               |        1.0000  |')
    print('|          |   eval  |     0.9000  |   0.8100  |       0.8300  |        1.2500  |')
    return 0.83
'''


def test_every_path_of_the_benchmark_on_a_cpu(gpu, benchmark_module, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_module('training_speed'), 'SIDE', 16)
    for place, name in ((session, 'training_figures'), (folder, 'write_samples')): monkeypatch.setattr(place, name, lambda *given: None)  # they take most of the time
    (tmp_path/'airbench.py').write_text(AIRBENCH)
    words = ['--rehearse', '--data', str(tiny_folder), '--out', str(tmp_path/'out'), '--airbench', str(tmp_path/'airbench.py')]
    assert run_command(gpu.main, words) == 0
    lines = gpu.read_lines(tmp_path/'out')
    assert [line['step'] for line in lines if line['what'] == 'done'] == [*gpu.STEPS], [line for line in lines if 'said' in line]
    found = {(line['step'], line['what']): line for line in lines}
    assert not [line for line in lines if 'failed' in line]
    assert found['train', 'the same seed twice, --deterministic']['same_weights'] is True
    assert found['train', 'killed after an epoch and resumed'] == dict(step='train', what='killed after an epoch and resumed', was_at_work=True, same_weights=True)
    assert found['waits', 'default, 1 steps']['waits'] == 0
    rates = [line for line in lines if line['step'].startswith('rates') and 'images_per_second' in line]
    assert len(rates) == 3*6 and all(line['images_per_second'] > 0 for line in rates)
    assert found['airbench', 'airbench94_muon'] == dict(step='airbench', what='airbench94_muon', accuracies_with_tta=[0.83], accuracies=[0.81], train_seconds=[1.25])
    assert found['default', 'default']['seeds'] == 2
    look = found['look', 'predictions against the CPU']
    assert look['most_difference_of_logits'] == 0 and look['same_class'] == 1 and look['most_difference_from_predictions_npz'] < 1e-3
    assert found['look', 'predict against the CPU']['same_class'] == 1 and found['look', 'gradcam against the CPU']['most_difference'] == 0
    assert '| look | report.html |' in (tmp_path/'out'/'table.md').read_text()
    assert run_command(gpu.main, words) == 1 and 'has results already' in capsys.readouterr().err


def test_a_crash_or_a_step_without_end_stops_nothing_else(gpu, tmp_path, monkeypatch, capsys):
    "Steps of other programs: one ends, one is killed by a signal, one sleeps on with a child of its own"
    program = f'''
import json, os, signal, subprocess, sys, time
name = sys.argv[sys.argv.index('--step') + 1]
with open({str(tmp_path/'results.jsonl')!r}, 'a') as file: file.write(json.dumps(dict(step=name, what='begun')) + chr(10))
if name == 'train': print('an illegal address', flush=True); os.kill(os.getpid(), signal.SIGSEGV)
if name == 'waits':
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    open({str(tmp_path/'child')!r}, 'w').write(str(child.pid)); time.sleep(60)
'''
    monkeypatch.setattr(gpu, 'STEPS', {'machine': (0.1, 'a'), 'train': (8, 'b'), 'waits': (1, 'c'), 'look': (9, 'd')})
    gpu.run_all([*gpu.STEPS], Namespace(command=[sys.executable, '-c', program], out=tmp_path, data='shapes', device='cpu', airbench=None, rehearse=False, minutes=18.1/60))
    lines = {line['step']: line for line in gpu.read_lines(tmp_path) if line['what'] != 'begun'}
    assert {name: line['what'] for name, line in lines.items()} in (
        {'machine': how, 'train': 'ended with status -11', 'waits': 'out of time', 'look': 'done'} for how in ('done', 'out of time'))
    assert lines['train']['said'] == 'an illegal address'
    child = int((tmp_path/'child').read_text())
    state = Path(f'/proc/{child}/stat')
    assert not state.exists() or state.read_text().rpartition(')')[2].split()[0] in 'ZX'


@pytest.mark.parametrize('words,said', [(['--only', 'sped'], "'sped'"), (['--airbench', 'none.py'], 'there is no such file'), ([], 'there is no CUDA device here')])
def test_words_that_make_no_sense(gpu, words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run_command(gpu.main, ['--out', str(tmp_path), *words]) == 1
    assert said in capsys.readouterr().err


def event(name, kind, start, length, thread=1, **more): return dict(ph='X', name=name, cat=kind, ts=start, dur=length, pid=1, tid=thread, args=more)


def test_waits_are_counted_in_a_trace(benchmark_module):
    "A trace by hand: two values asked for within the steps, a blocking copy, one wait before them and one of another thread"
    trace = {'traceEvents': [
        dict(ph='M', name='process_name', pid=1), event('steps that are traced', 'user_annotation', 100, 900),
        event('cudaStreamSynchronize', 'cuda_runtime', 50, 5), event('cudaDeviceSynchronize', 'cuda_runtime', 1001, 5),
        event('aten::item', 'cpu_op', 200, 40), event('aten::_local_scalar_dense', 'cpu_op', 205, 30), event('cudaMemcpyAsync', 'cuda_runtime', 208, 2, correlation=7),
        event('cudaStreamSynchronize', 'cuda_runtime', 212, 20), event('Memcpy DtoH (Device -> Pinned)', 'gpu_memcpy', 230, 1, thread=7, correlation=7),
        event('cudaStreamSynchronize', 'cuda_runtime', 300, 20), event('cudaEventSynchronize', 'cuda_runtime', 405, 2, thread=2), event('aten::add', 'cpu_op', 400, 20),
        event('cudaMemcpyAsync', 'cuda_runtime', 500, 2, correlation=8), event('Memcpy DtoH (Device -> Pageable)', 'gpu_memcpy', 1500, 1, thread=7, correlation=8),
        event('cudaMemcpyAsync', 'cuda_runtime', 600, 2, correlation=9), event('Memcpy HtoD (Pageable -> Device)', 'gpu_memcpy', 640, 1, thread=7, correlation=9),
        event('cudaMalloc', 'cuda_runtime', 700, 2), event('cudaLaunchKernel', 'cuda_runtime', 710, 2)]}
    assert benchmark_module('gpu_steps').count_waits(trace) == dict(
        waits=3, copies_to_pageable_memory=1, allocations=1, where={
            'cudaStreamSynchronize in aten::_local_scalar_dense': 1, 'cudaStreamSynchronize in outside of any operation': 1,
            'cudaEventSynchronize in outside of any operation': 1})


REFUSED = {'adaptive_max_pool2d_backward', 'adaptive_avg_pool2d_backward', '_adaptive_avg_pool2d_backward', 'upsample_bilinear2d_backward', '_upsample_bilinear2d_aa_backward',
           'grid_sampler_2d_backward', 'reflection_pad2d_backward', 'put_', 'histc', 'kthvalue', 'median'}  # by torch.use_deterministic_algorithms, on a GPU


class Ends(RunCallback):
    order = 99
    def after_batch(self):
        if self.iter == 2: raise CancelFitException


def gpu_batches(loader):
    "Batches of a training loader, its own transforms done on the pretended GPU; fastai's tensor types cannot be pretended"
    for number in range(5):
        loader.random.start(0, number, torch.arange(20))
        images = torch.randint(0, 256, (20, 16, 16, 3), dtype=torch.uint8, device=GPU).permute(0, 3, 1, 2)
        for step in loader.after_batch.fs:
            if isinstance(step, BatchAugment): images = step.augment(images)
            elif not isinstance(step, Normalize): images = images.float().div_(255)
        yield images - 0.5, torch.randint(0, 3, (20,), device=GPU)


STEPS = [{}, dict(arch='cifarnet', whiten=True, bias_lr=64), dict(arch='resnet18', optimizer='adamw', ema=0.9), dict(arch='preact_resnet18', norm='group', optimizer='sgd'),
         dict(class_weights='balanced', lookahead=2, clip_value=0.1, freeze=0.1), dict(cutmix=1., mixup=1.), dict(augment='jitter_cutout4', progressive=0.9),
         dict(augment='crop_rotate', optimizer='rmsprop'), dict(augment='trivial'), dict(augment='rand', ema=0.9)]


@pytest.mark.parametrize('changes', STEPS, ids=[','.join(map(str, changes.values())) or 'default' for changes in STEPS])
def test_steps_on_a_pretended_gpu_wait_for_nothing(changes, tiny_data, tiny_recipe, monkeypatch):
    "Nothing is asked of the device within steps, no copy blocks but the first of each kind, no two devices meet, and no gradient is one that --deterministic refuses"
    recipe = dataclasses.replace(tiny_recipe, **{'width': 8, 'batch_size': 20, **changes})
    learner = cifar_learner(image_dataloaders(tiny_data, recipe), recipe)
    learner.remove_cbs([part for part in learner.cbs if isinstance(part, Autocast)])
    monkeypatch.setattr(ImageLoader, '__iter__', gpu_batches)
    monkeypatch.setattr(torch.nn.functional, 'one_hot', lambda targets, classes: (targets[:, None] == torch.arange(classes, device=GPU)).long())  # on a CPU it looks at the values
    with pretended_gpu(monkeypatch) as noticed:
        move_model(learner.model)
        learner.dls.device = GPU
        noticed.waits.clear()
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.1, [History(), ProgressLine(), Ends()])
    waits = Counter(wait for wait in noticed.waits if not wait.startswith('to the CPU: recorder.py fetch'))  # once, when the fit ends
    assert all(what.startswith('a copy') and times == 1 for what, times in waits.items()), waits
    assert not REFUSED & noticed.names and 'convolution_backward' in noticed.names


def test_the_pretended_gpu_notices(monkeypatch):
    "A value asked for, a list made into a tensor there, and a sum of two devices"
    with pretended_gpu(monkeypatch) as noticed:
        there = torch.ones(3).to('cuda')
        assert there.device == GPU and (there + 1).sum().item() == 6 and there.cpu().device.type == 'cpu'
        assert [wait.split(':')[0] for wait in noticed.waits] == ['a copy', '_local_scalar_dense', 'to the CPU']
        with pytest.raises(RuntimeError, match='two devices'): there + torch.ones(3)


def test_the_greatest_of_a_map_is_the_same_by_both_kernels():
    "What a GPU computes, tried on a CPU; whole numbers make many equals"
    maps = (torch.randn(50, 8, 5, 5, generator=torch.Generator().manual_seed(0))*1.5).round().relu().requires_grad_()
    ours, other = MaxOfMap()(maps), torch.nn.functional.max_pool2d(maps, maps.shape[-2:])
    assert torch.equal(ours, other) and torch.equal(*(torch.autograd.grad(found.sum(), maps)[0] for found in (ours, other)))
