import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.notes.importing import formats


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_rows_around_bad_ones_keep_their_numbers(good: list[bool], last: int) -> None:
    numbers = np.arange(last + 1, last + 1 + len(good))
    bad = [(int(n), None, "") for n, ok in zip(numbers, good, strict=True) if not ok]
    rows, mine = formats._number(last, sum(good), bad)
    expected = [int(n) for n, ok in zip(numbers, good, strict=True) if ok]
    assert rows.tolist() == expected
    assert [n for n, _, _ in mine] == [n for n, _, _ in bad if expected and n < expected[-1]]


def _rows(file: formats.SourceFile, columns: list[str]) -> tuple[list[int], list[tuple[int, str]], dict[str, list]]:
    numbers, bad, cells = [], [], {name: [] for name in columns}
    for block in file.blocks(columns):
        numbers += block.rows.tolist()
        bad += [(row, reason) for row, _, reason in block.bad]
        for name in columns:
            column = block.columns[name]
            cells[name] += column if isinstance(column, list) else column.to_pylist()
    return numbers, bad, cells


def test_ragged_csv_rows_are_numbered_and_the_rest_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,t\n1,x\n2\n"3","two\nlines"\n4,y,z\n5,\xff\n')
    numbers, bad, cells = _rows(formats.SourceFile(file, "csv"), ["id", "t"])
    assert numbers == [1, 3, 5]
    assert bad == [(2, "1 cells, expected 2"), (4, "3 cells, expected 2")]
    assert cells == {"id": [b"1", b"3", b"5"], "t": [b"x", b"two\nlines", b"\xff"]}


def test_csv_without_header_counts_from_one(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"1,x\n2\n3,y\n")
    numbers, bad, _ = _rows(formats.SourceFile(file, "csv", ("id", "t")), ["id"])
    assert numbers == [1, 3]
    assert [row for row, _ in bad] == [2]


def test_csv_over_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CSV_BLOCK_BYTES", 64)
    lines = ["id,t", *(f"{n}" if n % 7 == 0 else f"{n},text{n}" for n in range(1, 200))]
    file = tmp_path / "a.csv"
    file.write_text("\n".join(lines) + "\n")
    numbers, bad, cells = _rows(formats.SourceFile(file, "csv"), ["id"])
    assert numbers == [n for n in range(1, 200) if n % 7]
    assert [row for row, _ in bad] == [n for n in range(1, 200) if n % 7 == 0]
    assert [int(cell) for cell in cells["id"]] == numbers


def test_json_lines_of_all_sorts(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    with gzip.open(file, "wt") as stream:
        stream.write(json.dumps({"id": 1}) + "\n\n{broken\n[1]\n" + json.dumps({"id": "2", "t": ["a"]}) + "\n")
        stream.write("[" * 100_000 + "\n")
    source = formats.SourceFile(file, "jsonl")
    assert source.columns() == ["id", "t"]
    numbers, bad, cells = _rows(source, ["id", "t"])
    assert (numbers, cells) == ([1, 5], {"id": [1, "2"], "t": [None, ["a"]]})
    assert [row for row, _ in bad] == [3, 4, 6]


def test_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("item_id,title\n1,x\n")
    with pytest.raises(InputError, match="did you mean 'title'"):
        list(formats.SourceFile(file, "csv").blocks(["titel"]))


def test_double_and_empty_headers(tmp_path: Path) -> None:
    (tmp_path / "double.csv").write_text("a,a\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="2 columns named 'a'"):
        list(formats.SourceFile(tmp_path / "double.csv", "csv").blocks(["a"]))
    with pytest.raises(InputError, match="not a readable CSV"):
        formats.SourceFile(tmp_path / "empty.csv", "csv").columns()


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("x\n1\n")
    assert [f.path.name for f in formats.source_files(tmp_path, "csv")] == ["a.csv", "b.csv"]
    with pytest.raises(InputError, match="holds no parquet file"):
        formats.source_files(tmp_path, "parquet")
    with pytest.raises(InputError, match="no such file"):
        formats.source_files(tmp_path / "none", "csv")
