"The tests and intervals of a comparison, against other implementations, hand-computed cases and simulation"
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar

from cifar_fastai.base.messages import BadInput
from cifar_fastai.comparison.significance import Difference, alike, bootstrap_images, holm, mcnemar, paired_seeds, seed_mean


@pytest.mark.parametrize('seed, images, share_a, share_b', [(0, 50, 0.6, 0.6), (1, 1000, 0.9, 0.93), (2, 300, 0.2, 0.5), (3, 10_000, 0.91, 0.912)])
def test_mcnemar_is_statsmodels(seed, images, share_a, share_b):
    random = np.random.default_rng(seed)
    a, b = random.random(images) < share_a, random.random(images) < share_b
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    assert found.p == pytest.approx(their_mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(b.mean() - a.mean()) and found.n == images
    assert mcnemar(b, a).p == pytest.approx(found.p) and mcnemar(b, a).difference == pytest.approx(-found.difference)


def test_identical_predictions():
    right = np.array([True, False, True, True])
    found = mcnemar(right, right)
    assert found.p == 1 and found.difference == 0 and not found.shown and 'p = 1.000' in found.line()
    fixed = bootstrap_images([right], [right])
    assert (fixed.low, fixed.high, fixed.difference) == (0, 0, 0) and not fixed.shown
    paired = paired_seeds([0.9, 0.8], [0.9, 0.8])
    assert paired.p == 1 and (paired.low, paired.high) == (0, 0) and not paired.shown


def test_one_seed_has_no_spread_and_no_interval():
    one = seed_mean([0.913])
    assert (one.sd, one.low, one.high, one.n) == (None, None, None, 1)
    assert one.percent() == '91.30% (n = 1)' and 'no interval' in one._repr_markdown_()
    pair = paired_seeds([0.9], [0.95])
    assert (pair.p, pair.low, pair.n) == (None, None, 1) and not pair.shown
    with pytest.raises(BadInput, match='no seed'): seed_mean([])


def test_seed_intervals_are_scipy_s():
    random = np.random.default_rng(0)
    a, b = random.normal(0.9, 0.01, (2, 5))
    theirs = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert (seed_mean(a).low, seed_mean(a).high) == pytest.approx((theirs.low, theirs.high))
    both = stats.ttest_rel(b, a)
    found = paired_seeds(a, b)
    assert found.p == pytest.approx(both.pvalue) and (found.low, found.high) == pytest.approx(tuple(both.confidence_interval(0.95)))
    assert found.n == 5 and found.of == 'pairs of seeds'


def test_holm_by_hand():
    some = [Difference('t', '', 0.1, p, None, None, 3, 'pairs of seeds') for p in (0.04, 0.001, 0.03, None, 0.9)]
    corrected = [one.p_corrected for one in holm(some)]
    assert corrected == [pytest.approx(0.09), pytest.approx(0.004), pytest.approx(0.09), None, pytest.approx(0.9)]
    assert [one.shown for one in holm(some)] == [False, True, False, False, False]
    assert holm(some[:1]) == some[:1]


def test_error_consistency_by_hand():
    "Geirhos et al.'s formula: (observed − expected)/(1 − expected), of right and wrong"
    random = np.random.default_rng(4)
    targets, a, b = random.integers(0, 4, (3, 200))
    one, two = a == targets, b == targets
    expected = one.mean()*two.mean() + (1 - one.mean())*(1 - two.mean())
    found = alike(a, b, targets)
    assert found.kappa == pytest.approx(((one == two).mean() - expected)/(1 - expected)) and found.agreement == pytest.approx((a == b).mean())
    assert alike(a, a, targets).kappa == pytest.approx(1) and alike(targets, targets, targets).kappa is None
    assert 'nothing to be consistent in' in alike(targets, targets, targets).line()


def test_a_difference_says_whether_it_is_noise():
    def of(p, low, high): return Difference('t', 'said', 0.003, p, low, high, 3, 'pairs of seeds')
    assert of(0.2, -0.004, 0.01).line().endswith('within the noise') and of(0.01, 0.001, 0.005).line().endswith('beyond the noise')
    assert '+0.30 points (95 % interval -0.40 to +1.00), p = 0.200, n = 3 pairs of seeds' in of(0.2, -0.004, 0.01).line()
    assert of(None, 0.001, 0.005).shown and not of(None, -0.001, 0.005).shown


def test_answers_to_different_images_are_refused():
    for test in (mcnemar, paired_seeds, bootstrap_images):
        with pytest.raises(BadInput, match='the same images'): test([True, False], [True])


DRAWS = 1000


def covered(intervals, truth): return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.slow
@pytest.mark.parametrize('n', [2, 3, 5])
def test_coverage_over_seeds(n):
    "Student's intervals, where results scatter normally"
    random = np.random.default_rng(n)
    means = [seed_mean(values) for values in random.normal(0.9, 0.004, (DRAWS, n))]
    assert covered([(one.low, one.high) for one in means], 0.9) == pytest.approx(0.95, abs=0.02)
    shared = random.normal(0, 0.01, (DRAWS, n))  # what a seed does to both arms
    a, b = 0.9 + shared + random.normal(0, 0.003, (DRAWS, n)), 0.905 + shared + random.normal(0, 0.003, (DRAWS, n))
    pairs = [paired_seeds(one, two) for one, two in zip(a, b)]
    assert covered([(one.low, one.high) for one in pairs], 0.005) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize('runs', [1, 3])
def test_coverage_over_images(runs):
    "The bootstrap, where images are drawn independently and the models are fixed"
    random, images = np.random.default_rng(runs), 1000
    hard = random.random((DRAWS, images))  # how hard each image is, for all models
    def right(skill): return hard[:, None] + random.normal(0, 0.2, (DRAWS, runs, images)) < skill
    a, b = right(0.85), right(0.87)
    many = np.random.default_rng(99)
    far = many.random(2_000_000)
    truth = (far + many.normal(0, 0.2, far.shape) < 0.87).mean() - (far + many.normal(0, 0.2, far.shape) < 0.85).mean()
    found = [bootstrap_images(one, two, resamples=1000, seed=draw) for draw, (one, two) in enumerate(zip(a, b))]
    assert covered([(one.low, one.high) for one in found], truth) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_mcnemar_keeps_its_level():
    "Where neither is better, p < 0.05 comes in at most one draw of twenty; an exact test errs on the safe side"
    random = np.random.default_rng(0)
    a, b = random.random((2, DRAWS, 400)) < 0.8
    share = np.mean([mcnemar(one, two).shown for one, two in zip(a, b)])
    assert 0.02 < share < 0.06
