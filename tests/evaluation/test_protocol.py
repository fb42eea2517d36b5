"""The protocol's tables: who is asked, who may be found, and every way in which they may not fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.config import EvaluateConfig
from noterec.errors import InputError
from noterec.evaluation.protocol import MAIN, PAPER, WARM, Catalogue, Inputs, directions, not_measured
from noterec.evaluation.slices import slices

from .conftest import TEXTS, pairs_table, write_notes

CONFIG = EvaluateConfig(at=[3, 1])
IDS = sorted(TEXTS)


def names(rows: np.ndarray) -> list[str]:
    return [IDS[row] for row in rows]


def test_three_directions_from_a_split(platform: Path) -> None:
    catalogue = Catalogue.read(platform / "dataset")
    main, warm, paper = directions(catalogue, Inputs.collect(platform / "split"), CONFIG)
    assert [main.name, warm.name, paper.name] == [MAIN, WARM, PAPER]
    assert names(main.queries) == ["n1", "n2", "n3"]
    assert names(main.relevance.rows) == ["n3", "w1", "w2", "w3", "w4", "w2"]
    assert main.relevance.counts.tolist() == [3, 2, 1]
    assert names(main.candidates) == IDS
    assert main.at == (1, 3)
    assert names(warm.queries) == ["w1", "w3"]
    assert names(warm.candidates) == ["n1", "n2", "n3"]  # the valid note v1 is no candidate
    assert names(paper.queries) == ["n1", "n1", "n2", "n3"]
    assert names(paper.relevance.rows) == ["n2", "n3", "n3", "n1"]
    assert (paper.at, paper.left_out_at) == ((1,), (100, 1000, 10_000))


def test_cut_offs_of_the_paper_are_capped_to_the_pool(tmp_path: Path) -> None:
    ids = [f"n{i:04d}" for i in range(1002)]
    write_notes(tmp_path / "ds", {note: ("t", "", []) for note in ids})
    storage.write_table(pairs_table([(ids[0], ids[1])]), tmp_path / "p.parquet")
    found = {}
    for size in (101, 102, 1001, 1002):
        storage.write_table(pa.table({"note_id": ids[:size]}), tmp_path / "new.parquet")
        inputs = Inputs(tmp_path / "p.parquet", paper_pairs=tmp_path / "p.parquet", new_notes=tmp_path / "new.parquet")
        found[size] = directions(Catalogue.read(tmp_path / "ds"), inputs, CONFIG)[-1].at
    # With itself left out a query ranks one note less than the pool holds; K of that many would always be 1.
    assert found == {101: (10,), 102: (100,), 1001: (100,), 1002: (100, 1000)}


def test_explicit_inputs_go_before_the_split(platform: Path) -> None:
    storage.write_table(pairs_table([("n1", "w1"), ("n1", "w1")]), platform / "own.parquet")
    inputs = Inputs.collect(platform / "split", pairs=platform / "own.parquet")
    main = directions(Catalogue.read(platform / "dataset"), inputs, CONFIG)[0]
    assert (names(main.queries), main.pairs, main.repeated) == (["n1"], 1, 1)


def test_what_is_not_measured_says_why(platform: Path) -> None:
    (platform / "split" / "test-pairs-paper.parquet").unlink()
    storage.write_table(pairs_table([]), platform / "split" / "test-pairs-warm.parquet")
    inputs = Inputs.collect(platform / "split")
    found = directions(Catalogue.read(platform / "dataset"), inputs, CONFIG)
    assert [direction.name for direction in found] == [MAIN]
    reasons = not_measured(found, inputs)
    assert reasons[PAPER] == "no pairs given"
    assert "holds no pairs" in reasons[WARM]


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("test-pairs.parquet", [("n1", "w1"), ("x1", "w1"), ("x0", "w2")], r"2 notes of its anchor_id .*'x0', 'x1'"),
        (
            "test-pairs.parquet",
            [("n1", "gone")],
            r"1 notes of its related_id .*'gone'; give the dataset that was split",
        ),
        ("test-pairs.parquet", [("n1", "n1")], "1 rows relate a note to itself"),
        ("test-pairs.parquet", [], "no test pairs in it"),
        (
            "test-pairs-warm.parquet",
            [("w1", "w2")],
            "1 relevant notes are not among the candidates of 'warm -> new': 'w2'",
        ),
        ("test-pairs-paper.parquet", [("n1", "v1")], "not among the candidates of 'paper': 'v1'"),
    ],
)
def test_pairs_that_do_not_fit_are_named(platform: Path, file: str, rows: list[tuple[str, str]], message: str) -> None:
    storage.write_table(pairs_table(rows), platform / "split" / file)
    with pytest.raises(InputError, match=message):
        directions(Catalogue.read(platform / "dataset"), Inputs.collect(platform / "split"), CONFIG)


def test_missing_inputs_are_named(platform: Path) -> None:
    with pytest.raises(InputError, match="no test pairs given"):
        Inputs.collect(None)
    with pytest.raises(InputError, match=r"no test-pairs.parquet there"):
        Inputs.collect(platform / "dataset")
    with pytest.raises(InputError, match="without new_notes"):
        Inputs.collect(None, pairs="p", warm_pairs="w")
    storage.write_table(pa.table({"note_id": ["n1", "q"], "part": ["test", "test"]}), platform / "new.parquet")
    inputs = Inputs.collect(platform / "split", new_notes=platform / "new.parquet")
    with pytest.raises(InputError, match=r"names 2 new test notes, and 1 of them are not in .*: 'q'"):
        directions(Catalogue.read(platform / "dataset"), inputs, CONFIG)


NONE = np.zeros(len(IDS), dtype=bool)


def test_slices_by_clicks_and_text(platform: Path) -> None:
    catalogue = Catalogue.read(platform / "dataset")
    main = directions(catalogue, Inputs.collect(platform / "split"), CONFIG)[0]
    clicks = np.array([{"w1": 5, "w2": 3, "w3": 4, "w4": 2, "w5": 9}.get(note, 0) for note in IDS])
    found = {part.name: part for part in slices(main, clicks, catalogue.text_lengths(), NONE)}
    # The six relevant notes have 0 (n3), 2 (w4), 3, 3 (w2 twice), 4 (w3), 5 (w1) clicks.
    low, middle, high = (found[f"relevant_{name}_clicks"] for name in ("low", "middle", "high"))
    assert (names(main.queries[low.queries]), names(low.relevance.rows)) == (["n1", "n2"], ["n3", "w4"])
    assert (names(main.queries[middle.queries]), names(middle.relevance.rows)) == (["n1", "n3"], ["w2", "w2"])
    assert (names(main.queries[high.queries]), names(high.relevance.rows)) == (["n1", "n2"], ["w1", "w3"])
    assert (low.says, middle.says, high.says) == ("clicks <= 2", "2 < clicks <= 3", "clicks > 3")
    lengths = catalogue.text_lengths()
    assert lengths[IDS.index("n1")] == len("Ramen in Tokyo" + "noodle soup broth" + "food" + "ramen")
    short, long = found["query_short_text"], found["query_long_text"]
    assert sorted([*short.queries, *long.queries]) == [0, 1, 2]
    assert lengths[main.queries[short.queries]].max() < lengths[main.queries[long.queries]].min()
    assert len(short.relevance.rows) + len(long.relevance.rows) == 6
    assert not any(part.name.startswith("relevant") for part in slices(main, None, lengths, ~NONE))
    flat = [part.name for part in slices(main, np.zeros(len(IDS), dtype=np.int64), lengths, NONE)]
    assert flat == ["relevant_low_clicks", "query_short_text", "query_long_text"]


def test_slices_by_images_where_queries_differ(platform: Path) -> None:
    catalogue = Catalogue.read(platform / "dataset")
    assert not catalogue.with_image().any()  # there is no such column
    images = {"n1": [{"path": "a.jpg"}], "n2": [], "n3": None, "w1": [{"bytes": b"x"}, {"bytes": b"y"}]}
    rows = [{"note_id": note, "title": TEXTS[note][0], "images": images.get(note)} for note in reversed(IDS)]
    storage.write_table(
        pa.Table.from_pylist(rows, schema=schema.NOTES), platform / "dataset" / "notes" / "part.parquet"
    )
    catalogue = Catalogue.read(platform / "dataset")
    assert names(np.flatnonzero(catalogue.with_image())) == ["n1", "w1"]
    main = directions(catalogue, Inputs.collect(platform / "split"), CONFIG)[0]
    found = {part.name: part for part in slices(main, None, catalogue.text_lengths(), catalogue.with_image())}
    seen, unseen = found["query_with_image"], found["query_without_image"]
    assert names(main.queries[seen.queries]) == ["n1"]
    assert names(seen.relevance.rows) == ["n3", "w1", "w2"]
    assert names(main.queries[unseen.queries]) == ["n2", "n3"]
    assert (seen.says, unseen.says) == ("at least one image", "no image")


def test_text_lengths_of_missing_parts(tmp_path: Path) -> None:
    write_notes(tmp_path / "ds", {"a": (None, "abc", None), "b": ("标题", None, ["x", "yz"]), "c": ("", "", [])})
    assert Catalogue.read(tmp_path / "ds").text_lengths().tolist() == [3, 5, 0]
