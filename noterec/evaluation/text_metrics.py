"""How much of a true text stands in a written one: BLEU-4 by sacrebleu, ROUGE-1, -2 and -L by rouge-score.

Both libraries take words to be what stands between blanks, and ROUGE's own tokenizer drops everything that isn't a-z or 0-9: every
Chinese text scores 0. So Chinese goes through sacrebleu's `zh` tokenizer for BLEU, and ROUGE counts Han and kana characters
singly, other words whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec import progress
from noterec.notes.terms import CJK

Values = NDArray[np.float64]

ROUGE = ("rouge1", "rouge2", "rougeL")
BLEU_STATISTICS = 10  # lengths of the written and the true text, then matches and counts of 1- to 4-grams
# The longest common subsequence takes time by the product of both lengths; ten hashtags have some 150 characters.
MAX_CHARACTERS = 1024

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


def words(text: str) -> list[str]:
    """The words of a text for ROUGE, in order: Han and kana characters one by one, runs of other letters and digits whole."""
    return _WORD.findall(text.casefold())


def bleu_tokenizer(truths: Iterable[str]) -> str:
    """The sacrebleu tokenizer for a corpus: `zh` where any true text has a Han character, else `13a`, its default."""
    return "zh" if any(_HAN.search(text) for text in truths) else "13a"


def bleu_statistics(written: Sequence[str], truths: Sequence[str], *, tokenizer: str) -> Values:
    """What BLEU sums over a corpus, text by text, so that it can be summed over any resample of it.

    Args:
        written: Q texts; an empty one matches nothing.
        truths: Q texts, the one reference of each. Texts are cut at MAX_CHARACTERS.
        tokenizer: sacrebleu's name of one.

    Returns:
        (Q, BLEU_STATISTICS) float64: words written, words of the truth, matched n-grams and written n-grams for n = 1..4.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer, effective_order=True)
    rows = np.zeros((len(truths), BLEU_STATISTICS))
    with progress.track("BLEU", len(truths), "notes") as bar:
        for row, (text, truth) in enumerate(zip(written, truths, strict=True)):
            found = metric.sentence_score(text[:MAX_CHARACTERS], [truth[:MAX_CHARACTERS]])
            rows[row] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
            bar.advance()
    return rows


def bleu4(sums: Values) -> float:
    """Corpus BLEU-4 between 0 and 1, with sacrebleu's smoothing, from (BLEU_STATISTICS,) sums over the corpus."""
    from sacrebleu.metrics.bleu import BLEU

    counts = [round(float(value)) for value in sums]
    found = BLEU.compute_bleu(counts[2:6], counts[6:], counts[0], counts[1], smooth_method="exp")
    return min(1.0, float(found.score) / 100)  # a perfect corpus gives 100.00000000000004


def rouge(written: Sequence[str], truths: Sequence[str]) -> dict[str, Values]:
    """ROUGE-1, -2 and -L F-measures of Q texts against one truth each, by name: (Q,) float64 between 0 and 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), tokenizer=_Tokenizer())
    values = {name: np.zeros(len(truths)) for name in ROUGE}
    with progress.track("ROUGE", len(truths), "notes") as bar:
        for row, (text, truth) in enumerate(zip(written, truths, strict=True)):
            found = scorer.score(truth[:MAX_CHARACTERS], text[:MAX_CHARACTERS])
            for name in ROUGE:
                values[name][row] = found[name].fmeasure
            bar.advance()
    return values


class _Tokenizer:
    """The object that rouge-score asks for words."""

    def tokenize(self, text: str) -> Any:
        return words(text)
