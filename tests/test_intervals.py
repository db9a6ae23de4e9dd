"Intervals against those of scipy.stats"
import numpy as np
import pytest
from scipy import stats

from cifar_fastai.base.intervals import mean_interval, share_interval, student_interval, wilson_interval


@pytest.mark.parametrize('level', [0.5, 0.95, 0.999])
@pytest.mark.parametrize('right, images', [(0, 1), (1, 1), (0, 20), (8, 10), (190, 200), (20, 20), (9_341, 10_000)])
def test_wilson(right, images, level):
    theirs = stats.binomtest(right, images).proportion_ci(level, 'wilson')
    low, high = wilson_interval(right, images, level)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (low == 0) == (right == 0) and (high == 1) == (right == images)
    assert wilson_interval(np.int64(right), np.int64(images), level) == (low, high)


def test_of_no_images_nothing_is_known(): assert np.isnan(wilson_interval(0, 0)).all()


@pytest.mark.parametrize('level', [0.5, 0.95, 0.999])
@pytest.mark.parametrize('count', [2, 3, 30, 1_000])
def test_student(count, level):
    values = np.random.default_rng(count).normal(3, 2, count).astype(np.float32)
    theirs = stats.ttest_1samp(values.astype(float), 0).confidence_interval(level)
    assert student_interval(values, level) == pytest.approx((values.mean(dtype=float), theirs.low, theirs.high), rel=1e-12)


def test_as_dictionaries():
    assert share_interval(np.arange(10) < 8) == dict(zip(('value', 'low', 'high'), (0.8, *wilson_interval(8, 10))))
    values = np.random.default_rng(0).normal(3, 2, 30)
    found = mean_interval(values)
    assert tuple(found.values())[:3] == student_interval(values)
    assert found['spread'] == pytest.approx(np.sqrt(((values - values.mean())**2).sum()/29))
