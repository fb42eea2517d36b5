"""What is added and removed between builds: at once, for good, and through every order of builds, changes and rollbacks."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec.config import IndexConfig
from noterec.errors import ArtefactError, InputError
from noterec.index import Index, build_index, bundle, changes, publishing
from noterec.index.changing import FOLD_SHARDS, add_notes, remove_notes
from noterec.index.manage import index_status

from .conftest import embeddings_table, unit, write_dataset, write_shards

D = 4
AXES = unit(np.eye(D))
IDS = ["b", "d", "f", "h"]


def note(note_id: str, vector: Any, **columns: Any) -> pl.DataFrame:
    values = np.asarray(vector, dtype=np.float32).tolist()
    return pl.DataFrame(
        {"note_id": [note_id], "embedding": [values], **{name: [value] for name, value in columns.items()}},
        schema_overrides={"embedding": pl.List(pl.Float32)},
    )


def embeddings(path: Path, **vectors: Any) -> Path:
    return write_shards(path, embeddings_table(list(vectors), np.array(list(vectors.values()))))


@pytest.fixture(params=["flat", "ivf"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    embeddings(tmp_path / "e", **dict(zip(IDS, AXES, strict=True)))
    write_dataset(tmp_path / "ds", one={"note_id": IDS, "title": IDS, "exposure": [1, 2, 3, 4]})
    build(tmp_path, kind=request.param)
    return tmp_path / "i"


def build(folder: Path, name: str = "e", kind: Any = "flat", **options: Any) -> None:
    write_dataset(folder / "ds", one={"note_id": [*IDS, "a", "c"], "title": [*IDS, "A", "C"], "exposure": [1] * 6})
    config = IndexConfig(attributes=["title", "exposure"], kind=kind, lexical=False, **options)
    build_index(folder / name, notes=folder / "ds", out=folder / "i", config=config)


def test_an_added_note_is_found_filtered_and_asked_by_id(index: Path) -> None:
    assert add_notes(index, note("c", AXES[1], title="fresh", exposure=0, ignored=3), model_version="m1") == 1
    opened = Index.open(index)
    assert (len(opened), opened.version) == (5, "bundle-000001+1")
    assert opened.similar("d", 1)["note_id"].to_pylist() == ["c"]
    assert opened.similar("c", 1).to_pylist() == [{"query": 0, "note_id": "d", "rank": 1, "score": 1.0}]
    assert opened.search(AXES[1], 2)["note_id"].to_pylist() == ["c", "d"]  # equal scores: by id, not by row
    assert opened.search(AXES[1], 9, where={"exposure": 0})["note_id"].to_pylist() == ["c"]
    row = opened.row("c")
    assert opened.attributes.row(row, named=True) == {"note_id": "c", "title": "fresh", "exposure": 0}
    np.testing.assert_allclose(opened.vectors([row, 0, row]), [AXES[1], AXES[0], AXES[1]])


def test_a_replaced_note_has_one_row_that_counts(index: Path) -> None:
    add_notes(index, note("d", AXES[0]), model_version="m1")
    opened = Index.open(index)
    assert len(opened) == 4
    assert opened.similar("b", 5)["note_id"].to_pylist() == ["d", "f", "h"]
    assert opened.search(AXES[1], 1)["note_id"].to_pylist() != ["d"]
    assert opened.attributes.row(opened.row("d"), named=True)["title"] is None
    assert opened.live.tolist() == [True, False, True, True, True]


def test_a_removed_note_is_gone_at_once_and_through_later_builds(index: Path, tmp_path: Path) -> None:
    assert remove_notes(index, ["d", "nobody"]) == 1
    opened = Index.open(index)
    assert len(opened) == 3
    assert opened.search(AXES[1], 9)["note_id"].to_pylist() == ["b", "f", "h"]
    with pytest.raises(InputError, match="no note 'd'"):
        opened.row("d")
    build(tmp_path)  # its vector and its note are still there
    after = Index.open(index)
    assert after.ids.to_list() == ["b", "f", "h"]
    assert (after.info.removed, after.info.left_out, after.info.changes_through) == (1, 0, 2)
    assert b"d" not in (after.folder / "notes.parquet").read_bytes()[:0] + "".join(after.ids).encode()
    add_notes(index, note("d", AXES[1]), model_version="m1")
    assert Index.open(index).search(AXES[1], 1)["note_id"].to_pylist() == ["d"]
    build(tmp_path)
    assert Index.open(index).ids.to_list() == IDS


def test_a_later_build_confirms_an_addition_or_keeps_it(index: Path, tmp_path: Path) -> None:
    add_notes(index, pl.concat([note("a", AXES[0]), note("c", AXES[1])]), model_version="m1")
    embeddings(tmp_path / "e2", **dict(zip([*IDS, "a"], [*AXES, AXES[3]], strict=True)))
    build(tmp_path, "e2")
    opened = Index.open(index)
    assert opened.folder.name == "bundle-000002"
    np.testing.assert_allclose(opened.vector("a"), AXES[3])  # of the build
    np.testing.assert_allclose(opened.vector("c"), AXES[1])  # of the addition, which no build has confirmed
    assert len(opened) == 6
    publishing.rollback(index)
    np.testing.assert_allclose(
        Index.open(index).vector("a"), AXES[0]
    )  # over the bundle that lacks it, the addition counts


def test_an_addition_during_a_build_counts_over_it(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noterec.index import build as stage

    read = stage.write_vectors

    def beaten(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        add_notes(index, note("b", AXES[2]), model_version="m1")
        remove_notes(index, ["h"])
        return found

    monkeypatch.setattr(stage, "write_vectors", beaten)
    build(tmp_path)
    opened = Index.open(index)
    assert opened.info.changes_through == 0
    np.testing.assert_allclose(opened.vector("b"), AXES[2])
    assert opened.search(AXES[3], 9)["note_id"].to_pylist() == ["b", "d", "f"]


def test_an_addition_that_no_build_confirms_expires(index: Path, tmp_path: Path) -> None:
    add_notes(index, note("c", AXES[1]), model_version="m1")
    build(tmp_path, added_days=1e-9, keep=1)
    assert Index.open(index).ids.to_list() == IDS
    assert changes.read(index).frame.height == 1  # it counts over the bundle before
    build(tmp_path, added_days=1e-9, keep=1)
    assert changes.read(index).frame.height == 0
    assert changes.read(index).through == 1  # numbers are never given again
    remove_notes(index, ["b"])
    assert Index.open(index).version == "bundle-000003+2"


def test_another_model_takes_no_part(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"model version m2.*holds those of m1"):
        add_notes(index, note("c", AXES[1]), model_version="m2")
    add_notes(index, note("c", AXES[1]), model_version="m1")
    write_shards(tmp_path / "e2", embeddings_table(IDS, AXES, "m2"))
    build(tmp_path, "e2")
    assert Index.open(index).ids.to_list() == IDS
    publishing.rollback(index)
    assert Index.open(index).row("c") == 4


def test_new_notes_are_new(tmp_path: Path) -> None:
    embeddings(tmp_path / "e", **dict(zip(IDS, AXES, strict=True)))
    build_index(tmp_path / "e", out=tmp_path / "i", new=["d"])
    add_notes(tmp_path / "i", note("c", AXES[2]), model_version="m1")
    opened = Index.open(tmp_path / "i")
    assert opened.search(AXES[2], 9, candidates="new")["note_id"].to_pylist() == ["c", "d"]


def test_many_changes_are_folded_and_none_is_lost(index: Path) -> None:
    for number in range(70):
        add_notes(index, note(f"x{number % 50:02d}", AXES[number % D]), model_version="m1")
    remove_notes(index, ["x07"])
    opened = Index.open(index)
    assert len(opened) == 4 + 49
    for number in range(20, 70):
        if number % 50 != 7:
            np.testing.assert_allclose(opened.vector(f"x{number % 50:02d}"), AXES[number % D])
    assert len(list((index / "changes").glob("*.parquet"))) < FOLD_SHARDS
    assert opened.version == "bundle-000001+71"


def test_several_processes_change_one_index(index: Path) -> None:
    script = (
        "import sys; import polars as pl; from noterec.index.changing import add_notes\n"
        "for n in range(20):\n"
        "    add_notes(sys.argv[1], pl.DataFrame({'note_id': [f'{sys.argv[2]}{n}'], 'embedding': [[1.0, 0, 0, 0]]}), "
        "model_version='m1')\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", script, str(index), name]) for name in ("p", "q")]
    assert [job.wait(60) for job in jobs] == [0, 0]
    found = changes.read(index)
    assert (found.frame.height, found.through) == (40, 40)
    assert sorted(found.frame["sequence"]) == list(range(1, 41))
    assert len(Index.open(index)) == 44


def test_one_bundle_is_what_was_built(index: Path) -> None:
    remove_notes(index, ["b"])
    folder = Index.open(index).folder
    assert Index.open(folder).ids.to_list() == IDS
    assert len(Index.open(folder)) == 4
    with pytest.raises(InputError, match="a bundle never changes"):
        remove_notes(folder, ["b"])
    with pytest.raises(InputError, match="no index there"):
        remove_notes(index / "nothing", ["b"])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (note("c", [1, 0]), "vector of length 2; the index holds D = 4"),
        (note("c", [np.nan, 0, 0, 1]), "not finite and unit-norm, the first is that of 'c'"),
        (note("c", [2, 0, 0, 0]), r"norm 2\)"),
        (note("", AXES[0]), "empty or longer than 4096 bytes"),
        (note("x" * 5000, AXES[0]), "empty or longer than 4096 bytes"),
        (pl.concat([note("c", AXES[0]), note("c", AXES[1])]), "'c' stands there twice"),
        (note("c", AXES[0], exposure="many"), "another type"),
        (note("c", AXES[0]).drop("embedding"), "no column 'embedding'"),
        (note("c", AXES[0]).with_columns(pl.lit(None, pl.String).alias("note_id")), "1 missing"),
        (note("c", AXES[0]).with_columns(pl.lit(None, pl.List(pl.Float32)).alias("embedding")), "length None"),
        (pl.DataFrame({"note_id": ["c"], "embedding": ["text"]}), "expected a list of 4 floats"),
    ],
)
def test_what_can_not_be_added_is_named_and_changes_nothing(index: Path, frame: pl.DataFrame, message: str) -> None:
    before = bundle.stamp(index)
    with pytest.raises(InputError, match=message):
        add_notes(index, frame, model_version="m1")
    assert bundle.stamp(index) == before
    assert Index.open(index).version == "bundle-000001"


def test_arrow_tables_of_an_embedding_job_fit(index: Path) -> None:
    table = embeddings_table(["c"], AXES[:1]).append_column("exposure", pa.array([7], pa.int32()))
    add_notes(index, table, model_version="m1")
    opened = Index.open(index)
    assert opened.attributes.row(opened.row("c"), named=True) == {"note_id": "c", "title": None, "exposure": 7}


def test_a_refreshed_index_reads_only_what_changed(index: Path, tmp_path: Path) -> None:
    opened = Index.open(index)
    add_notes(index, note("c", AXES[1]), model_version="m1")
    later = opened.refreshed()
    assert (len(opened), len(later)) == (4, 5)
    assert later._base is opened._base
    remove_notes(index, ["b"])
    assert later.refreshed().ids.to_list() == [*IDS, "c"]
    assert len(later.refreshed()) == 4
    build(tmp_path)
    assert later.refreshed().folder.name == "bundle-000002"
    alone = Index.open(opened.folder)
    assert len(alone.refreshed()) == 4


def test_a_note_that_a_build_confirmed_and_a_later_one_left_out_is_gone(index: Path, tmp_path: Path) -> None:
    add_notes(index, note("a", AXES[0]), model_version="m1")
    embeddings(tmp_path / "e2", **dict(zip([*IDS, "a"], [*AXES, AXES[3]], strict=True)))
    build(tmp_path, "e2")
    build(tmp_path)  # the platform has deleted it since
    assert Index.open(index).ids.to_list() == IDS
    publishing.rollback(index)
    assert "a" in Index.open(index).ids.to_list()
    publishing.rollback(index)  # the bundle that it was added over
    np.testing.assert_allclose(Index.open(index).vector("a"), AXES[0])


@pytest.mark.parametrize(
    "name", ["removed", "sequence", "made_at", "model_version", "embedding", "part", "row", "attributes"]
)
def test_attributes_may_have_any_name(tmp_path: Path, name: str) -> None:
    embeddings(tmp_path / "e", **dict(zip(IDS, AXES, strict=True)))
    write_dataset(tmp_path / "ds", one={"note_id": IDS, "title": IDS, name: IDS})
    build_index(tmp_path / "e", notes=tmp_path / "ds", out=tmp_path / "i", config=IndexConfig(attributes=[name]))
    fresh = note("c", AXES[1])
    if name != "embedding":
        fresh = fresh.with_columns(pl.lit("mine").alias(name))
        add_notes(tmp_path / "i", fresh, model_version="m1")
        opened = Index.open(tmp_path / "i")
        assert opened.attributes[opened.row("c")][name].to_list() == ["mine"]
    assert remove_notes(tmp_path / "i", ["b"]) == 1
    assert len(Index.open(tmp_path / "i")) == (4 if name != "embedding" else 3)


def test_an_attribute_may_change_its_type_between_builds(
    index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_notes(index, note("c", AXES[1], exposure=7), model_version="m1")
    for values in (["many"] * 4, [[1]] * 4, [True] * 4, [None] * 4):
        write_dataset(tmp_path / "ds2", one={"note_id": IDS, "title": IDS, "exposure": values})
        config = IndexConfig(attributes=["exposure"], lexical=False)
        try:
            build_index(tmp_path / "e", notes=tmp_path / "ds2", out=index, config=config)
        except InputError:  # a type that the notes' own column never has
            continue
        opened = Index.open(index)
        assert len(opened) == 5
        assert remove_notes(index, ["nobody"]) == 0
    write_dataset(tmp_path / "ds3", one={"note_id": IDS, "title": [7, 8, 9, 10], "own": [[1]] * 4})
    build_index(
        tmp_path / "e", notes=tmp_path / "ds3", out=index, config=IndexConfig(attributes=["own"], lexical=False)
    )
    add_notes(index, note("e", AXES[1], own=[3]), model_version="m1")
    write_dataset(tmp_path / "ds4", one={"note_id": IDS, "title": IDS, "own": [1, 2, 3, 4]})
    build_index(
        tmp_path / "e", notes=tmp_path / "ds4", out=index, config=IndexConfig(attributes=["own"], lexical=False)
    )
    opened = Index.open(index)
    assert opened.attributes[opened.row("e")]["own"].to_list() == [None]
    assert "attribute own of 1 added notes is List" in caplog.text
    remove_notes(index, ["e"])
    assert "e" not in Index.open(index).search(AXES[1], 9)["note_id"].to_pylist()


def test_each_model_has_additions_of_its_own(index: Path, tmp_path: Path) -> None:
    add_notes(index, note("c", AXES[1]), model_version="m1")
    write_shards(tmp_path / "e2", embeddings_table(IDS, AXES, "m2"))
    build(tmp_path, "e2")
    add_notes(index, note("c", AXES[2]), model_version="m2")
    np.testing.assert_allclose(Index.open(index).vector("c"), AXES[2])
    publishing.rollback(index)
    np.testing.assert_allclose(Index.open(index).vector("c"), AXES[1])
    remove_notes(index, ["c"])
    for _ in range(2):
        with pytest.raises(InputError):
            Index.open(index).row("c")
        publishing.rollback(index, to="bundle-000002")


def test_a_damaged_older_bundle_stops_nothing(index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_notes(index, note("c", AXES[1]), model_version="m1")
    build(tmp_path)
    (index / "bundles" / "bundle-000001" / "bundle.json").write_text("{")
    build(tmp_path)
    assert "bundle-000001 can't be read" in caplog.text
    assert Index.open(index).row("c") == 4
    assert [line.kind[:10] for line in index_status(index).bundles] == ["unreadable", "flat", "flat"]


@pytest.mark.parametrize("damage", ["junk", "gone"])
def test_a_build_mends_what_names_no_bundle(index: Path, tmp_path: Path, damage: str) -> None:
    if damage == "junk":
        (index / "CURRENT").write_text("??")
    else:
        shutil.rmtree(index / "bundles" / "bundle-000001")
    with pytest.raises(ArtefactError, match="build the index again"):
        Index.open(index)
    build(tmp_path)
    assert len(Index.open(index)) == 4
    if damage == "junk":
        (index / "CURRENT").write_text("??")
        assert publishing.rollback(index, to="bundle-000001") == (None, "bundle-000001")


def test_a_rollback_goes_to_what_was_live_and_builds_keep_it(index: Path, tmp_path: Path) -> None:
    for _ in range(2):
        build(tmp_path)
    publishing.rollback(index, to="bundle-000001")  # 2 and 3 were bad
    build(tmp_path)
    assert [folder.name for folder in bundle.bundles(index)] == [f"bundle-00000{n}" for n in (1, 2, 3, 4)]
    assert publishing.rollback(index) == ("bundle-000004", "bundle-000001")


def test_what_a_killed_change_left_is_swept(index: Path, tmp_path: Path) -> None:
    add_notes(index, note("c", AXES[1]), model_version="m1")
    (index / "changes" / "shard-0123456789abcdef.parquet").write_bytes(b"half")
    (index / ".CURRENT.0123456789abcdef.tmp").write_bytes(b"half")
    build(tmp_path)
    assert not (index / ".CURRENT.0123456789abcdef.tmp").exists()
    named = {shard["name"] for shard in json.loads((index / "changes" / "manifest.json").read_text())["shards"]}
    assert {file.name for file in (index / "changes").glob("*.parquet")} == named


def test_damaged_changes_are_named_and_nothing_is_found_without_them(index: Path) -> None:
    remove_notes(index, ["b"])
    next((index / "changes").glob("*.parquet")).write_bytes(b"half")
    with pytest.raises(ArtefactError, match=r"what was added and removed can't be read .*the bundles are whole"):
        Index.open(index)


def test_a_fresh_note_without_a_date_is_new(tmp_path: Path) -> None:
    embeddings(tmp_path / "e", **dict(zip(IDS, AXES, strict=True)))
    days = [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * 4
    write_dataset(tmp_path / "ds", one={"note_id": IDS, "title": IDS, "created_at": days})
    build_index(tmp_path / "e", notes=tmp_path / "ds", out=tmp_path / "i")
    add_notes(tmp_path / "i", note("c", AXES[2]), model_version="m1")
    opened = Index.open(tmp_path / "i")
    assert opened.search(AXES[2], 9, candidates="new")["note_id"].to_pylist() == ["c"]
    remove_notes(tmp_path / "i", ["c"])
    assert Index.open(tmp_path / "i").search(AXES[2], 9, candidates="new").num_rows == 4


def test_equal_vectors_tie_by_id_wherever_they_came_from(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(50, 24))
    raw = (raw / np.linalg.norm(raw, axis=1, keepdims=True) * 1.003).astype(np.float32)  # within tolerance of unit norm
    ids = [f"n{number:02d}b" for number in range(50)]
    embeddings(tmp_path / "e", **dict(zip(ids, raw, strict=True)))
    build_index(tmp_path / "e", out=tmp_path / "i")
    reposts = [f"n{number:02d}{'a' if number % 2 else 'c'}" for number in range(50)]
    frame = pl.concat([note(repost, vector) for repost, vector in zip(reposts, raw, strict=True)])
    add_notes(tmp_path / "i", frame, model_version="m1")
    opened = Index.open(tmp_path / "i")
    for number, (first, repost) in enumerate(zip(ids, reposts, strict=True)):
        assert opened.search(raw[number], 2)["note_id"].to_pylist() == sorted([first, repost])


@pytest.mark.parametrize("ids", ["b", [1], [None], ["\ud800"]])
def test_what_is_no_list_of_ids_removes_nothing(index: Path, ids: Any) -> None:
    with pytest.raises(InputError, match="ids"):
        remove_notes(index, ids)
    assert len(Index.open(index)) == 4
