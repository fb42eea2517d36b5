"""The words around a note: what each task's prompt says, before the note, between its fields, and after.

A prompt compresses the note into one word, whose state is the embedding, and then asks for the category or for hashtags
(arXiv:2403.01744 §4.2, table 1). Both tasks' prompts are given as text with places; `parse` takes them apart. What shows a note's
images goes before them, with or without a word of its own (multimodal in-context learning, arXiv:2405.16789).

Differs from the paper: no [EMB] token joins the vocabulary. It would stand behind the state that is read and carry nothing; here
the closing quote stands there.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from noterec.config.model import FIELDS, PLACEHOLDER, PromptConfig, Template
from noterec.errors import ConfigError

Task = Literal["category", "hashtags"]

COMPRESS = Template(
    category="Compress the following note, given in JSON, into one word for recommendation, then name its category. "
    'Note: {"title": "<title>", "topic": "<hashtags>", "content": "<content>"}. '
    'The compression word is: "<emb>". The category is: <output>',
    hashtags="Compress the following note, given in JSON, into one word for recommendation, then name <count> topics of it. "
    'Note: {"title": "<title>", "content": "<content>"}. '
    'The compression word is: "<emb>". The <count> topics are: <output>',
    image="Compress the following image of a note into one word for recommendation. Image: <image>. "
    'The compression word is: "<emb>". ',
)
COMPRESS_ZH = Template(
    category='把下面这篇 JSON 格式的笔记压缩成一个用于推荐的词，再说出它的类别。笔记：{"标题": "<title>", "话题": "<hashtags>", '
    '"内容": "<content>"}。压缩词是："<emb>"。类别是：<output>',
    hashtags='把下面这篇 JSON 格式的笔记压缩成一个用于推荐的词，再说出它的<count>个话题。笔记：{"标题": "<title>", '
    '"内容": "<content>"}。压缩词是："<emb>"。<count>个话题是：<output>',
    image='把下面这篇笔记的图片压缩成一个用于推荐的词。图片：<image>。压缩词是："<emb>"。',
)
# The same places without words that a model trained from scratch could not know.
SHORT = Template(
    category='"<title>" <hashtags>" <content> "<emb>" / <output>',
    hashtags='"<title>" <content> "<emb>" #<count> <output>',
    image='<image> "<emb>" ',
)
# The same without an image word (`vision.micl` off).
WORDLESS = {"compress": "The note has an image: <image>. ", "compress-zh": "笔记有图片：<image>。", "short": "<image> "}
STYLES = {"compress": COMPRESS, "compress-zh": COMPRESS_ZH, "short": SHORT}


@dataclasses.dataclass(frozen=True)
class Words:
    """One task's prompt, taken apart.

    Attributes:
        fields: the note's fields in the order in which they stand.
        literals: len(fields) + 1 texts around them; the last token of the last one is the readout.
        guidance: what follows the readout and asks for the output; may hold `<count>`. "" where nothing is asked.
    """

    fields: tuple[str, ...]
    literals: tuple[str, ...]
    guidance: str

    def with_count(self, count: int) -> tuple[tuple[str, ...], str]:
        """Literals and guidance that ask for so many hashtags."""
        return tuple(text.replace("<count>", str(count)) for text in self.literals), self.guidance.replace(
            "<count>", str(count)
        )


@dataclasses.dataclass(frozen=True)
class ImageWords:
    """What shows a note's images, taken apart: `before`, the visual tokens, `between` up to the image word, `after`.

    Attributes:
        between: "" where there is no image word.
    """

    before: str
    between: str
    after: str


PLAIN = Words(FIELDS, ("", " ", " ", ""), "")  # the bare text, for encoders that write nothing


def parse(text: str) -> Words:
    """Take a task's prompt apart, as `Template` has checked it."""
    before, _, after = text.partition("<emb>")
    pieces = PLACEHOLDER.split(before)  # literal, place, literal, place, ..., literal
    fields, literals = [], [pieces[0]]
    for place, literal in zip(pieces[1::2], pieces[2::2], strict=True):
        if place in FIELDS:
            fields.append(place)
            literals.append(literal)
        else:
            literals[-1] += f"<{place}>{literal}"
    return Words(tuple(fields), tuple(literals), after.partition("<output>")[0])


def words_of(config: PromptConfig, style: str) -> dict[Task, Words]:
    """The prompts of both tasks in a style, or in the user's own template; `plain` has none but the bare text."""
    if config.template is None and style == "plain":
        return {"category": PLAIN}
    template = config.template or STYLES[style]
    return {"category": parse(template.category), "hashtags": parse(template.hashtags)}


def image_words_of(config: PromptConfig, style: str, *, word: bool) -> ImageWords:
    """What stands around a note's visual tokens, with an image word or without; in style plain nothing.

    Raises:
        ConfigError: the user's own template doesn't show images, or has no image word where one is wanted.
    """
    if config.template is not None:
        text = config.template.image
        if text is None:
            raise ConfigError("vision: the prompt template has no key `image`; add one with <image> in it")
        if word != ("<emb>" in text):
            wanted = "an <emb> behind <image>" if word else "no <emb>"
            raise ConfigError(f"vision.micl={str(word).lower()}: the template's `image` needs {wanted}")
    else:
        text = "<image>" if style == "plain" else (STYLES[style].image or "") if word else WORDLESS[style]
    before, _, rest = text.partition("<image>")
    between, sign, after = rest.partition("<emb>")
    return ImageWords(before, between, after) if sign else ImageWords(before, "", rest)
