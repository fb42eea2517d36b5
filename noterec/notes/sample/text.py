"""The words of the synthetic platform around its topics: angles, titles, sentences and hashtags, in English and Chinese.

Two things a note says matter to readers: its topic and its angle. Both come in several wordings. Everything else (places,
people, moods, comparisons with other topics, popular hashtags) is shared by unrelated notes and misleads whoever counts words.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from noterec.notes.sample.topics import Topic

CHINESE_SHARE = 0.06

ANGLES = ("guide", "budget", "memory", "science")
# By angle and wording. {a} and {b} are words of the topic.
ANGLE_SENTENCES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "A beginner tutorial for {a}, step by step.",
            "The basics first: these are the mistakes that every beginner makes.",
            "Follow the step order of this tutorial and avoid my mistakes with {a}.",
        ),
        (
            "A walkthrough for the newcomer, with a checklist for {a}.",
            "This primer lists the pitfalls; tick the checklist as you go.",
            "Every newcomer meets the same pitfalls, so here is a walkthrough.",
        ),
        (
            "Lesson one for rookies: the method behind {a}.",
            "Rookies repeat three errors; this drill cures them.",
            "Practise the drill daily, the method matters more than talent.",
        ),
    ),
    (
        (
            "How cheap can {a} be? I kept every receipt and compared each price.",
            "A bargain: the price was nine dollars with the receipt to prove it.",
            "Cheap but good, a real bargain at that price.",
        ),
        (
            "An affordable way into {a}: use the coupon and wait for a discount.",
            "Thrifty people spend less on {a} than you would guess.",
            "With the discount I could spend half; being thrifty pays.",
        ),
        (
            "On a tight budget: {a} secondhand, and a refund when it broke.",
            "The sale ends soon and the deal fits my budget.",
            "I found the deal secondhand, so the whole budget stayed low.",
        ),
    ),
    (
        (
            "My grandmother and her {a}: a childhood memory.",
            "Pure nostalgia, like a letter from my childhood.",
            "This memory of my grandmother still smells of {a}.",
        ),
        (
            "Looking through the family album, I remember growing up with {a}.",
            "We were growing up fast, and my family laughed; I remember it all.",
            "The old album shows my family and me.",
        ),
        (
            "From my diary: a farewell with {a}, and a few tears.",
            "At the reunion there were tears again, as the diary foretold.",
            "Years after the farewell came a reunion.",
        ),
    ),
    (
        (
            "What does research say about {a}? The evidence, measured.",
            "A small study: I measured everything, here is the data.",
            "The evidence from the latest research surprised me, and so did my data.",
        ),
        (
            "An experiment with {a}: tested, compared, with statistics.",
            "The results of my experiment, tested twice.",
            "I tested both and the statistics compared well.",
        ),
        (
            "The theory of {a} in one chart, with an analysis.",
            "My hypothesis held: see the chart and the numbers.",
            "A short analysis of the numbers behind the theory.",
        ),
    ),
)
ANGLE_HASHTAGS: tuple[tuple[str, ...], ...] = (
    ("tutorial", "walkthrough", "rookies"),
    ("bargain", "thrifty", "budget"),
    ("nostalgia", "family", "diary"),
    ("research", "experiment", "analysis"),
)
ANGLE_CHINESE: tuple[tuple[str, ...], ...] = (
    ("新手教程:{a}一步一步来。", "入门必看,{a}的常见误区都在这里。"),
    ("{a}平价攻略,省钱又好用。", "超值优惠,{a}的价格我都记下来了。"),
    ("外婆和{a},是我的童年回忆。", "翻看旧日记,想起小时候的{a}。"),
    ("{a}的研究和数据,都测过了。", "做了一个实验,{a}的结果在图表里。"),
)
TOPIC_SENTENCES = (
    "It all began with the {a} and ended with the {b}.",
    "I spent the morning on {a}, then on {b}.",
    "Nobody told me how much {a} depends on {b}.",
    "First comes {a}, and after that {b}.",
    "People ask about my {a}; I always show them the {b}.",
    "A good {a} goes well with {b}.",
    "Next time I want more {a} and less {b}.",
    "The {b} was lovely, the {a} even better.",
    "Today was all about {a} and {b}.",
    "You can never have too much {a}.",
)
TITLES = (
    "{mood} {a} in {place}",
    "{a} and {b}, the {mood} way",
    "My {mood} {a} with {person}",
    "{person} and the {a}",
    "A {mood} day of {a}",
    "{a}: {mood} and honest",
    "Why {a}? Notes from {place}",
    "{place} diaries: {a}",
)
FILLERS = (
    "Greetings from {place}, where {person} and I had a {mood} day.",
    "{person} says hello from {place}.",
    "It rained in {place}, but the mood was {mood}.",
    "Save this post for the weekend and tell {person} about it.",
    "Follow me for more, and ask {person} anything in the comments.",
    "We met {person} by chance near {place}.",
    "A {mood} weekend in {place}, as {person} promised.",
    "Music on, phone off, {place} outside the window.",
)
# A comparison with a topic that has nothing to do with the note.
SIMILES = (
    "It felt as good as {x} after {y}.",
    "{person} prefers {x}, and of course {y}, but that is another story.",
    "Think of {x}, only without the {y}.",
    "Some people have {x} and {y}; I have this.",
)
CHINESE_SENTENCES = (
    "今天分享{a}和{b}。",
    "周末在{place},一整天都是{a}。",
    "喜欢{b}的朋友一定要看看。",
    "{a}真的太棒了,下次还要试试{b}。",
)
CHINESE_TITLES = ("{a}|{place}的一天", "关于{a}和{b}", "{place}:{a}分享", "我的{a}日常")
MOODS = (
    "quiet", "sunny", "cosy", "slow", "lovely", "wild", "honest", "perfect", "simple", "golden", "dreamy", "lazy", "bright",
    "calm", "happy", "rainy", "gentle", "fresh", "soft", "brave",
)  # fmt: skip
PLACES = (
    "Lisbon", "Porto", "Austin", "Osaka", "Berlin", "Cape Town", "Melbourne", "Toronto", "Seoul", "Oslo", "Bergen", "Valencia",
    "Chengdu", "Denver", "Dublin", "Krakow", "Riga", "Montreal", "Taipei", "Hanoi", "Lima", "Quito", "Bristol", "Leeds", "Ghent",
    "Basel", "Turin", "Split", "Izmir", "Fukuoka", "Sapporo", "Adelaide", "Portland", "Boston", "Malmo", "Tartu", "Nairobi",
    "Accra", "Bogota", "Cusco",
)  # fmt: skip
CHINESE_PLACES = ("上海", "成都", "杭州", "北京", "广州", "厦门")
_FIRST = (
    "Ada", "Ben", "Cleo", "Dario", "Elif", "Finn", "Gita", "Hugo", "Iris", "Jonas", "Kaya", "Liam", "Mina", "Nils", "Olga",
    "Pia", "Quinn", "Rosa", "Sami", "Tara",
)  # fmt: skip
_LAST = ("Ash", "Brook", "Crane", "Dale", "Elm", "Frost", "Glen", "Heath", "Ivers", "Jules")
PEOPLE = tuple(f"{first}{last.lower()}" for first in _FIRST for last in _LAST)
HASHTAGS = (
    "weekend", "mood", "daily", "love", "lifestyle", "goodvibes", "inspiration", "fyp", "sharing", "happy", "aesthetic", "todo",
)  # fmt: skip
CHINESE_HASHTAGS = ("周末", "日常", "分享", "好物")


@dataclasses.dataclass(frozen=True)
class Written:
    """The text of one note."""

    title: str
    content: str
    hashtags: list[str]
    language: str


def write(topic: Topic, angle: int, topics: list[Topic], rng: np.random.Generator) -> Written:
    """A readable note on a topic from an angle, in one wording of each (or two of the topic).

    Args:
        topic: what it is about.
        angle: position in ANGLES.
        topics: all topics, for comparisons with other ones.
        rng: the source of all choices.
    """
    if rng.random() < CHINESE_SHARE:
        return _chinese(topic, angle, rng)
    order = rng.permutation(len(topic.wordings))
    words = list(topic.wordings[order[0]])
    if rng.random() < 0.25:
        words = [*words[:3], *topic.wordings[order[1]][:2]]
    words = [words[at] for at in rng.permutation(len(words))]
    wording = int(rng.integers(len(ANGLE_SENTENCES[angle])))
    other = topics[int(rng.integers(len(topics)))]
    borrowed = other.wordings[int(rng.integers(len(other.wordings)))]
    slots = {
        "mood": _pick(MOODS, rng),
        "place": _pick(PLACES, rng),
        "person": _pick(PEOPLE, rng),
        "x": borrowed[int(rng.integers(2))],
        "y": borrowed[int(rng.integers(2, len(borrowed)))],
    }
    sentences = [_fill(_pick(TOPIC_SENTENCES, rng), words, slots, at) for at in range(2)]
    pair = rng.permutation(len(ANGLE_SENTENCES[angle][wording]))[:2]
    sentences += [_fill(ANGLE_SENTENCES[angle][wording][at], words, slots, 2 + n) for n, at in enumerate(pair)]
    sentences += [_fill(FILLERS[at], words, slots, 0) for at in rng.permutation(len(FILLERS))[:2]]
    if other.leaf != topic.leaf and rng.random() < 0.4:
        sentences.append(_fill(_pick(SIMILES, rng), words, slots, 0))
    title = _fill(_pick(TITLES, rng), words, slots, int(rng.integers(len(words))))
    tags = [words[int(rng.integers(len(words)))].replace(" ", ""), *_some(HASHTAGS, rng)]
    if rng.random() < 0.5:
        tags.append(ANGLE_HASHTAGS[angle][wording])
    return Written(title, " ".join(sentences[at] for at in rng.permutation(len(sentences))), tags, "en")


def _chinese(topic: Topic, angle: int, rng: np.random.Generator) -> Written:
    words = [topic.chinese[at] for at in rng.permutation(len(topic.chinese))]
    slots = {"place": _pick(CHINESE_PLACES, rng)}
    sentences = [_fill(CHINESE_SENTENCES[at], words, slots, n) for n, at in enumerate(rng.permutation(4)[:3])]
    sentences.append(_fill(_pick(ANGLE_CHINESE[angle], rng), words, slots, 3))
    title = _fill(_pick(CHINESE_TITLES, rng), words, slots, 0)
    # People who write Chinese borrow English hashtags: the only bridge between the languages inside the text.
    wording = topic.wordings[int(rng.integers(len(topic.wordings)))]
    tags = [words[0], _pick(wording, rng).replace(" ", ""), _pick(CHINESE_HASHTAGS, rng)]
    return Written(title, "".join(sentences[at] for at in rng.permutation(len(sentences))), tags, "zh")


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _some(options: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    return [options[at] for at in rng.permutation(len(options))[: 1 + int(rng.integers(2))]]


def _fill(template: str, words: list[str], slots: dict[str, str], at: int) -> str:
    text = template.format(a=words[at % len(words)], b=words[(at + 1) % len(words)], **slots)
    return text[0].upper() + text[1:]
