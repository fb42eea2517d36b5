"""The planted platform, written once for each module that trains on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import planted


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data, train, pairs.parquet and valid.parquet."""
    folder = tmp_path_factory.mktemp("planted")
    planted.write(folder)
    return folder
