"""How right a recipe is at its end, and how long that took: seeds in turn, beside the leanest loop on the same machine.

    python benchmarks/time_to_accuracy.py                                       # `speed`, three seeds
    python benchmarks/time_to_accuracy.py --recipe speed --epochs 3 --accuracy 0.85
    python benchmarks/time_to_accuracy.py --recipe speed-long --device cuda

Each seed is the command `cifar_fastai.train` in a process of its own. The recipe's length is fixed before: it is run to its end, its last weights
are the result, and they meet the test set once. No test-time augmentation is in any figure but the one that says so.

training  seconds inside training steps, augmentation included; evaluation, files and imports left out
wall      seconds of the whole command: imports, data, training, an evaluation each epoch, predictions and files

Machines differ, and one machine from hour to hour. So before each seed, a lean loop of `training_speed.py` (ResNet-9 of width 64, batch 512, bf16 where
the device has it) is timed: before the first all of them, then the fastest. The median of its rates says what one pass over 50,000 images takes it, and
that is the unit that both times are given in.

With `--out FILE` each seed is kept when it ends, and the same command goes on where it was stopped. One file is for one machine.
"""
import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path

from common import fresh, machine, say, spread
from training_speed import device, find_tcmalloc, lean_arms

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.files import check_new_file, read_json, write_json
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.named import named_recipe
from cifar_fastai.recipes.recipe import recipe_to_dict

IMAGES = 50_000  # in an epoch of the unit, whatever the recipe trains on
SCRIPT = Path(__file__).with_name('training_speed.py')


def wanted(options):
    "The recipe that the words ask for, without its seed"
    recipe = named_recipe(options.recipe)
    if recipe.holdout or recipe.early_stopping or recipe.until_accuracy:
        raise BadInput(f"the recipe '{options.recipe}' holds images out or stops by them\nA recipe whose length is fixed is timed here")
    changes = {name: getattr(options, name) for name in ('epochs', 'limit', 'data', 'width', 'augment') if getattr(options, name) is not None}
    return dataclasses.replace(recipe, device=options.device, **changes)


def one(options):
    "A training in this process; says its metrics"
    from cifar_fastai.base.devices import keep_freed_memory
    from cifar_fastai.runs.session import train_session
    keep_freed_memory(options.device)
    with tempfile.TemporaryDirectory() as folder:
        run = train_session(dataclasses.replace(wanted(options), seed=options.seed), folder, say=lambda line: print(line, file=sys.stderr), explained=False)
        say(run.metrics)


def time_lean(options, arms):
    "The fastest of some lean loops, and its images a second"
    def rate(arm):
        preload = find_tcmalloc() if arm in ('lean-memory', 'lean-both') else ''
        return fresh(SCRIPT, [f'--arm={arm}', '--arch=resnet9', f'--seconds={options.seconds}', f'--device={options.device}', f'--data={options.data or "cifar10"}',
                              f'--tcmalloc={preload}'], preload)['rate']
    rates = {arm: rate(arm) for arm in arms}
    return max(rates.items(), key=lambda found: found[1])


def measured(options, words, seed, arms):
    "The images a second of the fastest lean loop among `arms`, then a run"
    arm, rate = time_lean(options, arms)
    run = fresh(__file__, ['--arm=run', f'--seed={seed}', *words])
    print(f"seed {seed}: test {run['test_accuracy']:.2%}, training {run['train_seconds']:,.1f} s, wall {run['wall_seconds']:,.1f} s, "
          f"{run['train_images_per_second']:,.0f} images/s; {arm} loop {rate:,.0f} images/s", flush=True)
    return {'lean': rate, 'lean_arm': arm, **run}


def kept_runs(path, what):
    "The seeds that `path` keeps of the same recipe, versions and kind of device; none if there is no such file"
    if not path.exists():
        check_new_file(path)
        return []
    kept = read_json(path)
    for part, value in what.items():
        if kept.get(part) != value: raise BadInput(f"'{path}' keeps no seeds of this {part}\nName another file with --out")
    return kept['runs']


def report(options, runs):
    "What the seeds have in common"
    accuracies = [run['test_accuracy'] for run in runs]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies) if len(runs) > 1 else float('nan')
    epoch = IMAGES/statistics.median(run['lean'] for run in runs)
    lines = [f'test accuracy at the end: mean {mean:.2%}, standard deviation {deviation:.2%} ({min(accuracies):.2%}…{max(accuracies):.2%}, n = {len(runs)})']
    if all('tta' in run for run in runs):
        lines.append(f"with test-time augmentation ({runs[0]['tta']['kind']}): mean {statistics.mean(run['tta']['test_accuracy'] for run in runs):.2%}")
    lines.append(f"an epoch of ResNet-9 in the {runs[0]['lean_arm']} loop takes {epoch:,.1f} s: {spread([run['lean'] for run in runs], '{:,.0f}')} images/s")
    for name, key in (('training', 'train_seconds'), ('wall', 'wall_seconds')):
        seconds = [run[key] for run in runs]
        lines.append(f"{name:8} {spread(seconds, '{:,.1f}')} s = {spread([value/epoch for value in seconds])} lean epochs")
    if options.accuracy: lines.append(f"{options.accuracy:.1%} as a mean of {len(runs)} seeds: {'reached' if mean >= options.accuracy else 'not reached'}")
    return '\n'.join(lines)


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recipe', default='speed', help='name or recipe.json [speed]')
    parser.add_argument('--epochs', type=int, help="another length than the recipe's")
    parser.add_argument('--width', type=int, help="another width than the recipe's")
    parser.add_argument('--augment', help="another augmentation than the recipe's")
    parser.add_argument('--limit', type=int, help='train on at most this many images')
    parser.add_argument('--data', help='other data than CIFAR-10')
    parser.add_argument('--seeds', type=int, default=3, help='how many runs, from seed 0 [3]')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--seconds', type=float, default=15, help='how long the lean loop is timed before each seed [15]')
    parser.add_argument('--accuracy', type=float, help='say whether the mean at the end reaches this share, such as 0.90')
    parser.add_argument('--out', type=Path, help='a JSON file that keeps the metrics of each seed; seeds that it has are not run again')
    parser.add_argument('--traceback', action='store_true')
    parser.add_argument('--arm', help=argparse.SUPPRESS)
    parser.add_argument('--seed', type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.arm: return one(options)
    recipe = wanted(options)
    if options.seeds < 1: raise BadInput(f'--seeds {options.seeds}: name at least one')
    print(machine(options.device))
    print(f"{options.recipe}: {recipe.arch}, width {recipe.width}, {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.optimizer}, "
          f"{recipe.augment}, test-time augmentation: {recipe.tta}", flush=True)
    passed = [f'--{name}={getattr(options, name)}' for name in ('recipe', 'epochs', 'width', 'augment', 'limit', 'data', 'device') if getattr(options, name) is not None]
    what = {'recipe': recipe_to_dict(dataclasses.replace(recipe, seed=0)), 'machine': machine(options.device)}
    runs = kept_runs(options.out, what) if options.out else []
    for seed in range(len(runs), options.seeds):
        runs.append(measured(options, passed, seed, [runs[0]['lean_arm']] if runs else lean_arms(device(options).type)))
        if options.out: write_json(options.out, {**what, 'runs': runs})
    print(report(options, runs[:options.seeds]))


if __name__ == '__main__': sys.exit(run_command(main))
