"""Where a closed set comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.model.generation.categories import closed_set


def test_names_come_from_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffTravel\n\n  Food \r\nTravel\n手冲\n", encoding="utf-8")
    (tmp_path / "names.json").write_text(json.dumps(["Travel", "Food", "手冲", " "]))
    rows: list[dict[str, Any]] = [
        {"note_id": str(n), "title": "x", "category": c}
        for n, c in enumerate(["Travel", None, "手冲", "Food", "Food", ""])
    ]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), tmp_path / "data" / "notes" / "a.parquet")
    expected = ["Food", "Travel", "手冲"]
    for given in (tmp_path / "names.txt", str(tmp_path / "names.json"), tmp_path / "data", ["手冲", "Food ", "Travel"]):
        assert closed_set(given, ["own"]) == expected  # type: ignore[arg-type]
    assert closed_set(None, ["b", "a"]) == ["a", "b"]
    assert closed_set(["a\ud800"], []) == ["a?"]


def test_what_is_no_closed_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model has no categories of its own; give --categories"):
        closed_set(None, [])
    with pytest.raises(InputError, match="holds no category"):
        closed_set(["", "  "], ["own"])
    with pytest.raises(InputError, match="3 is no name of a category"):
        closed_set(["a", 3], [])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"none\.txt: no readable text"):
        closed_set(tmp_path / "none.txt", [])
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.txt: no readable text"):
        closed_set(tmp_path / "bytes.txt", [])
    (tmp_path / "map.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a JSON list of names, found dict"):
        closed_set(tmp_path / "map.json", [])
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        closed_set(tmp_path / "broken.json", [])
