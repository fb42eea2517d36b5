import datetime
import json
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.notes.importing import column_maps, import_dataset, sinks

SHOP_MAP = {"note_id": "item_id", "content": "description", "hashtags": "brand"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Two products and the order in which two people bought them."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "items.csv").write_text(
        'item_id,title,description,brand\n1,Pen,"writes,\nwell",3M\n2,Ink,,Parker|Pilot\n'
    )
    (folder / "interactions.csv").write_text("user_id,item_id,position\nu,1,0\nu,2,1\nv,2,0\nv,9,1\n")
    return folder


def _rejects(out: Path) -> list[tuple[str, int, str]]:
    rows = storage.read_table(out / "rejects.parquet", schema.REJECTS).to_pylist()
    return [(row["table"], row["row"], row["reason"]) for row in rows]


def _notes(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _nothing_left(folder: Path, *names: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_a_shop_by_column_map(shop: Path, tmp_path: Path) -> None:
    summary = import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP)
    assert (summary.notes, summary.engagement, summary.unknown_notes, summary.clock) == (2, 4, 1, "position")
    data = Dataset(tmp_path / "out")
    assert data.clock == "position"
    notes = data.notes()
    assert notes["title"].to_list() == ["Pen", "Ink"]
    assert notes["content"].to_list() == ["writes,\nwell", None]
    assert notes["hashtags"].to_list() == [["3M"], ["Parker", "Pilot"]]
    log = data.engagement()
    assert log["note_id"].to_list() == ["1", "2", "2", "9"]
    assert set(log["action"]) == {"click"}
    epoch = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    assert [(t - epoch).total_seconds() for t in log["timestamp"]] == [0, 1, 0, 1]
    assert _rejects(tmp_path / "out") == []


def test_all_generic_formats_give_the_same_dataset(shop: Path, tmp_path: Path) -> None:
    notes = [
        {"item_id": 1, "title": "Pen", "description": "writes,\nwell", "brand": ["3M"]},
        {"item_id": 2, "title": "Ink", "description": None, "brand": ["Parker", "Pilot"]},
    ]
    log = [
        {"user_id": u, "item_id": i, "position": p} for u, i, p in [("u", 1, 0), ("u", 2, 1), ("v", 2, 0), ("v", 9, 1)]
    ]
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(pa.Table.from_pylist(notes), other / "items.parquet")
    pq.write_table(pa.Table.from_pylist(log), other / "interactions.parquet")
    _notes(other / "items.jsonl", notes)
    _notes(other / "interactions.jsonl", log)
    import_dataset("csv", shop, tmp_path / "csv", notes_map=SHOP_MAP)
    expected = Dataset(tmp_path / "csv")
    for format in ("jsonl", "parquet"):
        import_dataset(format, other, tmp_path / format, notes_map=SHOP_MAP)
        data = Dataset(tmp_path / format)
        assert data.notes().equals(expected.notes())
        assert data.engagement().equals(expected.engagement())


def test_explicit_files_and_a_log_without_order(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tt\nx\thello\n")
    (tmp_path / "b.csv").write_text("who,what\nme,x\n")
    summary = import_dataset(
        "csv", tmp_path, tmp_path / "out", notes_file="a.tsv", engagement_file=tmp_path / "b.csv",
        notes_map={"note_id": "id", "title": "t"}, engagement_map={"user_id": "who", "note_id": "what"}, action="save",
    )  # fmt: skip
    log = Dataset(tmp_path / "out").engagement()
    assert summary.clock == "none"
    assert log.rows() == [("me", "x", "save", None)]


def test_notes_alone_make_a_dataset(tmp_path: Path) -> None:
    file = _notes(tmp_path / "n.jsonl", [{"note_id": "a", "title": "t"}])
    assert import_dataset("jsonl", file, tmp_path / "out").engagement == 0
    assert Dataset(tmp_path / "out").engagement().height == 0


def test_bad_rows_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = _notes(
        tmp_path / "notes.jsonl",
        [
            {"note_id": "a", "title": "fine"},
            {"title": "no id"},
            {"note_id": "b"},
            {"note_id": "c", "title": ["a", "list"]},
            {"note_id": 1.5, "title": "float id"},
            {"note_id": "d", "title": "x", "created_at": "someday"},
            {"note_id": "a", "title": "again"},
            {"note_id": "e", "content": "nul \x00 and \ud800 surrogate"},
            {"note_id": "f", "hashtags": ["only", "tags"]},
        ],
    )
    _notes(
        tmp_path / "engagement.jsonl",
        [
            {"user_id": "u", "note_id": "a", "action": "Click", "timestamp": 1_700_000_000},
            {"user_id": None, "note_id": "a", "action": "click", "timestamp": 1},
            {"user_id": "u", "note_id": "a", "action": "adore", "timestamp": 1},
            {"user_id": "u", "note_id": "a", "action": "like", "timestamp": "never"},
            {"user_id": "u", "note_id": "a", "action": "like"},
            {"user_id": 5, "note_id": "zz", "timestamp": "2024-01-01"},
        ],
    )
    del file
    summary = import_dataset("jsonl", tmp_path, tmp_path / "out", max_reject_share=0.9)
    actions = ", ".join(schema.ACTIONS)
    assert _rejects(tmp_path / "out") == [
        ("notes", 2, "no note_id"),
        ("notes", 3, "no text and no image"),
        ("notes", 4, "title is a list, expected text"),
        ("notes", 5, "note_id is a float, expected text or a whole number"),
        ("notes", 6, "created_at is 'someday', expected ISO 8601 or a Unix time"),
        ("notes", 7, "duplicate note_id with the same updated_at"),
        ("engagement", 2, "no user_id"),
        ("engagement", 3, f"action is 'adore', expected one of {actions}"),
        ("engagement", 4, "timestamp is 'never', expected ISO 8601 or a Unix time"),
        ("engagement", 5, "no timestamp"),
    ]
    data = Dataset(tmp_path / "out")
    assert data.notes()["note_id"].to_list() == ["a", "e", "f"]
    assert data.notes()["content"].to_list() == [None, "nul   and � surrogate", None]
    assert data.engagement().select("user_id", "note_id", "action").rows() == [
        ("u", "a", "click"),
        ("5", "zz", "click"),
    ]
    assert (summary.notes_rejected, summary.engagement_rejected, summary.unknown_notes) == (6, 4, 1)
    assert (summary.note_rows, summary.notes) == (9, 3)
    assert sum(summary.reasons.values()) == 10


def test_latest_version_wins_and_an_exact_tie_keeps_the_first(tmp_path: Path) -> None:
    rows = [
        {"note_id": "a", "title": "old", "updated_at": 100},
        {"note_id": "a", "title": "new", "updated_at": 300},
        {"note_id": "a", "title": "middle", "updated_at": 200},
        {"note_id": "a", "title": "tie", "updated_at": 300},
        {"note_id": "b", "title": "undated"},
        {"note_id": "b", "title": "dated", "updated_at": 1},
        {"note_id": "c", "title": "gone", "updated_at": 1},
        {"note_id": "c", "deleted": True, "updated_at": 2},
    ]
    file = _notes(tmp_path / "n.jsonl", rows)
    summary = import_dataset("jsonl", file, tmp_path / "out", max_reject_share=0.5)
    assert (summary.notes, summary.superseded, summary.notes_rejected) == (3, 4, 1)
    assert dict(Dataset(tmp_path / "out").notes().select("note_id", "title").rows()) == {"a": "new", "b": "dated"}


def test_too_many_bad_rows_stop_the_import_and_leave_nothing(shop: Path, tmp_path: Path) -> None:
    with (shop / "items.csv").open("a") as file:
        file.write(",no id,x,y\n")
    with pytest.raises(InputError, match=r"1 of 3 notes rows are bad.*no note_id \(first: items.csv:3\)"):
        import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP)
    _nothing_left(tmp_path, "shop")
    import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP, max_reject_share=0.34)


def test_ragged_lines_count_as_rejected(shop: Path, tmp_path: Path) -> None:
    with (shop / "interactions.csv").open("a") as file:
        file.write("w,1\n")
    summary = import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP, max_reject_share=0.2)
    assert (summary.engagement_rows, summary.engagement, summary.engagement_rejected) == (5, 4, 1)
    assert _rejects(tmp_path / "out") == [("engagement", 5, "2 cells, expected 3")]


def test_a_kill_in_the_middle_leaves_the_old_dataset(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks.EngagementSink, "close", killed)
    for name in ("out", "other"):
        with pytest.raises(KeyboardInterrupt):
            import_dataset("csv", shop, tmp_path / name, notes_map=SHOP_MAP, overwrite=True)
    _nothing_left(tmp_path, "shop", "out")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_the_output_folder_is_never_taken_from_others(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset("csv", shop, out, notes_map=SHOP_MAP)
    with pytest.raises(InputError, match="holds a dataset already"):
        import_dataset("csv", shop, out, notes_map=SHOP_MAP)
    import_dataset("csv", shop, out, notes_map=SHOP_MAP, overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is no dataset"):
        import_dataset("csv", shop, tmp_path / "home", notes_map=SHOP_MAP, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        import_dataset("csv", shop, tmp_path / "home" / "thesis.txt", notes_map=SHOP_MAP)
    with pytest.raises(InputError, match="would replace its own source"):
        import_dataset("parquet", out / "notes", out, notes_file=out / "notes", overwrite=True)
    _nothing_left(tmp_path, "home", "out", "shop")


def test_published_files_follow_the_umask(shop: Path, tmp_path: Path) -> None:
    import_dataset("csv", shop, tmp_path / "out", notes_map=SHOP_MAP)
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "out" / "rejects.parquet").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_megabyte_of_text_in_one_note(tmp_path: Path) -> None:
    text = "word \U0001f600" * 170_000
    (tmp_path / "notes.csv").write_text(f'note_id,content\na,"{text}"\nb,short\n')
    import_dataset("csv", tmp_path, tmp_path / "out")
    assert Dataset(tmp_path / "out").notes()["content"].to_list() == [text, "short"]


def test_large_imports_are_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "NOTE_SHARD_ROWS", 10)
    monkeypatch.setattr(sinks, "ENGAGEMENT_SHARD_ROWS", 10)
    _notes(tmp_path / "notes.jsonl", [{"note_id": n, "title": "t"} for n in range(25)])
    _notes(tmp_path / "engagement.jsonl", [{"user_id": n, "note_id": n} for n in range(25)])
    import_dataset("jsonl", tmp_path, tmp_path / "out")
    data = Dataset(tmp_path / "out")
    assert len(data.note_files) == 3
    assert data.note_ids.to_list() == [str(n) for n in range(25)]
    assert data.engagement()["note_id"].to_list() == [str(n) for n in range(25)]


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"note_id": ["a"], "title": ["t"]}), tmp_path / "notes.parquet")
    (tmp_path / "notes.parquet").write_bytes((tmp_path / "notes.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"notes\.parquet: not a readable Parquet file"):
        import_dataset("parquet", tmp_path, tmp_path / "out")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("note_id,title\n")
    with pytest.raises(InputError, match="no usable note"):
        import_dataset("csv", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"unknown format 'cvs'.*csv"):
        import_dataset("cvs", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="unknown action"):
        import_dataset("csv", tmp_path, tmp_path / "out", action="adore")
    with pytest.raises(InputError, match="no notes there"):
        import_dataset("parquet", tmp_path, tmp_path / "out")


def test_maps_are_checked_with_hints(shop: Path, tmp_path: Path) -> None:
    assert column_maps(["note_id=a", "engagement.note_id=b", "user_id=c", "notes.title=d"]) == (
        {"note_id": "a", "title": "d"},
        {"note_id": "b", "user_id": "c"},
    )
    for entry, hint in [
        ("titel=x", "did you mean 'title'"),
        ("engagement.usr_id=x", "did you mean 'user_id'"),
        ("title", "expected FIELD=COLUMN"),
        ("users.id=x", "expected FIELD=COLUMN"),
    ]:
        with pytest.raises(InputError, match=hint):
            column_maps([entry])
    with pytest.raises(InputError, match="mapped twice"):
        column_maps(["title=a", "title=b"])
    with pytest.raises(InputError, match=r"no column 'descripton'; did you mean 'description'"):
        import_dataset("csv", shop, tmp_path / "out", notes_map={**SHOP_MAP, "content": "descripton"})
    with pytest.raises(InputError, match="which column is the note_id"):
        import_dataset("csv", shop, tmp_path / "out")
    with pytest.raises(InputError, match=r"none of title, content, images"):
        import_dataset("csv", shop, tmp_path / "out", notes_file="interactions.csv", notes_map={"note_id": "item_id"})


def test_image_paths_are_resolved_inside_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"key")
    file = tmp_path / "in" / "notes.csv"
    file.write_text("note_id,title,images\n1,t,a.jpg|../secret\n2,t,none.jpg\n3,,/etc/hostname\n4,t,https://x/y.png\n")
    summary = import_dataset("csv", tmp_path / "in", tmp_path / "out", max_reject_share=0.3)
    images = dict(Dataset(tmp_path / "out").notes().select("note_id", "images").rows())
    assert [image["path"] for image in images["1"]] == [str(tmp_path / "in" / "a.jpg")]
    assert images["2"] is None
    assert images["4"][0]["path"] == "https://x/y.png"
    assert (summary.missing_images, summary.notes_rejected) == (3, 1)
    assert ("images", 2, "image not found: none.jpg") in _rejects(tmp_path / "out")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["note_id", "title", "content", "hashtags", "updated_at", "exposure", "deleted", "images"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
                lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                max_leaves=3,
            ),
        ),
        max_size=6,
    )
)
def test_hostile_json_never_crashes(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    _notes(folder / "notes.jsonl", [{"note_id": "sound", "title": "t"}, *rows])
    _notes(folder / "engagement.jsonl", [{"user_id": r.get("title"), "note_id": r.get("note_id")} for r in [{}, *rows]])
    summary = import_dataset(
        "jsonl",
        folder,
        folder / "out",
        max_reject_share=1.0,
        engagement_map={"user_id": "user_id", "note_id": "note_id"},
    )
    assert summary.note_rows == len(rows) + 1
    assert isinstance(Dataset(folder / "out").notes(), pl.DataFrame)
