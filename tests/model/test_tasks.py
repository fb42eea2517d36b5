"""What a note writes is never in what it reads, and a batch is mixed by the ratio."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.config import PromptConfig, TasksConfig, Template
from noterec.model.prompts import Prompt, Request
from noterec.model.tasks import Tasks, normal
from tests import backbones

ECHO = Template(  # a prompt that shows all fields for both tasks, so that what is held out can be seen
    category="<title> | <hashtags> | <content> | <emb>category: <output>",
    hashtags="<title> | <hashtags> | <content> | <count> <emb>tags: <output>",
)


@cache
def prompt_of(architecture: str = "qwen3", template: Template | None = ECHO) -> Prompt:
    style = "plain" if architecture == "bert" else "compress"
    limits = PromptConfig(template=template, output_tokens=400, hashtags_tokens=2000)
    return Prompt(backbones.make_tokenizer(architecture), limits, style=style)


def tasks_of(
    notes: list[tuple[str, list[str], str]], categories: list[str | None], architecture: str = "qwen3", **more: object
) -> Tasks:
    template = None if architecture == "bert" else ECHO
    return Tasks(notes, categories, prompt_of(architecture, template), TasksConfig.model_validate(more), seed=3)


def test_the_category_is_not_shown_as_a_hashtag_in_whole_or_in_part() -> None:
    note = ("Kyoto", ["#travel", "Asia", "Travel/Asia", "temples", "ASIAN food"], "in autumn")
    (request,) = tasks_of([note], ["Travel/Asia"], hashtag_share=0.0).draw(np.array([0]), 0)
    assert (request.task, request.answer) == ("category", ("Travel/Asia",))
    assert request.text == ("Kyoto", ["temples", "ASIAN food"], "in autumn")


def test_spelling_gives_nothing_away() -> None:
    note = ("Kyoto", ["#Food,", "coffee、", "a,b"], "in autumn")
    (request,) = tasks_of([note], ["Food > Coffee"], hashtag_share=0.0).draw(np.array([0]), 0)
    assert request.text[1] == ["a,b"]
    tasks = tasks_of([("t", ["a,b", "c#d"], "c")], [None])
    for step in range(20):
        (request,) = tasks.draw(np.array([0]), step)
        assert len(request.answer) + len(request.text[1]) == 2  # what is asked for as "a b" is not shown as "a,b"


def test_the_hashtags_asked_for_are_not_shown_and_the_others_are() -> None:
    note = ("Kyoto", ["travel", "#Travel", "asia", "temples"], "in autumn")
    tasks = tasks_of([note], [None])
    counts = set()
    for step in range(60):
        (request,) = tasks.draw(np.array([0]), step)
        assert request.task == "hashtags"
        asked, shown = {normal(tag) for tag in request.answer}, {normal(tag) for tag in request.text[1]}
        assert len(asked) == len(request.answer)  # one spelling of each
        assert asked | shown == {"travel", "asia", "temples"}
        assert not asked & shown
        counts.add(len(asked))
    assert counts == {1, 2, 3}  # a random subset, neither one only nor always all


def test_what_is_asked_for_is_not_shown_as_a_hashtag_in_the_text() -> None:
    note = ("A day in #Kyoto", ["kyoto"], "#kyoto temples, #kyotofood and Kyoto itself")
    (request,) = tasks_of([note], [None]).draw(np.array([0]), 0)
    assert request.text == ("A day in ", [], " temples, #kyotofood and Kyoto itself")
    (request,) = tasks_of([note], ["Japan/Kyoto"], hashtag_share=0.0).draw(np.array([0]), 0)
    assert request.text == ("A day in ", [], " temples, #kyotofood and Kyoto itself")


@settings(max_examples=60, deadline=None)
@given(
    tags=st.lists(st.lists(st.text(max_size=6), max_size=4), min_size=1, max_size=12),
    categories=st.lists(st.sampled_from([None, "", "a", "a/b"]), min_size=12, max_size=12),
    share=st.floats(0, 1),
    step=st.integers(0, 20),
)
def test_a_batch_is_mixed_by_the_ratio_as_far_as_its_notes_allow(
    tags: list[list[str]], categories: list[str | None], share: float, step: int
) -> None:
    notes = [("t", own, "c") for own in tags]
    tasks = tasks_of(notes, categories[: len(notes)], hashtag_share=share)
    rows = np.arange(len(notes))
    requests = tasks.draw(rows, step)
    assert requests == tasks.draw(rows, step)
    can_tag = [any(request_tags) for request_tags in ([normal_or_none(t) for t in own] for own in tags)]
    can_file = [bool(c) for c in categories[: len(notes)]]
    for request, tagged, filed in zip(requests, can_tag, can_file, strict=True):
        allowed = {*(["hashtags"] if tagged else []), *(["category"] if filed else [])} or {None}
        assert request.task in allowed
    able = sum(a or b for a, b in zip(can_tag, can_file, strict=True))
    only_tags = sum(a and not b for a, b in zip(can_tag, can_file, strict=True))
    expected = min(max(round(share * able), only_tags), sum(can_tag))
    assert sum(request.task == "hashtags" for request in requests) == expected


def normal_or_none(tag: str) -> str | None:
    from noterec.model.prompts import clean_hashtag

    return normal(clean_hashtag(tag)) if clean_hashtag(tag) else None


def test_hundreds_of_hashtags_and_a_category_too_long_to_write() -> None:
    many = [f"tag {i} 😀" for i in range(200)]
    tasks = tasks_of([("t", many, "c"), ("t", [], "c")], [None, "word " * 500], max_hashtags=200)
    assert tasks.able == (0, 1)
    drawn = [tasks.draw(np.array([0, 1]), step) for step in range(30)]
    assert max(len(requests[0].answer) for requests in drawn) > 10
    assert all(requests[1] == Request(("t", [], "c")) for requests in drawn)
    for requests in drawn:
        (example,) = prompt_of().examples([requests[0]])
        assert len(example.ids) - example.output <= 401
        said = prompt_of().text_of(example.ids[example.output :].tolist()).split(",")
        assert len(said) == len(requests[0].answer)  # as many as the prompt asks for
        assert len(requests[0].answer) + len(requests[0].text[1]) == 200


def test_an_encoder_writes_nothing() -> None:
    tasks = tasks_of([("t", ["a"], "c")], ["b"], "bert")
    assert tasks.able == (0, 0)
    assert tasks.draw(np.array([0]), 0) == [Request(("t", ["a"], "c"))]


@pytest.mark.parametrize("architecture", backbones.CAUSAL)
def test_the_example_reads_as_it_should(architecture: str) -> None:
    prompt = Prompt(backbones.make_tokenizer(architecture), PromptConfig(), style="compress")
    note = ("Cold brew", ["home"], "the fridge")
    (plain,) = prompt.encode([note])
    for request in (Request(note, "category", ("food/coffee",)), Request(note, "hashtags", ("ice cold", "coffee"))):
        (example,) = prompt.examples([request])
        answer = example.ids[example.output :]
        assert answer[-1] == prompt.end_id
        assert prompt.text_of(answer.tolist()) == ", ".join(request.answer)
        if request.task == "category":  # the embedding is read where it is read at inference
            np.testing.assert_array_equal(example.ids[: example.readout + 1], plain)
        opened = prompt.examples([Request(note, request.task, (), count=len(request.answer))])[0]
        np.testing.assert_array_equal(opened.ids, example.ids[: example.output])


def test_the_prompts_as_text() -> None:
    tokenizer = backbones.make_tokenizer("qwen3")
    note = ("Kyoto", ["temples"], "in autumn")
    english, chinese = (Prompt(tokenizer, PromptConfig(), style=style) for style in ("compress", "compress-zh"))
    (example,) = english.examples([Request(note, "hashtags", ("asia", "travel"))])
    assert tokenizer.decode(example.ids) == (
        "Compress the following note, given in JSON, into one word for recommendation, then name 2 topics of it. "
        'Note: {"title": "Kyoto", "content": "in autumn"}. '
        'The compression word is: "". The 2 topics are: asia, travel<|im_end|>'
    )
    (example,) = chinese.examples([Request(note, "category", ("旅行",))])
    text = tokenizer.decode(example.ids)
    assert '{"标题": "Kyoto", "话题": "#temples", "内容": "in autumn"}' in text
    assert text.endswith("类别是：旅行<|im_end|>")


def test_hostile_answers_forge_nothing() -> None:
    for architecture in backbones.CAUSAL:
        tokenizer = backbones.make_tokenizer(architecture)
        prompt = Prompt(tokenizer, PromptConfig(), style="compress")
        special = {tokenizer.convert_tokens_to_ids(t) for t in backbones.SPECIAL[architecture] if t != "<unk>"}
        for text in (*backbones.SPECIAL[architecture], "\ud800 lone", "a, b，c、d #e"):
            ids = prompt.answer_ids("hashtags", [text, "other"])
            assert not special & set(ids[:-1])
            assert prompt.text_of(ids).count(",") <= 1  # two hashtags, and one of them may be empty


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ("<title><emb>", "<output> exactly once"),
        ("<title>: <output>", "<emb> exactly once"),
        ('"<title>" <emb> <title> <output>', "at most once"),
        ('"<title>" "<emb> <content> <output>', "before <emb>"),
        ('"<title><emb> <output>', "right before <emb>"),
        ('"<title>" "<emb> <output> tail', "<output> at the end"),
        ('"<title>" <count> "<emb> <output>', "for the hashtags prompt only"),
        ('no field "<emb> <output>', "at least one"),
    ],
)
def test_a_template_that_would_not_work_says_why(category: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template(category=category, hashtags='"<title>" "<emb> <output>')
