"Whether a batch fits into memory: the estimate against what a process takes, and what is said where it does not"
import dataclasses
import json
import os
import random
import subprocess
import sys

import pytest
import torch

from cifar_fastai.training import memory
from cifar_fastai.base.commands import run_command
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.training.memory import kept_copies, memory_need
from cifar_fastai.recipes.choices import OPTIMIZERS
from cifar_fastai.train import main
from cifar_fastai.training.learner import cifar_learner

MEASURED = """
import json, math, re, resource
from pathlib import Path
import numpy as np
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.data.images import image_data
from cifar_fastai.base.devices import free_memory, keep_freed_memory, kept_memory
from cifar_fastai.training.memory import memory_need
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.training.learner import cifar_learner, fit_recipe

def status(name): return 1024*int(re.search(rf'{name}:\\s+(\\d+)', Path('/proc/self/status').read_text()).group(1))
SIZE, COUNT = 256, 2*256
data = image_data(np.zeros((COUNT + 9, 32, 32, 3), np.uint8), np.arange(COUNT + 9) % 10, tuple('abcdefghij'), np.arange(COUNT + 9), COUNT)
recipe = Recipe(width=16, epochs=1, batch_size=SIZE, progressive=0, precision='fp32', device='cpu')
keep_freed_memory()
learner = cifar_learner(image_dataloaders(data, recipe), recipe)
need = memory_need(learner).batch(SIZE)
Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here
before = status('VmRSS')
with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.01)
taken = status('VmHWM') - before
limit = status('VmSize') + 2**26
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(json.dumps(dict(need=need, taken=taken, kept=kept_memory(), free=free_memory())))
"""


@pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason='Linux says what a process took at its peak')
def test_the_estimate_is_near_what_a_process_takes():
    said = json.loads(subprocess.check_output([sys.executable, '-c', MEASURED], text=True, stderr=subprocess.PIPE).splitlines()[-1])
    print(f"estimated {said['need']/2**20:.0f} MiB, taken {said['taken']/2**20:.0f} MiB")
    assert 0.6 < said['need']/said['taken'] < 1.6
    assert said['free'] <= 2**26 + said['kept'] and said['kept'] > said['taken']/2  # under a limit of address space; what was freed counts


def test_the_estimate_leaves_no_trace(tiny_data, tiny_recipe):
    learner = cifar_learner(image_dataloaders(tiny_data, tiny_recipe), tiny_recipe)
    learner.model.eval()
    state, draws = {name: value.clone() for name, value in learner.model.state_dict().items()}, torch.get_rng_state()
    assert memory_need(learner) == memory_need(learner)
    assert all(torch.equal(value, state[name]) for name, value in learner.model.state_dict().items()) and torch.equal(torch.get_rng_state(), draws)
    assert not learner.model.training and all(p.grad is None for p in learner.model.parameters())


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_what_each_optimizer_keeps(tiny_data, tiny_recipe, optimizer):
    recipe = dataclasses.replace(tiny_recipe, optimizer=optimizer)
    learner = cifar_learner(image_dataloaders(tiny_data, recipe), recipe)
    learner.create_opt()
    parameters = list(learner.model.parameters())
    for p in parameters: p.grad = torch.ones_like(p)
    learner.opt.step()
    kept = sum(value.numel() for p in parameters for value in learner.opt.state[p].values() if isinstance(value, torch.Tensor) and value.shape == p.shape)
    assert round(kept/sum(p.numel() for p in parameters)) == kept_copies(learner)


def command(tiny_folder, tmp_path, *more):
    return ['--data', str(tiny_folder), '--width', '4', '--epochs', '1', '--batch-size', '40', '--device', 'cpu', '--precision', 'fp32', '--progressive', '0',
            '--out', str(tmp_path), '--name', 'run', *more]


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(tiny_folder, tmp_path, capfd, monkeypatch):
    need = []
    monkeypatch.setattr(memory, 'memory_need', lambda learner: need.append(memory_need(learner)) or need[-1])
    monkeypatch.setattr(memory, 'ONCE', 0)
    monkeypatch.setattr(memory, 'free_memory', lambda: need[-1].batch(40)/1.5)
    assert run_command(main, command(tiny_folder, tmp_path)) == 1
    text = capfd.readouterr().err
    assert 'for batch size 40: it takes about' in text and 'MiB are free' in text and 'Traceback' not in text and not (tmp_path/'run').exists()
    fits = int(text.split('Try --batch-size ')[1].split(',')[0])
    assert 2 <= fits <= 20 and need[0].batch(fits) <= need[0].batch(40)/1.5
    assert run_command(main, command(tiny_folder, tmp_path, '--batch-size', str(fits))) == 0


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB'), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes.")], ids=['GPU', 'Python', 'CPU'])
def test_memory_that_runs_out_in_a_fit(tiny_folder, tmp_path, capfd, monkeypatch, error):
    from cifar_fastai.training.history import ProgressLine
    def after_batch(self): raise error
    monkeypatch.setattr(ProgressLine, 'after_batch', after_batch)
    assert run_command(main, command(tiny_folder, tmp_path)) == 1
    text = capfd.readouterr().err
    assert 'for batch size 40' in text and 'Try --batch-size 20, or a smaller --width' in text and 'Traceback' not in text
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert metrics['status'] == 'failed' and 'for batch size 40' in metrics['message']


def test_a_command_sets_malloc_and_a_learner_does_not(tiny_data, tiny_recipe, monkeypatch):
    from cifar_fastai import train
    from cifar_fastai.base import devices
    asked, loaders = [], image_dataloaders(tiny_data, tiny_recipe)
    monkeypatch.setattr(devices, 'keep_freed_memory', asked.append)
    monkeypatch.setattr(devices.ctypes, 'CDLL', lambda name: pytest.fail('a Learner changed the process'))
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    drawn = random.getstate(), torch.get_rng_state()
    cifar_learner(loaders, dataclasses.replace(tiny_recipe, deterministic=True))
    assert (threads, deterministic) == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    assert drawn[0] == random.getstate() and torch.equal(drawn[1], torch.get_rng_state()) and asked == []
    monkeypatch.setattr(train, 'train', lambda *words: None)
    train.main(['--device', 'cpu'])
    assert asked == ['cpu']
