"""What is forgotten is nowhere any more, whatever happened before and whenever the command is killed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import html
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import storage
from noterec.config import NightlyConfig
from noterec.config.settings import make
from noterec.errors import GateError, InputError, LockedError
from noterec.index.bundle import live_name
from noterec.index.changing import add_notes
from noterec.index.search import Index
from noterec.nightly import Night, rollback_nightly, run_nightly
from noterec.nightly import forget as forgetting
from noterec.nightly.forget import LOG, forget, listed
from noterec.nightly.mentions import Mentions
from noterec.notes.dataset import Dataset
from noterec.notes.sample.platform import START
from noterec.storage.locks import only_job
from tests.nightly.conftest import FIRST, Town, date

Settings = Callable[..., NightlyConfig]
TITLE = "Zweihundertdreizehn Zeppeline"
NEXT = FIRST + 1


@dataclasses.dataclass(frozen=True)
class Place:
    """A copy of a home after two nights, its dataset, and settings for both."""

    data: Path
    home: Path
    trained: Path

    def settings(self, **given: Any) -> NightlyConfig:
        values: dict[str, Any] = {
            "dataset": str(self.data),
            "home": str(self.home),
            "model": str(self.trained),
            "embed": {"device": "cpu"},
            "gates": {"canaries": 16},
            "evaluate": {"resamples": 100},
            "neighbours": {"k": 10},
        }
        for name, value in given.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        return make(NightlyConfig, values, where="test")

    @property
    def served(self) -> set[str]:
        index = Index.open(self.home / "index")
        return set(index.ids.filter(pl.Series(index.live)))

    def notes(self) -> pl.DataFrame:
        files = [pl.read_parquet(file) for file in sorted((self.data / "notes").glob("*.parquet"))]
        return pl.concat(files, how="diagonal_relaxed")


@pytest.fixture(scope="module")
def two_nights(all_days: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str, str]:
    """Two nights, the first with deletions that came later; a note with a title of its own, and its author."""
    folder = tmp_path_factory.mktemp("forget")
    place = Place(folder / "data", folder / "home", trained)
    for part in ("notes", "engagement"):
        (place.data / part).mkdir(parents=True)
    (place.data / "dataset.json").write_text(json.dumps({"format": "noterec dataset", "clock": "time"}))
    notes = pl.read_parquet(all_days / "notes/*.parquet").drop("images")
    town = Town(place.data, notes, pl.read_parquet(all_days / "engagement/*.parquet"))
    town.deliver(FIRST, everything=True)
    run_nightly(place.settings(), night=date(FIRST))
    town.deliver(NEXT)
    week = START + dt.timedelta(days=NEXT - 6)
    secret = str(notes.filter(pl.col("created_at") >= week)["note_id"].min())  # the first new note: it is on the page
    town.change("edit", [secret], title=TITLE)
    run_nightly(place.settings(), night=date(NEXT))
    author = str(notes.filter(pl.col("note_id") == secret)["author_id"][0])
    return place, secret, author


@pytest.fixture
def place(two_nights: tuple[Place, str, str], tmp_path: Path) -> Place:
    made, _, _ = two_nights
    for part in ("data", "home"):
        shutil.copytree(made.data.parent / part, tmp_path / part)
    return Place(tmp_path / "data", tmp_path / "home", made.trained)


@pytest.fixture
def secret(two_nights: tuple[Place, str, str]) -> str:
    return two_nights[1]


@pytest.fixture
def author(two_nights: tuple[Place, str, str]) -> str:
    return two_nights[2]


def traces(folder: Path, *words: str) -> Iterator[str]:
    """The files in which a word stands: in their bytes, or in what Parquet compresses, dictionaries and statistics too."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        text = file.read_bytes().decode(errors="replace")
        if file.suffix == ".parquet":
            whole = pq.ParquetFile(file)
            names = [field.name for field in whole.schema_arrow if pa.types.is_string(field.type)]
            text += str(whole.read().to_pylist()) + str(whole.metadata.to_dict())
            text += str([c.dictionary for n in names for c in _column(file, n) if pa.types.is_dictionary(c.type)])
        if any(word in text for word in words):
            yield str(file.relative_to(folder))


def _column(file: Path, name: str) -> list[pa.Array]:
    chunks: list[pa.Array] = pq.ParquetFile(file, read_dictionary=[name]).read([name])[name].chunks
    return chunks


def left(place: Place, *words: str) -> list[str]:
    """Traces but for the index's list of ids that stay out."""
    return [file for file in traces(place.home.parent, *words) if not file.startswith("home/index/changes/")]


def test_a_note_is_nowhere_any_more(place: Place, secret: str) -> None:
    assert {"data/notes/edit.parquet", f"home/runs/{date(NEXT)}/report.html"} <= set(left(place, secret, TITLE))
    before = place.served
    summary = forget(place.settings(), notes=[secret])
    assert left(place, secret) == []
    assert (summary.notes, summary.found, summary.dataset) == (1, 1, "rewritten")
    assert summary.bundles == ["bundle-000001", "bundle-000002"] and summary.bundle == "bundle-000003"
    assert summary.rows["embeddings"] == 1 and summary.rows["dataset notes"] == 2 and summary.pages >= 2
    assert place.served == before - {secret}
    journal = storage.read_table(place.home / "index/changes")
    assert journal["note_id"].to_pylist() == [secret] and journal["embedding"].null_count == 1
    told = json.loads((place.home / LOG).read_text())
    assert told["notes"] == [storage.value_hash(secret)] and told["users"] == []
    assert forget(place.settings(), notes=[secret]).rows == {}  # once more does no harm
    assert place.served == before - {secret}


def test_what_is_published_is_otherwise_as_it_was(place: Place, secret: str) -> None:
    before = Index.open(place.home / "index")
    tables = {
        name: pl.read_parquet(place.home / f"neighbours/{name}.parquet") for name in ("new-to-all", "warm-to-new")
    }
    forget(place.settings(), notes=[secret])
    after = Index.open(place.home / "index")
    assert np.array_equal(after.vectors(np.arange(len(after.ids))), before.vectors(before.rows_of(after.ids)))
    assert (place.home / "neighbours/bundle-000003").is_dir()
    assert not (place.home / "neighbours/bundle-000002").exists()
    for name, table in tables.items():
        kept = table.filter((pl.col("query_id") != secret) & (pl.col("note_id") != secret))
        found = pl.read_parquet(place.home / f"neighbours/{name}.parquet")
        assert found.drop("rank").equals(kept.drop("rank"))
        assert (
            found.group_by("query_id").agg((pl.col("rank").sort() == pl.int_range(1, pl.len() + 1)).all())["rank"].all()
        )


def test_the_next_night_goes_its_usual_way(place: Place, secret: str) -> None:
    forget(place.settings(), notes=[secret])
    assert run_nightly(place.settings(), night=date(NEXT)).outcome == "published"
    assert secret not in place.served and left(place, secret) == []
    forget(place.settings(), notes=[min(place.served)])
    with pytest.raises(InputError, match="nothing to go back to"):  # all older bundles held it
        rollback_nightly(place.settings())


def test_a_person_and_their_notes(place: Place, author: str) -> None:
    mine = set(place.notes().filter(pl.col("author_id") == author)["note_id"])
    reader = str(pl.read_parquet(place.data / "engagement/*.parquet")["user_id"][0])
    summary = forget(place.settings(), users=[author, reader])
    assert summary.notes == len(mine) > 1 and summary.users == 2
    assert left(place, author, reader, *mine) == []
    log = pl.read_parquet(place.data / "engagement/*.parquet")
    assert log.height and reader not in set(log["user_id"])


def test_a_person_where_an_older_bundle_is_damaged(place: Place, author: str) -> None:
    (place.home / "index/bundles/bundle-000001/notes.parquet").write_bytes(b"x")
    mine = set(place.notes().filter(pl.col("author_id") == author)["note_id"])
    assert forget(place.settings(), users=[author]).bundles == ["bundle-000001", "bundle-000002"]
    assert left(place, author, *mine) == []


def test_a_person_who_wrote_nothing(place: Place) -> None:
    reader = str(pl.read_parquet(place.data / "engagement/*.parquet")["user_id"][0])
    before = live_name(place.home / "index")
    (place.home / f"runs/{date(FIRST)}/log.txt").write_text(f"bad event of {reader}")
    summary = forget(place.settings(), users=[reader])
    assert (summary.notes, summary.pages, summary.bundles) == (0, 1, []) and summary.rows.keys() == {
        "dataset engagement"
    }
    assert live_name(place.home / "index") == before and left(place, reader) == []


STEPS = ("from_neighbours", "from_tables", "_pages", "_from_bundles", "discard_with", "from_dataset")


@pytest.mark.parametrize("step", STEPS)
def test_killed_and_run_again(place: Place, author: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's notes are found again, though some tables have lost them already."""
    mine = set(place.notes().filter(pl.col("author_id") == author)["note_id"])

    def killed(*arguments: Any, **keywords: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, killed)
        with pytest.raises(KeyboardInterrupt):
            forget(place.settings(), users=[author])
    assert not place.served & mine  # from the first moment on
    forget(place.settings(), users=[author])
    assert left(place, author, *mine) == []
    assert (place.home / "neighbours" / str(live_name(place.home / "index"))).is_dir()


def test_killed_between_two_files_of_the_dataset(
    place: Place, author: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version without an author goes before the one that says whose the note is."""
    rows = place.notes().filter(pl.col("note_id") == secret).with_columns(author_id=pl.lit(None, pl.String))
    rows.write_parquet(place.data / "notes/zz-late.parquet")
    erase, calls = storage.erase_rows, []

    def killed(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path).endswith("notes"):
            calls.append(path)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return erase(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "erase_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(place.settings(), users=[author])
    forget(place.settings(), users=[author])
    assert left(place, secret, author) == []


def test_a_dataset_that_others_own(place: Place, secret: str) -> None:
    before = {file: file.read_bytes() for file in place.data.rglob("*.parquet")}
    summary = forget(place.settings(), notes=[secret], keep_dataset=True)
    assert summary.dataset == "kept" and {f: f.read_bytes() for f in before} == before
    assert list(traces(place.home, secret)) == [str(f) for f in traces(place.home, secret) if "index/changes" in f]
    run_nightly(place.settings(), night=date(NEXT + 1), accept=["staleness"])
    assert secret not in place.served


def test_notes_that_only_the_index_knows_to_be_a_persons(place: Place, author: str) -> None:
    """Their owner has deleted them from the dataset already."""
    mine = set(place.notes().filter(pl.col("author_id") == author)["note_id"])
    for file in (place.data / "notes").iterdir():
        pl.read_parquet(file).filter(~pl.col("note_id").is_in(list(mine))).write_parquet(file)
    assert forget(place.settings(), users=[author], keep_dataset=True).notes == len(mine)
    assert list(traces(place.home / "embeddings", *mine)) == list(traces(place.home / "index/bundles", *mine)) == []


def test_nothing_unjudged_goes_out(place: Place, secret: str) -> None:
    """A gate stopped the last night: what it would have published stays unpublished."""
    gone = sorted(place.served - {secret})[:80]
    rows = place.notes().filter(pl.col("note_id").is_in(gone))
    rows.with_columns(deleted=True, updated_at=dt.datetime(2031, 1, 1, tzinfo=dt.UTC)).write_parquet(
        place.data / "notes/mass.parquet"
    )
    with pytest.raises(GateError, match="deleted notes"):
        run_nightly(place.settings(), night=date(NEXT + 1), accept=["notes"])
    before = place.served
    forget(place.settings(), notes=[secret])
    assert place.served == before - {secret}


def test_a_rollback_stays_a_rollback(place: Place, secret: str) -> None:
    rollback_nightly(place.settings())
    before = place.served
    forget(place.settings(), notes=[secret])
    assert place.served == before - {secret} and left(place, secret) == []


def test_other_precision_and_a_table_that_is_gone(place: Place, secret: str) -> None:
    """The live bundle needs neither the settings nor the table that it was made with."""
    shutil.rmtree(place.home / "embeddings")
    before = place.served
    forget(place.settings(embed={"precision": "bf16"}), notes=[secret])
    assert place.served == before - {secret} and left(place, secret) == []


def test_another_kind_of_index(place: Place, secret: str) -> None:
    config = place.settings(index={"kind": "hnsw", "recall_target": 0.5})
    run_nightly(config, night=date(NEXT))
    forget(place.settings(), notes=[secret])
    index = Index.open(place.home / "index")
    assert index.info.kind == "hnsw" and secret not in set(index.ids) and left(place, secret) == []


def test_everything(place: Place) -> None:
    every = set(place.notes()["note_id"])
    summary = forget(place.settings(), notes=every)
    assert summary.bundle is None and place.notes().height == 0
    assert left(place, *every) == []
    assert forget(place.settings(), notes=["n000001"]).rows == {}


def test_a_note_that_was_added_since(place: Place) -> None:
    index = Index.open(place.home / "index")
    vector = index.vectors(np.array([0]))
    rows = pa.table({"note_id": ["fresh-note"], "embedding": vector.tolist(), "title": [TITLE]})
    add_notes(place.home / "index", rows, model_version=index.info.model_version)
    assert forget(place.settings(), notes=["fresh-note"]).found == 1
    journal = storage.read_table(place.home / "index/changes")
    assert journal["embedding"].null_count == journal.num_rows == 1 and TITLE not in str(journal.to_pylist())
    assert live_name(place.home / "index") == "bundle-000002"


def test_a_night_that_waits_goes_on_without_it(place: Place, secret: str) -> None:
    """Its candidate held the note: it is built again, with the dataset that its owner hasn't cleaned yet."""
    config = place.settings(gates={"stale_hours": 0.001, "canaries": 16})
    with pytest.raises(GateError, match="staleness"):
        run_nightly(config, night=date(NEXT))
    forget(config, notes=[secret], keep_dataset=True)
    assert [f for f in traces(place.home, secret) if "index/changes" not in f] == []
    summary = run_nightly(config, night=date(NEXT), accept=["staleness"])
    assert summary.run == f"{date(NEXT)}.2" and summary.outcome == "published"
    assert secret not in place.served


def test_a_first_night_that_waits(town: Town, settings: Settings) -> None:
    secret = sorted(town.live)[0]
    config = settings(gates={"stale_hours": 0.001, "canaries": 0})
    with pytest.raises(GateError, match="staleness"):
        run_nightly(config, night=date(FIRST))
    summary = forget(config, notes=[secret], keep_dataset=True)
    assert (summary.found, summary.bundle) == (0, None)
    run_nightly(config, night=date(FIRST), accept=["staleness"])
    assert secret not in set(Index.open(Path(config.home) / "index").ids)


def test_before_the_first_night(town: Town, settings: Settings, tmp_path: Path) -> None:
    config, secret = settings(), sorted(town.live)[0]
    with pytest.raises(InputError, match="check `home`"):
        forget(config, notes=[secret], keep_dataset=True)
    summary = forget(config, notes=[secret])
    assert summary.rows["dataset notes"] == 1 and not (tmp_path / "home").exists()
    assert Night.open(config, date(FIRST)).folder.is_dir()  # the home can still be made


def test_what_killed_processes_left(place: Place, secret: str) -> None:
    kept = pl.DataFrame({"note_id": [secret], "title": [TITLE]})
    files = [
        f"runs/{date(NEXT)}/canaries/notes/part-00000.parquet",
        f"runs/{date(NEXT)}/.questions.parquet.0123456789abcdef.tmp",
        f"training/{date(NEXT)}/split/train/notes/part-00000.parquet",
        f"training/{date(NEXT)}/.split.partial/train/notes/part-00000.parquet",
        "neighbours/.new-to-all.parquet.next",
        "index/bundles/.building-x/notes.parquet",
        ".pairs.parquet.0123456789abcdef.tmp",
    ]
    for name in files:
        (place.home / name).parent.mkdir(parents=True, exist_ok=True)
        kept.write_parquet(place.home / name)
    forget(place.settings(), notes=[secret])
    assert left(place, secret, TITLE) == []


def test_a_sentence_that_names_it_goes_and_the_record_stays(place: Place, secret: str) -> None:
    folder = place.home / f"runs/{date(NEXT)}"
    record = storage.read_json(folder / "run.json")
    record["error"] = f"InputError: note {secret!r} is odd"
    record["gates"]["canaries"]["says"] = f"the lowest cosine is 0.9999 ({secret})"
    storage.write_json(folder / "run.json", record)
    forget(place.settings(), notes=[secret])
    after = storage.read_json(folder / "run.json")
    assert after["error"] == after["gates"]["canaries"]["says"] == "it named what was forgotten since"
    assert after["stages"]["embed"]["figures"] == record["stages"]["embed"]["figures"]
    assert run_nightly(place.settings(), night=date(NEXT)).outcome == "published"


def test_hostile_ids(place: Place, secret: str) -> None:
    hostile = ['it\'s "n1"', "a\nb*", "[n]*?", "日本語 ノート", "<b>&amp;", "x" * 4096, "y" * 5000, "\\u0041 \x01z"]
    like = place.notes().filter(pl.col("note_id") == secret)[:1]
    rows = [like.with_columns(note_id=pl.lit(text), title=pl.lit(f"title {n}")) for n, text in enumerate(hostile)]
    pl.concat(rows).write_parquet(place.data / "notes/hostile.parquet")
    run_nightly(place.settings(), night=date(NEXT))
    assert set(hostile) <= place.served
    for number, text in enumerate(hostile):
        (place.home / f"runs/{date(FIRST)}/{number}.txt").write_text(f"the note {text[:40]!r} is odd\n")
    summary = forget(place.settings(), notes=hostile)
    assert summary.notes == len(hostile) and not place.served & set(hostile)
    for text in hostile:
        spelled = (text, repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text))
        assert left(place, *(version[:1000] for version in spelled)) == []


def test_ids_that_are_none_and_unknown_ones(place: Place) -> None:
    for given in ([""], ["\udcff"]):
        with pytest.raises(InputError):
            forget(place.settings(), notes=given)
    with pytest.raises(InputError, match="nothing to forget"):
        forget(place.settings())
    before = place.served
    summary = forget(place.settings(), notes=["nobody"], users=["no one"])
    assert (summary.found, summary.rows, summary.bundles, summary.pages) == (0, {}, [], 0) and place.served == before


def test_one_at_a_time_and_the_index_first(place: Place, secret: str) -> None:
    with only_job(place.home, "noterec nightly"), pytest.raises(LockedError, match="noterec nightly"):
        forget(place.settings(), notes=[secret])
    assert secret not in place.served


def test_folders_of_strangers_are_left_alone(place: Place, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    (place.home / "embeddings/backup").mkdir()
    (place.home / "embeddings/readme.txt").write_text("mine")
    forget(place.settings(), notes=[secret])
    assert (place.home / "embeddings/backup").is_dir() and "backup: no table" in caplog.text


def test_a_list_of_ids(tmp_path: Path) -> None:
    pl.DataFrame({"note_id": [1, None], "user_id": ["u1", "u2"]}).write_parquet(tmp_path / "a.parquet")
    assert listed(tmp_path / "a.parquet") == (["1"], ["u1", "u2"])
    pl.DataFrame({"user_id": ["u1"]}).write_parquet(tmp_path / "b.parquet")
    assert listed(tmp_path / "b.parquet") == ([], ["u1"])
    pl.DataFrame({"id": ["u1"]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="the columns are id; expected note_id, user_id, or both"):
        listed(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("given", "text", "named"),
    [
        ("n1", "the note n1.", True),
        ("n1", "n10 and xn1", False),
        ("n1", "'n1'", True),
        ("a&b", "<p>a&amp;b</p>", True),
        ("日本", '{"x": "\\u65e5\\u672c"}', True),
        ("a\nb", "note 'a\\nb' is odd", True),
        ("\u202ea\x00b", "\ufffda\ufffdb", True),
        ("a\x00b", "ab", True),
        ("***", "note '***'", True),
        ("***", "** bold **", False),
        ("q" * 200, "q" * 160 + "…", True),
        ("q" * 200, "q" * 20, False),
        ("first second", "second to first", False),
        ("no-one", "(no one)", True),  # rather a page too many
        ("12", "112 notes, 0.12x", False),
    ],
)
def test_what_counts_as_named(given: str, text: str, named: bool) -> None:
    assert Mentions([given]).among(text) is named


def test_a_dataset_of_shards_and_no_home(platform: Path, tmp_path: Path) -> None:
    """As `noterec sample` and `noterec import` write it, with a list of what was rejected."""
    shutil.copytree(platform / "data", tmp_path / "data", ignore=shutil.ignore_patterns("truth"))
    notes = pl.read_parquet(tmp_path / "data/notes/*.parquet")
    rejects = {"table": ["engagement"], "key": [notes["note_id"][3]], "reason": ["odd"], "source": ["log.csv"]}
    storage.write_table(pa.table(rejects), tmp_path / "data/rejects.parquet")
    config = make(NightlyConfig, {"dataset": str(tmp_path / "data"), "home": str(tmp_path / "home")}, where="test")
    summary = forget(config, notes=[notes["note_id"][3]])
    assert summary.rows.keys() == {"dataset notes", "dataset engagement", "dataset rejects"}
    assert list(traces(tmp_path, notes["note_id"][3])) == []
    assert Dataset(tmp_path / "data").note_count == notes.height - 1
    folder = storage.ShardFolder(tmp_path / "data/notes", origin=storage.read_origin(tmp_path / "data/notes"))
    assert folder.check(deep=True) == []


def test_a_dataset_in_an_object_store(place: Place, author: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr(storage.stores, "_client", lambda scheme, bucket: store)
    target = storage.place("gs://memory/data")
    for file in place.data.rglob("*.*"):
        with storage.atomic_write(target / str(file.relative_to(place.data))) as out:
            out.write(file.read_bytes())
    mine = set(place.notes().filter(pl.col("author_id") == author)["note_id"])
    config = place.settings(dataset="gs://memory/data")
    assert forget(config, users=[author]).notes == len(mine)
    assert not mine & set(storage.read_table(target / "notes", columns=["note_id"])["note_id"].to_pylist())
    assert not mine & set(storage.read_table(target / "engagement", columns=["note_id"])["note_id"].to_pylist())
    assert list(traces(place.home / "embeddings", *mine)) == [] and not place.served & mine
