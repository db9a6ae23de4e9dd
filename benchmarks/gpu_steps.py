"The steps of gpu.py: what each of them does"
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import CancelFitException
from torch.profiler import ProfilerActivity, profile, record_function

import training_speed
from common import wait, write_line

from cifar_fastai.base.devices import choose_device, choose_precision, environment
from cifar_fastai.data.loaders import cifar_dataloaders, load_recipe_images
from cifar_fastai.export.classifier import Classifier
from cifar_fastai.profiling.peak import matrix_peak
from cifar_fastai.profiling.step_profile import WAITS
from cifar_fastai.recipes.named import RECIPES, named_recipe
from cifar_fastai.recipes.recipe import Recipe, recipe_to_dict
from cifar_fastai.runs.files import read_predictions, read_run
from cifar_fastai.runs.resume import run_status
from cifar_fastai.runs.session import train_session
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.run_callback import RunCallback
from cifar_fastai.views.report_page import write_run_report

TINY = dict(width=8, epochs=2, batch_size=20, limit=60)


class Step:
    "One step at work: its recipes, its time, and where its results go"
    def __init__(self, name, options, seconds):
        self.name, self.options, self.out, self.tiny = name, options, options.out, options.rehearse
        self.device = choose_device('cpu' if self.tiny else options.device)
        self.runs, self.ends, self.longest = options.out/'runs', time.monotonic() + seconds, 0.

    def note(self, what, **values): write_line(self.out, step=self.name, what=what, **values)

    def recipe(self, recipe, **changes):
        "A recipe by its name, or as it is; in a rehearsal tiny"
        recipe = named_recipe(recipe) if isinstance(recipe, str) else recipe
        changes = {'data': self.options.data, 'device': str(self.device), **changes, **(TINY if self.tiny else {})}
        return dataclasses.replace(recipe, **changes)

    def train(self, recipe, name, **more):
        "A run to its end; its metrics"
        started = time.monotonic()
        run = train_session(recipe, self.runs, name, say=lambda line: print(line, flush=True), explained=False, **more)
        self.longest = max(self.longest, time.monotonic() - started)
        return run.metrics, time.monotonic() - started

    def has_time(self, what):
        "Whether another run as long as the longest fits; says so where it does not"
        if time.monotonic() + 1.1*self.longest < self.ends: return True
        self.note(what, left_out='no time was left')
        return False


def run_facts(metrics, seconds):
    return dict(test_accuracy=metrics['test_accuracy'], train_seconds=metrics['train_seconds'], compile_seconds=metrics['compile_seconds'],
                images_per_second=metrics['train_images_per_second'], wall_seconds=seconds)


def look_at_machine(step):
    facts = environment(step.device, choose_precision('auto', step.device))
    if step.device.type == 'cuda':
        known = torch.cuda.get_device_properties(step.device)
        facts |= dict(gpu_memory_gib=known.total_memory/2**30, capability=f'{known.major}.{known.minor}', processors=known.multi_processor_count,
                      part_of_a_gpu='MIG' in known.name or 'MIG' in os.environ.get('CUDA_VISIBLE_DEVICES', ''), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    step.note('machine', **facts)
    step.note('matrix product', tflops=matrix_peak(step.device, seconds=0.05 if step.tiny else 1., sides=(64,) if step.tiny else ())/1e12)


def same_weights(one, two):
    from safetensors.torch import load_file
    one, two = (load_file(path/'model.safetensors') for path in (one, two))
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def kill_in_training(step, recipe, name):
    "Begin a run by the command and kill it after its first epoch; whether it was still at work"
    kept = step.out/f'{name}.json'
    kept.write_text(json.dumps(recipe_to_dict(recipe)))
    command = [sys.executable, '-W', 'ignore', '-m', 'cifar_fastai.train', '--recipe', str(kept), '--out', str(step.runs), '--name', name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith('epoch 1/'): process.send_signal(signal.SIGKILL); break
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


def train_quick(step):
    if step.device.type == 'cuda': os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # PyTorch reads it once, at the first matrix product
    step.note('quick', **run_facts(*step.train(step.recipe('quick'), 'quick')))
    exact = step.recipe('quick', deterministic=True, epochs=3)
    for name in ('once', 'again'): step.train(exact, name)
    step.note('the same seed twice, --deterministic', epochs=exact.epochs, same_weights=same_weights(step.runs/'once', step.runs/'again'))
    killed = kill_in_training(step, exact, 'killed')
    step.train(None, None, resume=step.runs/'killed')
    step.note('killed after an epoch and resumed', was_at_work=killed, same_weights=same_weights(step.runs/'once', step.runs/'killed'))


MARK = 'steps that are traced'
ALLOCATIONS = {'cudaMalloc', 'cudaFree', 'cudaHostAlloc', 'cudaFreeHost'}


class TraceSteps(RunCallback):
    "Has torch trace some steps in the middle of the second epoch"
    order, run_valid = 99, False
    def __init__(self, path, device, skip, count):
        self.path, self.device, self.first, self.last, self.tracer = path, device, skip, skip + count, None

    def after_batch(self):
        if self.epoch != 1: return
        if self.iter + 1 == self.first:
            wait(self.device)
            self.tracer = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*(self.device.type == 'cuda'))
            self.tracer.__enter__()
            self.region = record_function(MARK)
            self.region.__enter__()
        elif self.iter + 1 == self.last:
            self.region.__exit__(None, None, None)
            self.tracer.__exit__(None, None, None)
            self.tracer.export_chrome_trace(str(self.path))
            raise CancelFitException


def count_waits(trace):
    "Of the steps in a trace of torch's: how often Python waited for the GPU and in which operation, blocking copies, and allocations"
    events = [event for event in trace['traceEvents'] if event.get('ph') == 'X']
    mark = next(event for event in events if event['name'] == MARK and event.get('cat') == 'user_annotation')
    ends = lambda event: event['ts'] + event['dur']
    calls = [event for event in events if event.get('cat') == 'cuda_runtime' and mark['ts'] <= event['ts'] <= ends(mark)]
    around = sorted((event for event in events if event.get('cat') == 'cpu_op'), key=lambda event: event['dur'])
    def place(call):
        return next((event['name'] for event in around if event['tid'] == call['tid'] and event['ts'] <= call['ts'] <= ends(event)), 'outside of any operation')
    numbers = {event['args'].get('correlation') for event in calls if event['name'].startswith('cudaMemcpy')}
    blocking = [event for event in events if event.get('cat') == 'gpu_memcpy' and event['args'].get('correlation') in numbers and 'DtoH' in event['name'] and 'Pageable' in event['name']]
    waits = [event for event in calls if event['name'] in WAITS['cuda']]
    return dict(waits=len(waits), where=dict(Counter(f"{event['name']} in {place(event)}" for event in waits)), copies_to_pageable_memory=len(blocking),
                allocations=sum(event['name'] in ALLOCATIONS for event in calls))


def trace_waits(step):
    for name in ('default', 'speed'):
        recipe = step.recipe(name, epochs=2, limit=16_384)
        skip, count = (1, 1) if step.tiny else (10, 15) if name == 'default' else (2, 4)
        learner, path = cifar_learner(cifar_dataloaders(recipe), recipe), step.out/f'trace-{name}.json'
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, cbs=[TraceSteps(path, step.device, skip, count)])
        step.note(f'{name}, {count} steps', **count_waits(json.loads(path.read_text())))


def measure_rates(step, network):
    "The arms that cannot fail come first"
    recipe = step.recipe(Recipe(arch=network, optimizer='sgd', augment='crop_flip_cutout8', progressive=0, batch_size=512, image_size=training_speed.SIDE))
    seconds = 0.02 if step.tiny else 2.
    speed = training_speed
    with tempfile.TemporaryDirectory() as folder:
        speed.write_files(recipe.data, folder, 200 if step.tiny else 10_000)
        arms = {'lean': lambda: speed.lean(recipe, folder, seconds), 'ours': lambda: speed.ours(recipe, folder, seconds),
                'ours, compiled': lambda: speed.ours(recipe, folder, seconds, 'yes'), 'lean, compiled': lambda: speed.lean(recipe, folder, seconds, 'compiled'),
                'the usual way': lambda: speed.usual(recipe, folder, seconds, 0 if step.tiny else min(8, os.cpu_count())),
                'ours, graphs': lambda: speed.ours(recipe, folder, seconds, 'graphs')}
        for name, arm in arms.items():
            started = time.monotonic()
            try: step.note(f'{network}, {name}', images_per_second=arm(), wall_seconds=time.monotonic() - started)
            except Exception as error: step.note(f'{network}, {name}', failed=f'{type(error).__name__}: {error}'[:200])
            torch.compiler.reset()


AIRBENCH = '''
import json, runpy, sys, torch
script, runs, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv = [script]
names = runpy.run_path(script, run_name='airbench')
model = names['CifarNet']().to(device).to(memory_format=torch.channels_last)
if device != 'cpu': model.compile(mode='max-autotune')
names['main']('warmup', model)
for number in range(runs): print(json.dumps(names['main'](number, model)), flush=True)
'''


def run_airbench(step, script, runs):
    "Another's script on the same files, in a process of its own: the accuracy of each run with test-time augmentation, and its seconds as it prints them"
    data = load_recipe_images(step.recipe('speed'))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder)/'cifar10').mkdir()
        for name, where in (('train', np.arange(data.train_count)), ('test', data.test_positions)):
            torch.save({'images': torch.from_numpy(np.array(data.images[where])), 'labels': torch.from_numpy(data.labels[where]), 'classes': list(data.classes)},
                       Path(folder)/'cifar10'/f'{name}.pt')
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', AIRBENCH, str(script), str(runs), str(step.device)], cwd=folder, capture_output=True, text=True)
    if done.returncode: return step.note('airbench94_muon', failed=(done.stderr.strip().splitlines() or ['no word'])[-1][:300])
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in done.stdout.splitlines() if line.startswith('|')]
    rows = [row for row in cells if len(row) > 4 and row[1] == 'eval'][1:]  # the first is its warm-up
    said = [float(line) for line in done.stdout.splitlines() if line[:1].isdigit()]
    step.note('airbench94_muon', accuracies_with_tta=[round(value, 4) for value in said], accuracies=[float(row[3]) for row in rows], train_seconds=[float(row[5]) for row in rows])


def race(step):
    for compiled in ('no', 'yes'):
        for seed in range(1 if step.tiny else 3):
            what = f'speed, --compile {compiled}, seed {seed}'
            if step.has_time(what): step.note(what, **run_facts(*step.train(step.recipe('speed', seed=seed, compile=compiled), f'speed-{compiled}-{seed}')))


def run_other(step):
    if step.options.airbench: run_airbench(step, step.options.airbench, 1 if step.tiny else 3)
    else: step.note('airbench94_muon', left_out='no script was named')


def train_published(step):
    names = sorted((name for name, named in RECIPES.items() if named.published), key=lambda name: RECIPES[name].recipe.arch != 'resnet9')  # the shorter first
    for name in names[:1] if step.tiny else names:
        if step.has_time(name): step.note(name, **run_facts(*step.train(step.recipe(name), name)), published=RECIPES[name].published)


def train_default(step):
    found = []
    for seed in range(2 if step.tiny else 5):
        if not step.has_time(f'default, seed {seed}'): break
        metrics, seconds = step.train(step.recipe('default', seed=seed), f'default-{seed}')
        found.append(metrics['test_accuracy'])
        step.note(f'default, seed {seed}', **run_facts(metrics, seconds))
    if len(found) > 1: step.note('default', seeds=len(found), mean=float(np.mean(found)), standard_deviation=float(np.std(found, ddof=1)))


def look_at_run(step):
    path = step.runs/'quick'
    if not path.exists() or run_status(path) != 'complete':
        path = step.runs/'looked-at'
        step.train(step.recipe('quick', epochs=2), path.name)
    kept, record = read_predictions(path/'predictions.npz'), read_run(path)
    data = load_recipe_images(record.recipe)
    pixels, few = np.array(data.images[data.test_positions]), slice(0, 4 if step.tiny else 64)
    there, here = Classifier.load(path, str(step.device)), Classifier.load(path, 'cpu')
    pixels = pixels[:100 if step.tiny else 2000]
    logits, ours = there.logits(pixels), here.logits(pixels)
    step.note('predictions against the CPU', images=len(pixels), most_difference_of_logits=float(np.abs(logits - ours).max()),
              same_class=float((logits.argmax(1) == ours.argmax(1)).mean()), most_difference_from_predictions_npz=float(np.abs(logits - kept.logits[:len(pixels)]).max()))
    for method in ('gradcam', 'layercam'):
        maps, own = there.heat(pixels[few], method=method), here.heat(pixels[few], method=method)
        step.note(f'{method} against the CPU', images=len(maps), most_difference=float(np.abs(maps - own).max()), mean_difference=float(np.abs(maps - own).mean()))
    started = time.monotonic()
    page = write_run_report(path)
    step.note('report.html', seconds=time.monotonic() - started, bytes=page.stat().st_size)
    from cifar_fastai.predict import main as predict
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image
        for number, picture in enumerate(pixels[:200]): Image.fromarray(picture).save(Path(folder)/f'{number:04}.png')
        started, out = time.monotonic(), step.out/'predicted.csv'
        with contextlib.redirect_stdout(sys.stderr): predict([str(path), folder, '--out', str(out), '--device', str(step.device)])
        import pandas as pd
        said = pd.read_csv(out).predicted.tolist()
        right = [here.classes[place] for place in ours[:len(said)].argmax(1)]
        step.note('predict against the CPU', images=len(said), same_class=float(np.mean([one == two for one, two in zip(said, right)])), seconds=time.monotonic() - started)


STEP_FUNCTIONS = {'machine': look_at_machine, 'train': train_quick, 'waits': trace_waits, 'rates': measure_rates, 'speed': race, 'airbench': run_other,
                  'published': train_published, 'default': train_default, 'look': look_at_run}
