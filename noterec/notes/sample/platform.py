"""The synthetic platform: notes, pictures and a log whose truth is known (`noterec sample`).

A note has a topic and an angle, which its text carries in one of several wordings, and a visual style, which only its picture
carries. People have a few topics, an angle and a style that they like; what they are shown follows their topics and the notes'
popularity, what they click follows all of it. So a good encoder of text finds most of what is co-engaged, one that also sees
finds more, and counting words finds little. The truth is saved beside the dataset and can be evaluated like any embedding.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.config import SampleConfig
from noterec.notes.dataset import write_meta
from noterec.notes.importing.folder import dataset_folder
from noterec.notes.sample import images as sample_images
from noterec.notes.sample import log as sample_log
from noterec.notes.sample import text as sample_text
from noterec.notes.sample.topics import Topic, choose_topics
from noterec.progress import stage, track

START = datetime.datetime(2025, 1, 6, tzinfo=datetime.UTC)  # a Monday; the log's first moment
NOTES_PER_TOPIC = 60
MIN_TOPICS = 6
NOTES_PER_AUTHOR = 10
NO_PICTURE = 0.03  # share of the notes
# How much each part of the truth weighs in the cosine of two notes. An oracle for ranking needs only their order.
AFFINITY = {"topic": 0.50, "leaf": 0.06, "top": 0.02, "angle": 0.27, "style": 0.15}
TRUTH_VERSION = "truth"


@dataclasses.dataclass(frozen=True)
class SampleSummary:
    """What the synthetic platform holds.

    Attributes:
        out: the dataset's folder; its truth is in out/truth.
        notes, users: how many.
        new_notes: notes created in the last week.
        topics, leaves: how many subjects, and categories they stand in.
        impressions, clicks: rows of the log; a click also has a view, and maybe a stronger action.
        clicked: distinct pairs of a person and a note that was clicked.
    """

    out: str
    notes: int
    users: int
    new_notes: int
    topics: int
    leaves: int
    impressions: int
    clicks: int
    clicked: int


@dataclasses.dataclass(frozen=True)
class _Planted:
    """The truth about N notes: arrays of N, in the order of note_id."""

    topics: list[Topic]
    topic: np.ndarray
    angle: np.ndarray
    style: np.ndarray  # -1 = no picture
    quality: np.ndarray
    popularity: np.ndarray
    created: np.ndarray  # seconds after START; negative before the log


def sample(
    out: str | os.PathLike[str], config: SampleConfig | None = None, *, overwrite: bool = False
) -> SampleSummary:
    """Write a synthetic dataset with planted truth; the same settings give the same bytes.

    Besides notes and engagement, OUT/truth holds notes.parquet (topic, leaf, angle, style, quality and `factors`, a vector whose
    cosine is the true affinity of two notes), oracle.parquet (the factors as an embeddings table) and text_oracle.parquet (the part
    of them that the text carries).

    Args:
        out: a new or empty folder.
        config: sizes and seed; the defaults unless given.
        overwrite: replace a dataset that `out` holds.

    Raises:
        InputError: `out` can't be used.
    """
    config = config or SampleConfig()
    with stage("sample") as record, dataset_folder(out, overwrite=overwrite) as folder:
        # One stream per purpose, so that a change of one leaves the others as they are.
        plan_rng, text_rng, image_rng, log_rng = (
            np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(4)
        )
        planted = _plant(config, plan_rng)
        note_ids = [f"n{number:06d}" for number in range(config.notes)]
        log = sample_log.engage(
            sample_log.Shelf(
                planted.topic, planted.angle, planted.style, planted.quality, planted.popularity, planted.created
            ),
            users=config.users,
            weeks=config.weeks,
            leaf_of_topic=_codes([topic.leaf for topic in planted.topics]),
            freshness_days=5.0 if config.arrival == "steady" else None,
            rng=log_rng,
        )
        exposure = np.bincount(log.note[log.action == 0], minlength=config.notes)
        origin = {"source_format": "sample", **config.model_dump(mode="json")}
        notes = storage.ShardFolder(folder / "notes", origin=origin)
        _write_notes(notes, note_ids, planted, exposure, config, text_rng, image_rng)
        storage.ShardFolder(folder / "engagement", origin=origin).append(_log_table(log, note_ids))
        _write_truth(folder / "truth", note_ids, planted)
        write_meta(folder, clock="time", **origin)
        clicked = log.action == 2
        summary = SampleSummary(
            out=str(out),
            notes=config.notes,
            users=config.users,
            new_notes=int((planted.created >= _week(config.weeks - 1)).sum()),
            topics=len(planted.topics),
            leaves=len({topic.leaf for topic in planted.topics}),
            impressions=int(exposure.sum()),
            clicks=int(clicked.sum()),
            clicked=len(np.unique(log.user[clicked].astype(np.int64) * config.notes + log.note[clicked])),
        )
        record.counts.update(rows_out=summary.notes + len(log.user), rejected=0)
    return summary


def _week(number: int) -> int:
    return number * 7 * 86_400


def _codes(names: list[str]) -> np.ndarray:
    codes: np.ndarray = np.unique(names, return_inverse=True)[1]
    return codes


def _plant(config: SampleConfig, rng: np.random.Generator) -> _Planted:
    count = config.notes
    topics = choose_topics(max(MIN_TOPICS, count // NOTES_PER_TOPIC))
    # Every topic gets its share of each angle, so that small samples are no accident of the draw.
    cells = rng.permutation(np.arange(count) % (len(topics) * len(sample_text.ANGLES)))
    style = rng.integers(len(sample_images.STYLES), size=count)
    style[rng.random(count) < NO_PICTURE] = -1
    rank = 1 + rng.permutation(count)
    created = np.empty(count)
    share = np.arange(count) / count  # ids are in order of creation
    steady = config.arrival == "steady"
    old, running = share < 0.4, (share >= 0.8) & (not steady)
    created[old] = -rng.exponential(_week(4), old.sum())
    last = _week(config.weeks) - sample_log.LAST_SECONDS if steady else _week(config.weeks - 1)
    created[~old & ~running] = rng.uniform(0, last, (~old & ~running).sum())
    created[running] = _week(config.weeks - 1) + rng.uniform(0, 4 * 86_400, running.sum())
    return _Planted(
        topics=topics,
        topic=cells % len(topics),
        angle=cells // len(topics),
        style=style,
        quality=rng.uniform(0.7, 1.0, count),
        popularity=(rank / count) ** -0.6,  # a few notes are shown far more often than the rest
        created=np.sort(np.floor(created)),
    )


def _write_notes(
    shards: storage.ShardFolder,
    note_ids: list[str],
    planted: _Planted,
    exposure: np.ndarray,
    config: SampleConfig,
    text_rng: np.random.Generator,
    image_rng: np.random.Generator,
) -> None:
    leaves = [topic.leaf for topic in planted.topics]
    authors = max(1, config.notes // NOTES_PER_AUTHOR)
    shard_rows = 20_000
    with track("notes", config.notes, "notes") as bar:
        for start in range(0, config.notes, shard_rows):
            rows = []
            for at in range(start, min(start + shard_rows, config.notes)):
                topic, style = int(planted.topic[at]), int(planted.style[at])
                text = sample_text.write(planted.topics[topic], int(planted.angle[at]), planted.topics, text_rng)
                images = None
                if style >= 0:
                    picture = sample_images.draw(style, config.image_px, image_rng)
                    images = [{"bytes": picture, "path": f"{note_ids[at]}.jpg"}]
                created = START + datetime.timedelta(seconds=int(planted.created[at]))
                rows.append(
                    {
                        "note_id": note_ids[at],
                        "title": text.title,
                        "content": text.content,
                        "hashtags": text.hashtags,
                        "category": leaves[topic],
                        "images": images,
                        "author_id": f"a{int(text_rng.integers(authors)):05d}",
                        "language": text.language,
                        "created_at": created,
                        "updated_at": created,
                        "exposure": int(exposure[at]),
                        "deleted": False,
                    }
                )
                bar.advance()
            shards.append(pa.Table.from_pylist(rows, schema=schema.NOTES))


def _log_table(log: sample_log.Log, note_ids: list[str]) -> pa.Table:
    users = pa.array([f"u{number:06d}" for number in range(int(log.user.max(initial=0)) + 1)])
    stamps = pa.array(log.seconds * 1_000_000 + int(START.timestamp()) * 1_000_000, schema.TIMESTAMP)
    columns = [
        users.take(pa.array(log.user)),
        pa.array(note_ids).take(pa.array(log.note)),
        pa.array(sample_log.ACTIONS).take(pa.array(log.action)),
        stamps,
    ]
    return pa.Table.from_arrays(columns, schema=schema.ENGAGEMENT)


def _factors(planted: _Planted, parts: dict[str, float]) -> np.ndarray:
    """(N, F) float32, unit-norm: one block per part, so that the cosine of two notes adds up the weights they share."""
    codes = {
        "topic": planted.topic,
        "leaf": _codes([t.leaf for t in planted.topics])[planted.topic],
        "top": _codes([t.top for t in planted.topics])[planted.topic],
        "angle": planted.angle,
        "style": planted.style,
    }
    blocks = []
    for part, weight in parts.items():
        width = len(sample_images.STYLES) if part == "style" else int(codes[part].max()) + 1
        block = np.sqrt(weight) * (codes[part][:, None] == np.arange(width))
        if part == "style":
            block[planted.style < 0] = np.sqrt(weight / width)  # no picture: a little of every style
        blocks.append(block)
    factors = np.concatenate(blocks, axis=1)
    unit: np.ndarray = (factors / np.linalg.norm(factors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _write_truth(folder: Path, note_ids: list[str], planted: _Planted) -> None:
    factors = _factors(planted, AFFINITY)
    text = _factors(planted, {part: weight for part, weight in AFFINITY.items() if part != "style"})
    styles = np.array([*sample_images.STYLES, "none"])
    columns = {
        "note_id": note_ids,
        "topic": [planted.topics[topic].name for topic in planted.topic],
        "leaf": [planted.topics[topic].leaf for topic in planted.topic],
        "angle": [sample_text.ANGLES[angle] for angle in planted.angle],
        "style": styles[planted.style].tolist(),
        "quality": planted.quality.astype(np.float32),
        "factors": _vectors(factors),
    }
    storage.write_table(pa.table(columns), folder / "notes.parquet", origin={"affinity": AFFINITY})
    for name, vectors in (("oracle", factors), ("text_oracle", text)):
        table = pa.Table.from_arrays(
            [
                pa.array(note_ids),
                _vectors(vectors),
                pa.array(np.zeros(len(note_ids), np.uint64)),
                pa.array([TRUTH_VERSION] * len(note_ids)),
            ],
            schema=schema.embeddings_schema(vectors.shape[1]),
        )
        origin = {"model_version": TRUTH_VERSION, "dimension": vectors.shape[1]}
        storage.write_table(table, folder / f"{name}.parquet", origin=origin)


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def truth(dataset: str | os.PathLike[str]) -> pl.DataFrame:
    """The planted truth of a synthetic dataset, one row per note."""
    return pl.DataFrame(storage.read_table(storage.local(dataset) / "truth" / "notes.parquet"))
