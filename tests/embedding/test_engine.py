"""`embed`: only what is new or changed is encoded, a killed job is continued, and nothing is dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from noterec import schema, storage
from noterec.config import EmbedConfig
from noterec.embedding.engine import embed
from noterec.embedding.forecast import embed_forecast
from noterec.errors import ArtefactError, ConfigError, InputError, LockedError
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import as_table

Folder = Callable[[str], Path]
SMALL = EmbedConfig(shard_rows=10, device="cpu")


@pytest.fixture(scope="module")
def encoder(trained: Path) -> NoteEncoder:
    return NoteEncoder.from_pretrained(trained, device="cpu")


def write(path: Path, rows: list[dict[str, Any]], name: str = "a") -> Path:
    """A dataset of these notes."""
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), path / "notes" / f"{name}.parquet")
    return path


def rows(count: int, text: Callable[[int], str] = lambda i: f"note number {i} on coffee") -> list[dict[str, Any]]:
    return [{"note_id": f"n{i:03d}", "title": text(i)} for i in range(count)]


def vectors(out: Path) -> dict[str, np.ndarray]:
    """The newest vector of each note, as an index reads them."""
    found = load_embeddings(out)
    return dict(zip(found.ids.to_list(), found.vectors, strict=True))


def test_vectors_are_those_of_encode(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(25)
    summary = embed(write(tmp_path / "d", data), model=encoder, out=tmp_path / "e", config=SMALL)
    assert (summary.notes, summary.encoded, summary.unchanged, summary.rejected) == (25, 25, 0, 0)
    found = vectors(tmp_path / "e")
    assert list(found) == [row["note_id"] for row in data]
    np.testing.assert_allclose(np.stack(list(found.values())), encoder.encode(data), atol=1e-5)
    table = storage.read_table(tmp_path / "e")
    assert table.schema.equals(schema.embeddings_schema(encoder.dimension), check_metadata=False)
    assert set(table["model_version"].to_pylist()) == {encoder.model_version}
    assert len(storage.parquet_files(tmp_path / "e")) == 3


def test_only_new_and_changed_notes_are_encoded(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(25)
    embed(write(tmp_path / "d", data), model=encoder, out=tmp_path / "e", config=SMALL)
    before = vectors(tmp_path / "e")
    again = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (again.encoded, again.unchanged) == (0, 25)
    assert len(storage.parquet_files(tmp_path / "e")) == 3

    data[3]["title"] = "quite another subject"
    data[4]["category"] = "not read by the encoder"
    data.append({"note_id": "new", "content": "rope weekend"})
    write(tmp_path / "d", data)
    third = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (third.encoded, third.unchanged) == (2, 24)
    found = vectors(tmp_path / "e")
    np.testing.assert_allclose(found["n003"], encoder.encode([data[3]])[0], atol=1e-5)
    np.testing.assert_allclose(found["new"], encoder.encode([data[-1]])[0], atol=1e-5)
    np.testing.assert_array_equal(found["n004"], before["n004"])

    data[3]["title"] = "note number 3 on coffee"  # and back again
    write(tmp_path / "d", data)
    assert embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL).encoded == 1
    np.testing.assert_allclose(vectors(tmp_path / "e")["n003"], before["n003"], atol=1e-5)


def test_a_failure_between_shards_loses_one_shard(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "d", rows(35))
    embed(tmp_path / "d", model=encoder, out=tmp_path / "whole", config=SMALL)
    add = storage.ShardFolder.add

    def third_is_fatal(self: storage.ShardFolder, record: dict[str, Any], **facts: Any) -> dict[str, Any]:
        if len(self.shards) == 2:
            raise KeyboardInterrupt  # written, but not named yet
        return add(self, record, **facts)

    with monkeypatch.context() as patched:
        patched.setattr(storage.ShardFolder, "add", third_is_fatal)
        with pytest.raises(KeyboardInterrupt):
            embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert len(list((tmp_path / "e").glob("shard-*.parquet"))) > 2
    rest = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (rest.unchanged, rest.encoded) == (20, 15)
    assert storage.read_table(tmp_path / "e").equals(storage.read_table(tmp_path / "whole"))


def test_equal_contents_are_encoded_once(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(30, lambda i: f"text {i % 3}")
    write(tmp_path / "d", data)
    first = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=EmbedConfig(device="cpu"))
    assert storage.read_json(first.record)["counts"]["distinct"] == 3
    found = vectors(tmp_path / "e")
    np.testing.assert_array_equal(found["n000"], found["n003"])
    assert not np.allclose(found["n000"], found["n001"])
    write(tmp_path / "d", [*data, {"note_id": "copy", "title": "text 1"}, {"note_id": "new", "title": "text 3"}])
    second = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=EmbedConfig(device="cpu"))
    assert (second.encoded, second.copied) == (2, 1)
    assert storage.read_json(second.record)["counts"]["distinct"] == 1
    np.testing.assert_array_equal(vectors(tmp_path / "e")["copy"], found["n001"])


def test_the_cache_gives_the_same_vectors_and_is_used(encoder: NoteEncoder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(25))
    embed(tmp_path / "d", model=encoder, out=tmp_path / "plain", config=SMALL)
    first = embed(tmp_path / "d", model=encoder, out=tmp_path / "e1", config=SMALL, cache=tmp_path / "cache")
    assert first.from_cache == 0
    second = embed(tmp_path / "d", model=encoder, out=tmp_path / "e2", config=SMALL, cache=tmp_path / "cache")
    assert (second.from_cache, second.tokens) == (25, 0)
    for out in ("e1", "e2"):
        found, plain = load_embeddings(tmp_path / out), load_embeddings(tmp_path / "plain")
        np.testing.assert_allclose(found.vectors, plain.vectors, atol=1e-6)
        assert found.ids.equals(plain.ids)


def test_the_cache_of_another_model_is_not_read(encoder: NoteEncoder, backbone_folder: Folder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(5))
    embed(tmp_path / "d", model=encoder, out=tmp_path / "e1", config=SMALL, cache=tmp_path / "cache")
    other = NoteEncoder.from_pretrained(backbone_folder("qwen3"), device="cpu")
    summary = embed(tmp_path / "d", model=other, out=tmp_path / "e2", config=SMALL, cache=tmp_path / "cache")
    assert summary.from_cache == 0
    np.testing.assert_allclose(load_embeddings(tmp_path / "e2").vectors, other.encode(rows(5)), atol=1e-5)


def test_a_few_notes_without_text_are_listed(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(20)
    data[7]["title"] = " \n "
    write(tmp_path / "d", data)
    summary = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (summary.encoded, summary.rejected) == (19, 1)
    rejects = storage.read_table(tmp_path / "e" / "rejects.parquet", schema.REJECTS).to_pylist()
    assert [(r["table"], r["key"], r["reason"]) for r in rejects] == [("notes", "n007", "no text")]
    assert "n007" not in vectors(tmp_path / "e")  # and the rejects are no shard
    data[7]["title"] = "mended"
    write(tmp_path / "d", data)
    assert embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL).encoded == 1
    assert not (tmp_path / "e" / "rejects.parquet").exists()


def test_many_notes_without_text_stop_the_job(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = [*rows(19), {"note_id": "x"}, {"note_id": "y"}]
    with pytest.raises(
        InputError, match=r"2 of 21 notes have no text to encode, more than 5 % \(max_rejected\); they are listed in"
    ):
        embed(write(tmp_path / "d", data), model=encoder, out=tmp_path / "e", config=SMALL)


def test_another_model_is_refused(encoder: NoteEncoder, backbone_folder: Folder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(5))
    embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    before = (tmp_path / "e" / "manifest.json").read_bytes()
    with pytest.raises(ArtefactError, match="holds a table of another origin"):
        embed(tmp_path / "d", model=backbone_folder("bert"), out=tmp_path / "e", config=SMALL)
    assert (tmp_path / "e" / "manifest.json").read_bytes() == before


def test_a_length_that_was_not_trained_is_told(
    encoder: NoteEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder.save_pretrained(tmp_path / "m", origin={"config": {"matryoshka": [4]}})
    NoteEncoder.from_pretrained(tmp_path / "m", device="cpu", dimension=4)
    assert not caplog.messages
    NoteEncoder.from_pretrained(tmp_path / "m", device="cpu", dimension=3)
    assert ["3 dimensions were not trained (matryoshka); trained are 4" in text for text in caplog.messages] == [True]


def test_a_shorter_embedding_is_a_prefix_with_a_version_of_its_own(
    trained: Path, encoder: NoteEncoder, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", rows(20))
    embed(data, model=encoder, out=tmp_path / "whole")
    summary = embed(data, model=trained, out=tmp_path / "short", config=EmbedConfig(dimension=4))
    assert (summary.dimension, summary.model_version != encoder.model_version) == (4, True)
    whole, short = vectors(tmp_path / "whole"), vectors(tmp_path / "short")
    for note_id, vector in short.items():
        prefix = whole[note_id][:4]
        np.testing.assert_allclose(vector, prefix / np.linalg.norm(prefix), atol=1e-5)
    with pytest.raises(ArtefactError):
        embed(data, model=trained, out=tmp_path / "short", config=EmbedConfig(dimension=8))
    with pytest.raises(ConfigError, match="the encoder that was given has"):
        embed(data, model=encoder, out=tmp_path / "other", config=EmbedConfig(dimension=4))


def test_float16(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = rows(12)
    config = EmbedConfig(shard_rows=5, dtype="float16", device="cpu")
    embed(write(tmp_path / "d", data), model=encoder, out=tmp_path / "e", config=config)
    table = storage.read_table(tmp_path / "e")
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), encoder.dimension)
    np.testing.assert_allclose(load_embeddings(tmp_path / "e").vectors, encoder.encode(data), atol=2e-3)


def test_versions_of_a_note_and_deleted_ones(encoder: NoteEncoder, tmp_path: Path) -> None:
    def note(i: int, title: str, hour: int, **more: Any) -> dict[str, Any]:
        return {"note_id": f"n{i}", "title": title, "updated_at": hour * 3_600_000_000, **more}

    write(tmp_path / "d", [note(0, "old", 1), note(1, "kept", 1), note(2, "gone", 1)])
    write(tmp_path / "d", [note(0, "new", 2), note(2, "gone", 2, deleted=True)], name="b")
    summary = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert summary.notes == 2
    found = vectors(tmp_path / "e")
    assert set(found) == {"n0", "n1"}
    np.testing.assert_allclose(found["n0"], encoder.encode([{"title": "new"}])[0], atol=1e-5)


def test_a_truncated_file_is_named(encoder: NoteEncoder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(5))
    file = tmp_path / "d" / "notes" / "a.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)


def test_damaged_pages_are_named(encoder: NoteEncoder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(400, lambda i: f"{i} {i * 7919 % 10007}"))
    file = tmp_path / "d" / "notes" / "a.parquet"
    data = bytearray(file.read_bytes())
    data[8 : len(data) // 3] = bytes(len(data) // 3 - 8)  # the footer is whole, the columns are not
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a\.parquet: damaged Parquet file"):
        embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)


def test_where_nothing_can_be_written(encoder: NoteEncoder, tmp_path: Path) -> None:
    write(tmp_path / "d", rows(5))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: exists and was not written by noterec"):
        embed(tmp_path / "d", model=encoder, out=tmp_path / "file", config=SMALL)
    with pytest.raises(InputError, match="can't write there"):
        embed(tmp_path / "d", model=encoder, out=tmp_path / "file" / "below", config=SMALL)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_dataset(encoder: NoteEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no notes"):
        embed(write(tmp_path / "d", []), model=encoder, out=tmp_path / "e", config=SMALL)


def test_a_note_that_lost_its_text_is_not_found_any_more(encoder: NoteEncoder, tmp_path: Path) -> None:
    written = rows(40)
    data = write(tmp_path / "d", written)
    embed(data, model=encoder, out=tmp_path / "e")
    assert "n003" in load_embeddings(tmp_path / "e").ids.to_list()
    emptied = [{**row, "title": None, "content": " "} if row["note_id"] == "n003" else row for row in written]
    write(tmp_path / "d", emptied)
    embed(data, model=encoder, out=tmp_path / "e")
    assert "n003" not in load_embeddings(tmp_path / "e").ids.to_list()
    write(tmp_path / "d", written)  # its text comes back
    assert embed(data, model=encoder, out=tmp_path / "e").encoded == 1
    assert len(load_embeddings(tmp_path / "e")) == 40


def test_a_run_leaves_a_record(encoder: NoteEncoder, tmp_path: Path) -> None:
    summary = embed(write(tmp_path / "d", rows(25)), model=encoder, out=tmp_path / "e", config=SMALL)
    record = storage.read_json(summary.record)
    assert record["outcome"] == "done"
    counts = {"notes": 25, "encoded": 25, "copied": 0, "distinct": 25, "unchanged": 0, "withdrawn": 0, "rejected": 0}
    assert counts.items() <= record["counts"].items()
    assert record["tokens"] == summary.tokens > 25
    assert 0 <= record["padding"] < 1 and set(record["stage_seconds"]) == {"prepare", "encode", "write"}
    assert record["peak_memory_mb"] > 50 and {"noterec", "torch", "python"} <= set(record["versions"])
    assert record["config"]["shard_rows"] == 10 and record["model_version"] == summary.model_version


def test_a_run_that_failed_leaves_a_record_too(encoder: NoteEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        embed(write(tmp_path / "d", [*rows(5), {"note_id": "x"}]), model=encoder, out=tmp_path / "e", config=SMALL)
    (record,) = (tmp_path / "e" / "runs").iterdir()
    assert storage.read_json(record)["outcome"].startswith("InputError: ")
    assert len(load_embeddings(tmp_path / "e")) == 5  # what was done is kept


def test_two_jobs_on_one_output(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = write(tmp_path / "d", rows(5))
    embed(data, model=encoder, out=tmp_path / "e", config=SMALL)
    folder = storage.ShardFolder(tmp_path / "e", origin=storage.read_json(tmp_path / "e" / storage.MANIFEST)["origin"])
    with folder.claim("noterec embed"), pytest.raises(LockedError, match=str(os.getpid())):
        embed(data, model=encoder, out=tmp_path / "e", config=SMALL)


def test_numbers_that_are_none_are_not_written(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *_: Any, **__: Any) -> Any:
        return torch.full((1, 1), float("nan"))

    monkeypatch.setattr(NoteEncoder, "project", broken)
    with pytest.raises(InputError, match="vectors are not finite, the first is of note 'n0"):
        embed(write(tmp_path / "d", rows(5)), model=encoder, out=tmp_path / "e", config=SMALL)
    assert not storage.parquet_files(tmp_path / "e")


def test_a_batch_that_a_gpu_does_not_hold_is_halved(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    budgets: list[int] = []
    run = NoteEncoder.run

    def small(self: NoteEncoder, inputs: Any, *, batch_tokens: int | None = None, **more: Any) -> Any:
        if batch_tokens is None:  # a probe of the kernels
            yield from run(self, inputs, **more)
            return
        budgets.append(batch_tokens)
        for number, part in enumerate(run(self, inputs, batch_tokens=batch_tokens, **more)):
            if batch_tokens > 128 and number == 1:
                raise torch.OutOfMemoryError("no memory")
            yield part

    monkeypatch.setattr(NoteEncoder, "run", small)
    data = rows(60)
    config = EmbedConfig(batch_tokens=512, device="cpu")
    embed(write(tmp_path / "d", data), model=encoder, out=tmp_path / "e", config=config)
    monkeypatch.undo()
    assert budgets == [512, 256, 128] and "going on with 128" in caplog.text
    np.testing.assert_allclose(load_embeddings(tmp_path / "e").vectors, encoder.encode(data), atol=1e-5)


def test_a_forecast_says_what_embed_does_and_writes_nothing(encoder: NoteEncoder, tmp_path: Path) -> None:
    data = [
        *rows(30, lambda i: f"note number {i} " + "coffee at home " * (i // 10)),
        {"note_id": "empty", "title": " "},
    ]
    write(tmp_path / "d", data)
    said = embed_forecast(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert not (tmp_path / "e").exists()
    assert (said.notes, said.due, said.distinct, said.unchanged, said.rejected, said.withdrawn) == (31, 30, 30, 0, 1, 0)
    lengths = [len(ids) for ids in encoder.prepare(as_table(data[:-1])).tokens]
    assert said.tokens == sum(lengths) and said.tokens_each["max"] == max(lengths)
    assert sum(said.histogram.values()) == 30
    assert said.seconds is not None and said.seconds > 0
    done = embed(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (done.encoded, done.rejected) == (said.due, said.rejected)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "e").rglob("*")}
    write(tmp_path / "d", [*data[1:], {"note_id": "n900", "title": "note number 1 "}])
    said = embed_forecast(tmp_path / "d", model=encoder, out=tmp_path / "e", config=SMALL)
    assert (said.due, said.unchanged, said.withdrawn) == (1, 29, 1)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "e").rglob("*")} == before
    nothing = embed_forecast(tmp_path / "d", model=encoder, out=tmp_path / "e", config=EmbedConfig(source="delta"))
    assert (nothing.due, nothing.withdrawn) == (1, 0)
