"""The whole road through the command line, on a small platform."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from noterec import cli, schema, storage

Noterec = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


@pytest.fixture
def noterec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Iterator[Noterec]:
    """Run a command with --json in the folder; what it printed, parsed."""
    monkeypatch.chdir(folder)

    def run(*arguments: Any) -> Any:
        monkeypatch.setattr(sys, "argv", ["noterec", *map(str, arguments), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert not stopped.value.code, err
        return json.loads(out)

    yield run


def test_the_road(
    noterec: Noterec, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert noterec("sample", "data", "--notes", 240, "--users", 150, "--set", "image_px=16")["notes"] == 240
    assert noterec("validate", "data")["notes"] == 240
    split = noterec("split", "data", "--out", "split", "--seed", 1)
    assert split["train_notes"] + split["valid_notes"] + split["test_notes"] == 240
    pairs = noterec("pairs", "split/train", "--out", "pairs.parquet", "--min-support", 2)
    assert storage.read_table(folder / "pairs.parquet", schema.PAIRS).num_rows == pairs["pairs"] > 100

    trained = noterec(
        "train", "split/train", "--pairs", "pairs.parquet", "--out", "model", "--valid-pairs", "split/valid-pairs.parquet",
        "--valid-notes", "data", "--steps", 4, "--dimension", 32,
        "--set", "vocabulary=500", "--set", "batch_notes=32", "--set", "valid_every=2", "--set", "device=cpu",
    )  # fmt: skip
    assert (trained["steps"], trained["dimension"], trained["train_notes"]) == (4, 32, split["train_notes"])
    best, start = (trained[look]["recall_at_10"] + trained[look]["recall_at_100"] for look in ("best", "first"))
    assert best >= start > 0

    first = noterec("embed", "data", "--model", "model", "--out", "embeddings", "--set", "device=cpu")
    assert (first["encoded"], first["model_version"]) == (240, trained["model_version"])
    again = noterec("embed", "data", "--model", "model", "--out", "embeddings", "--set", "device=cpu")
    assert (again["encoded"], again["unchanged"]) == (0, 240)

    built = noterec("index", "embeddings", "--notes", "data", "--new", "split/new-notes.parquet", "--out", "index")
    assert (built["notes"], built["new"]) == (240, split["valid_notes"] + split["test_notes"])

    new = set(pl.read_parquet(folder / "split" / "new-notes.parquet")["note_id"])
    some = min(new)
    found = noterec("query", "index", "--note-id", some, "-k", 5)
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5]
    assert some not in {row["note_id"] for row in found}
    only_new = noterec("query", "index", "--note-id", some, "-k", 5, "--candidates", "new")
    assert {row["note_id"] for row in only_new} <= new - {some}
    category = found[0]["category"]
    filtered = noterec("query", "index", "--note-id", some, "-k", 5, "--where", f"category={category}")
    assert {row["category"] for row in filtered} == {category}

    unseen = ["--title", "Cold brew at home", "--content", "18 hours in the fridge", "--hashtag", "coffee"]
    assert len(noterec("query", "index", "--model", "model", *unseen, "-k", 3)) == 3

    to_all = noterec("neighbours", "index", "--queries", "new", "--candidates", "all", "--out", "a.parquet", "-k", 7)
    to_new = noterec("neighbours", "index", "--queries", "warm", "--candidates", "new", "--out", "b.parquet", "-k", 7)
    assert to_all["rows"] == len(new) * 7
    assert to_new["rows"] == (240 - len(new)) * 7
    a = pl.DataFrame(storage.read_table(folder / "a.parquet", schema.NEIGHBOURS))
    b = pl.DataFrame(storage.read_table(folder / "b.parquet", schema.NEIGHBOURS))
    assert set(a["query_id"]) == new
    assert set(b["query_id"]).isdisjoint(new)
    assert set(b["note_id"]) <= new
    assert a.filter(pl.col("query_id") == some)["note_id"].to_list()[:5] == [row["note_id"] for row in found]

    quick = ["--split", "split", "--notes", "data", "--set", "resamples=100", "--set", "at=[10]"]
    noterec(
        "evaluate", *quick, "--arm", "mine=embeddings", "--arm", "truth=data/truth/oracle.parquet", "--out", "report"
    )
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    assert {"mine", "truth", "random", "bm25", "popularity"} <= set(metrics["arms"])
    noterec("evaluate", *quick, "--arm", "mine=embeddings", "--out", "report-2")
    verdict = noterec("compare", "report", "report-2")
    assert verdict["rows"]

    capsys.readouterr()  # and the same commands without --json print tables
    for arguments, said in (
        (["validate", "data"], "notes"),
        (["query", "index", "--note-id", some, "-k", "2"], "rank"),
        (["compare", "report", "report-2"], "against"),
    ):
        monkeypatch.setattr(sys, "argv", ["noterec", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert not stopped.value.code, err
        assert said in out


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    from noterec.config import TrainConfig, VisionConfig
    from noterec.errors import InputError
    from noterec.tour import demo

    lines: list[str] = []
    quick = TrainConfig(steps=40, valid_every=20, device="cpu")
    summary = demo(tmp_path / "demo", notes=600, users=400, config=quick, write=lines.append)
    assert summary.recall > summary.bm25 > 0
    assert 0 < summary.share <= 1
    text = "\n".join(lines)
    assert "Five notes that nobody had engaged with" in text
    assert "What to type next" in text
    parsed: list[str] = []
    demo(
        tmp_path / "demo",
        notes=240,
        users=150,
        config=TrainConfig(steps=0, device="cpu"),
        write=parsed.append,
        as_json=True,
    )
    assert json.loads("\n".join(parsed))["seconds"]["train"] > 0
    seen: list[str] = []
    seeing = VisionConfig(encoder="tiny", image_px=32, tokens=4, connector_layers=1)
    config = TrainConfig(steps=2, device="cpu", vision=seeing)
    summary = demo(tmp_path / "demo", notes=240, users=150, config=config, write=seen.append)
    assert summary.recall > 0 and "by text and picture" in "\n".join(seen)
    assert any(line.startswith("Shuffling the images") for line in seen)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="was not made by the demo"):
        demo(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
