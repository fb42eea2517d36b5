"""Search against brute force, with ties, filters, and everything that a caller can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.config import IndexConfig
from noterec.errors import InputError
from noterec.index import Index, build_index, search
from noterec.index.selection import Selection

from .conftest import embeddings_table, unit, write_dataset, write_shards

N, D = 300, 16


def brute(
    index: Index, queries: np.ndarray, k: int, mask: np.ndarray, exclude: np.ndarray | None = None
) -> list[list[str]]:
    """The slow truth: every cosine in float64, rounded as scores are, then by id."""
    scores = (unit(queries).astype(np.float64) @ index.vectors(np.arange(len(index))).astype(np.float64).T).astype("f4")
    found = []
    for query, row in enumerate(scores):
        own = -1 if exclude is None else exclude[query]
        order = [r for r in np.lexsort((np.arange(len(row)), -row)) if mask[r] and r != own]
        found.append([index.ids[int(r)] for r in order[:k]])
    return found


def ids_by_query(table: object, queries: int) -> list[list[str]]:
    frame = pl.DataFrame(table)
    return [frame.filter(pl.col("query") == q).sort("rank")["note_id"].to_list() for q in range(queries)]


@pytest.fixture(scope="module", params=["flat", "ivf", "hnsw"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """300 notes; 40 of them are copies of one vector, so that ties reach across any k."""
    path = tmp_path_factory.mktemp("search")
    vectors = unit(np.random.default_rng(0).normal(size=(N, D)))
    vectors[100:140] = vectors[7]
    ids = [f"n{i}" for i in range(N)]
    write_shards(path / "e", embeddings_table(ids, vectors))
    columns = {"note_id": ids, "title": ids, "category": ["Travel", "Food", None] * 100, "exposure": list(range(N))}
    write_dataset(path / "ds", one=columns)
    # Forty copies of one vector are only linked with each other in a graph: its recall is low, and said so.
    target = 0.5 if request.param == "hnsw" else 0.95
    config = IndexConfig(kind=request.param, recall_at=10, gate_queries=200, recall_target=target)
    build_index(path / "e", notes=path / "ds", out=path / "i", new=ids[::10], config=config)
    return Index.open(path / "i")


@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 3, 20, 39, 45, 299, 1000]), queries=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_equals_brute_force(index: Index, seed: int, k: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(queries, D))
    vectors[0] = index.vector("n7")  # asks for the forty copies
    # What leaves little is searched exactly, whatever the kind.
    mask = rng.random(N) < rng.choice([0.05, 0.5, 1.0] if index.info.kind == "flat" else [0.05, 0.15])
    exclude = rng.integers(-1, N, size=queries)
    scores, rows = index.search_rows(unit(vectors), k, mask=mask, exclude=exclude)
    expected = brute(index, vectors, k, mask, exclude)
    assert [[index.ids[int(r)] for r in row if r >= 0] for row in rows] == expected
    assert ((rows < 0) == np.isneginf(scores)).all()


def test_the_answer_does_not_depend_on_the_batch(index: Index) -> None:
    vectors = np.random.default_rng(3).normal(size=(64, D))
    whole = pl.DataFrame(index.search(vectors, 7))
    for query in range(64):
        alone = pl.DataFrame(index.search(vectors[query], 7)).drop("query")
        assert alone.equals(whole.filter(pl.col("query") == query).drop("query"))


def test_ties_break_by_id_and_a_note_never_finds_itself(index: Index) -> None:
    if index.info.kind == "hnsw":
        pytest.skip("a graph brings some of many equal notes, not the first of them")
    copies = sorted(["n7", *(f"n{i}" for i in range(100, 140))])
    for note_id in ("n7", "n120", copies[-1]):
        found = index.similar(note_id, 5)
        assert found["note_id"].to_pylist() == [copy for copy in copies if copy != note_id][:5]
        assert found["score"].to_pylist() == pytest.approx([1.0] * 5)
        assert found["rank"].to_pylist() == [1, 2, 3, 4, 5]
    assert "n120" not in index.similar("n120", 1000)["note_id"].to_pylist()
    assert index.similar("n120", 1000).num_rows == N - 1


def test_filters_and_candidates_hold_together(index: Index) -> None:
    ids, attributes = index.ids, index.attributes
    cases: list[tuple[dict[str, object], Callable[[str], bool]]] = [
        ({"where": {"category": "Food"}}, lambda i: int(i[1:]) % 3 == 1),
        ({"where": pl.col("exposure").is_between(10, 20)}, lambda i: 10 <= int(i[1:]) <= 20),
        ({"candidates": "new"}, lambda i: int(i[1:]) % 10 == 0),
        ({"candidates": "new", "where": {"category": ["Food", "Travel"]}}, lambda i: int(i[1:]) % 30 in (0, 10)),
        ({"candidates": ["n5", "n7", "n250"]}, lambda i: i in ("n5", "n7", "n250")),
    ]
    queries = np.random.default_rng(5).normal(size=(4, D))
    for arguments, allowed in cases:
        mask = np.array([allowed(i) for i in ids])
        assert 0 < mask.sum() < attributes.height
        found = ids_by_query(index.search(queries, 12, **arguments), 4)  # type: ignore[arg-type]
        assert found == brute(index, queries, 12, mask)


def test_candidates_that_are_none_are_named(index: Index) -> None:
    with pytest.raises(InputError, match="1 of 2 candidate ids are not in the index, the first is 'z'"):
        index.search(np.ones(D), 3, candidates=["n5", "z"])
    with pytest.raises(InputError, match="candidates='news'; expected 'all', 'new' or a list"):
        index.search(np.ones(D), 3, candidates="news")
    with pytest.raises(InputError, match="no option 'wher'; expected some of where, candidates"):
        index.search(np.ones(D), 3, wher={})
    with pytest.raises(InputError, match="a selection and exclude were given"):
        index.search(np.ones(D), 3, selection=Selection(), exclude=["n5"])


@pytest.mark.parametrize("count", [1, 40, 64, 65, 200])
def test_excluded_notes_are_not_found_however_many_they_are(index: Index, count: int) -> None:
    if index.info.kind == "hnsw" and count > 64:
        pytest.skip("a graph searched under a mask brings most of the nearest, not all")
    vector = index.vector("n3")
    nearest = index.search(vector, N)["note_id"].to_pylist()
    found = index.search(vector, 20, exclude=[*nearest[:count], "nobody"])["note_id"].to_pylist()
    assert found == nearest[count : count + 20]


def test_any_k_is_answered(index: Index) -> None:
    assert index.search(np.ones(D), 10**12).num_rows == N


def test_many_ids_are_looked_up_as_few_are(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["n7", "nobody", *index.ids.to_list()]
    few = index.rows_of(wanted)
    monkeypatch.setattr(search, "_JOINED_IDS", 3)
    assert index.rows_of(wanted).tolist() == few.tolist()


def test_a_filter_that_leaves_nothing_gives_an_empty_table(index: Index) -> None:
    found = index.search(np.ones(D), 5, where={"category": "Nowhere"})
    assert found.num_rows == 0
    assert found.column_names == ["query", "note_id", "rank", "score"]
    assert index.search(np.ones((0, D)), 5).num_rows == 0


def test_queries_are_normalised(index: Index) -> None:
    vector = index.vector("n3")
    assert index.search(vector * 1e-3, 4).equals(index.search(vector, 4))


def test_bad_queries_are_refused(index: Index) -> None:
    bad = np.ones((3, D))
    bad[1, 4] = np.nan
    with pytest.raises(InputError, match=r"1 of 3 query vectors hold NaN.*the first is row 1"):
        index.search(bad, 3)
    with pytest.raises(InputError, match="all zero, the first is row 0"):
        index.search(np.zeros(D), 3)
    with pytest.raises(InputError, match=rf"\(2, {D + 1}\).*D = {D} of model version m1"):
        index.search(np.ones((2, D + 1)), 3)
    for k in (0, -1, 2.5):
        with pytest.raises(InputError, match="expected a whole number of at least 1"):
            index.search(np.ones(D), k)  # type: ignore[arg-type]


def test_an_unknown_note_is_refused_with_near_ids(index: Index) -> None:
    with pytest.raises(InputError, match=r"no note 'n1200'; did you mean .*'n120'"):
        index.similar("n1200", 3)
    with pytest.raises(InputError, match=r"no note '这'.*embed and index it first"):
        index.vector("这")


def test_an_index_of_one(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["only"], unit([[1, 1]])))
    build_index(tmp_path / "e", out=tmp_path / "i")
    index = Index.open(tmp_path / "i")
    assert index.similar("only", 5).num_rows == 0
    assert index.search([2, 0], 5).to_pylist() == [
        {"query": 0, "note_id": "only", "rank": 1, "score": pytest.approx(0.5**0.5)}
    ]


def test_a_returned_vector_is_a_copy(index: Index) -> None:
    before = index.vector("n3")
    index.vector("n3")[:] = 0
    assert index.vector("n3").tolist() == before.tolist()
