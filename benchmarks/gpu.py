"""All that a GPU is asked, in eight minutes: steps in an order in which each is worth having alone.

    python benchmarks/gpu.py --out runs/gpu                                   # one H100 or H200, CIFAR-10
    python benchmarks/gpu.py --only speed airbench --airbench airbench94_muon.py       # some steps; another's script on the same files
    python benchmarks/gpu.py --rehearse                                       # every path on a CPU, tiny, on drawn figures

Each step runs in a process of its own, under a time limit of its own: a crash ends that step alone. What it finds is in OUT/results.jsonl
as soon as it is known, one JSON object a line; OUT/table.md is written anew after each step. Time that a step leaves goes to those after it.
A rehearsal runs the steps one after another in this process, and says nothing about speed.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from common import write_line

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput, one_of

STEPS = {  # seconds of the eight minutes, and what is asked
    'machine': (20, 'what machine this is'),
    'train': (80, '`train --recipe quick`; the same seed twice under `--deterministic`; killed and resumed'),
    'waits': (30, 'how often Python waits for the GPU within an epoch'),
    'rates-resnet9': (45, 'images a second of the usual way, ours and a lean loop'),
    'rates-resnet18': (40, 'the same'),
    'rates-wrn28_10': (45, 'the same'),
    'speed': (55, '`speed`, with and without compiling'),
    'airbench': (40, 'airbench94_muon on the same files, where its script is given'),
    'published': (55, 'the published recipes, as many as the time allows'),
    'default': (40, '`default`, up to five seeds'),
    'look': (30, 'predictions, heatmaps and the page, against those of the CPU')}


def read_lines(out):
    path = out/'results.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def format_value(value):
    if isinstance(value, float): return f'{value:.4g}' if abs(value) < 1000 else f'{value:,.0f}'
    if isinstance(value, dict): return '; '.join(f'{name}: {format_value(part)}' for name, part in value.items()) or 'none'
    return 'yes' if value is True else 'no' if value is False else f'{value:,}' if isinstance(value, int) else str(value).replace('|', '/').replace('\n', ' ')


def results_table(lines):
    "The results so far, in Markdown"
    rows = [f"| {line['step']} | {line['what']} | {', '.join(f'{name} {format_value(value)}' for name, value in line.items() if name not in ('step', 'what'))} |" for line in lines]
    return '\n'.join(['| step | what | found |', '|---|---|---|', *rows])


def run_in_process(name, options, seconds):
    "A step in a process of its own: how it ended, and what it said last"
    command = [*options.command, '--step', name, '--seconds', f'{seconds:.0f}', '--out', str(options.out), '--data', options.data, '--device', options.device,
               *(['--airbench', str(options.airbench)] if options.airbench else [])]
    said = options.out/f'{name}.txt'
    with said.open('wb') as file: process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try: status = process.wait(seconds)
    except subprocess.TimeoutExpired: status = None
    finally:
        try: os.killpg(process.pid, signal.SIGKILL)  # what the step started goes with it
        except ProcessLookupError: pass
        process.wait()
    ended = 'out of time' if status is None else 'done' if status == 0 else f'ended with status {status}'
    last = said.read_text(errors='replace').strip().splitlines()[-2:] if status else []
    return ended, ' / '.join(last)[:300]


def rehearse(name, options, seconds):
    "A step in this process"
    import torch
    try:
        with torch.compiler.set_stance('force_eager'): run_step(name, options, seconds)  # a compiler takes longer than all the rest
    except Exception as error:
        traceback.print_exc()
        return 'failed', f'{type(error).__name__}: {error}'[:300]
    return 'done', ''


def run_step(name, options, seconds):
    import gpu_steps
    kind, _, network = name.partition('-')
    gpu_steps.STEP_FUNCTIONS[kind](gpu_steps.Step(name, options, seconds), *([network] if network else []))


def run_all(names, options):
    "The steps, each in the time that is left to it"
    run = rehearse if options.rehearse else run_in_process
    begun = until = time.monotonic()
    for name in names:
        until += 60*options.minutes*STEPS[name][0]/sum(STEPS[each][0] for each in names)
        started = time.monotonic()
        print(f'{name}: {STEPS[name][1]}', flush=True)
        ended, message = run(name, options, max(until - started, 1))
        write_line(options.out, step=name, what=ended, seconds=round(time.monotonic() - started, 1), **({'said': message} if message else {}))
        (options.out/'table.md').write_text(results_table(read_lines(options.out)) + '\n')
        print(results_table([line for line in read_lines(options.out) if line['step'] == name]) + '\n', flush=True)
    print(f'{time.monotonic() - begun:.0f} s in all; {options.out}/results.jsonl and table.md hold what was found')


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/gpu'), help='a new folder for results and runs [runs/gpu]')
    parser.add_argument('--only', nargs='+', metavar='STEP', help=f"some steps: {', '.join(STEPS)}")
    parser.add_argument('--data', help='as --data of train [cifar10; shapes in a rehearsal]')
    parser.add_argument('--airbench', type=Path, help='the script airbench94_muon.py, for the step `airbench`')
    parser.add_argument('--minutes', type=float, default=8, help='time for all steps together [8]')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--rehearse', action='store_true', help='every path on a CPU, tiny')
    parser.add_argument('--traceback', action='store_true')
    parser.add_argument('--step', help=argparse.SUPPRESS)
    parser.add_argument('--seconds', type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.data = options.data or ('shapes' if options.rehearse else 'cifar10')
    options.command = [sys.executable, '-W', 'ignore', __file__]
    if options.step: return run_step(options.step, options, options.seconds)
    names = options.only or list(STEPS)
    for name in names: one_of(name, STEPS, 'step')
    if options.airbench and not options.airbench.is_file(): raise BadInput(f"--airbench '{options.airbench}': there is no such file")
    if options.airbench: options.airbench = options.airbench.resolve()
    if not options.rehearse and options.device in ('auto', 'cpu'):
        import torch
        if not torch.cuda.is_available(): raise BadInput('there is no CUDA device here\n--rehearse tries every path on a CPU')
    if (options.out/'results.jsonl').exists(): raise BadInput(f"'{options.out}' has results already\nName another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.rehearse:
        from cifar_fastai.data.sources import load_images
        load_images(options.data)  # fetched and decoded before the clock starts
    run_all(names, options)


if __name__ == '__main__': sys.exit(run_command(main))
