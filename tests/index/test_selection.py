"""find: filters, left-out ids, authors, reposts, variety and words, against brute force over all notes."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec.config import EvaluateConfig, IndexConfig
from noterec.errors import InputError
from noterec.index import Index, build_index
from noterec.index.changing import add_notes, remove_notes
from noterec.index.searchable import unit_queries
from noterec.index.selection import Finder, Selection, find

from .conftest import embeddings_table, unit, write_dataset, write_shards

N = 120
RNG = np.random.default_rng(5)
VECTORS = unit(RNG.normal(size=(N, 5)))
VECTORS[60:90] = VECTORS[7]  # reposts of one note
AUTHORS = [None if i % 10 == 0 else f"a{i % 7}" for i in range(N)]
HOSTILE = ["'; DROP TABLE notes; --", '"quoted"', "emoji 🦊", "x" * 10_000, "\n", " "]
IDS = sorted([*HOSTILE, *(f"n{i:03d}" for i in range(N - len(HOSTILE)))])
WORDS = ["cat", "dog", "brew", "lens", "map"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    write_shards(folder / "e", embeddings_table(IDS, VECTORS))
    columns = {
        "note_id": IDS,
        "title": [f"{WORDS[i % 5]} {WORDS[i % 3]} {'rare' if i % 40 == 3 else ''}" for i in range(N)],
        "author_id": AUTHORS,
        "language": ["en" if i % 3 else "de" for i in range(N)],
        "category": ["Travel/Asia" if i % 4 == 0 else "Travelling" if i % 4 == 1 else "Food" for i in range(N)],
        "created_at": [datetime(2026, 11, 1 + i % 20, tzinfo=UTC) for i in range(N)],
        "exposure": list(range(N)),
    }
    write_dataset(folder / "d", a=columns)
    build_index(folder / "e", notes=folder / "d", out=folder / "i", config=IndexConfig(lexical=True))
    return folder / "i"


@pytest.fixture(scope="module")
def index(path: Path) -> Index:
    return Index.open(path)


def ranking(query: np.ndarray, own: int = -1) -> list[int]:
    """All notes, best first, equal ones by id (rows are in the order of ids)."""
    cosines = (VECTORS.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((np.arange(N), -cosines))
    return [int(row) for row in order if row != own]


def greedy(rows: list[int], k: int, per_author: int | None, duplicates: float | None) -> list[int]:
    kept: list[int] = []
    for row in rows:
        author = AUTHORS[row]
        if per_author and author and sum(AUTHORS[other] == author for other in kept) >= per_author:
            continue
        if duplicates is not None and any(VECTORS[row] @ VECTORS[other] >= duplicates - 1e-6 for other in kept):
            continue
        kept.append(row)
        if len(kept) == k:
            break
    return kept


def listed(rows: np.ndarray) -> list[list[int]]:
    return [[int(row) for row in part if row >= 0] for part in rows]


@pytest.mark.parametrize("per_author", [None, 1, 3])
@pytest.mark.parametrize("duplicates", [None, 1.0, 0.9])
@pytest.mark.parametrize("k", [1, 4, 30, 500])
@pytest.mark.parametrize("deep", [False, True])
def test_authors_and_reposts_equal_the_greedy_walk_over_everything(
    index: Index, k: int, per_author: int | None, duplicates: float | None, deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deep:  # every query has to be asked again, with what it saw masked out
        monkeypatch.setattr(sys.modules["noterec.index.selection"], "_FETCH", 5)
    own = np.arange(0, N, 9)
    selection = Selection(per_author=per_author, duplicates=duplicates)
    scores, rows = find(index, VECTORS[own], k, selection, exclude=own)
    assert rows.shape == scores.shape == (len(own), k)
    assert listed(rows) == [greedy(ranking(VECTORS[o], o), k, per_author, duplicates) for o in own]
    assert np.isneginf(scores[rows < 0]).all()
    there = rows >= 0
    cosines = np.einsum("qkd,qd->qk", VECTORS[np.maximum(rows, 0)], VECTORS[own])
    np.testing.assert_allclose(scores[there], cosines[there], atol=2e-6)


def test_a_batch_answers_as_its_queries_one_by_one(index: Index) -> None:
    selection = Selection(per_author=2, duplicates=0.95, diversity=0.4)
    _, together = find(index, VECTORS[:40], 10, selection)
    for query in range(40):
        _, alone = find(index, VECTORS[query : query + 1], 10, selection)
        assert alone[0].tolist() == together[query].tolist()


def test_diversity_of_everything_takes_the_farthest_of_the_pool(index: Index) -> None:
    _, rows = find(index, VECTORS[:1], 3, Selection(diversity=1.0))
    pool = ranking(VECTORS[0])[:50]  # 5 k, at least 50
    second = min(pool[1:], key=lambda row: (np.float32(VECTORS[row] @ VECTORS[pool[0]]), pool.index(row)))
    assert rows[0, 0] == pool[0] == 0
    assert rows[0, 1] == second


@pytest.mark.parametrize(
    ("selection", "allowed"),
    [
        ({"where": {"language": "de"}}, lambda i: i % 3 == 0),
        ({"where": {"category": {"under": "Travel"}}}, lambda i: i % 4 == 0),
        ({"where": {"category": {"not": {"under": "Travel"}}}}, lambda i: i % 4 != 0),
        ({"where": {"exposure": {"above": 3, "max": 50}}}, lambda i: 3 < i <= 50),
        ({"candidates": [IDS[3], IDS[70], IDS[119]]}, lambda i: i in (3, 70, 119)),
        ({"candidates": "new"}, lambda i: i % 20 > 12),
        ({"exclude": [*IDS[:100], "nobody"]}, lambda i: i >= 100),
        ({"exclude": HOSTILE}, lambda i: IDS[i] not in HOSTILE),
        ({"exclude": IDS}, lambda i: False),
        ({"where": {"exposure": -1}}, lambda i: False),
        ({"where": {"language": "de"}, "exclude": IDS[:60], "candidates": IDS[30:]}, lambda i: i >= 60 and i % 3 == 0),
    ],
)
def test_only_what_is_allowed_is_found(index: Index, selection: dict[str, Any], allowed: Any) -> None:
    finder = Finder(index, Selection(**selection))
    expected = [row for row in ranking(VECTORS[11]) if allowed(row)]
    _, rows = finder.find(VECTORS[11:12], N)
    assert listed(rows)[0] == expected
    assert finder.available == len(expected)
    _, rows = find(index, VECTORS[11:12], 7, Selection(**selection, per_author=1, duplicates=0.99))
    assert listed(rows)[0] == greedy(expected, 7, 1, 0.99)


def test_words_beside_vectors_are_fused_by_ranks(index: Index) -> None:
    assert index.lexical is not None
    words = index.lexical.terms(["rare"])
    having = [row for row in range(N) if row % 40 == 3]
    bm25 = index.lexical.scores(words)
    alike = sorted(having, key=lambda row: (-bm25[row], row))
    near = ranking(VECTORS[20])
    gain = {row: 2 / (10 + place) for place, row in enumerate(near, start=1)}
    for place, row in enumerate(alike, start=1):
        gain[row] += 1 / (10 + place)
    expected = sorted(range(N), key=lambda row: (-gain[row], row))
    scores, rows = find(index, VECTORS[20:21], 25, words=[words])
    assert rows[0].tolist() == expected[:25]
    np.testing.assert_allclose(scores[0], VECTORS[rows[0]] @ VECTORS[20], atol=2e-6)  # cosines, whatever the order
    _, rows = find(index, VECTORS[20:22], 5, exclude=np.array([20, 43]), words=[words, index.lexical.note_terms(43)])
    assert 20 not in rows[0]
    assert 43 not in rows[1]
    allowed = Selection(where={"exposure": {"max": 42}}, per_author=1)
    _, rows = find(index, VECTORS[20:21], 5, allowed, words=[words])
    assert set(rows[0].tolist()) <= set(range(43))
    assert 3 in rows[0]
    unknown = index.lexical.terms(["nowhere"])  # answered by the vectors
    assert find(index, VECTORS[20:21], 5, words=[unknown])[1].tolist() == [near[:5]]


def test_notes_that_came_and_went_since_the_build(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "i")
    late = embeddings_table(["m-late", IDS[20], "a-late"], VECTORS[[20, 21, 20]])
    late = late.append_column("author_id", pa.array(["z", "z", None])).append_column("title", pa.array(["rare"] * 3))
    add_notes(tmp_path / "i", late, model_version="m1")
    remove_notes(tmp_path / "i", [IDS[3], IDS[50]])
    index = Index.open(tmp_path / "i")
    gone = {3, 20, 50}
    assert index.lexical is not None
    for selection in (Selection(), Selection(per_author=3), Selection(duplicates=1.0), Selection(diversity=0.2)):
        for words in (None, [index.lexical.terms(["rare"])]):
            _, rows = find(index, VECTORS[20:21], N + 3, selection, words=words)
            assert not gone & set(listed(rows)[0])
    _, rows = find(index, VECTORS[20:21], N + 3)
    assert len(listed(rows)[0]) == N
    assert [index.ids[int(row)] for row in rows[0, :2]] == ["a-late", "m-late"]  # equal vectors, by id
    _, rows = find(index, VECTORS[20:21], 3, Selection(duplicates=1.0))
    assert [index.ids[int(row)] for row in rows[0, :1]] == ["a-late"]
    assert index.ids[int(rows[0, 1])] != "m-late"
    own = index.row(IDS[20])  # its new row, of which the bundle has no words: answered by the vectors
    assert own >= N
    _, rows = find(index, index.vectors([own]), 5, exclude=np.array([own]), words=[index.lexical.note_terms(own)])
    assert rows.tolist() == find(index, index.vectors([own]), 5, exclude=np.array([own]))[1].tolist()


def test_equal_fused_scores_stand_by_id_wherever_their_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 / (10 + 12) for the twelfth by vectors = 1 / (10 + 1) for the first by words, who is far away."""
    angles = [*np.linspace(0, 1, 12).tolist(), 3.0]
    vectors = unit([[np.cos(angle), np.sin(angle)] for angle in angles])
    ids = [f"m{i:02d}" for i in range(11)] + ["z"]
    write_shards(tmp_path / "e", embeddings_table(ids, vectors[[*range(11), 12]]))
    write_dataset(tmp_path / "d", a={"note_id": ids, "title": [*["map"] * 11, "rare"]})
    build_index(tmp_path / "e", notes=tmp_path / "d", out=tmp_path / "i")
    add_notes(tmp_path / "i", embeddings_table(["a"], vectors[11:12]), model_version="m1")
    index = Index.open(tmp_path / "i")
    monkeypatch.setattr(sys.modules["noterec.index.selection"], "_FUSION", EvaluateConfig(fuse_depth=12))
    assert index.lexical is not None
    _, rows = find(index, vectors[:1], 12, words=[index.lexical.terms(["rare"])])
    assert [index.ids[int(row)] for row in rows[0]] == [*ids[:11], "a"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_index_of_one_or_two(tmp_path: Path, count: int) -> None:
    write_shards(tmp_path / "e", embeddings_table(["b", "a"][:count], VECTORS[:count]))
    build_index(tmp_path / "e", out=tmp_path / "i")
    small = Index.open(tmp_path / "i")
    for selection in (Selection(), Selection(duplicates=1.0), Selection(diversity=0.5), Selection(exclude=["z"])):
        _, rows = find(small, small.vectors([0]), 5, selection)
        assert sorted(listed(rows)[0]) == list(range(count))
        _, rows = find(small, small.vectors([0]), 5, selection, exclude=np.array([0]))
        assert listed(rows)[0] == list(range(1, count))
    with pytest.raises(InputError, match="per_author: the index keeps no author_id"):
        Finder(small, Selection(per_author=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_author": 0}, "per_author=0; expected a whole number of at least 1"),
        ({"per_author": 1.5}, "per_author=1.5"),
        ({"per_author": True}, "per_author=True"),
        ({"duplicates": 0.0}, "duplicates=0.0; expected the cosine"),
        ({"duplicates": 1.1}, "duplicates=1.1"),
        ({"duplicates": float("nan")}, "duplicates=nan"),
        ({"diversity": -0.1}, "diversity=-0.1; expected the weight of novelty"),
        ({"diversity": float("nan")}, "diversity=nan"),
        ({"diversity": "much"}, "diversity='much'"),
        ({"exclude": "n001"}, "exclude: 'n001' is str; expected a list of note ids"),
        ({"exclude": [3]}, "exclude: 3 is int; expected a list of note ids"),
        ({"exclude": ["\ud800"]}, "exclude: an id holds half a character"),
        ({"candidates": 5}, "candidates: 5 is int"),
    ],
)
def test_a_selection_that_makes_no_sense_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Selection(**values)


def test_bad_questions(index: Index) -> None:
    for vector, message in [
        (np.full(5, np.nan), "hold NaN or infinity or are all zero"),
        ([np.inf, 0, 0, 0, 0], "hold NaN or infinity"),
        (np.zeros(5), "all zero"),
        ([1, 2], "D = 5"),
        ([["a"] * 5], "no list of numbers"),
        ([[[1.0] * 5]], "have shape"),
    ]:
        with pytest.raises(InputError, match=message):
            unit_queries(vector, index)
    np.testing.assert_allclose(np.linalg.norm(unit_queries([1e300, 2e300, 0, 0, 0], index)), 1, atol=1e-6)
    for k in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="expected a whole number of at least 1"):
            find(index, VECTORS[:1], k)  # type: ignore[arg-type]
    assert find(index, VECTORS[:0], 3)[1].shape == (0, 3)


def test_too_many_to_compare_among_each_other_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["noterec.index.selection"], "MOST_CHOSEN", 50)
    with pytest.raises(InputError, match="k=51 with duplicates or diversity; expected at most 50"):
        find(index, VECTORS[:1], 51, Selection(diversity=0.1))
    assert len(listed(find(index, VECTORS[:1], 51, Selection(per_author=3))[1])[0]) == len(
        greedy(ranking(VECTORS[0]), 51, 3, None)
    )


def test_the_number_of_notes_looked_at_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["noterec.index.selection"]
    monkeypatch.setattr(module, "_FETCH", 5)
    for looked_at, found in ((20, [7]), (40, [7, greedy(ranking(VECTORS[7]), 2, None, 1.0)[1]])):
        monkeypatch.setattr(module, "LOOKED_AT", looked_at)  # the first 31 are all the same
        assert listed(find(index, VECTORS[7:8], 2, Selection(duplicates=1.0))[1])[0] == found
