"""How a pair of notes is scored from what people did with both.

Every weighting but swing is made of one sum over people, w_AB = Σ_u g_u · s_uA · s_uB, where s is the strength of a person's
engagement with a note (1, unless settings weigh actions or age), g_u what each person adds (1, or 1 / N_u), and of the notes' own
sums c_A = Σ_u s_uA² and U = Σ_u mean of s_u² (with all strengths 1: the people who engaged with A, and the people there are).

    notellm   w_AB, g_u = 1 / N_u, over those who saw A and then engaged with B         arXiv:2403.01744 §4.3
    count     w_AB: with all strengths 1, how many people share the pair
    cosine    w_AB / sqrt(c_A c_B), between the columns of the interaction matrix       Sarwar et al., WWW 2001, §3.1.1
    lift      w_AB U / (c_A c_B), how much oftener than by chance                       Brin et al., SIGMOD 1997 ("interest")
    pmi       ln(lift), pointwise mutual information, in nats                           Church & Hanks, Comp. Linguistics 1990
    npmi      pmi / -ln(w_AB / U), 1 where neither occurs without the other             Bouma, GSCL 2009
    swing     Σ over pairs {u, v} of people who share A and B, of
              1 / sqrt(N_u) · 1 / sqrt(N_v) · 1 / (α + |I_u ∩ I_v|)                     arXiv:2010.05525 §3.2

where N_u is how many notes person u engaged with and I_u are those notes. notellm is directional, the others are not. The
paper's bounds hold for notellm; pmi and npmi are kept where they are positive. A sum that isn't positive, as more speaks against a
pair than for it, relates nothing.
"""

from __future__ import annotations

import numpy as np

from noterec.config import PairsConfig, Weighting
from noterec.engagement.counting.compiled import compiled

PLAIN, COSINE, LIFT, PMI, NPMI = range(5)
FORMULAS: dict[Weighting, int] = {
    "notellm": PLAIN,
    "count": PLAIN,
    "swing": PLAIN,
    "cosine": COSINE,
    "lift": LIFT,
    "pmi": PMI,
    "npmi": NPMI,
}
POWERS: dict[Weighting, float] = {"notellm": -1.0, "swing": -0.5}  # of N_u in what a person adds; else 0
BOUNDS: dict[Weighting, tuple[float, float]] = {
    "notellm": (0.01, 30.0),  # arXiv:2403.01744 §4.3
    "pmi": (0.0, np.inf),
    "npmi": (0.0, np.inf),
}


def bounds(config: PairsConfig) -> tuple[float, float]:
    """The scores that are kept, both ends included: those of the settings, else those of the weighting."""
    lower, upper = BOUNDS.get(config.weighting, (-np.inf, np.inf))
    return lower if config.lower is None else config.lower, upper if config.upper is None else config.upper


@compiled
def score(formula: int, weight: float, norm_a: float, norm_b: float, total: float) -> np.float32:
    """A pair's score as float32, from its sum (positive), the sums of its notes, and U.

    Rounded before scores are compared, so that the order in which people are summed can't decide a tie.
    """
    if formula == PLAIN:
        return np.float32(weight)
    if formula == COSINE:
        return np.float32(weight / np.sqrt(norm_a * norm_b))
    lift = weight * total / (norm_a * norm_b)
    if formula == LIFT:
        return np.float32(lift)
    if formula == PMI:
        return np.float32(np.log(lift))
    return np.float32(np.log(lift) / -np.log(weight / total)) if weight < total else np.float32(1.0)
