import datetime
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy import sparse

from noterec import storage
from noterec.config import SampleConfig
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.notes.sample import images as sample_images
from noterec.notes.sample import text as sample_text
from noterec.notes.sample.platform import AFFINITY, START, SampleSummary, sample, truth
from noterec.notes.sample.topics import all_topics, choose_topics

SMALL = SampleConfig(notes=300, users=150, image_px=16)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleSummary]:
    out = tmp_path_factory.mktemp("sample") / "platform"
    return out, sample(out, SampleConfig(notes=1500, users=900, image_px=16))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first = sample(tmp_path / "a", SMALL)
    sample(tmp_path / "b", SMALL)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    sample(tmp_path / "c", SMALL.model_copy(update={"seed": 1}))
    assert _files(tmp_path / "a")["notes/shard-000000.parquet"] != _files(tmp_path / "c")["notes/shard-000000.parquet"]
    with pytest.raises(InputError, match="holds a dataset already"):
        sample(tmp_path / "a", SMALL)
    assert sample(tmp_path / "a", SMALL, overwrite=True) == first


def test_no_two_wordings_share_a_term() -> None:
    terms = [word for topic in all_topics() for wording in topic.wordings for word in wording]
    assert len(terms) == len(set(terms))
    for topic in all_topics():
        assert (len(topic.wordings), len(topic.chinese)) == (3, 4)
        words = [{part for term in wording for part in term.split()} for wording in topic.wordings]
        assert not (words[0] & words[1] | words[0] & words[2] | words[1] & words[2]) - {"and"}, topic.name


def test_few_topics_are_spread_over_the_tree() -> None:
    assert len({topic.leaf for topic in choose_topics(6)}) == 6
    assert choose_topics(10_000) == list(all_topics())


def test_notes_and_log_are_consistent(platform: tuple[Path, SampleSummary]) -> None:
    out, summary = platform
    data = Dataset(out)
    notes, log = data.notes(), data.engagement()
    assert (data.clock, notes.height, summary.new_notes) == ("time", 1500, 300)
    assert notes["note_id"].n_unique() == 1500
    assert set(notes["language"]) == {"en", "zh"}
    assert log["timestamp"].is_sorted()
    assert log["timestamp"].max() < START + datetime.timedelta(weeks=4)
    joined = log.join(notes.select("note_id", "created_at", "exposure"), on="note_id", how="left")
    assert joined.filter(pl.col("timestamp") < pl.col("created_at")).height == 0
    shown = log.filter(pl.col("action") == "impression").group_by("note_id").len("shown")
    exposure = notes.join(shown, on="note_id", how="left")
    assert (exposure["exposure"] == exposure["shown"].fill_null(0)).all()
    # An engagement implies a view before it, a view an impression.
    times = log.pivot("action", index=["user_id", "note_id"], values="timestamp", aggregate_function="first")
    assert times.filter(pl.col("click").is_not_null() & ~(pl.col("view") < pl.col("click"))).height == 0
    assert times.filter(pl.col("view").is_not_null() & ~(pl.col("impression") < pl.col("view"))).height == 0
    assert times.filter(pl.col("save").is_not_null() & pl.col("click").is_null()).height == 0
    top = shown["shown"].sort(descending=True)
    assert top[:150].sum() > 0.2 * top.sum()  # a tenth of the notes has far more than a tenth of the exposure


def test_new_notes_are_engaged_in_their_week(platform: tuple[Path, SampleSummary]) -> None:
    data = Dataset(platform[0])
    week = START + datetime.timedelta(weeks=3)
    new = data.notes().filter(pl.col("created_at") >= week)["note_id"]
    clicks = data.engagement(engaged=True).filter(pl.col("note_id").is_in(new.to_list()))
    assert clicks.group_by("note_id").agg(pl.col("user_id").n_unique()).filter(
        pl.col("user_id") >= 2
    ).height > 0.9 * len(new)


def test_truth_is_an_embeddings_table(platform: tuple[Path, SampleSummary]) -> None:
    notes = Dataset(platform[0]).notes()
    known = truth(platform[0])
    assert known["note_id"].to_list() == notes["note_id"].to_list()
    assert known["leaf"].to_list() == notes["category"].to_list()
    table = storage.read_table(platform[0] / "truth" / "oracle.parquet")
    assert set(table["model_version"].to_pylist()) == {"truth"}
    factors = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(np.linalg.norm(factors, axis=1), 1, atol=1e-6)
    assert (factors == np.array(known["factors"].to_list(), np.float32)).all()
    drawn = known.filter(pl.col("style") != "none")
    a, b = drawn.row(0, named=True), drawn.row(1, named=True)
    shared = sum(
        weight
        for part, weight in AFFINITY.items()
        if (a["leaf"].split("/")[0] == b["leaf"].split("/")[0] if part == "top" else a[part] == b[part])
    )
    assert np.dot(a["factors"], b["factors"]) == pytest.approx(shared, abs=1e-5)


def test_a_style_is_seen_and_never_read() -> None:
    pictures = np.random.default_rng(0)
    means = []
    for style in range(len(sample_images.STYLES)):
        drawn = [Image.open(io.BytesIO(sample_images.draw(style, 32, pictures))) for _ in range(20)]
        assert all(picture.size == (32, 32) for picture in drawn)
        means.append(np.array([np.asarray(picture).mean(axis=(0, 1)) for picture in drawn]))  # (20, 3)
    centres = np.array([mean.mean(axis=0) for mean in means])
    nearest = [np.linalg.norm(mean[:, None] - centres, axis=2).argmin(axis=1) for mean in means]
    assert np.mean([(row == style).mean() for style, row in enumerate(nearest)]) > 0.8
    for seed in range(50):
        rng = np.random.default_rng(seed)
        topics = choose_topics(20)
        text = sample_text.write(topics[seed % 20], seed % 4, topics, rng)
        assert text.title and text.content and text.hashtags
        assert "{" not in text.title + text.content
        assert not any(style in text.content for style in sample_images.STYLES)


def _recall(scores: np.ndarray, queries: np.ndarray, relevant: list[set[int]]) -> float:
    found = []
    for query, wanted in zip(queries, relevant, strict=True):
        row = scores[query].copy()
        row[query] = -np.inf
        found.append(len(wanted & set(np.argsort(-row)[:10].tolist())) / len(wanted))
    return float(np.mean(found))


def test_the_planted_truth_shows_in_the_log(platform: tuple[Path, SampleSummary]) -> None:
    """Text explains most of what is co-engaged, pictures the rest, counted words little and popularity next to nothing."""
    import bm25s

    data = Dataset(platform[0])
    notes = data.notes(["title", "content", "hashtags"])
    log = data.engagement(engaged=True).select("user_id", "note_id").unique(maintain_order=True)
    at = {note: n for n, note in enumerate(notes["note_id"])}
    people = log["user_id"].cast(pl.Categorical).to_physical().to_numpy()
    columns = np.array([at[note] for note in log["note_id"]])
    seen = sparse.csr_array((np.ones(log.height), (people, columns)), shape=(people.max() + 1, notes.height))
    together = (seen.T @ seen).toarray()
    clicks = together.diagonal().copy()
    np.fill_diagonal(together, 0)
    cosine = np.where(together >= 2, together / np.sqrt(np.outer(clicks, clicks).clip(1)), 0)
    rng = np.random.default_rng(0)
    queries = np.array([q for q in rng.permutation(notes.height)[:300] if cosine[q].any()])
    relevant = [{int(n) for n in np.argsort(-cosine[q])[:10] if cosine[q, n] > 0} for q in queries]
    assert np.mean([len(r) == 10 for r in relevant]) > 0.8
    noise = rng.random((notes.height, notes.height)) * 1e-4  # the truth has many exact ties
    recall = {}
    for name in ("oracle", "text_oracle"):
        table = storage.read_table(platform[0] / "truth" / f"{name}.parquet")
        vectors = np.array(table["embedding"].to_pylist())
        recall[name] = _recall(vectors @ vectors.T + noise, queries, relevant)
    text = [
        " ".join([t, *tags, c])
        for t, tags, c in zip(notes["title"], notes["hashtags"].to_list(), notes["content"], strict=True)
    ]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(text, show_progress=False), show_progress=False)
    words = bm25s.tokenize(text, return_ids=False, show_progress=False)
    counted = np.zeros_like(noise)
    for query in queries:
        counted[query] = index.get_scores(words[query])
    recall["bm25"] = _recall(counted, queries, relevant)
    recall["popularity"] = _recall(np.tile(clicks.astype(float), (notes.height, 1)), queries, relevant)
    assert recall["oracle"] > 0.4, recall
    assert 0.8 < recall["text_oracle"] / recall["oracle"] < 0.97, recall
    assert recall["bm25"] < 0.5 * recall["oracle"], recall
    assert recall["popularity"] < 0.1 * recall["oracle"], recall


def test_notes_that_arrive_every_day(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"arrival": "steady", "users": 400})
    summary = sample(tmp_path / "a", config)
    sample(tmp_path / "b", config)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    data = Dataset(tmp_path / "a")
    notes, log = data.notes(["created_at"]), data.engagement()
    fresh = notes.filter(pl.col("created_at") >= START)
    days = fresh.group_by(pl.col("created_at").dt.date()).len()
    assert fresh.height == 180 and days.height > 25 and days["len"].max() < 20  # about 6 a day, in 28 days
    assert summary.new_notes == notes.filter(pl.col("created_at") >= START + datetime.timedelta(weeks=3)).height
    joined = log.join(notes, on="note_id")
    age = joined["timestamp"] - joined["created_at"]
    assert age.min() >= datetime.timedelta(0)  # nobody engages with what isn't there yet
    assert log["timestamp"].max() < START + datetime.timedelta(weeks=4)
    # Of notes that had the time, most engagement is of their first days; older ones are shown at any time.
    early = joined.filter(
        pl.col("created_at") >= START, pl.col("created_at") < START + datetime.timedelta(days=14),
        pl.col("action") == "impression",
    )  # fmt: skip
    share = (early["timestamp"] - early["created_at"] < datetime.timedelta(days=5)).mean()
    assert share == pytest.approx(1 - np.exp(-1), abs=0.06)  # an exponential's, of mean 5 days
    old = joined.filter(pl.col("created_at") < START, pl.col("action") == "impression")
    middle = START + datetime.timedelta(weeks=2)
    assert (old["timestamp"] < middle).mean() == pytest.approx(0.5, abs=0.03)


def test_no_seed_shows_a_note_before_its_time(tmp_path: Path) -> None:
    for seed in range(3):
        out = tmp_path / str(seed)
        sample(out, SampleConfig(notes=400, users=60, weeks=2, arrival="steady", image_px=16, seed=seed))
        data = Dataset(out)
        joined = data.engagement().join(data.notes(["created_at"]), on="note_id")
        assert joined.filter(pl.col("timestamp") < pl.col("created_at")).height == 0
