"""What was generated against what is true: figures by hand, the notes that count, intervals, and the whole command's report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from noterec import cli, schema, storage
from noterec.config import EvaluateConfig
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.evaluation import compare, evaluate, generated_table, load_report, measure_generated
from noterec.evaluation.answers import names_of, read
from noterec.evaluation.generation import calibration_error, macro_f1, overlap
from noterec.ranking.bootstrap import interval, paired

CONFIG = EvaluateConfig(at=[1, 3], rank_at=3, resamples=200, hashtags_at=[1, 2])

# note -> category, hashtags; n* are new test notes, v* valid, w* training.
TRUE: dict[str, tuple[str | None, list[str] | None]] = {
    "n1": ("Travel/Asia", ["#Tokyo", "Ramen", "ramen"]),
    "n2": ("food", ["美食", "火锅"]),
    "n3": ("Space", []),
    "n4": (None, ["a,b", "c"]),
    "n5": (" ", None),
    "v1": ("food", ["x"]),
    "w1": ("Food", ["ramen"]),
    "w2": ("Travel/Asia", ["tokyo"]),
    "w3": (None, None),
}
CATEGORIES = {"n1": ["travel/asia"], "n2": ["Travel/Asia"], "n3": ["Nonsense"], "v1": ["food"]}
HASHTAGS = {"n1": ["tokyo", "#TOKYO", "Noodles"], "n2": ["火锅", "美食", "重庆"], "n4": ["A B"]}


def dataset(path: Path, notes: dict[str, tuple[str | None, list[str] | None]]) -> Path:
    columns = {
        "note_id": list(notes),
        "title": [f"note {name}" for name in notes],
        "category": pa.array([category for category, _ in notes.values()], pa.string()),
        "hashtags": pa.array([tags for _, tags in notes.values()], pa.list_(pa.string())),
    }
    storage.write_table(pa.table(columns), path / "notes" / "part.parquet")
    return path


def table(path: Path, task: str, answers: dict[str, list[str]], version: str = "m1", **columns: Any) -> Path:
    rows = {
        "note_id": pa.array(list(answers), pa.string()),
        "task": [task] * len(answers),
        "answers": pa.array(list(answers.values()), pa.list_(pa.string())),
        "model_version": [version] * len(answers),
        **columns,
    }
    storage.write_table(schema.conform(pa.table(rows), schema.GENERATED, name="answers"), path)
    return path


def test_withdrawn_notes_have_no_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"note_id": "a", "task": "category", "answers": ["Food"], "model_version": "m1"},
        {"note_id": "b", "task": "category", "answers": ["Food"], "model_version": "m1"},
        {"note_id": "b"},
        {"note_id": "a"},
        {"note_id": "a", "task": "category", "answers": ["Travel"], "model_version": "m1"},
        {"note_id": "c", "task": "category", "answers": [], "model_version": "m1"},
    ]
    path = tmp_path / "t.parquet"
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.GENERATED), path)
    assert read("mine", path).select("note_id", "answers").rows() == [("a", ["Travel"]), ("c", [])]
    storage.write_table(pa.Table.from_pylist(rows[1:3], schema=schema.GENERATED), path)
    with pytest.raises(InputError, match="every note was withdrawn"):
        read("mine", path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`data`, `split` with train and new notes, and the tables `categories` and `hashtags`."""
    dataset(tmp_path / "data", TRUE)
    dataset(tmp_path / "split" / "train", {name: value for name, value in TRUE.items() if name.startswith("w")})
    new = {name: "test" if name[0] == "n" else "valid" for name in TRUE if name[0] != "w"}
    parts = pa.table({"note_id": list(new), "part": list(new.values())})
    storage.write_table(parts, tmp_path / "split" / "new-notes.parquet")
    related = pa.table({"anchor_id": ["n1"], "related_id": ["w1"], "score": [1.0], "rank": [1]}).cast(schema.PAIRS)
    storage.write_table(related, tmp_path / "split" / "test-pairs.parquet")
    table(tmp_path / "categories.parquet", "category", CATEGORIES, probabilities=[[0.95], [0.55], [0.55], [1.0]])
    table(tmp_path / "hashtags.parquet", "hashtags", HASHTAGS)
    return tmp_path


def measured(folder: Path, *names: str, **given: Any) -> dict[str, Any]:
    sides = {"new_notes": folder / "split" / "new-notes.parquet", "training": folder / "split" / "train"}
    tables = {name: folder / f"{name}.parquet" for name in names}
    return measure_generated(tables, notes=folder / "data", config=CONFIG, **{**sides, **given})[0]


def means(record: dict[str, Any], name: str) -> dict[str, float]:
    return {metric: value["mean"] for metric, value in record["tables"][name]["metrics"].items()}


def test_categories_by_hand(folder: Path) -> None:
    record = measured(folder, "categories")["category"]
    # n1 right, n2 wrong but known, n3 invented; n4 and n5 have no category, v1 isn't a test note.
    assert (record["notes"], record["notes_without_truth"], record["which"]) == (3, 2, "test notes")
    assert (record["closed_set"], record["truth_outside"]) == (2, 1)  # Food and Travel/Asia; Space was never seen
    found = means(record, "categories")
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["illusory"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)  # Travel/Asia: one of two written, the one true
    assert found["ece"] == pytest.approx((0.05 + 2 * 0.55) / 3)  # 0.95 is right; both of 0.55 are wrong
    assert "ece_confidence" not in found
    assert found["rouge1"] == pytest.approx((1 + 0 + 0) / 3)
    assert record["not_measured"] == {"bleu4": "no true text has four words"}
    assert record["tables"]["categories"]["unanswered"] == 0
    accuracy = record["tables"]["categories"]["metrics"]["accuracy"]
    assert (accuracy["low"], accuracy["high"], accuracy["n"]) == (0, 1, 3)


def test_hashtags_by_hand(folder: Path) -> None:
    record = measured(folder, "hashtags")["hashtags"]
    # n1 {tokyo, ramen}: tokyo noodles; n2 {美食, 火锅}: 火锅 美食 重庆; n4 {a b, c}: a b.
    assert (record["notes"], record["notes_without_truth"], record["bleu_tokenizer"]) == (3, 2, "zh")
    found = means(record, "hashtags")
    assert found["precision"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert found["recall"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert found["f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert found["precision@1"] == pytest.approx(1)
    assert found["recall@1"] == pytest.approx(1 / 2)
    assert found["f1@2"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    said, true = ["tokyo noodles", "火锅 美食 重庆", "a b"], ["tokyo ramen", "美食 火锅", "a b c"]
    expected = sacrebleu.corpus_bleu(said, [true], tokenize="zh").score / 100
    assert found["bleu4"] == pytest.approx(expected)
    assert found["rouge1"] == pytest.approx((1 / 2 + 2 * 4 / 10 + 2 * 2 / 5) / 3)


def test_a_note_without_an_answer_is_wrong_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(folder / "gap.parquet", "category", {"n1": ["Travel/Asia"], "n2": []})
    with caplog.at_level(logging.WARNING):
        record = measured(folder, "gap")["category"]
    assert means(record, "gap")["accuracy"] == pytest.approx(1 / 3)
    assert means(record, "gap")["illusory"] == 0
    assert record["tables"]["gap"]["unanswered"] == 2
    assert "gap: 2 of 3 notes have no category" in caplog.text


def test_without_new_notes_every_note_with_a_truth_counts(folder: Path) -> None:
    record = measured(folder, "categories", new_notes=None, training=None)["category"]
    assert (record["notes"], record["which"], record["truth_outside"]) == (6, "all notes", 0)
    assert record["closed_set"] == 3  # those of the dataset itself: Space is among them


def test_the_closed_set_can_be_given(folder: Path) -> None:
    (folder / "names.json").write_text(json.dumps(["Travel/Asia", "#nonsense"]))
    record = measured(folder, "categories", categories=folder / "names.json")["category"]
    assert record["closed_set"] == 2
    assert means(record, "categories")["illusory"] == 0
    (folder / "names.txt").write_text("Travel/Asia\n\n#nonsense\n")
    assert measured(folder, "categories", categories=folder / "names.txt")["category"] == record
    (folder / "names.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a JSON list of names"):
        measured(folder, "categories", categories=folder / "names.json")


def test_intervals_and_differences_are_those_of_ranking_bootstrap(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"n{number:03d}" for number in range(60)]
    tags = {name: (None, [f"t{tag}" for tag in rng.integers(0, 12, 7)]) for name in names}
    dataset(folder / "many", tags)
    for version in ("a", "b"):
        answers = {name: [f"t{tag}" for tag in rng.integers(0, 12, 7)] for name in names}
        table(folder / f"{version}.parquet", "hashtags", answers, version)
    tables = {name: folder / f"{name}.parquet" for name in "ab"}
    record, per_note = measure_generated(tables, notes=folder / "many", config=CONFIG)
    a, b = (per_note.filter(pl.col("table") == name).sort("note_id")["f1"].to_numpy() for name in "ab")
    expected = interval(a, resamples=200)
    found = record["hashtags"]["tables"]["a"]["metrics"]["f1"]
    assert [found[key] for key in ("mean", "low", "high", "n")] == pytest.approx(
        [expected.mean, expected.low, expected.high, 60]
    )
    difference = paired(b, a, resamples=200)
    entry = next(entry for entry in record["hashtags"]["paired"] if entry["metric"] == "f1")
    assert (entry["table"], entry["against"], entry["verdict"]) == ("b", "a", difference.verdict)
    assert [entry[key] for key in ("difference", "low", "high")] == pytest.approx(
        [difference.difference, difference.low, difference.high]
    )
    # BLEU is of the corpus: its interval comes from whole corpora that were resampled.
    bleu = record["hashtags"]["tables"]["a"]["metrics"]["bleu4"]
    assert bleu["low"] < bleu["mean"] < bleu["high"]
    gap = next(entry for entry in record["hashtags"]["paired"] if entry["metric"] == "bleu4")
    other = record["hashtags"]["tables"]["b"]["metrics"]["bleu4"]["mean"]
    assert gap["difference"] == pytest.approx(other - bleu["mean"])


def test_fewer_invented_categories_are_better(folder: Path) -> None:
    names = [f"n{number}" for number in range(30)]
    dataset(folder / "many", dict.fromkeys(names, ("food", None)))
    for name, answer in (("sound", "food"), ("wild", "no such thing")):
        table(folder / f"{name}.parquet", "category", {note: [answer] for note in names})
    tables = {name: folder / f"{name}.parquet" for name in ("sound", "wild")}
    record = measure_generated(tables, notes=folder / "many", config=CONFIG)[0]["category"]
    verdicts = {entry["metric"]: (entry["difference"], entry["verdict"]) for entry in record["paired"]}
    assert verdicts["illusory"] == (1, "worse")
    assert verdicts["accuracy"] == (-1, "worse")


def test_the_last_row_of_a_note_counts(folder: Path) -> None:
    path = folder / "again"
    table(path / "a.parquet", "category", {"n1": ["food"], "n2": ["food"]})
    table(path / "b.parquet", "category", {"n1": ["travel/asia"]})
    record = measure_generated({"again": path}, notes=folder / "data", config=CONFIG)[0]["category"]
    assert means(record, "again")["accuracy"] == pytest.approx(2 / 6)


def test_tables_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no category for any of the 3 notes that count .*first note is 'w1'"):
        table(folder / "other.parquet", "category", {"w1": ["food"]})
        measured(folder, "other")
    with pytest.raises(InputError, match="rows of task 'title'; expected category or hashtags"):
        table(folder / "other.parquet", "title", {"n1": ["food"]})
        measured(folder, "other")
    with pytest.raises(ArtefactError, match="mixes answers of 2 model versions"):
        table(folder / "mixed" / "a.parquet", "category", {"n1": ["food"]}, "m1")
        table(folder / "mixed" / "b.parquet", "category", {"n2": ["food"]}, "m2")
        measure_generated({"mixed": folder / "mixed"}, notes=folder / "data", config=CONFIG)
    with pytest.raises(InputError, match="holds no rows"):
        table(folder / "other.parquet", "category", {})
        measured(folder, "other")
    with pytest.raises(InputError, match="outside 0 to 1"):
        table(folder / "other.parquet", "category", {"n1": ["food"]}, probabilities=[[1.5]])
        measured(folder, "other")
    with pytest.raises(InputError, match="none of the 9 notes that count has a category"):
        dataset(folder / "data", {name: (None, tags) for name, (_, tags) in TRUE.items()})
        measured(folder, "categories", new_notes=None)
    with pytest.raises(InputError, match=r"names 5 new test notes, and 1 of them are not in .*: 'n5'"):
        dataset(folder / "data", {name: value for name, value in TRUE.items() if name != "n5"})
        measured(folder, "categories")


def test_names_are_compared_as_they_are_written() -> None:
    assert names_of("hashtags", ["#Cold  Brew", "cold brew", None, " ", "#", "a，b"]) == ["cold brew", "a b"]
    assert names_of("category", ["a,b"]) == ["a,b"]
    assert names_of("category", [None]) == names_of("hashtags", None) == []


def test_macro_f1_weighs_categories_alike() -> None:
    # a: 2 of 3 written are right and all true ones found, F1 0.8; b: nothing found. "c" is true of no note.
    assert macro_f1(["a", "a", "b", "b"], ["a", "a", "a", "c"]) == pytest.approx((4 / 5 + 0) / 2)


def test_calibration_error_by_hand() -> None:
    stated, right = np.array([0.91, 0.95, 0.1, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    # Bins of 1/15: 0.91 and 0.1 are alone in theirs; 0.95 and 1.0 share the last one, half right and 0.975 stated.
    assert calibration_error(stated, right) == pytest.approx((0.09 + 0.1 + 2 * 0.475) / 4)


labels = st.lists(st.sampled_from("abcdef"), max_size=5, unique=True)


@given(written=labels, truth=labels.filter(bool))
def test_overlap_ranges(written: list[str], truth: list[str]) -> None:
    precision, recall, f1 = overlap(written, truth)
    assert all(0 <= value <= 1 for value in (precision, recall, f1))
    assert min(precision, recall) <= f1 <= max(precision, recall)
    assert (f1 == 1) == (set(written) == set(truth))
    assert overlap(truth, truth) == (1, 1, 1)


@given(rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_ranges(rows: list[tuple[float, bool]]) -> None:
    stated, right = np.array([p for p, _ in rows]), np.array([float(r) for _, r in rows])
    error = calibration_error(stated, right)
    # Binning can only hide gaps: never more than the mean gap of single answers, never less than that of the whole.
    assert abs(stated.mean() - right.mean()) - 1e-9 <= error <= np.abs(stated - right).mean() + 1e-9


def test_a_report_of_generated_tables_alone(folder: Path) -> None:
    tables = {"mine": folder / "categories.parquet", "tags": folder / "hashtags.parquet"}
    report = evaluate(
        {}, notes=folder / "data", split=folder / "split", generated=tables, out=folder / "r", config=CONFIG
    )
    record = json.loads((folder / "r" / "metrics.json").read_text())
    assert (record["arms"], record["protocol"]["directions"]) == ({}, {})
    assert set(record["generation"]) == {"category", "hashtags"}
    assert list(record["generation"]["category"]["tables"]) == ["mine"]
    assert load_report(folder / "r") == report
    per_note = pl.DataFrame(storage.read_table(folder / "r" / "generated.parquet"))
    assert per_note.select("table", "task", "note_id").rows()[:2] == [
        ("mine", "category", "n1"),
        ("mine", "category", "n2"),
    ]
    assert per_note["f1"].null_count() == 3  # categories have none
    row = generated_table(report, "hashtags")[0]
    assert list(row)[:5] == ["table", "f1", "precision", "recall", "f1@1"]
    assert row["f1"].startswith("0.6556 [")
    text = (folder / "r" / "report.md").read_text()
    assert "## Generated: category" in text
    assert "3 test notes whose category is known; left out, as nothing is known of them: 2." in text
    assert "Not measured: bleu4" in text
    assert not (folder / "r" / "queries.parquet").exists()
    with pytest.raises(InputError, match="it ranks nothing"):
        compare(folder / "r", folder / "r")


def test_the_command_prints_what_was_generated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: Any) -> tuple[int, str]:
        paths = ("--notes", folder / "data", "--split", folder / "split", "--out", folder / "r")
        monkeypatch.setattr("sys.argv", ["noterec", "evaluate", *map(str, (*paths, *options))])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out + err

    (folder / "names.json").write_text(json.dumps(["Travel/Asia", "Nonsense"]))
    code, said = run("--generated", f"mine={folder / 'categories.parquet'}", "--categories", folder / "names.json")
    assert code == 0
    assert "generated: category" in said
    assert json.loads((folder / "r" / "metrics.json").read_text())["generation"]["category"]["closed_set"] == 2
    for wrong in ("mine", "=table", "mine="):
        assert run("--generated", wrong) == (2, f"noterec: --generated {wrong}: expected NAME=TABLE\n")
    twice = f"mine={folder / 'hashtags.parquet'}"
    assert "mine is given twice" in run("--generated", twice, "--generated", twice)[1]


def test_generated_tables_beside_arms(folder: Path) -> None:
    config = EvaluateConfig(**{**CONFIG.model_dump(), "builtin": ["bm25"]})
    generated = {"mine": folder / "categories.parquet"}
    given = {"notes": folder / "data", "split": folder / "split", "out": folder / "r", "config": config}
    vectors = pa.table(
        {
            "note_id": list(TRUE),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.tile([1.0, 0.0], len(TRUE)), pa.float32()), 2),
            "model_version": ["m"] * len(TRUE),
        }
    )
    storage.write_table(vectors, folder / "vectors.parquet")
    report = evaluate({"mine": folder / "vectors.parquet"}, generated=generated, **given)
    assert list(report.arms) == ["bm25", "mine", "mine+bm25"]
    assert list(report.generation) == ["category"]
    again = evaluate({"mine": folder / "vectors.parquet"}, **given)
    assert again.generation == {}
    assert again.arms == report.arms
    assert not (folder / "r" / "generated.parquet").exists()
    with pytest.raises(InputError, match="no generated table to hold against them"):
        evaluate({}, categories=folder / "names.json", **given)
    with pytest.raises(ConfigError, match="popularity arm needs engagement"):
        evaluate({"mine": folder / "vectors.parquet"}, notes=folder / "data", pairs=folder / "p", out=folder / "r")
