"""The log of the synthetic platform: who was shown, opened and clicked which note, and when.

What is shown follows a person's topics and the notes' popularity, and a little chance; what is clicked follows the match of
angle and style as well. Everything is drawn for all impressions at once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

ACTIONS = ("impression", "view", "click", "like", "save", "comment", "share")
STRONGER = ((3, 0.25), (4, 0.15), (5, 0.04), (6, 0.03))  # action, how often it follows a click
IMPRESSIONS_PER_USER = 900  # on average, those of a note that was shown before included
TOPICS_PER_USER = (6, 7, 8)
MAX_TOPICS = max(TOPICS_PER_USER)
SAME_LEAF = 0.3  # how often the next topic of a person is a neighbour of the last
EXPLORED = 0.2  # share of the impressions that follow popularity alone
CLICK = 0.97  # chance where everything matches
OTHER_ANGLE = (1.0, 0.30, 0.08, 0.05)  # by a person's rank of the angle
OTHER_STYLE = (1.0, 0.45, 0.2, 0.1)  # by a person's rank of the style
NO_STYLE = 0.4  # a note without a picture
FOREIGN = 0.04  # a topic that is none of the person's
OPENED_ANYWAY = 0.15  # views that lead to no click
WEEK_SECONDS = 7 * 86_400
LAST_SECONDS = 3600  # of the log: room for what follows an impression


@dataclasses.dataclass(frozen=True)
class Shelf:
    """What there is to be shown: arrays of N notes; `created` in seconds after the log's start."""

    topic: np.ndarray
    angle: np.ndarray
    style: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    created: np.ndarray


@dataclasses.dataclass(frozen=True)
class Log:
    """Events in order of time: arrays of one length; `action` is a position in ACTIONS, `seconds` after the start."""

    user: np.ndarray
    note: np.ndarray
    action: np.ndarray
    seconds: np.ndarray


def engage(
    shelf: Shelf,
    *,
    users: int,
    weeks: int,
    leaf_of_topic: np.ndarray,
    rng: np.random.Generator,
    freshness_days: float | None = None,
) -> Log:
    """Draw the log of a platform.

    Args:
        shelf: the notes.
        users: people.
        weeks: length of the log.
        leaf_of_topic: code of each topic's category.
        rng: the source of all chance.
        freshness_days: how long, on average, after its creation a note that came during the log is shown; None = until the end.
    """
    interests, depth = _interests(users, leaf_of_topic, rng)  # (users, MAX_TOPICS), (users,)
    angles = np.argsort(rng.random((users, len(OTHER_ANGLE))), axis=1).argsort(
        axis=1
    )  # (users, 4): the person's rank of each angle
    styles = np.argsort(rng.random((users, len(OTHER_STYLE))), axis=1).argsort(axis=1)  # (users, 4)
    activity = rng.lognormal(0, 0.4, users)
    shown = rng.poisson(IMPRESSIONS_PER_USER * activity / activity.mean())
    user = np.repeat(np.arange(users), shown)  # (E,) one per impression
    topic = interests[user, rng.integers(0, 1 << 30, len(user)) % depth[user]]
    note = _within_topic(shelf, topic, rng)
    chance = rng.random(len(user)) < EXPLORED
    note[chance] = _weighted(shelf.popularity, int(chance.sum()), rng)
    # Nobody clicks the same note twice: later impressions of it are left out.
    first = np.sort(np.unique(user.astype(np.int64) * len(shelf.topic) + note, return_index=True)[1])
    user, note = user[first], note[first]

    mine = ((interests[user] == shelf.topic[note][:, None]) & (np.arange(MAX_TOPICS) < depth[user][:, None])).any(
        axis=1
    )
    match = CLICK * shelf.quality[note] * np.where(mine, 1.0, FOREIGN)
    match *= np.array(OTHER_ANGLE)[angles[user, shelf.angle[note]]]
    style = shelf.style[note]
    match *= np.where(style < 0, NO_STYLE, np.array(OTHER_STYLE)[styles[user, np.maximum(style, 0)]])
    click = rng.random(len(user)) < match
    view = click | (rng.random(len(user)) < OPENED_ANYWAY)

    end = weeks * WEEK_SECONDS - LAST_SECONDS
    begin = np.maximum(shelf.created[note], 0)
    passed = rng.random(len(user))
    if freshness_days is not None:
        mean = np.where(shelf.created[note] < 0, np.inf, freshness_days * 86_400)
        whole = -np.expm1(-(end - begin) / mean)  # of an exponential's chance, what lies before the end
        with np.errstate(invalid="ignore"):
            passed = np.where(np.isinf(mean), passed, -mean * np.log1p(-passed * whole) / (end - begin))
    seconds = np.floor(begin + (end - begin) * passed).astype(np.int64)
    opened = seconds + rng.integers(1, 20, len(user))
    clicked = opened + rng.integers(2, 120, len(user))
    parts = [(user, note, 0, seconds), (user[view], note[view], 1, opened[view])]
    parts.append((user[click], note[click], 2, clicked[click]))
    for action, share in STRONGER:
        also = click & (rng.random(len(user)) < share)
        parts.append((user[also], note[also], action, clicked[also] + rng.integers(1, 600, int(also.sum()))))
    columns = [np.concatenate([part[n] for part in parts]) for n in (0, 1, 3)]
    actions = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
    order = np.lexsort((actions, columns[1], columns[0], columns[2]))
    return Log(columns[0][order], columns[1][order], actions[order], columns[2][order])


def _interests(users: int, leaf_of_topic: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """MAX_TOPICS topics per person, the later ones often neighbours of the earlier, and how many of them count."""
    topics = len(leaf_of_topic)
    liked = 1 / (1 + rng.permutation(topics)) ** 0.3  # some topics have more readers
    chosen = np.empty((users, MAX_TOPICS), np.int64)
    chosen[:, 0] = _weighted(liked, users, rng)
    for place in range(1, MAX_TOPICS):
        chosen[:, place] = _weighted(liked, users, rng)
        near = rng.random(users) < SAME_LEAF
        for person in np.flatnonzero(near):
            siblings = np.flatnonzero(leaf_of_topic == leaf_of_topic[chosen[person, place - 1]])
            chosen[person, place] = siblings[rng.integers(len(siblings))]
    # On a platform of few topics a person who likes most of them would have no taste.
    return chosen, np.minimum(rng.choice(TOPICS_PER_USER, users), max(2, topics // 6))


def _weighted(weight: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(weight)
    drawn: np.ndarray = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    last: np.ndarray = np.minimum(drawn, len(weight) - 1)
    return last


def _within_topic(shelf: Shelf, topic: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A note of each given topic, by popularity: one cumulative sum over notes sorted by topic serves all draws."""
    order = np.argsort(shelf.topic, kind="stable")
    edges = np.concatenate([[0.0], np.cumsum(shelf.popularity[order])])
    starts = np.searchsorted(shelf.topic[order], np.arange(int(shelf.topic.max()) + 2))
    low, high = edges[starts[topic]], edges[starts[topic + 1]]
    at = np.searchsorted(edges, low + (high - low) * rng.random(len(topic)), side="right") - 1
    note: np.ndarray = order[np.clip(at, starts[topic], starts[topic + 1] - 1)]
    return note
