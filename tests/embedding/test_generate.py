"""`generate`: a table of answers that grows with the dataset, survives a kill, and never mixes two ways of writing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noterec import schema, storage
from noterec.config import GenerateConfig
from noterec.embedding.generate import generate
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.evaluation.answers import read
from noterec.model.encoder import NoteEncoder
from noterec.model.generation import decoding
from tests.embedding.test_engine import rows, write

Folder = Callable[[str], Path]
CATEGORIES = ["Food", "Food/Coffee", "Travel"]
SMALL = GenerateConfig(shard_rows=10, max_tokens=8, device="cpu")


@pytest.fixture(scope="module")
def encoder(backbone_folder: Folder) -> NoteEncoder:
    return NoteEncoder.from_pretrained(backbone_folder("qwen3"), device="cpu")


def answers(out: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each note."""
    return {row["note_id"]: row for row in storage.read_table(out, schema.GENERATED).to_pylist()}


def test_answers_are_those_of_the_encoder(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(25)
    config = SMALL.model_copy(update={"samples": 4, "top": 2, "temperature": 1.0})
    summary = generate(
        write(tmp_path / "d", data),
        model=encoder,
        task="category",
        out=tmp_path / "t",
        categories=CATEGORIES,
        config=config,
    )
    assert (summary.notes, summary.written, summary.unchanged, summary.rejected) == (25, 25, 0, 0)
    assert (summary.categories, summary.empty, summary.fewer, summary.outside) == (3, 0, None, None)
    table = storage.read_table(tmp_path / "t")
    assert table.schema.equals(schema.GENERATED, check_metadata=False)
    assert len(storage.parquet_files(tmp_path / "t")) == 3
    found = table.to_pylist()
    assert [row["note_id"] for row in found] == [row["note_id"] for row in data]
    for row, expected in zip(found, encoder.generate(data, categories=CATEGORIES, config=config), strict=True):
        assert (row["task"], row["answers"], row["text"]) == ("category", list(expected.answers), None)
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
        assert (row["confidence"], row["samples"]) == (pytest.approx(expected.confidence), expected.samples)
        assert row["model_version"] == encoder.writer_version == summary.model_version
    assert summary.samples == sum(row["samples"] for row in found) == 100
    assert (summary.samples_fixed, summary.saved) == (100, 0)


def test_only_new_and_changed_notes_are_written_about(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(12)
    settings: dict[str, Any] = dict(model=encoder, task="hashtags", out=tmp_path / "t", config=SMALL)
    generate(write(tmp_path / "d", data), **settings)
    before = answers(tmp_path / "t")
    again = generate(tmp_path / "d", **settings)
    assert (again.written, again.unchanged) == (0, 12)
    data[3]["title"] = "quite another subject"
    data.append({"note_id": "new", "content": "rope weekend"})
    write(tmp_path / "d", data)
    third = generate(tmp_path / "d", **settings)
    assert (third.written, third.unchanged) == (2, 11)
    found = answers(tmp_path / "t")
    (fresh,) = encoder.generate([data[3]], "hashtags", config=SMALL)
    assert (found["n003"]["answers"], found["n003"]["text"]) == (list(fresh.answers), fresh.text)
    assert found["n003"]["text"] != before["n003"]["text"]
    assert found["n004"] == before["n004"]
    assert "new" in found


def test_notes_that_are_gone_are_withdrawn_and_all_are_written_about_again_if_asked(
    encoder: NoteEncoder, tmp_path: Path
) -> None:
    data = rows(12)
    settings: dict[str, Any] = dict(model=encoder, task="hashtags", out=tmp_path / "t")
    generate(write(tmp_path / "d", data), config=SMALL, **settings)
    delta = SMALL.model_copy(update={"source": "delta"})
    assert generate(write(tmp_path / "delta", data[:2]), config=delta, **settings).deleted == 0
    with pytest.raises(InputError, match=r"10 of the 12 notes in .* would be withdrawn"):
        generate(tmp_path / "delta", config=SMALL, **settings)
    summary = generate(write(tmp_path / "d", data[:-1]), config=SMALL, **settings)
    assert (summary.written, summary.unchanged, summary.deleted) == (0, 11, 1)
    assert storage.read_table(tmp_path / "t", schema.GENERATED).to_pylist()[-1] == {
        **dict.fromkeys(schema.GENERATED.names),
        "note_id": "n011",
    }
    assert set(read("mine", tmp_path / "t")["note_id"]) == {row["note_id"] for row in data[:-1]}
    full = generate(tmp_path / "d", config=SMALL.model_copy(update={"full": True}), **settings)
    assert (full.written, full.unchanged) == (11, 0)
    with pytest.raises(ConfigError, match="a full run needs the whole table"):
        generate(tmp_path / "delta", config=delta.model_copy(update={"full": True}), **settings)
    assert generate(write(tmp_path / "quiet", []), config=delta, **settings).notes == 0


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"samples": 4, "window": 2, "temperature": 1.0})
    write(tmp_path / "d", rows(25))
    settings: dict[str, Any] = dict(model=encoder, task="hashtags", config=config)
    generate(tmp_path / "d", out=tmp_path / "whole", **settings)
    append = storage.ShardFolder.append

    def second_is_fatal(self: storage.ShardFolder, table: Any, **facts: Any) -> Any:
        if self.shards:
            raise KeyboardInterrupt
        return append(self, table, **facts)

    with monkeypatch.context() as patched:
        patched.setattr(storage.ShardFolder, "append", second_is_fatal)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "d", out=tmp_path / "t", **settings)
    rest = generate(tmp_path / "d", out=tmp_path / "t", **settings)
    assert (rest.unchanged, rest.written) == (10, 15)
    assert storage.read_table(tmp_path / "t").equals(storage.read_table(tmp_path / "whole"))


def test_equal_contents_are_written_about_once(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    explore = decoding.explore

    def counted(reading: Any, tree: Any, searches: Any) -> Any:
        asked.append(len(searches))
        return explore(reading, tree, searches)

    monkeypatch.setattr(decoding, "explore", counted)
    data = write(tmp_path / "d", rows(30, lambda i: f"text {i % 3}"))
    config = GenerateConfig(device="cpu", samples=4)
    summary = generate(data, model=encoder, task="category", out=tmp_path / "t", categories=CATEGORIES, config=config)
    assert (sum(asked), summary.written, summary.samples_fixed) == (3, 30, 12)
    found = answers(tmp_path / "t")
    assert found["n000"] == {**found["n003"], "note_id": "n000"}


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"categories": ["Food", "Sport"]}, {}),
        ({"task": "hashtags", "categories": None}, {}),
        ({}, {"decoding": "free"}),
        ({}, {"samples": 4}),
        ({}, {"seed": 1}),
        ({"model": "gpt2"}, {}),
    ],
)
def test_another_way_of_writing_is_refused(
    encoder: NoteEncoder, backbone_folder: Folder, tmp_path: Path, given: dict[str, Any], settings: dict[str, Any]
) -> None:
    write(tmp_path / "d", rows(3))
    first: dict[str, Any] = dict(model=encoder, task="category", out=tmp_path / "t", categories=CATEGORIES)
    generate(tmp_path / "d", config=SMALL, **first)
    before = (tmp_path / "t" / "manifest.json").read_bytes()
    other = {**first, **given}
    if isinstance(other["model"], str):
        other["model"] = backbone_folder(other["model"])
    with pytest.raises(ArtefactError, match="holds a table of another origin"):
        generate(tmp_path / "d", config=SMALL.model_copy(update=settings), **other)
    assert (tmp_path / "t" / "manifest.json").read_bytes() == before
    quicker = SMALL.model_copy(update={"batch_tokens": 400, "shard_rows": 3})
    assert generate(tmp_path / "d", config=quicker, **first).unchanged == 3


def test_notes_without_text_that_is_shown_are_listed(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = [*rows(38), {"note_id": "blank", "title": " \n"}, {"note_id": "tagged", "hashtags": ["coffee"]}]
    write(tmp_path / "d", data)
    summary = generate(tmp_path / "d", model=encoder, task="hashtags", out=tmp_path / "t", config=SMALL)
    assert (summary.written, summary.rejected) == (38, 2)  # a hashtags prompt shows no hashtags
    rejects = storage.read_table(tmp_path / "t" / "rejects.parquet", schema.REJECTS).to_pylist()
    assert [(r["key"], r["reason"]) for r in rejects] == [("blank", "no text"), ("tagged", "no text")]
    shown = generate(
        tmp_path / "d", model=encoder, task="category", out=tmp_path / "c", categories=CATEGORIES, config=SMALL
    )
    assert (shown.written, shown.rejected) == (39, 1)
    with pytest.raises(InputError, match="3 of 4 notes have no text to read, more than 5 %"):
        few = write(tmp_path / "few", [{"note_id": "a", "title": "x"}, *({"note_id": str(n)} for n in range(3))])
        generate(few, model=encoder, task="hashtags", out=tmp_path / "f", config=SMALL)


def test_free_categories_outside_the_closed_set_are_counted(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["food", "Trips", "Travel\nor not", "", "FOOD/COFFEE"]

    def scripted(_: Any, rows: Any, *__: Any, **___: Any) -> list[decoding.Written]:
        ids = encoder.backbone.tokenizer([texts[row] for row in rows], add_special_tokens=False)["input_ids"]
        return [decoding.Written(found, True) for found in ids]

    monkeypatch.setattr(decoding, "write", scripted)
    config = SMALL.model_copy(update={"decoding": "free"})
    write(tmp_path / "d", rows(5))
    summary = generate(
        tmp_path / "d", model=encoder, task="category", out=tmp_path / "t", categories=CATEGORIES, config=config
    )
    assert (summary.outside, summary.empty, summary.written) == (1, 1, 5)
    unknown = generate(tmp_path / "d", model=encoder, task="category", out=tmp_path / "u", config=config)
    assert (unknown.outside, unknown.categories) == (None, None)


def test_a_trained_model_writes_with_its_own_categories(trained: Path, platform: Path, tmp_path: Path) -> None:
    encoder = NoteEncoder.from_pretrained(trained, device="cpu")
    categories = tmp_path / "names.json"
    categories.write_text(json.dumps(encoder.categories or CATEGORIES))
    summary = generate(
        platform / "data", model=encoder, task="category", out=tmp_path / "t", categories=categories, config=SMALL
    )
    assert summary.written == summary.notes == 240
    assert {row["answers"][0] for row in answers(tmp_path / "t").values()} <= set(encoder.categories or CATEGORIES)


def test_who_cannot_write_begins_nothing(backbone_folder: Folder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(3))
    with pytest.raises(InputError, match="can't write hashtags"):
        generate(tmp_path / "d", model=backbone_folder("bert"), task="hashtags", out=tmp_path / "t", config=SMALL)
    with pytest.raises(InputError, match="the model has no categories of its own"):
        generate(tmp_path / "d", model=backbone_folder("llama"), task="category", out=tmp_path / "t", config=SMALL)
    assert not (tmp_path / "t").exists()
    with pytest.raises(InputError, match="has no notes"):
        generate(
            write(tmp_path / "e", []), model=backbone_folder("llama"), task="hashtags", out=tmp_path / "t", config=SMALL
        )
