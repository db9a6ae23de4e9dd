"""The recipes of published systems, run as they are or smaller, in one table.

    python benchmarks/recipes.py                                  # in full: many hours on a CPU, minutes each on a GPU
    python benchmarks/recipes.py --width 16 --epochs 5            # as a 2-core CPU can bear

The last row repeats `published-resnet9-sgd` with the fault that the system it follows had, a softmax before cross-entropy: what the fault costs
is a number. Nothing else in this project can train that way. Rows that are there already, with the same recipe and data, are kept.
"""
import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from torch.nn import functional as F

from cifar_fastai.training.losses import ClassificationLoss
from cifar_fastai.base.intervals import wilson_interval
from cifar_fastai.base.commands import run_command
from cifar_fastai.base.devices import keep_freed_memory
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.comparison.grid import grid_arms, run_key
from cifar_fastai.training.history import History
from cifar_fastai.interpretation.interpretation import CifarInterpretation
from cifar_fastai.base.messages import one_of
from cifar_fastai.recipes.named import GRIDS, RECIPES
from cifar_fastai.base.files import whole_file
from cifar_fastai.base.randomness import seed_everything
from cifar_fastai.comparison.significance import mcnemar
from cifar_fastai.data.sources import load_images
from cifar_fastai.training.stopping import stopping_callbacks
from cifar_fastai.training.learner import cifar_learner, fit_recipe

FAULTY = 'published-resnet9-sgd'
FAULT = f'{FAULTY} with softmax before the loss'


class SoftmaxFirst(ClassificationLoss):
    "Cross-entropy of probabilities, taken for logits: the fault"
    def forward(self, logits, target, **kwargs): return super().forward(F.softmax(logits.float(), dim=-1), target, **kwargs)


def wanted(options):
    "Name, recipe and published accuracy of each row"
    changes = {name: getattr(options, name) for name in ('width', 'epochs', 'limit', 'data') if getattr(options, name) is not None}
    rows = [(name, named.recipe, named.published) for name, named in RECIPES.items() if named.published]
    rows.append((FAULT, RECIPES[FAULTY].recipe, ''))
    for name, grid in GRIDS.items(): rows += [(f'{name}: {arm.name}', arm.recipe, grid.published) for arm in grid_arms(grid.recipe, grid.fields)]
    if options.only:
        for part in options.only: one_of(part, [name.split(':')[0] for name, _, _ in rows], 'recipe')
        rows = [row for row in rows if row[0].split(':')[0] in options.only]
    return [(name, dataclasses.replace(recipe, seed=seed, **changes), published) for name, recipe, published in rows for seed in range(options.seeds)]


def measured(name, recipe, data):
    "One training: the row, and which test images it got right"
    keep_freed_memory(recipe.device)
    seed_everything(recipe.seed)
    learner, history = cifar_learner(image_dataloaders(data, recipe), recipe), History(lambda h: print(f"  epoch {len(h.rows)}: {h.rows[-1]['valid_accuracy']:.2%}", flush=True))
    if name == FAULT: learner.loss_func = SoftmaxFirst(recipe.label_smoothing)
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, cbs=[history, *stopping_callbacks(learner, lambda line: None)])
    kept = CifarInterpretation.from_learner(learner).kept
    return dict(accuracy=kept.right.mean(), loss=kept.losses.mean(dtype=float), epochs=len(history.rows), seconds=history.train_seconds,
                images_per_second=history.images_per_second), kept.right


def line(row):
    low, high = wilson_interval(round(row.accuracy*row.images), row.images)
    return (f'| {row.recipe} | {row.epochs:.0f} | {row.accuracy:.2%} ({low:.2%} to {high:.2%}) | {row.loss:.3f} | {row.seconds:,.0f} | '
            f'{row.images_per_second:,.0f} | {row.published} |')


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--width', type=int, help="first stage's channels, of every network")
    parser.add_argument('--epochs', type=int, help='epochs, of every recipe')
    parser.add_argument('--limit', type=int, help='train on at most this many images')
    parser.add_argument('--data', help='other data than CIFAR-10')
    parser.add_argument('--seeds', type=int, default=1, help='runs of each recipe [1]')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='only these')
    parser.add_argument('--out', type=Path, default=Path('runs/recipes'), help='folder of the table and of what each run got right')
    parser.add_argument('--traceback', action='store_true')
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out/'recipes.csv'
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=['key'])
    data, keys = load_images(options.data or 'cifar10'), []
    for name, recipe, published in wanted(options):
        key = f'{name} {run_key(recipe, data.fingerprints)}'
        keys.append(key)
        if key in set(table.key): continue
        print(f'{name}, seed {recipe.seed}', flush=True)
        row, right = measured(name, recipe, data)
        np.save(options.out/f"{name.replace(' ', '-').replace(':', '')}-{recipe.seed}.npy", right)
        row = dict(key=key, recipe=name, seed=recipe.seed, images=len(right), published=published, **row)
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        with whole_file(path) as beside: table.to_csv(beside, index=False)
    rows = table[table.key.isin(keys)].fillna({'published': ''})
    print('\n| recipe | epochs | test accuracy (95 % Wilson interval, one seed a row) | loss | seconds | images/s | published, in full |\n|---|---|---|---|---|---|---|')
    for row in rows.itertuples(): print(line(row))
    pair = [options.out/f"{name.replace(' ', '-')}-0.npy" for name in (FAULT, FAULTY)]
    if {FAULT, FAULTY} <= set(rows.recipe): print(f'\nwithout the fault, against with it: {mcnemar(*map(np.load, pair)).line()}')


if __name__ == '__main__': sys.exit(run_command(main))
