"""How well are labels found that real people got wrong? CIFAR-10N's, CIFAR-10H's and the reviewed test labels, on CIFAR-10.

    python benchmarks/label_errors.py FOLDER                              # the table of finding: parts of the images, and what comes of them
    python benchmarks/label_errors.py FOLDER --mend 3                     # and what mending brings: 6 ways, 3 seeds each

FOLDER holds `cifar10n.npz` (arrays `clean_label`, `aggre_label`, `random_label1` … in the official order), `cifar10h_counts.npy`,
`cifar10_test_labels.npy` and `cleanlab_test_votes.csv` (index, votes_given, …). The k-th image of a class in the official order is the k-th of it in the data.

The runs lie in --out, and one that is there is not trained again; a stopped one goes on. What people said is used for nothing but the last count: which image is trained on,
and how it is judged, is decided without it. `dynamics` and `loss` come from the same runs as `out of fold`: each image was trained on in all parts but one.
"""
import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.devices import keep_freed_memory
from cifar_fastai.base.files import whole_file
from cifar_fastai.base.label_files import CONDITIONS, DROP, LabelRow, parse_condition, write_labels, write_shares
from cifar_fastai.base.messages import BadInput, need_module, one_of
from cifar_fastai.comparison.folds import fold_plan, gather_folds, mean_margins, place_names, train_folds
from cifar_fastai.comparison.significance import paired_seeds
from cifar_fastai.data.loaders import load_recipe_images
from cifar_fastai.data.sources import load_images
from cifar_fastai.labels.confident import confident_joint, count_wrong, flag_wrong
from cifar_fastai.labels.issues import find_issues
from cifar_fastai.labels.scores import joined_margin, largest_other, logit_margin, margin_quality
from cifar_fastai.recipes.named import SPEED
from cifar_fastai.runs.files import read_dynamics
from cifar_fastai.runs.interpreted import run_predictions

FILES = ('cifar10n.npz', 'cifar10h_counts.npy', 'cifar10_test_labels.npy', 'cleanlab_test_votes.csv')


def people(folder, name):
    "A file of what people said"
    path = Path(folder)/name
    if not path.is_file(): raise BadInput(f"'{path}' is not there: the folder must hold {', '.join(FILES)}")
    return np.load(path) if path.suffix in ('.npz', '.npy') else pd.read_csv(path)


def official_places(labels, official):
    "Where each of our images lies in the official order: the k-th of a class is the k-th of that class"
    places = np.empty(len(labels), np.int64)
    if not np.array_equal(np.bincount(labels), np.bincount(official)): raise BadInput('the labels in the folder are not those of these images')
    places[np.argsort(labels, kind='stable')] = np.argsort(official, kind='stable')
    return places


def write_official(folder, data, labels):
    "CIFAR-10 with other training labels, in the official binary form"
    if (folder/'batches.meta.txt').is_file(): return
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([np.r_[labels, data.labels[data.test_positions]].astype(np.uint8)[:, None], data.images.transpose(0, 3, 1, 2).reshape(len(data.labels), -1)], 1)
    for number in range(5): rows[number*10000:(number + 1)*10000].tofile(folder/f'data_batch_{number + 1}.bin')
    rows[50000:].tofile(folder/'test_batch.bin')
    with whole_file(folder/'batches.meta.txt') as beside: beside.write_text('\n'.join(data.classes) + '\n')


def intervals(measure, *arrays, draws=200, seed=0):
    "A measure of some arrays, with the interval of 95% of images drawn anew"
    random, count = np.random.default_rng(seed), len(arrays[0])
    drawn = [measure(*(array[where] for array in arrays)) for where in (random.integers(0, count, count) for _ in range(draws))]
    return measure(*arrays), *np.nanpercentile(drawn, [2.5, 97.5])


def shown(values): return f'{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})'


def cleanlab_issues(probabilities, labels):
    "What cleanlab flags by its defaults, and the quality that it ranks by: the flagged ones first"
    flagged = need_module('cleanlab.filter', 'labels').find_label_issues(labels, probabilities, n_jobs=1)
    return flagged, need_module('cleanlab.rank', 'labels').get_label_quality_scores(labels, probabilities) - 2*flagged


def judge(found):
    "What `labels` says of each label, by both kinds of margins"
    kept = found.kept
    return find_issues(kept.probabilities, kept.targets, kept.names, kept.classes, margin_quality(joined_margin(logit_margin(kept.logits, kept.targets), found.margins)))


def methods(found, dynamics, data, issues):
    "Name → quality and flagged images, each by its own means"
    kept, labels = found.kept, found.kept.targets
    margins, joint = logit_margin(kept.logits, labels), confident_joint(kept.probabilities, labels)
    probabilities, loss = np.zeros((len(data.labels), len(data.classes))), np.full(len(data.labels), np.nan)
    counts = np.zeros(len(data.labels))
    for one in dynamics:
        where, there = place_names(one.name, data), (~np.isnan(one.margin)).any(0)
        last = np.where(np.isnan(one.loss[-1]), np.nanmean(one.loss.astype(np.float64), 0), one.loss[-1])
        probabilities[where[there]] += one.probabilities[there]
        loss[where[there]] = np.fmax(loss[where[there]], last[there])
        counts[where[there]] += 1
    seen, loss = counts[found.positions] > 0, loss[found.positions]
    means = np.where(seen[:, None], probabilities[found.positions]/np.maximum(counts[found.positions], 1)[:, None], kept.probabilities)
    means /= means.sum(1, keepdims=True)
    def flag(quality, joint, suggested): return flag_wrong(joint, labels, suggested, quality)
    def best(values): return np.where(largest_other(values, labels)[1] > values[np.arange(len(labels)), labels], largest_other(values, labels)[0], labels)
    area = mean_margins(dynamics, data)[found.positions]
    area, slow = np.where(np.isfinite(area), area, margins), -np.where(np.isfinite(loss), loss, kept.losses)
    random = np.random.default_rng(0).random(len(labels))
    theirs, ranked = cleanlab_issues(kept.probabilities, labels)
    count = int(issues.wrong.count)
    def lowest(quality): return quality <= np.partition(quality, count - 1)[count - 1]
    return {'out of fold and dynamics (`labels`)': (issues.quality, issues.kinds == 'wrong'), 'out of fold': (margins, flag(margins, joint, best(kept.probabilities))),
            'dynamics': (area, flag(area, confident_joint(means, labels), best(means))), "cleanlab's `find_label_issues`": (ranked, theirs),
            'loss in the last epoch': (slow, lowest(slow)), 'random': (random, lowest(random))}


def print_thresholds(name, issues, wrong, truth):
    "What `--accept` takes at a few qualities"
    print(f'\n{name}:\n\n| quality below | labels | wrong | suggestion is the true class | of all wrong labels |\n|---|---|---|---|---|')
    for limit in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        taken = issues.quality < limit
        if taken.any(): print(f'| {limit} | {taken.sum():,} | {wrong[taken].mean():.1%} | {(issues.suggested == truth)[taken].mean():.1%} | {(wrong & taken).sum()/wrong.sum():.1%} |')
    print()


def finding(options, recipe, clean, official, noisy, name):
    "The rows of the table for one set of labels; and its parts"
    out = options.out/name
    places = official_places(clean.labels[clean.train_positions], official)
    write_official(out/'data'/'cifar-10-batches-bin', clean, noisy[places])
    recipe = dataclasses.replace(recipe, data=str(out/'data'))
    data = load_recipe_images(recipe)
    paths = train_folds(fold_plan(recipe, options.folds, data, out), out)
    found = gather_folds(paths, data)
    issues, truth = judge(found), clean.labels[found.positions]
    wrong = found.kept.targets != truth
    table = []
    for method, (quality, flagged) in methods(found, [read_dynamics(path/'image_dynamics.npz') for path in paths], data, issues).items():
        precision, recall = (intervals(lambda hit, among: hit[among].mean() if among.any() else np.nan, *pair, draws=options.draws) for pair in ((wrong, flagged), (flagged, wrong)))
        average = intervals(average_precision_score, wrong, -quality, draws=options.draws)
        table.append(f'| {name} | {method} | {shown(average)} | {shown(precision)} | {shown(recall)} | {flagged.sum():,} |')
    print_thresholds(name, issues, wrong, truth)
    right = found.kept.predicted == clean.labels[found.positions]
    print(f'{name}: {wrong.sum():,} of {len(wrong):,} labels are wrong; by the joint, {issues.wrong.line()}; out of fold {right.mean():.2%} are taken for the clean class, {found.kept.right.mean():.2%} for the given one')
    return table, paths, found, issues


def judged_tests(options, paths):
    "How well a run's quality ranks test labels that people deny"
    kept = run_predictions(paths[0])
    quality = margin_quality(logit_margin(kept.logits, kept.targets))
    places = official_places(kept.targets, people(options.folder, 'cifar10_test_labels.npy').astype(int))
    votes, counts = people(options.folder, 'cleanlab_test_votes.csv'), people(options.folder, 'cifar10h_counts.npy')[places].astype(float)
    mine = pd.Series(quality[np.argsort(places)])[votes['index']].to_numpy()
    denied, other = (votes.votes_given < 3).to_numpy(), counts.argmax(1) != kept.targets
    shares = counts[np.arange(len(counts)), kept.targets]/counts.sum(1)
    print(f'\nThe run {paths[0].name}, test accuracy {kept.right.mean():.2%}. AUROC of its quality (95 % interval over images):\n\n| test labels | images | people say otherwise | AUROC |\n|---|---|---|---|')
    for name, wrong, score in (('reviewed by five people: the given label has no majority', denied, mine), ("CIFAR-10H: another class was chosen most", other, quality),
                               ('CIFAR-10H: less than half chose the label', shares < 0.5, quality), ('CIFAR-10H: less than four of five chose the label', shares < 0.8, quality)):
        values = intervals(lambda hit, value: roc_auc_score(hit, -value) if 0 < hit.sum() < len(hit) else np.nan, wrong, score, draws=options.draws)
        print(f'| {name} | {len(wrong):,} | {wrong.sum():,} | {shown(values)} |')


def label_file(path, clean, labels, positions=None):
    "A label file that gives training images other labels; -1 drops an image"
    own = clean.labels[:clean.train_count]
    write_labels(path, [LabelRow(place, clean.names[place], clean.classes[own[place]], label=DROP if labels[place] < 0 else clean.classes[labels[place]])
                        for place in np.flatnonzero(labels != own)])
    return str(path)


def mending(options, recipe, clean, noisy, found, issues, name):
    "What mending brings, in accuracy on the clean test set"
    from cifar_fastai.comparison.grid import grid_arms, grid_plan, train_missing
    out = options.out/name
    wrong, places = issues.kinds == 'wrong', found.positions
    if options.accept:
        sign, limit = parse_condition(options.accept)
        wrong &= CONDITIONS[sign](issues.quality, limit)
    dropped, changed = noisy.copy(), noisy.copy()
    dropped[places[wrong]], changed[places[wrong]] = -1, issues.suggested[wrong]
    recipe = dataclasses.replace(recipe, holdout=0, track_images=False, tta='none', epochs=options.mend_epochs or recipe.epochs, width=options.mend_width or recipe.width)
    ways = {'noisy labels': dict(labels=label_file(out/'noisy.csv', clean, noisy)), 'found and dropped': dict(labels=label_file(out/'dropped.csv', clean, dropped)),
            'found and relabelled': dict(labels=label_file(out/'relabelled.csv', clean, changed)),
            'found and softened': dict(labels=str(out/'noisy.csv'), soft_labels=str(out/'shares.csv')), f'noisy labels, {options.loss} loss': dict(labels=str(out/'noisy.csv'), loss=options.loss), 'clean labels': {}}
    write_shares(out/'shares.csv', [clean.names[place] for place in places], issues.shares(), clean.classes)
    rights = {}
    for way, fields in ways.items():
        arms = grid_arms(dataclasses.replace(recipe, **fields), {}, options.mend)
        plan = train_missing(grid_plan(arms, out/'mended'), out/'mended')
        failed = next((run.failure for run in plan.runs if run.path is None), None)
        if failed: raise BadInput(failed)
        rights[way] = np.stack([run_predictions(run.path).right for run in plan.runs])
    base, ceiling = rights['noisy labels'], rights['clean labels']
    print(f'\nTrained on {name}, {options.mend} seeds, {recipe.epochs} epochs:\n\n| training | accuracy on the clean test set | against noisy labels | of the gap to clean labels |\n|---|---|---|---|')
    for way, right in rights.items():
        closed = intervals(lambda *rows: (rows[0].mean() - rows[1].mean())/(rows[2].mean() - rows[1].mean()), right.T, base.T, ceiling.T, draws=options.draws)
        against = paired_seeds(base, right).line() if way != 'noisy labels' and options.mend > 1 else ''
        print(f"| {way} | {', '.join(f'{one:.2%}' for one in right.mean(1))} | {against} | {'' if way in ('noisy labels', 'clean labels') else shown(closed)} |")


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where the files of what people said lie')
    parser.add_argument('--sets', default='random_label1,aggre_label', help='which labels of CIFAR-10N')
    parser.add_argument('--folds', type=int, default=2, help='parts that are left out [2]')
    parser.add_argument('--width', type=int, default=16, help="first stage's channels of cifarnet [16]")
    parser.add_argument('--epochs', type=int, default=7, help='epochs of each run [7]')
    parser.add_argument('--limit', type=int, default=0, help='at most this many images; 0: all')
    parser.add_argument('--draws', type=int, default=200, help='times that the images are drawn anew for an interval [200]')
    parser.add_argument('--mend', type=int, default=0, metavar='SEEDS', help='also train on mended labels, with so many seeds; 0: no')
    parser.add_argument('--mend-epochs', type=int, default=0, help='epochs of those [as many]')
    parser.add_argument('--mend-width', type=int, default=0, help='width of their network [as wide]')
    parser.add_argument('--accept', default='', help="of the flagged labels mend only these, such as 'quality<0.1' [all]")
    parser.add_argument('--loss', default='generalized', help='the loss that bears wrong labels [generalized]')
    parser.add_argument('--out', type=Path, default=Path('runs/label_errors'), help='folder of the runs')
    parser.add_argument('--traceback', action='store_true')
    options = parser.parse_args(words)
    arrays, clean = people(options.folder, 'cifar10n.npz'), load_images('cifar10')
    names = [one_of(name.strip(), [name for name in arrays.files if name != 'clean_label'], 'set of labels') for name in options.sets.split(',')]
    keep_freed_memory('auto')
    recipe = dataclasses.replace(SPEED, width=options.width, epochs=options.epochs, batch_size=256, progressive=0.9, tta='mirror', track_images=True, holdout=500, limit=options.limit)
    official, rows, parts = arrays['clean_label'].astype(np.int64), [], {}
    for name in names:
        table, *parts[name] = finding(options, recipe, clean, official, arrays[name].astype(np.int64), name)
        rows += table
    print('\n| labels | method | average precision | precision | recall | flagged |\n|---|---|---|---|---|---|', *rows, sep='\n')
    judged_tests(options, parts[names[-1]][0])
    places = official_places(clean.labels[clean.train_positions], official)
    for name in names if options.mend else ():
        mending(options, recipe, clean, arrays[name].astype(np.int64)[places], *parts[name][1:], name)


if __name__ == '__main__': sys.exit(run_command(main))
