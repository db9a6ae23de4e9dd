"""What the benchmarks share: the machine in a line, arms in processes of their own, rounds in turn, ratios with their spread.

A benchmark is a script beside this one. It says `from common import …`, which works for `python benchmarks/NAME.py` and, with
this folder on `sys.path`, in a test. An arm runs in a fresh process, which is the same script called with `--arm`:

    def one(options):                                    # in the child: measures, and says so in a line of JSON
        say({'rate': 1234.5})

    results = in_turn(['ours', 'lean'], options.rounds, lambda arm: fresh(__file__, ['--arm', arm]))
    print(spread(ratios(results, 'ours', 'lean')))       # 1.50 (1.42…1.76, n = 3)

Ratios are taken within a round, for a machine that others use too is not as fast in every round.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time


def spread(values, form='{:.2f}'):
    "Median, lowest, highest and count of `values`, as text"
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f'{middle} ({low}…{high}, n = {len(values)})'


def machine(device='auto'):
    "Versions, device and arithmetic, in a line"
    from cifar_fastai.base.devices import choose_device, choose_precision, environment
    where = choose_device(device)
    return ', '.join(f'{key} {value}' for key, value in environment(where, choose_precision('auto', where)).items())


def wait(where):
    "Until the device has done what it was given"
    import torch
    if where.type == 'cuda': torch.cuda.synchronize(where)


def peak_memory():
    "The most memory that this process has had, in GiB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**30 if sys.platform == 'darwin' else 2**20)


def say(result):
    "What an arm measured, for `fresh`; its peak memory and its seconds of CPU go with it"
    print(json.dumps({**result, 'memory': peak_memory(), 'cpu_seconds': time.process_time()}), flush=True)


def fresh(script, words, preload=None):
    "Run `script` with `words` in a process of its own, before all a library where one is named; what it said, with `wall_seconds`, imports and all"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(script), *map(str, words)], capture_output=True, text=True,
                          env={**os.environ, 'LD_PRELOAD': str(preload)} if preload else None)
    if done.returncode: sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), 'wall_seconds': time.perf_counter() - started}


def in_turn(arms, rounds, measure, show=lambda result: f"{result['rate']:,.0f}"):
    "`measure(arm)` for each arm in turn, `rounds` times: a list of {arm: result}; a line is printed each round"
    results = []
    for number in range(rounds):
        results.append({arm: measure(arm) for arm in arms})
        print(f'round {number + 1}: ' + ', '.join(f'{arm} {show(result)}' for arm, result in results[-1].items()), flush=True)
    return results


def ratios(results, above, below, key='rate'):
    "`key` of the arm `above` over that of the arm `below`, in each round"
    return [done[above][key]/done[below][key] for done in results]


def write_line(out, **values):
    "Keep a result, whatever comes next"
    with (out/'results.jsonl').open('a') as file:
        file.write(json.dumps(values) + '\n')
        file.flush()
        os.fsync(file.fileno())
