"""What shows images in a prompt: slots between words, the image word at its place, and a note's ids with them taken out again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from noterec.config import PromptConfig
from noterec.model.image_prompt import SLOT, ImagePrompt, Slots
from noterec.model.prompts import Prompt
from noterec.model.templates import ImageWords
from tests import backbones

LIMITS = PromptConfig(title_tokens=6, hashtags_tokens=5, content_tokens=12)
NOTE = ("Cold brew", ["home"], "the fridge")


def prompt_of(architecture: str, style: str, *, word: bool = True) -> Prompt:
    tokenizer: Any = backbones.make_tokenizer(architecture)
    return Prompt(tokenizer, LIMITS, style=style, slots=Slots(3, 4, word))


def test_slots_and_words_stand_in_order() -> None:
    codes = {"see ": [1, 2], ': "': [3, 4], '". ': [5], "": []}
    shown = ImagePrompt(Slots(2, 3, True), ImageWords("see ", ': "', '". '), lambda texts: [codes[t] for t in texts])
    assert shown.ids(0) == []
    assert shown.ids(2) == [1, 2, SLOT, SLOT, SLOT, SLOT, 3, 4, 5]
    assert shown.word(2) == 7  # the id 4
    assert shown.word(0) is None
    wordless = ImagePrompt(Slots(2, 3, False), ImageWords("see ", "", '". '), lambda texts: [codes[t] for t in texts])
    assert wordless.ids(1) == [1, 2, SLOT, SLOT, 5]
    assert wordless.word(1) is None
    assert shown.signature == {
        "tokens": 2,
        "images": 3,
        "word": True,
        "before": "see ",
        "between": ': "',
        "after": '". ',
    }


@pytest.mark.parametrize("style", ["compress", "compress-zh", "short", "plain"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])  # without and with a token that begins every text
def test_a_note_that_shows_images_is_the_bare_one_with_slots_put_in(architecture: str, style: str) -> None:
    prompt = prompt_of(architecture, style)
    bare, one, three = prompt.encode([NOTE] * 3, [0, 1, 3])
    (without,) = Prompt(backbones.make_tokenizer(architecture), LIMITS, style=style).encode([NOTE])
    assert bare.tolist() == without.tolist()
    for ids, images in ((bare, 0), (one, 1), (three, 3)):
        assert (ids == SLOT).sum() == 3 * images
        assert prompt.without_images(ids, images).tolist() == bare.tolist()
    slots = (three == SLOT).nonzero()[0].tolist()
    assert all(b == a + 1 for a, b in pairwise(slots))


def test_the_image_word_of_style_plain_is_the_last_visual_token() -> None:
    prompt = prompt_of("llama", "plain")
    (ids,) = prompt.encode([NOTE], [2])
    word = prompt.image_word(2)
    assert word is not None
    assert ids[word] == SLOT
    assert (ids[word + 1 :] >= 0).all()
