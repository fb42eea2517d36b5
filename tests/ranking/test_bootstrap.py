"""Bootstrap intervals against scipy, on planted coverage, and their sharing of resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from noterec.errors import InputError
from noterec.ranking import bootstrap
from noterec.ranking.bootstrap import interval, paired


def test_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=300)
    ours = interval(values, resamples=6000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=6000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert abs(ours.low - theirs.low) < 0.06 * width
    assert abs(ours.high - theirs.high) < 0.06 * width
    assert ours.n == 300


def test_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    intervals = [interval(rng.random(60), resamples=300, seed=seed, level=0.9) for seed in range(300)]
    covered = np.mean([i.low <= 0.5 <= i.high for i in intervals])
    assert 0.84 < covered < 0.95


def test_the_same_seed_gives_the_same_interval_and_another_one_does_not():
    values = np.random.default_rng(0).random(50)
    assert interval(values, seed=5) == interval(values, seed=5)
    assert interval(values, seed=5) != interval(values, seed=6)


def test_arms_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(4)
    base = rng.random(200)  # the queries differ by far more than the arms do
    gain = 0.01 + rng.normal(0, 0.01, 200)
    result = paired(base + gain, base, seed=7)
    direct = interval(gain, seed=7)
    assert (result.low, result.high) == pytest.approx((direct.low, direct.high))
    assert result.verdict == "better"
    assert paired(base, base + gain, seed=7).verdict == "worse"
    shuffled = rng.permutation(base)
    assert paired(shuffled + gain, base, seed=7).verdict == "can't tell"


def test_relative_difference():
    result = paired([0.3, 0.3], [0.2, 0.2])
    assert (result.relative, result.relative_low, result.relative_high) == pytest.approx((0.5, 0.5, 0.5))
    assert result.difference == pytest.approx(0.1)
    assert paired([0.3, 0.3], [0.0, 0.0]).relative is None


def test_one_query_never_decides():
    assert paired([1.0], [0.0]).verdict == "can't tell"
    assert paired([1.0, 1.0], [1.0, 1.0]).verdict == "can't tell"


def test_block_size_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).random(37)
    whole = interval(values, resamples=100)
    monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", 100)
    assert interval(values, resamples=100) == whole


@pytest.mark.parametrize("values", [[], [[1.0]], [np.nan]])
def test_values_without_meaning_are_refused(values):
    with pytest.raises(InputError):
        interval(values)


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="resamples=0"):
        interval([1.0], resamples=0)
    with pytest.raises(InputError, match="level"):
        interval([1.0], level=95)
    with pytest.raises(InputError, match="2 and 1 values"):
        paired([1.0, 2.0], [1.0])
