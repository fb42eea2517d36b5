"""BLEU and ROUGE: what the libraries give, by hand, in Chinese too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from noterec.evaluation.text_metrics import (
    BLEU_STATISTICS,
    MAX_CHARACTERS,
    bleu4,
    bleu_statistics,
    bleu_tokenizer,
    rouge,
    words,
)

WRITTEN = ["the cat sat on the mat today", "", "home coffee ramen noodle soup tokyo", "zebra"]
TRUTHS = ["the cat sat on a mat today", "nothing at all", "coffee ramen noodle soup", "zebra"]
WRITTEN_ZH = ["手冲咖啡 水温 咖啡豆", "露营 装备清单", "红烧肉的做法"]
TRUTHS_ZH = ["手冲咖啡 咖啡豆 烘焙", "露营 装备推荐", "家常菜 糖醋排骨"]
texts = st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=6)


def corpus_bleu(written: list[str], truths: list[str], tokenizer: str) -> float:
    return bleu4(bleu_statistics(written, truths, tokenizer=tokenizer).sum(axis=0))


def test_words_are_characters_in_chinese_and_japanese() -> None:
    assert words("手冲Coffee の 水温 3.5℃ c_d") == ["手", "冲", "coffee", "の", "水", "温", "3", "5", "c", "d"]
    assert words("#Übung, naïve") == ["übung", "naïve"]
    assert words("  ") == []


def test_the_bleu_tokenizer_follows_the_truths() -> None:
    assert bleu_tokenizer(TRUTHS) == "13a"
    assert bleu_tokenizer([*TRUTHS, "水"]) == "zh"
    assert bleu_tokenizer(["カメラ"]) == "13a"  # zh separates Han characters only


def test_bleu_by_hand() -> None:
    # One text: 1- to 4-grams 6/7, 4/6, 2/5, 1/4, and no brevity penalty, as both have seven words.
    statistics = bleu_statistics(WRITTEN[:1], TRUTHS[:1], tokenizer="13a")
    assert statistics.tolist() == [[7, 7, 6, 4, 2, 1, 7, 6, 5, 4]]
    assert bleu4(statistics[0]) == pytest.approx((6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    # A second, empty text adds nothing but the words of its truth: a brevity penalty.
    both = bleu_statistics(WRITTEN[:2], TRUTHS[:2], tokenizer="13a").sum(axis=0)
    assert bleu4(both) == pytest.approx(math.exp(1 - 10 / 7) * bleu4(statistics[0]))


@pytest.mark.parametrize(("written", "truths"), [(WRITTEN, TRUTHS), (WRITTEN_ZH, TRUTHS_ZH)])
def test_bleu_is_sacrebleus(written: list[str], truths: list[str]) -> None:
    tokenizer = bleu_tokenizer(truths)
    expected = sacrebleu.corpus_bleu(written, [truths], tokenize=tokenizer).score / 100
    assert 0 < expected < 1
    assert corpus_bleu(written, truths, tokenizer) == pytest.approx(expected)


def test_chinese_bleu_counts_characters() -> None:
    # Nine characters each (手冲咖啡水温咖啡豆 and 手冲咖啡咖啡豆烘焙); of 手冲咖啡豆 two 咖 and two 啡 match, seven in all.
    assert bleu_statistics(WRITTEN_ZH[:1], TRUTHS_ZH[:1], tokenizer="zh")[0, :3].tolist() == [9, 9, 7]
    assert corpus_bleu(WRITTEN_ZH[:1], TRUTHS_ZH[:1], "13a") < corpus_bleu(WRITTEN_ZH[:1], TRUTHS_ZH[:1], "zh")


def test_rouge_by_hand() -> None:
    found = rouge(["手冲咖啡 coffee", ""], ["手冲 咖啡 tea", "x"])
    # Four of five words, three of four bigrams (the last one ends in another word), and a subsequence of four.
    assert found["rouge1"].tolist() == pytest.approx([0.8, 0])
    assert found["rouge2"].tolist() == pytest.approx([0.75, 0])
    assert found["rougeL"].tolist() == pytest.approx([0.8, 0])
    swapped = rouge(["b a"], ["a b"])
    assert [float(swapped[name][0]) for name in ("rouge1", "rouge2", "rougeL")] == pytest.approx([1, 0, 0.5])


def test_rouge_is_rouge_scores_on_english() -> None:
    found = rouge(WRITTEN, TRUTHS)
    scorer = rouge_scorer.RougeScorer(list(found))
    for row, (text, truth) in enumerate(zip(WRITTEN, TRUTHS, strict=True)):
        for name, score in scorer.score(truth, text).items():
            assert found[name][row] == pytest.approx(score.fmeasure)


def test_long_texts_are_cut() -> None:
    long = "咖啡 " * MAX_CHARACTERS
    assert bleu_statistics([long], ["咖啡"], tokenizer="zh")[0, 0] < MAX_CHARACTERS
    assert rouge([long], [long])["rougeL"][0] == 1
    beyond = f"noodle soup{' ' * MAX_CHARACTERS} and much more"
    assert rouge([beyond], ["noodle soup"])["rouge1"][0] == rouge(["noodle soup"], [beyond])["rouge1"][0] == 1


@settings(max_examples=30, deadline=None)
@given(pairs=texts, tokenizer=st.sampled_from(["13a", "zh"]))
def test_ranges_and_perfection(pairs: list[tuple[str, str]], tokenizer: str) -> None:
    written, truths = [text for text, _ in pairs], [truth for _, truth in pairs]
    statistics = bleu_statistics(written, truths, tokenizer=tokenizer)
    assert statistics.shape == (len(pairs), BLEU_STATISTICS)
    assert (statistics >= 0).all()
    assert (statistics[:, 2:6] <= statistics[:, 6:]).all()  # no more n-grams match than were written
    assert 0 <= bleu4(statistics.sum(axis=0)) <= 1
    perfect = rouge(truths, truths)
    for name, column in rouge(written, truths).items():
        assert ((column >= 0) & (column <= 1)).all()
        assert (column <= perfect[name] + 1e-12).all()
    assert np.isin(perfect["rouge1"], [0, 1]).all()
