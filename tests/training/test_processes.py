"""Who speaks and writes is known before training and stays so after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noterec.errors import ConfigError
from noterec.training import processes


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processes.rank.cache_clear()
    processes._launched.cache_clear()
    yield
    processes.rank.cache_clear()
    processes._launched.cache_clear()


def test_a_process_of_several_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (processes.rank(), processes.is_first()) == (1, False)
    monkeypatch.delenv("WORLD_SIZE")  # as Lightning leaves it
    assert not processes.is_first()


def test_left_over_variables_of_another_launcher_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert processes.is_first()


def test_another_number_of_processes_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"started 4 processes \(WORLD_SIZE\), devices=2"):
        processes.own_device("cpu", 2)
    assert processes.own_device("cpu", 4).type == "cpu"
