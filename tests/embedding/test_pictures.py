"""Notes with pictures to vectors: each picture seen once, none dropped in silence, and each view shows what it says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from torch import Tensor

from noterec import schema, storage
from noterec.config import EmbedConfig, GenerateConfig, ImagesConfig, TrainConfig, VisionConfig
from noterec.embedding.engine import EmbedSummary, embed
from noterec.embedding.forecast import embed_forecast
from noterec.embedding.generate import generate
from noterec.embedding.intake import intake_of
from noterec.errors import ConfigError, ImageError, InputError
from noterec.index.build import build_index
from noterec.index.search import Index
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Inputs
from noterec.model.vision.tower import VisionTower
from noterec.notes import note
from noterec.notes.images import fetch as fetching
from noterec.serving.query import query
from noterec.training.train import train
from tests import colours, vision_models
from tests.colours import BAD, EYE, SIDE, SMALL, named, new_encoder, note_of, planted, png, title, write_notes
from tests.colours import write as write_platform

Folder = Callable[[str], Path]
CONFIG = EmbedConfig(shard_rows=7, device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with visual tokens, an image word and a gate, as `train` saves it."""
    folder = tmp_path_factory.mktemp("seeing")
    new_encoder().save_pretrained(folder / "m")
    return folder / "m"


@pytest.fixture(scope="module")
def encoder(model: Path) -> NoteEncoder:
    return NoteEncoder.from_pretrained(model, device="cpu")


@pytest.fixture(scope="module")
def eye_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained vision model."""
    return vision_models.make("clip", tmp_path_factory.mktemp("clip"))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of a vision tower was given, from here on."""
    calls: list[int] = []
    forward = VisionTower.forward

    def counted(self: VisionTower, pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(VisionTower, "forward", counted)
    return calls


def frozen(backbone: Path, eye: Path, **more: Any) -> TrainConfig:
    """Settings of a head on cached states and a vision encoder that stands still."""
    update: dict[str, Any] = dict(backbone=str(backbone), vision=VisionConfig(encoder=str(eye)))
    return SMALL.model_copy(update={**update, **more})


def some(count: int = 20) -> list[dict[str, Any]]:
    """Notes with text and a picture each."""
    return [note_of(f"n{i:03d}", png(i % 5, i), text=title(i)) for i in range(count)]


def run(folder: Path, rows: list[dict[str, Any]], encoder: Any, out: str = "e", **more: Any) -> EmbedSummary:
    """Write the notes and embed them."""
    data = write_notes(folder / "d", rows)
    given: dict[str, Any] = dict(config=CONFIG, image_root=None)
    states = more.pop("states", None)
    return embed(data, model=encoder, out=folder / out, cache=states, **{**given, **more})


def vectors(out: Path) -> dict[str, np.ndarray]:
    """The newest vector of each note, as an index reads them."""
    found = load_embeddings(out)
    return dict(zip(found.ids.to_list(), found.vectors, strict=True))


def rejects(out: Path) -> list[tuple[str, str, str]]:
    """Table, note and the reason's word of what was rejected, ascending."""
    file = out / schema.REJECTS_FILE
    found = storage.read_table(file, schema.REJECTS).to_pylist() if file.is_file() else []
    return sorted((row["table"], row["key"], row["reason"].split()[0]) for row in found)


def of_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same notes without pictures."""
    return [{**row, "images": None} for row in rows]


def test_notes_of_every_kind(model: Path, encoder: NoteEncoder, tmp_path: Path) -> None:
    rows = [
        *some(60),
        note_of("only-text", text="cold brew"),
        note_of("only-picture", png(2)),
        note_of("bad", BAD, text="ramen and bread"),
        note_of("bad-first", BAD, png(4), text="ramen"),
        note_of("blind", BAD),
    ]
    summary = run(tmp_path, rows, model)
    assert (summary.notes, summary.encoded, summary.unchanged, summary.rejected) == (65, 64, 0, 1)
    assert (summary.pictures, summary.pictures_rejected) == (65, 3)
    assert summary.model_version == encoder.model_version
    listed = [
        ("images", "bad", "unknown-format"),
        ("images", "bad-first", "unknown-format"),
        ("images", "blind", "unknown-format"),
        ("notes", "blind", "neither"),
    ]
    assert rejects(tmp_path / "e") == listed
    (full,) = [
        row["reason"]
        for row in storage.read_table(tmp_path / "e" / schema.REJECTS_FILE).to_pylist()
        if row["key"] == "bad"
    ]
    assert "(image 0)" in full

    found = vectors(tmp_path / "e")
    assert "blind" not in found
    readable = [row for row in rows if row["note_id"] != "blind"]
    expected = dict(zip((row["note_id"] for row in readable), encoder.encode(readable), strict=True))
    for note_id, vector in expected.items():
        np.testing.assert_allclose(found[note_id], vector, atol=1e-5, err_msg=note_id)
    by_text = encoder.encode([note_of("x", text="ramen and bread"), note_of("y", png(4), text="ramen")])
    np.testing.assert_allclose(found["bad"], by_text[0], atol=1e-5)
    np.testing.assert_allclose(found["bad-first"], by_text[1], atol=1e-5)  # the next picture took its place
    assert np.abs(found["n000"] - encoder.encode(of_text(rows[:1]))[0]).max() > 1e-2  # it does see

    again = run(tmp_path, rows, model)
    assert (again.encoded, again.unchanged, again.rejected) == (0, 64, 1)
    assert rejects(tmp_path / "e") == listed
    rows[62]["images"] = [{"bytes": png(1), "path": None}]  # "bad" is mended
    assert run(tmp_path, rows, model).encoded == 1
    assert rejects(tmp_path / "e") == listed[1:]


def test_the_same_few_bad_pictures_do_not_stop_a_later_run(encoder: NoteEncoder, tmp_path: Path) -> None:
    """Of a run that has little to do the bad pictures are most; it is the dataset's share that counts."""
    rows = [*some(60), note_of("blind-a", BAD), note_of("blind-b", BAD)]
    assert run(tmp_path, rows, encoder).rejected == 2
    again = run(tmp_path, rows, encoder)
    assert (again.encoded, again.unchanged, again.rejected) == (0, 60, 2)
    more = [*rows, note_of("new", BAD, text="paint")]
    assert run(tmp_path, more, encoder).encoded == 1
    assert len(rejects(tmp_path / "e")) == 5


def test_many_bad_pictures_stop_the_job_and_keep_what_was_done(encoder: NoteEncoder, tmp_path: Path) -> None:
    rows = [*some(20), note_of("bad", BAD, text="cold"), note_of("worse", b"", text="brew")]
    with pytest.raises(InputError) as caught:
        run(tmp_path, rows, encoder)
    message = str(caught.value)
    assert "2 of 22 pictures can't be used, more than 5 %" in message
    assert f"listed in {tmp_path / 'e' / schema.REJECTS_FILE}, the first is of note 'bad': " in message
    assert "JPEG" in message  # what a picture is
    assert len(vectors(tmp_path / "e")) == 22
    assert [row[:2] for row in rejects(tmp_path / "e")] == [("images", "bad"), ("images", "worse")]
    lenient = CONFIG.model_copy(update={"max_rejected": 0.2})
    assert run(tmp_path, rows, encoder, config=lenient).unchanged == 22
    with pytest.raises(InputError, match="2 of 22 pictures"):  # nothing is left to encode, and still nothing is mended
        run(tmp_path, rows, encoder)
    rows[20:] = [note_of("bad", png(0), text="cold"), note_of("worse", png(1), text="brew")]
    mended = run(tmp_path, rows, encoder)
    assert (mended.encoded, mended.unchanged, mended.pictures_rejected) == (2, 20, 0)
    assert rejects(tmp_path / "e") == []


def test_a_bad_picture_is_listed_after_a_kill_too(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [note_of("a-bad", BAD, text="paint"), *some(30)]
    add = storage.ShardFolder.add

    def killed_at(shards: int) -> None:
        def fatal(self: storage.ShardFolder, record: dict[str, Any], **facts: Any) -> dict[str, Any]:
            if len(self.shards) == shards:
                raise KeyboardInterrupt
            return add(self, record, **facts)

        with monkeypatch.context() as patched:
            patched.setattr(storage.ShardFolder, "add", fatal)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, rows, encoder)

    killed_at(2)
    rest = run(tmp_path, rows, encoder)
    assert (rest.unchanged, rest.encoded) == (14, 17)
    assert rejects(tmp_path / "e") == [("images", "a-bad", "unknown-format")]
    rows = [note_of("a-bad", png(1), text="paint"), *({**row, "content": "more"} for row in rows[1:])]
    killed_at(7)  # five shards were there: it is mended in the sixth
    assert run(tmp_path, rows, encoder).encoded == 17
    assert rejects(tmp_path / "e") == []


def test_only_notes_whose_text_or_pictures_changed_are_encoded(encoder: NoteEncoder, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    (root / "kept.png").write_bytes(png(1, 1))
    (root / "moved.png").write_bytes(png(2, 2))
    rows = [
        *some(40),
        note_of("kept", named("kept.png"), text="paint"),
        note_of("moved", named("moved.png"), text="paint"),
        note_of("missing", named("later.png"), text="paint"),
    ]

    def again() -> tuple[int, dict[str, np.ndarray]]:
        summary = run(tmp_path, rows, encoder, image_root=root)
        assert summary.encoded + summary.unchanged == len(rows)
        return summary.encoded, vectors(tmp_path / "e")

    encoded, before = again()
    assert encoded == 43
    assert rejects(tmp_path / "e") == [("images", "missing", "not-found")]
    assert again()[0] == 0
    rows[3] = note_of("n003", png(0, 77), text=title(3))  # other bytes
    rows[4] = note_of("n004", *[png(4, 4)], text="another text")
    rows[5]["category"] = "not read by the encoder"
    (root / "moved.png").write_bytes(png(5, 2))
    os.utime(root / "moved.png", ns=(1, 1))
    (root / "later.png").write_bytes(png(3, 3))
    encoded, after = again()
    assert encoded == 4
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"n003", "n004", "moved", "missing"}
    fresh = encoder.encode([rows[3], *rows[41:]], image_root=root)
    np.testing.assert_allclose([after[name] for name in ("n003", "moved", "missing")], fresh, atol=1e-5)
    assert rejects(tmp_path / "e") == []
    assert again()[0] == 0


def test_a_picture_that_could_not_be_fetched_is_tried_again(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*some(20), note_of("far", named("https://pictures.example/a.png"), text="ramen")]
    config = CONFIG.model_copy(update={"images": ImagesConfig(fetch=True)})
    answers: list[Any] = [ImageError("timeout", "took too long"), png(3), "asked once too often"]

    def fetch(url: str, limits: ImagesConfig) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, ImageError):
            raise answer
        return bytes(answer)

    monkeypatch.setattr(fetching, "fetch", fetch)
    assert run(tmp_path, rows, encoder, config=config).encoded == 21
    assert rejects(tmp_path / "e") == [("images", "far", "timeout")]
    assert run(tmp_path, rows, encoder, config=config).encoded == 1
    assert rejects(tmp_path / "e") == []
    expected = encoder.encode([note_of("far", png(3), text="ramen")])
    np.testing.assert_allclose(vectors(tmp_path / "e")["far"], expected[0], atol=1e-5)
    assert run(tmp_path, rows, encoder, config=config).encoded == 0


def test_a_picture_is_looked_at_once_over_training_and_every_later_run(
    backbone_folder: Folder, eye_folder: Path, tmp_path: Path, looked: list[int]
) -> None:
    platform = write_platform(tmp_path / "platform")
    cache = tmp_path / "cache"
    rows = planted()
    distinct = len({bytes(entry["bytes"]) for row in rows for entry in row["images"] or []} - {BAD})
    for name, seed in (("one", 0), ("two", 1)):
        config = frozen(backbone_folder("llama"), eye_folder, steps=2, seed=seed)
        train(
            platform / "train",
            pairs=platform / "pairs.parquet",
            valid_pairs=platform / "valid.parquet",
            valid_notes=platform / "data",
            out=tmp_path / name,
            config=config,
            cache=cache,
        )
        embed(platform / "data", model=tmp_path / name, out=tmp_path / f"{name}-e", config=CONFIG, cache=cache)
    assert sum(looked) == distinct


def test_a_picture_on_many_notes_is_looked_at_once(encoder: NoteEncoder, tmp_path: Path, looked: list[int]) -> None:
    rows = [note_of(f"n{i:03d}", png(i % 3), text=title(i)) for i in range(30)]
    run(tmp_path, rows, encoder, states=tmp_path / "cache")
    assert sum(looked) == 3
    run(tmp_path, rows, encoder, "other", states=tmp_path / "cache", config=EmbedConfig(view="image", device="cpu"))
    assert sum(looked) == 3


@pytest.fixture(scope="module")
def views(encoder: NoteEncoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with a table per view, and the notes."""
    folder = tmp_path_factory.mktemp("views")
    rows = [*some(20), note_of("only-text", text="cold brew"), note_of("only-picture", png(2, 9))]
    for view in ("both", "text", "image", "shuffled", "visual"):
        config = EmbedConfig(view=view, shard_rows=11, device="cpu")
        run(folder, rows, encoder, view, config=config)
    return folder, rows


def test_the_text_view_is_the_notes_without_pictures(
    views: tuple[Path, list[dict[str, Any]]], encoder: NoteEncoder
) -> None:
    folder, rows = views
    found = vectors(folder / "text")
    assert set(found) == {row["note_id"] for row in rows} - {"only-picture"}
    expected = encoder.encode(of_text([row for row in rows if row["title"]]))
    np.testing.assert_allclose(np.stack([found[row["note_id"]] for row in rows if row["title"]]), expected, atol=1e-5)


def test_the_image_view_reads_no_text(
    views: tuple[Path, list[dict[str, Any]]], encoder: NoteEncoder, tmp_path: Path
) -> None:
    folder, rows = views
    found = vectors(folder / "image")
    assert set(found) == {row["note_id"] for row in rows} - {"only-text"}
    others = [{**row, "title": "films", "content": "trains", "hashtags": ["ramen"]} for row in rows]
    run(tmp_path, others, encoder, config=EmbedConfig(view="image", device="cpu"))
    again = vectors(tmp_path / "e")
    assert found.keys() == again.keys()
    np.testing.assert_allclose([again[name] for name in found], list(found.values()), atol=1e-5)
    bare = encoder.encode([{**row, "title": None} for row in rows if row["images"]])
    np.testing.assert_allclose(np.stack([found[row["note_id"]] for row in rows if row["images"]]), bare, atol=1e-5)


def test_shuffled_pictures_are_all_anothers(views: tuple[Path, list[dict[str, Any]]], encoder: NoteEncoder) -> None:
    folder, rows = views
    both, shuffled = vectors(folder / "both"), vectors(folder / "shuffled")
    same = {name for name in both if np.allclose(both[name], shuffled[name], atol=1e-6)}
    assert same == {"only-text"}
    # With whose picture? Some other note's: its text with each of the pictures, one after another.
    of = {row["note_id"]: row for row in rows}
    for name in ("n000", "n008", "only-picture"):
        others = [row for row in rows if row["images"] and row["note_id"] != name]
        possible = encoder.encode([{**of[name], "note_id": "x", "images": row["images"]} for row in others])
        assert np.abs(possible - shuffled[name]).max(axis=1).min() < 1e-5


def test_notes_of_equal_content_are_shuffled_apart(encoder: NoteEncoder, tmp_path: Path) -> None:
    rows = [*some(5), note_of("twin-a", png(5), text="ramen"), note_of("twin-b", png(5), text="ramen")]
    run(tmp_path, rows, encoder, config=EmbedConfig(view="shuffled", device="cpu"))
    found = vectors(tmp_path / "e")
    assert np.abs(found["twin-a"] - found["twin-b"]).max() > 1e-3


@pytest.mark.parametrize("count", range(2, 9))
def test_nobody_keeps_their_own_picture(encoder: NoteEncoder, count: int) -> None:
    table = note.as_table([*some(count), note_of("only-text", text="x")])
    intake = intake_of(encoder, ImagesConfig(), view="shuffled")
    taken, _ = intake.take_in(table.append_column("content_hash", [intake.hashes(table)]))
    mixed, straight = intake.pictures_of(taken), intake_of(encoder, ImagesConfig())
    assert mixed is not None
    given = [rows.tolist() for rows in mixed.rows]
    assert given[-1] == []
    assert all(rows != [place] for place, rows in enumerate(given[:-1]))
    assert sorted(itertools.chain(*given)) == list(range(count))  # each is somebody's
    straight_taken, _ = straight.take_in(table)
    own = straight.pictures_of(straight_taken)
    assert own is not None
    assert [rows.tolist() for rows in own.rows] == [[place] for place in range(count)] + [[]]


def test_the_visual_view_is_the_image_word_before_the_text(
    views: tuple[Path, list[dict[str, Any]]], encoder: NoteEncoder
) -> None:
    folder, rows = views
    found = vectors(folder / "visual")
    pictured = [row for row in rows if row["images"]]
    assert set(found) == {row["note_id"] for row in pictured}
    # The image word stands before the note's text: the prompt cut right behind it, read at its end, is the same.
    table = note.as_table([{**row, "title": None} for row in pictured])
    intake = intake_of(encoder, ImagesConfig())
    taken, _ = intake.take_in(table)
    inputs = encoder.prepare(taken, intake.pictures_of(taken))
    place = encoder.prompt.image_word(1)
    assert place is not None
    cut = Inputs([ids[: place + 1] for ids in inputs.tokens], None, inputs.pictures)
    for batch, part in encoder.run(cut, batch_tokens=64):
        np.testing.assert_allclose([found[pictured[row]["note_id"]] for row in batch], part, atol=1e-5)


def test_versions_of_views_differ_and_none_is_mixed_with_another(
    views: tuple[Path, list[dict[str, Any]]], encoder: NoteEncoder
) -> None:
    folder, rows = views
    versions = {
        view: storage.read_table(folder / view)["model_version"][0].as_py()
        for view in ("both", "text", "image", "shuffled", "visual")
    }
    assert len(set(versions.values())) == 5
    assert versions["both"] == encoder.model_version
    with pytest.raises(Exception, match="holds a table of another origin"):
        run(folder, rows, encoder, "text")


def test_views_that_a_model_cannot_show(encoder: NoteEncoder, trained: Path, tmp_path: Path) -> None:
    wordless = new_encoder(SMALL.model_copy(update={"vision": EYE.model_copy(update={"micl": False})}))
    with pytest.raises(ConfigError, match="this model has no image word"):
        run(tmp_path, some(3), wordless, config=EmbedConfig(view="visual", device="cpu"))
    for view in ("image", "shuffled", "visual"):
        with pytest.raises(ConfigError, match=f"view={view}: this model reads text alone"):
            run(tmp_path, some(3), trained, config=EmbedConfig(view=view, device="cpu"))
    assert not (tmp_path / "e").exists()


def test_a_model_of_text_takes_no_image_root(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_root is given and this model reads text alone"):
        run(tmp_path, some(3), trained, image_root=tmp_path)
    summary = run(tmp_path, some(3), trained)
    assert (summary.encoded, summary.pictures) == (3, 0)


@pytest.mark.parametrize("fusion", ["head", "gate and tokens"])
def test_vectors_are_those_of_encode_with_cached_states_too(
    backbone_folder: Folder, eye_folder: Path, tmp_path: Path, fusion: str
) -> None:
    vision = VisionConfig(encoder=str(eye_folder), images=2)
    config = frozen(backbone_folder("llama"), eye_folder, vision=vision)
    if fusion != "head":
        vision = VisionConfig(encoder=str(eye_folder), tokens=2, connector_layers=1, images=2)
        config = frozen(backbone_folder("llama"), eye_folder, way="full", vision=vision)
    encoder = new_encoder(config)
    rows = [*planted(images=2), note_of("only-picture", png(2))]
    expected = encoder.encode(rows)
    rows_of = {row["note_id"]: row for row in rows}
    run(tmp_path, rows, encoder, "plain", states=None)
    first = run(tmp_path, rows, encoder, "first", states=tmp_path / "cache")
    second = run(tmp_path, rows, encoder, "second", states=tmp_path / "cache")
    assert second.from_cache == second.encoded == first.encoded == len(rows)
    for out in ("plain", "first", "second"):
        found = vectors(tmp_path / out)
        np.testing.assert_allclose(np.stack([found[name] for name in rows_of]), expected, atol=1e-5, err_msg=out)


def test_a_cached_state_is_of_the_pictures_that_were_seen(
    encoder: NoteEncoder, tmp_path: Path, looked: list[int]
) -> None:
    """Which pictures can be used depends on more than the note: on limits, and on what a server answers today."""
    rows = [*some(40), note_of("large", png(3, 5, side=4 * SIDE), text="cold")]
    strict = CONFIG.model_copy(update={"images": ImagesConfig(max_pixels=SIDE * SIDE)})
    first = run(tmp_path, rows, encoder, "strict", states=tmp_path / "cache", config=strict)
    assert first.pictures_rejected == 1
    run(tmp_path, rows, encoder, states=tmp_path / "cache")
    by_text, both = encoder.encode([*of_text(rows[-1:]), rows[-1]])
    np.testing.assert_allclose(vectors(tmp_path / "strict")["large"], by_text, atol=1e-5)
    np.testing.assert_allclose(vectors(tmp_path / "e")["large"], both, atol=1e-5)


def test_what_is_written_depends_on_the_picture_and_not_on_the_batch(encoder: NoteEncoder, tmp_path: Path) -> None:
    rows = [note_of(f"n{i:03d}", png(i % 5, i), text=title(i % 7)) for i in range(12)]
    rows += [note_of("only-text", text="cold brew"), note_of("bad", BAD, text="cold brew")]

    def written(out: str, rows: list[dict[str, Any]], batch_tokens: int = 8192) -> dict[str, Any]:
        config = GenerateConfig(top=3, batch_tokens=batch_tokens, shard_rows=5, device="cpu")
        generate(
            write_notes(tmp_path / out, rows),
            model=encoder,
            task="category",
            out=tmp_path / f"{out}-t",
            categories=["red", "green", "blue"],
            config=config,
        )
        table = storage.read_table(tmp_path / f"{out}-t", schema.GENERATED).to_pylist()
        return {row["note_id"]: dict(zip(row["answers"], row["probabilities"], strict=True)) for row in table}

    one, other = written("one", rows), written("two", rows, batch_tokens=64)
    assert one.keys() == {row["note_id"] for row in rows}
    for name, answer in one.items():
        assert other[name] == pytest.approx(answer, abs=1e-5), name
    assert one["bad"] == pytest.approx(one["only-text"], abs=1e-6)
    replaced = [{**row, "images": rows[(i + 1) % 12]["images"]} for i, row in enumerate(rows[:12])] + rows[12:]
    three = written("three", replaced)
    moved = {name: max(abs(three[name][a] - p) for a, p in answer.items()) for name, answer in one.items()}
    assert min(moved[f"n{i:03d}"] for i in range(12)) > 1e-5
    assert max(moved["only-text"], moved["bad"]) < 1e-6
    direct = encoder.generate(rows, "category", categories=["red", "green", "blue"], config=GenerateConfig(top=3))
    for answer in direct:
        found = dict(zip(answer.answers, answer.probabilities or (), strict=True))
        assert one[answer.note_id] == pytest.approx(found, abs=1e-5)


def test_an_index_of_notes_with_pictures_is_asked_with_a_picture(
    encoder: NoteEncoder, trained: Path, tmp_path: Path
) -> None:
    rows = [*some(40), note_of("bad", BAD, text="ramen"), note_of("only-picture", png(2, 9))]
    run(tmp_path, rows, encoder)
    assert build_index(tmp_path / "e", notes=tmp_path / "d", out=tmp_path / "i").notes == 42
    opened = Index.open(tmp_path / "i")
    assert "bad" in list(opened.ids)  # a note with a bad picture isn't a note that is gone
    found = query(opened, images=[png(2, 9)], model=encoder, k=1).to_dicts()
    assert (found[0]["note_id"], found[0]["score"]) == ("only-picture", pytest.approx(1, abs=1e-5))
    found = query(opened, title=title(7), images=[png(2, 7)], model=encoder, k=1).to_dicts()
    assert (found[0]["note_id"], found[0]["score"]) == ("n007", pytest.approx(1, abs=1e-5))
    assert query(opened, title=title(7), model=encoder, k=1)["score"][0] < 1 - 1e-4
    with pytest.raises(InputError, match="1 of 1 notes have nothing to read"):
        query(opened, images=[BAD], model=encoder)
    ids = pl.Series(opened.ids)
    assert ids.is_unique().all()


def test_a_forecast_decodes_nothing_and_counts_the_places_of_pictures(
    encoder: NoteEncoder, tmp_path: Path, looked: list[int]
) -> None:
    rows = [note_of("one", png(1), text="paint"), note_of("two", png(2), text="more paint"), *some(20)]
    data = colours.write_notes(tmp_path / "d", rows)
    tokens = sum(len(ids) for ids in encoder.prepare(note.as_table(rows), colours.pictures_of(encoder, rows)).tokens)
    looked.clear()
    said = embed_forecast(data, model=encoder, out=tmp_path / "e", config=CONFIG)
    assert looked == [] and not (tmp_path / "e").exists()
    assert said.due == 22 and said.pictures == sum(bool(row.get("images")) for row in rows) and said.tokens == tokens


@pytest.mark.slow
def test_two_processes_see_what_one_sees(model: Path, encoder: NoteEncoder, tmp_path: Path) -> None:
    rows = planted()
    alone = run(tmp_path, rows, encoder, "one")
    crowd = run(tmp_path, rows, model, "two", config=CONFIG.model_copy(update={"device": "cpu,cpu"}))
    assert (crowd.encoded, crowd.pictures, crowd.tokens > 0) == (alone.encoded, alone.pictures, True)
    found, expected = vectors(tmp_path / "two"), vectors(tmp_path / "one")
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), atol=1e-5)
