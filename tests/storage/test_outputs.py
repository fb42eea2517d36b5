"""An output of `embed` has the same life in an object store as on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from noterec import storage
from noterec.embedding.table import compact_embeddings, embeddings_status, repair_embeddings
from noterec.errors import ArtefactError
from tests.embedding.outputs import KilledError, held, many, run, write


def test_changed_withdrawn_killed_compacted_damaged_repaired(root: storage.Place, tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "data", notes), root / "embeddings"
    assert run(data, out)[1] == list(notes)
    notes["n001"] = "changed"
    del notes["n002"]
    write(data, notes)
    second, encoded = run(data, out)
    assert (encoded, second.deleted, set(held(out))) == (["n001"], 1, set(notes))
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=1)
    assert run(data, out)[1] == list(notes)[10:]
    found = embeddings_status(out, deep=True)
    assert (found.rows, found.notes, found.tombstones, found.epoch, found.complete) == (51, 24, 1, 1, True)
    assert (found.damage, found.bytes > 0) == ({}, True)
    freed = compact_embeddings(out, shard_rows=10)
    assert (freed.rows_freed, set(held(out))) == (27, set(notes))
    file = storage.parquet_files(out)[0]
    file.unlink()
    assert embeddings_status(out).damage == {file.name: "is missing"}
    with pytest.raises(ArtefactError, match="noterec embeddings repair"):
        run(data, out)
    assert list(repair_embeddings(out).struck) == [file.name]
    assert len(run(data, out)[1]) == 10
    assert set(held(out)) == set(notes)
