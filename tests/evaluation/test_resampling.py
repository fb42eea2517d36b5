"""The shared resamples give what the plain bootstrap of one column gives."""

from __future__ import annotations

import numpy as np
import pytest

from noterec.evaluation import resampling
from noterec.evaluation.resampling import resample
from noterec.ranking.bootstrap import interval, paired


@pytest.mark.parametrize("queries", [1, 2, 57, 400])
def test_equals_the_plain_bootstrap(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(queries).random((queries, 3))
    found = resample(values, resamples=300, seed=5)
    for column in range(3):
        plain = interval(values[:, column], resamples=300, seed=5)
        assert found.interval(column) == pytest.approx(vars(plain), abs=1e-12)
    plain_difference = paired(values[:, 0], values[:, 2], resamples=300, seed=5)
    difference = found.difference(0, 2)
    assert difference.pop("verdict") == plain_difference.verdict
    assert difference == pytest.approx({key: getattr(plain_difference, key) for key in difference}, abs=1e-12)
    relative = {"mean": "relative", "low": "relative_low", "high": "relative_high"}
    plain_relative = {key: getattr(plain_difference, name) for key, name in relative.items()}
    assert found.relative(0, 2) == pytest.approx(plain_relative, abs=1e-12)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 2))
    whole = resample(values, resamples=200, seed=1).means
    monkeypatch.setattr(resampling, "_BLOCK_DRAWS", 150)
    np.testing.assert_allclose(resample(values, resamples=200, seed=1).means, whole)


def test_no_share_of_nothing() -> None:
    values = np.column_stack([np.ones(4), np.array([0, 0, 0, 1.0]), np.zeros(4)])
    found = resample(values, resamples=200, seed=0)
    assert found.relative(0, 1) is None  # some resample leaves the only hit out
    assert found.relative(0, 2) is None
    assert found.relative(2, 0) == {"mean": -1.0, "low": -1.0, "high": -1.0}


def test_verdicts() -> None:
    better = np.column_stack([np.ones(30), np.linspace(0, 0.5, 30), np.ones(30)])
    found = resample(better, resamples=200, seed=0)
    assert found.difference(0, 1)["verdict"] == "better"
    assert found.difference(1, 0)["verdict"] == "worse"
    assert found.difference(0, 2)["verdict"] == "can't tell"
    assert resample(better[:1], resamples=200, seed=0).difference(0, 1)["verdict"] == "can't tell"
