"""The closed set as a tree: every category keeps its ids, and only real decisions are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.model.generation.tree import PrefixTree

END = 0
ANSWERS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5).map(lambda ids: (*ids, END)), unique=True)


def test_a_small_tree_by_hand() -> None:
    #        7 ─ 8 ─┬ END            Travel
    #               └ 4 ─ 5 ─ END    Travel/Asia
    #        9 ─ END                 Food
    tree = PrefixTree(["Food", "Travel", "Travel/Asia"], [(9, END), (7, 8, END), (7, 8, 4, 5, END)])
    first, second = tree.branches
    assert (first.path, first.tokens.tolist(), first.targets) == ((), [7, 9], (1, ~0))
    assert (second.path, second.tokens.tolist(), second.targets) == ((7, 8), [END, 4], (~1, ~2))
    assert (tree.root, tree.depth) == (0, 2)
    assert [tree.way(n) for n in range(3)] == [[(0, 1)], [(0, 0), (1, 0)], [(0, 0), (1, 1)]]


def test_ids_that_all_share_are_no_decision() -> None:
    tree = PrefixTree(["The sea", "The air"], [(5, 6, END), (5, 7, END)])
    assert [(branch.path, branch.targets) for branch in tree.branches] == [((5,), (~0, ~1))]


def test_a_single_category_leaves_nothing_to_decide() -> None:
    tree = PrefixTree(["Food"], [(9, 8, END)])
    assert (tree.root, tree.branches, tree.depth, tree.way(0)) == (~0, [], 0, [])


@given(ANSWERS.filter(bool))
def test_every_way_spells_its_category(answers: list[tuple[int, ...]]) -> None:
    tree = PrefixTree([str(n) for n in range(len(answers))], answers)
    assert len(tree.branches) <= max(0, len(answers) - 1)
    assert all(len(branch.tokens) >= 2 for branch in tree.branches)
    assert sorted(~t for branch in tree.branches for t in branch.targets if t < 0) == (
        list(range(len(answers))) if len(answers) > 1 else []
    )
    for category, ids in enumerate(answers):
        for number, place in tree.way(category):
            branch = tree.branches[number]
            assert ids[: len(branch.path)] == branch.path
            assert ids[len(branch.path)] == branch.tokens[place]


def test_a_long_chain_of_prefixes_is_no_matter() -> None:
    names = [f"{n:04d}" for n in range(3000)]
    tree = PrefixTree(names, [(*np.ones(n + 1, dtype=int).tolist(), END) for n in range(3000)])
    assert (len(tree.branches), tree.depth) == (2999, 2999)
    assert len(tree.way(2999)) == 2999


@pytest.mark.parametrize(
    ("names", "answers", "said"),
    [
        ([], [], "closed set of categories is empty; give at least one"),
        (["a", "b", "c"], [(1, END), (2, END), (1, END)], "categories 'a' and 'c' are the same ids"),
        (["a", "<s>"], [(1, END), (END,)], "category '<s>' has no ids that this model could write"),
        (["a"], [(1, END, 2, END)], "category 'a' has no ids"),
    ],
)
def test_what_is_no_closed_set(names: list[str], answers: list[tuple[int, ...]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PrefixTree(names, answers)
