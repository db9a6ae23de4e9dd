"""How often the intervals of `significance` hold the true value, and how often equal recipes are called different: `python benchmarks/coverage.py`

Two recipes, A and B, are trained with several seeds each and answer the same images. Image j is right for seed i of a recipe if

    base + seed_sd·s_i + image_sd·u_j + noise_ij > 0        (s, u and noise: standard normal)

`base` is chosen so that the expected accuracy, over seeds and images, is exactly the one wanted. The kinds of errors:

    none     image_sd 0: no image is harder than another; errors are independent
    apart    image_sd 1.5, a u of its own for A and for B: each recipe has its own hard images
    shared   image_sd 1.5, the same u for A and B: errors are correlated

`intervals_of_many` computes what `paired_seeds` and `seed_mean` compute, for thousands of data sets at once; `check_twin` holds the two together.
"""
import argparse
import itertools
import numpy as np, pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from cifar_fastai.comparison.significance import HALF_OF_EACH, TWO_OF_EACH, paired_seeds, seed_mean

KINDS = {'none': (0, False), 'apart': (1.5, False), 'shared': (1.5, True)}  # (image_sd, whether A and B share it)
SEED_SDS = 0, 0.0114, 0.057, 0.2  # at 90 % accuracy: 0, 0.2, 1.0 and 3.5 points from seed to seed
ACCURACIES = {0.3: 0.5, 0.5: 0.7, 0.7: 0.9, 0.9: 0.99, 0.99: 0.9}  # accuracy of A and of an equal B → of a B that differs
SEEDS = 1, 2, 3, 5, 10
IMAGES = 10, 20, 50, 100, 300, 1000, 10_000


def draw(
    random,
    trials:int, # Data sets
    images:int, # Test images
    accuracies, # Expected accuracy of each recipe
    kind:str, # Of `KINDS`
    seed_sd:float, # Spread of the seeds, in units of the noise
    seeds:int=max(SEEDS), # Seeds of each recipe
): # right: bool (trials, seeds, images) of each recipe; networks: expected accuracy of each trained network, (trials, seeds)
    "Answers of several recipes to the same images"
    image_sd, shared = KINDS[kind]
    right, networks, hard = [], [], None
    for accuracy in accuracies:
        if hard is None or not shared: hard = random.standard_normal((trials, 1, images), dtype='f4')
        skill = ndtri(accuracy)*np.sqrt(1 + image_sd**2 + seed_sd**2) + seed_sd*random.standard_normal((trials, seeds, 1))
        networks.append(ndtr(skill[..., 0]/np.sqrt(1 + image_sd**2)))
        right.append(random.standard_normal((trials, seeds, images), dtype='f4') < skill.astype('f4') + np.float32(image_sd)*hard)
    return right, networks


def spreads(
    values:np.ndarray, # int8 (trials, seeds, images)
    added, # As for `image_reach`
): # middle, its images' middle, error over images, over seeds, and over images with the seeds' share taken off; each (trials,)
    "Means and standard errors of many data sets"
    _, seeds, images = values.shape
    by_image, by_seed = values.sum(1, dtype='i4')/seeds, values.sum(2, dtype='i4')/images
    mean = by_seed.mean(1)
    total = images + sum(weight for _, weight in added)
    middle = (by_image.sum(1) + sum(value*weight for value, weight in added))/total
    squares = (by_image**2).sum(1) + sum(value**2*weight for value, weight in added)
    error = np.sqrt((squares/total - middle**2)/(total - 1))
    if seeds == 1: return mean, middle, error, None, None
    of_seeds = images*by_seed.var(1)*seeds
    rest = (values.astype('i1')**2).sum((1, 2), dtype='i8') - images*seeds*mean**2 - of_seeds - seeds*images*by_image.var(1)
    left = error**2 - np.maximum(rest, 0)/((seeds - 1)*(images - 1))/(seeds*images)
    return mean, middle, error, by_seed.std(1, ddof=1)/seeds**0.5, np.sqrt(np.maximum(left, 0))


def intervals_of_many(
    values:np.ndarray, # int8 (trials, seeds, images)
    added, # As for `image_reach`
)->dict: # name → (low, high), each (trials,): 'new', 'images' (networks fixed) and, of several seeds, 'old' (Student's over seeds)
    "The intervals of many data sets"
    _, seeds, images = values.shape
    mean, middle, error, seed_error, left = spreads(values, added)
    def around(center, half): return center - half, center + half
    over_images = around(middle, stdtrit(images - 1, 0.975)*error)
    if seeds == 1: return {'new': over_images, 'images': over_images}
    reach = stdtrit(seeds - 1, 0.975)*seed_error
    joined = around(mean, np.hypot(reach, stdtrit(images - 1, 0.975)*left))
    return {'new': (np.minimum(joined[0], over_images[0]), np.maximum(joined[1], over_images[1])), 'images': over_images, 'old': around(mean, reach)}


def check_twin(datasets=200, seed=0):
    "Raise where `paired_seeds` or `seed_mean` say something else than `intervals_of_many`, or where p and the interval disagree"
    random = np.random.default_rng(seed)
    for _ in range(datasets):
        images, seeds, accuracy = random.integers(2, 80), random.integers(2, 8), random.uniform(0.02, 0.98)
        (a, b), _ = draw(random, 1, images, (accuracy, random.uniform(0.02, 0.98)), 'shared', 0.1, seeds)
        low, high = intervals_of_many(b.astype('i1') - a.astype('i1'), HALF_OF_EACH)['new']
        found, one = paired_seeds(a[0], b[0]), seed_mean(a[0])
        np.testing.assert_allclose((found.low, found.high), (max(-1, low[0]), min(1, high[0])), atol=1e-9)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) and found.low < found.high
        low, high = intervals_of_many(a.astype('i1'), TWO_OF_EACH)['new']
        np.testing.assert_allclose((one.low, one.high), (max(0, low[0]), min(1, high[0])), atol=1e-9)


def bootstrap(
    random,
    gains:np.ndarray, # (trials, images), multiples of 1/seeds
    seeds:int,
    resamples:int=1000,
): # low, high: (trials,)
    "The percentile bootstrap over images, as it was before"
    counts = np.stack([(np.rint(gains*seeds) == value).sum(1) for value in range(-seeds, seeds + 1)], 1)
    images = gains.shape[1]
    drawn = random.multinomial(images, counts[:, None]/images, (len(gains), resamples)) @ (np.arange(-seeds, seeds + 1)/seeds/images)
    return np.quantile(drawn, (0.025, 0.975), axis=1)


def hits(interval, truth): return (interval[0] <= truth + 1e-12) & (truth - 1e-12 <= interval[1])


def cell(
    random,
    trials:int,
    images:int,
    accuracy:float, # Of `ACCURACIES`
    kind:str,
    seed_sd:float,
    seeds=SEEDS,
    old_images:bool=True, # Whether to run the bootstrap, which takes time
)->list[dict]: # One row for each number of seeds and question: share of `trials` that hold the true value
    "All questions for one setting; fewer seeds are the first of the most"
    (a, b, c), (net_a, net_b, _) = draw(random, trials, images, (accuracy, accuracy, ACCURACIES[accuracy]), kind, seed_sd, max(seeds))
    rows, about = [], dict(images=images, accuracy=accuracy, kind=kind, seed_sd=seed_sd, trials=trials)
    for n in seeds:
        equal, other = (one[:, :n].astype('i1') - a[:, :n].astype('i1') for one in (b, c))
        fixed = (net_b - net_a)[:, :n].mean(1)
        found, differing, one_arm = intervals_of_many(equal, HALF_OF_EACH), intervals_of_many(other, HALF_OF_EACH), intervals_of_many(a[:, :n].astype('i1'), TWO_OF_EACH)
        def row(question, intervals, truth, old=None):
            width = float(np.mean(np.minimum(intervals['new'][1], 1) - np.maximum(intervals['new'][0], -1)))
            rows.append(dict(about, seeds=n, question=question, new=hits(intervals['new'], truth).mean(), width=width,
                             old=hits(intervals['old'] if old is None else old, truth).mean() if old is not None or 'old' in intervals else np.nan))
        if n > 1:
            row('equal', found, 0); row('differing', differing, ACCURACIES[accuracy] - accuracy); row('one arm', one_arm, accuracy)
        else: row('one arm, network fixed', one_arm, net_a[:, 0])
        if n in (1, 3):
            gains = equal[:len(equal)//4 + 1].mean(1)  # a quarter: it takes time
            row('networks fixed', {'new': found['images']}, fixed)
            if old_images: rows[-1]['old'] = hits(bootstrap(random, gains, n), fixed[:len(gains)]).mean()
    return rows


def run(trials, images=IMAGES, accuracies=ACCURACIES, kinds=KINDS, seed_sds=SEED_SDS, seed=0, chunk=2e7, **more):
    "The whole grid: a row for each cell"
    rows, trials = [], dict(zip(images, trials)) if isinstance(trials, (list, tuple)) else dict.fromkeys(images, trials)
    for place, (many, accuracy, kind, seed_sd) in enumerate(itertools.product(images, accuracies, kinds, seed_sds)):
        random, left = np.random.default_rng([seed, place]), trials[many]
        while left > 0:
            now = min(left, max(1, int(chunk/(many*max(SEEDS)))))
            rows += cell(random, now, many, accuracy, kind, seed_sd, **more); left -= now
    table = pd.DataFrame(rows)
    for name in ('new', 'old', 'width'): table[name] *= table.trials
    table = table.groupby(['question', 'images', 'seeds', 'accuracy', 'kind', 'seed_sd'], as_index=False)[['new', 'old', 'width', 'trials']].sum(min_count=1)
    for name in ('new', 'old', 'width'): table[name] /= table.trials
    return table


def run_again(
    table:pd.DataFrame, # From `run`
    factor:int, # How many times as many trials
    below:float=0.945, # Which cells: those whose new coverage is less
    seed:int=1,
)->pd.DataFrame: # The same, those cells measured afresh
    "Cells that look too low, again with more trials: of hundreds of cells some are low by chance"
    table, cells = table.copy(), table[table.new < below].groupby(['images', 'accuracy', 'kind', 'seed_sd'])
    for (images, accuracy, kind, seed_sd), low in cells:
        again = run(int(low.trials.max()*factor), [images], {accuracy: 0}, {kind: 0}, [seed_sd], seed, old_images=False).set_index(['question', 'seeds'])
        for place, row in low.iterrows():
            fresh = again.loc[(row.question, row.seeds)]
            table.loc[place, ['new', 'trials', 'width']] = fresh.new, fresh.trials, fresh.width
    return table


def span(values): return f'{100*values.min():.1f} … {100*values.max():.1f}' if values.notna().all() else '–'


def as_markdown(table, question, by=('images', 'seeds'), alarms=False):
    "One question: lowest … highest over all other settings, in percent"
    part = table[table.question == question]
    heads = [*by, *(['false alarms, old', 'false alarms, new'] if alarms else ['coverage, old', 'coverage, new']), 'cells', 'trials a cell']
    lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|'*len(heads)]
    for key, rows in part.groupby(list(by)):
        old, new = (1 - rows.old, 1 - rows.new) if alarms else (rows.old, rows.new)
        counts = f'{rows.trials.min():,.0f}' + (f' to {rows.trials.max():,.0f}' if rows.trials.max() > rows.trials.min() else '')
        lines.append('| ' + ' | '.join([*(f'{one:,}' for one in key), span(old), span(new), str(len(rows)), counts]) + ' |')
    return '\n'.join(lines)


QUESTIONS = {'equal': 'Equal recipes: false alarms over seeds and images', 'differing': 'Recipes that differ: coverage of the difference',
             'one arm': 'Accuracy of one recipe: coverage over seeds and images',
             'one arm, network fixed': 'Accuracy of one trained network: coverage over images',
             'networks fixed': 'Difference of trained networks: coverage over images, the networks fixed'}

def whole_markdown(table, by=('images', 'seeds')):
    "All questions"
    return '\n\n'.join(f'### {title}\n\n{as_markdown(table, question, by, question == "equal")}' for question, title in QUESTIONS.items())


if __name__ == '__main__':
    words = argparse.ArgumentParser(description='How often the intervals hold the true value')
    words.add_argument('--trials', type=int, nargs='+', default=[4000], help='data sets a cell; one number, or one for each of the numbers of images')
    words.add_argument('--images', type=int, nargs='+', default=list(IMAGES)); words.add_argument('--again', type=int, default=0, help='how many times as many trials for cells that look low')
    words.add_argument('--csv', help='keep every cell in this file')
    given = words.parse_args()
    check_twin()
    table = run(given.trials if len(given.trials) > 1 else given.trials[0], given.images)
    if given.again: table = run_again(table, given.again)
    if given.csv: table.to_csv(given.csv, index=False)
    print(whole_markdown(table))
