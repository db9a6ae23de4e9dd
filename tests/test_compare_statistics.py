"The tests and intervals of a comparison, against other implementations and hand-computed cases; how often they hold: test_statistics_coverage.py"
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar

from cifar_fastai.base.intervals import wilson_interval
from cifar_fastai.base.messages import BadInput
from cifar_fastai.comparison.significance import (BOTH, HALF_OF_EACH, IMAGES_FIXED, NETWORKS_FIXED, Difference, alike, holm, image_reach, mcnemar, over_images,
                                                  paired_seeds, reaches, seed_mean)


@pytest.mark.parametrize('seed, images, share_a, share_b', [(0, 50, 0.6, 0.6), (1, 1000, 0.9, 0.93), (2, 300, 0.2, 0.5), (3, 10_000, 0.91, 0.912)])
def test_mcnemar_is_statsmodels(seed, images, share_a, share_b):
    random = np.random.default_rng(seed)
    a, b = random.random(images) < share_a, random.random(images) < share_b
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    assert found.p == pytest.approx(their_mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(b.mean() - a.mean()) and (found.n, found.over) == (images, NETWORKS_FIXED)
    assert mcnemar(b, a).p == pytest.approx(found.p) and mcnemar(b, a).difference == pytest.approx(-found.difference)


@pytest.mark.parametrize('images', [5, 20, 40])
def test_mcnemar_s_interval_and_p_agree(images):
    "For every count of images that one of two networks gets right alone"
    for fixed in range(images + 1):
        for broke in range(images + 1 - fixed):
            found = mcnemar(np.arange(images) < broke, (np.arange(images) >= broke) & (np.arange(images) < broke + fixed))
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high) and -1 <= found.low < found.difference + 1e-9 and found.low < found.high <= 1


def test_agresti_and_min_by_their_own_code():
    "diffpropci of users.stat.ufl.edu/~aa/cda/R/matched, whose variance divides by n where ours divides by n − 1, and z for t"
    fixed, broke, images = 26, 7, 10_000
    middle = (fixed - broke)/(images + 2)
    error = ((fixed + broke + 1) - (fixed - broke)**2/(images + 2))**0.5/(images + 2)
    found = image_reach(np.repeat([1., -1., 0.], [fixed, broke, images - fixed - broke]), HALF_OF_EACH)
    assert found.ends == pytest.approx((middle - 1.959964*error, middle + 1.959964*error), rel=1e-3)


def test_networks_that_agree_are_not_known_to_be_equal():
    right = np.array([True, False, True, True]*5)
    for found in (mcnemar(right, right), over_images([right], [right]), paired_seeds([right, right], [right, right])):
        assert found.difference == 0 and not found.shown and found.p in (None, 1) and found.low < -0.05 and found.high > 0.05
    assert 'p = 1.000' in mcnemar(right, right).line()


def test_seeds_that_agree_by_chance_do_not_look_certain():
    "Ten images; both seeds of B get all right, both of A the same half"
    half, full = np.array([[True]*5 + [False]*5]*2), np.ones((2, 10), bool)
    found = paired_seeds(half, full)
    images = over_images(half, full)
    assert found.difference == 0.5 and found.p > 0.02 and found.low == pytest.approx(images.low) and found.high >= images.high and images.high - images.low > 0.6
    one = seed_mean(full)
    assert one.mean == 1 and one.sd == 0 and one.low < 0.75 and one.high == 1


@pytest.mark.parametrize('seeds', [1, 2, 3, 10])
def test_no_interval_is_of_no_width(seeds):
    random = np.random.default_rng(seeds)
    for images in (1, 2, 10, 50):
        for share in (0, 0.01, 0.5, 0.99, 1):
            a, b = random.random((2, seeds, images)) < share
            found, one = paired_seeds(a, b), seed_mean(a)
            assert found.low <= found.difference <= found.high and -1 <= found.low < found.high <= 1
            assert one.low <= one.mean <= one.high and 0 <= one.low < one.high <= 1
            if seeds > 1: assert 0 < found.p <= 1 and found.shown == (not found.low <= 0 <= found.high)


def test_one_seed_has_no_spread_and_an_interval_of_its_images():
    right = np.arange(10_000) < 9130
    one = seed_mean([right])
    assert (one.sd, one.n, one.images, one.over) == (None, 1, 10_000, NETWORKS_FIXED) and one.percent() == '91.30% (n = 1)'
    assert (one.low, one.high) == pytest.approx(wilson_interval(9130, 10_000), abs=2e-4) and 'networks fixed' in one._repr_markdown_()
    pair = paired_seeds([right], [right])
    assert (pair.p, pair.over) == (None, NETWORKS_FIXED)
    with pytest.raises(BadInput, match='no seed'): seed_mean([])


def test_seeds_that_scatter_bring_back_student():
    "Seed means far apart and many images: scipy's paired t"
    right_a, right_b = (np.arange(100_000) < np.array(counts)[:, None] for counts in ([60_000, 75_000, 80_000], [72_000, 75_000, 99_000]))
    found, theirs = paired_seeds(right_a, right_b), stats.ttest_rel(right_b.mean(1), right_a.mean(1))
    assert found.p == pytest.approx(theirs.pvalue, rel=0.01) and (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.01)
    assert (found.n, found.of, found.over) == (3, 'pairs of seeds', BOTH)


def test_mean_squares_are_statsmodels():
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm
    random = np.random.default_rng(0)
    gains = 1.*(random.random((4, 25)) < 0.8) - (random.random((4, 25)) < 0.6)
    long = pd.DataFrame([(i, j, value) for (i, j), value in np.ndenumerate(gains)], columns=['seed', 'image', 'gain'])
    squares = anova_lm(ols('gain ~ C(seed) + C(image)', long).fit()).mean_sq/gains.size
    images, both = reaches(gains, HALF_OF_EACH)
    (seeds, seed_degrees), (rest, image_degrees) = both.parts
    assert (seed_degrees, image_degrees) == (3, 24) and seeds**2 == pytest.approx(squares['C(seed)'])
    assert rest**2 == pytest.approx(max(0, images.parts[0][0]**2 - squares['Residual']))


def test_accuracies_alone_are_scipy_s():
    random = np.random.default_rng(0)
    a, b = random.normal(0.9, 0.01, (2, 5))
    both, found = stats.ttest_rel(b, a), paired_seeds(a, b)
    assert found.p == pytest.approx(both.pvalue) and (found.low, found.high) == pytest.approx(tuple(both.confidence_interval(0.95)))
    assert (found.n, found.of, found.over) == (5, 'pairs of seeds', IMAGES_FIXED)
    for a, b in (([0.85, 0.90], [0.90, 0.95]), ([0.9, 0.8], [0.9, 0.8]), ([0.9], [0.95])): # equal by rounding, equal, one
        found = paired_seeds(a, b)
        assert (found.p, found.low, found.high, found.shown) == (None, None, None, False)


def test_holm_by_hand():
    some = [Difference('t', '', 0.1, p, None, None, 3, 'pairs of seeds', BOTH) for p in (0.04, 0.001, 0.03, None, 0.9)]
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


def test_a_difference_says_whether_it_is_noise_and_of_what():
    def of(p, low, high, over=BOTH): return Difference('t', 'said', 0.003, p, low, high, 3, 'pairs of seeds', over)
    assert of(0.2, -0.004, 0.01).line().endswith('within the noise over seeds and images')
    assert of(0.01, 0.001, 0.005, NETWORKS_FIXED).line().endswith('beyond the noise over images, the trained networks fixed')
    assert '+0.30 points (95% interval -0.40 to +1.00), p = 0.200, n = 3 pairs of seeds' in of(0.2, -0.004, 0.01).line()
    assert of(None, 0.001, 0.005).shown and not of(None, -0.001, 0.005).shown


def test_answers_to_different_images_are_refused():
    for test in (mcnemar, paired_seeds, over_images):
        with pytest.raises(BadInput, match='the same images'): test([True, False], [True])
    with pytest.raises(BadInput, match='2 × 3 and 2 × 4'): paired_seeds(np.ones((2, 3)), np.ones((2, 4)))
