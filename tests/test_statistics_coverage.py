"How often the intervals hold the true value and equal recipes are called different, by simulation: a small form of benchmarks/coverage.py"
import numpy as np
import pytest

from cifar_fastai.comparison.significance import mcnemar, paired_seeds, seed_mean

pytestmark = pytest.mark.slow


def test_the_simulation_computes_what_the_product_says(benchmark_module):
    benchmark_module('coverage').check_twin(300)


def test_coverage_and_false_alarms_over_the_grid(benchmark_module):
    "Each cell has 2000 data sets: a true 95 % comes out below 93.2 % in one cell of ten thousand. What looks low is measured again with ten times as many"
    coverage = benchmark_module('coverage')
    table = coverage.run(2000, images=(10, 50, 300), accuracies=(0.3, 0.9, 0.99), seed_sds=(0, 0.2), old_images=False)
    table = coverage.run_again(table, 10, below=0.945)
    assert len(table) > 400 and table.new.min() >= 0.935, table.loc[table.new.idxmin()]
    equal = table[table.question == 'equal']
    assert (1 - equal.new).max() <= 0.055, equal.loc[equal.new.idxmin()]
    large = table[(table.images == 300) & (table.accuracy < 0.95) & (table.seeds >= 5)]
    assert large.new.mean() < 0.98  # nor are they wide for nothing


@pytest.mark.parametrize('images, seeds', [(10, 2), (20, 3), (50, 2), (300, 5)])
def test_equal_recipes_are_not_called_different(images, seeds):
    "The product itself, data set by data set; Student's t over seeds called 7 to 12 % of the first three different, most of them with p = 0"
    random = np.random.default_rng(images)
    found = [paired_seeds(*(random.random((2, seeds, images)) < 0.9)) for _ in range(1500)]
    assert np.mean([one.shown for one in found]) <= 0.055 and min(one.p for one in found) > 1e-8


def test_one_network_s_accuracy_is_held():
    random = np.random.default_rng(0)
    for images, share in ((10, 0.99), (50, 0.99), (100, 0.9)):
        found = [seed_mean(random.random((1, images)) < share) for _ in range(1500)]
        assert np.mean([one.low <= share <= one.high for one in found]) >= 0.935


def test_mcnemar_keeps_its_level_and_its_interval():
    "Where neither is better, p < 0.05 comes in at most one draw of twenty; an exact test errs on the safe side"
    random = np.random.default_rng(0)
    for images, a, b in ((50, 0.8, 0.8), (400, 0.8, 0.8), (400, 0.8, 0.9)):
        found = [mcnemar(random.random(images) < a, random.random(images) < b) for _ in range(700)]
        assert np.mean([one.low <= b - a <= one.high for one in found]) >= 0.93
        if a == b: assert np.mean([one.shown for one in found]) <= 0.055
