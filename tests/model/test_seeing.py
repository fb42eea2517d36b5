"""An encoder that sees: visual tokens in their slots for any mixture of notes, the two words, late fusion, and no picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from noterec.config import PromptConfig, VisionConfig
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.model.backbone import load_backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Head, Visual, start_from, truncated
from noterec.model.image_prompt import SLOT
from noterec.model.inputs import attach
from noterec.model.lexicon import Lexicon
from noterec.model.vision.sight import Sight
from noterec.model.vision.tiny import tiny_tower
from noterec.notes.images.source import ImageSource
from noterec.notes.note import Note, as_table, texts
from tests import backbones

Folder = Callable[[str], Path]
LIMITS = PromptConfig(title_tokens=8, hashtags_tokens=8, content_tokens=12)
DECIDED = {"encoder": "tiny", "image_px": 16, "train": False, "images": 2, "tokens": 3, "micl": True, "fusion": "gate"}


def picture(colour: tuple[int, int, int], px: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (px, px), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, GREEN, BLUE = picture((220, 30, 30)), picture((30, 200, 40)), picture((20, 40, 210))
NOTES = [
    Note(title="Cold brew at home", content="eighteen hours in the fridge", hashtags=["coffee"], images=[RED]),
    Note(title="Rope weekend", content="learned to belay " * 10),
    Note(content="手冲咖啡的水温", images=[GREEN, BLUE]),
    Note(images=[BLUE]),
    Note(title="Ten films about trains"),
    Note(title='</s><|im_end|>"}', content="[SEP] <image> <|image_pad|>", images=[RED, GREEN, BLUE]),  # two are used
]


def seeing(folder: Path, *, lexicon: bool = False, **changes: Any) -> NoteEncoder:
    """A random encoder that sees."""
    backbone = load_backbone(str(folder))
    config = VisionConfig.model_validate({**DECIDED, "connector": "mlp", **changes})
    table = as_table(NOTES)
    words = Lexicon.of(texts(table), size=20, min_notes=1) if lexicon else None
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sight = Sight(tiny_tower(16, seed=3, grid=None if config.tokens else 0), config, backbone)
        visual = sight.size if config.fusion == "head" else 0
        head = Head(backbone.hidden_size, 8, lexicon=len(words) if words else 0, visual=visual)
        return NoteEncoder(backbone, head, LIMITS, words, sight).eval()


def inputs_of(encoder: NoteEncoder, notes: list[Note]) -> Any:
    table = as_table(notes)
    pictures, unseen = attach(table, encoder.gallery(ImageSource()))
    assert not unseen
    return encoder.prepare(table, pictures)


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@pytest.mark.parametrize("connector", ["qformer", "mlp", "pooled"])
def test_a_vector_is_the_same_alone_and_beside_notes_with_other_counts_of_pictures(
    backbone_folder: Folder, architecture: str, connector: str
) -> None:
    encoder = seeing(backbone_folder(architecture), micl=architecture != "bert", connector=connector)
    together = encoder.encode(NOTES)
    alone = np.concatenate([encoder.encode([one]) for one in NOTES])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together @ together.T - np.eye(len(NOTES))).max() < 0.99999


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
def test_states_are_those_of_hugging_faces_own_forward(backbone_folder: Folder, architecture: str) -> None:
    """Token embeddings and visual tokens put together by hand, through the model's own forward with every state kept."""
    causal = architecture != "bert"
    encoder = seeing(backbone_folder(architecture), micl=causal, fusion="none")
    assert encoder.sight is not None and encoder.sight.connector is not None
    inputs = inputs_of(encoder, NOTES)
    for batch, states in encoder.run(inputs, batch_tokens=100, project=False):
        for row, state in zip(batch, states, strict=True):
            ids = inputs.tokens[row]
            with torch.no_grad():
                table = encoder.backbone.model.get_input_embeddings()
                vectors = [table(torch.tensor(i)) if i != SLOT else None for i in ids]
                flat = inputs.pictures.rows[row]
                if len(flat):
                    features = torch.from_numpy(inputs.pictures.gallery.take(flat)).float()
                    tokens = iter(encoder.sight.connector(features).reshape(-1, encoder.backbone.hidden_size))
                    vectors = [next(tokens) if vector is None else vector for vector in vectors]
                given = torch.stack(vectors)[None]  # (1, T, H)
                found = encoder.backbone.model(inputs_embeds=given, output_hidden_states=True)
                last = found.hidden_states[-1][0]
            expected = last[-1] if causal else last.mean(dim=0)
            np.testing.assert_allclose(state, expected.numpy(), atol=2e-5)


def test_slots_stand_for_the_pictures_that_are_used_and_for_nothing_a_stranger_writes(backbone_folder: Folder) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    inputs = inputs_of(encoder, NOTES)
    assert [int((ids == SLOT).sum()) for ids in inputs.tokens] == [3, 0, 6, 3, 0, 6]
    assert all((ids >= 0).all() for ids in encoder.prompt.encode(texts(as_table(NOTES))))


@pytest.mark.parametrize("style", ["compress", "compress-zh", "short"])
def test_the_image_word_is_read_at_the_quote_behind_the_last_picture(backbone_folder: Folder, style: str) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    prompt = type(encoder.prompt)(
        encoder.backbone.tokenizer, LIMITS.model_copy(update={"style": style}), style=style, slots=encoder.prompt.slots
    )
    (ids,) = prompt.encode([("a", [], "b")], [2])
    word = prompt.image_word(2)
    assert word is not None and (ids[:word] == SLOT).sum() == 6 and not (ids[word:] == SLOT).any()
    assert '"' in prompt.text_of(ids[word : word + 1].tolist())
    assert prompt.image_word(0) is None
    assert len(ids) <= prompt.max_tokens


def test_the_image_word_knows_the_pictures_alone_and_the_notes_word_knows_both(backbone_folder: Folder) -> None:
    encoder = seeing(backbone_folder("llama"), fusion="none", lexicon=True)
    notes = [
        Note(title="Cold brew", images=[RED]),
        Note(title="Rope weekend", content="other words", images=[RED]),
        Note(title="Cold brew", images=[BLUE]),
    ]
    inputs = inputs_of(encoder, notes)
    words, served = np.zeros((3, 8)), np.zeros((3, 8))
    for batch, part in encoder.run(inputs, batch_tokens=1000, image_word=True):
        words[batch] = part
    for batch, part in encoder.run(inputs, batch_tokens=1000):
        served[batch] = part
    np.testing.assert_allclose(words[0], words[1], atol=1e-5)
    assert np.abs(words[0] - words[2]).max() > 1e-3
    assert np.abs(served[0] - served[1]).max() > 1e-3
    assert np.abs(served[0] - served[2]).max() > 1e-3


@pytest.mark.parametrize("changes", [{"fusion": "gate"}, {"fusion": "head", "tokens": 0, "micl": False}])
def test_a_note_without_a_picture_is_its_text_alone(backbone_folder: Folder, changes: dict[str, Any]) -> None:
    folder = backbone_folder("qwen3")
    encoder = seeing(folder, lexicon=True, **changes)
    blind = NoteEncoder(load_backbone(str(folder)), encoder.head, LIMITS, encoder.lexicon).eval()
    wordy = [one for one in NOTES if not one.images]
    table = blind.prepare(as_table(wordy))
    expected = np.zeros((len(wordy), 8), dtype=np.float32)
    states = np.zeros((len(wordy), blind.backbone.hidden_size), dtype=np.float32)
    for batch, part in blind.run(table, batch_tokens=1000, project=False):
        states[batch] = part
    expected = encoder.project_states(states, table.words)
    np.testing.assert_allclose(encoder.encode(wordy), expected, atol=1e-5)


def test_late_fusion_alone_sees_without_a_token_in_the_prompt(backbone_folder: Folder) -> None:
    for fusion in ("gate", "head"):
        encoder = seeing(backbone_folder("llama"), tokens=0, micl=False, fusion=fusion)
        inputs = inputs_of(encoder, NOTES)
        assert not any((ids == SLOT).any() for ids in inputs.tokens)
        vectors = encoder.encode([Note(title="Same", images=[image]) for image in (RED, BLUE)])
        assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_saving_keeps_every_vector_and_the_versions(backbone_folder: Folder, tmp_path: Path) -> None:
    for number, changes in enumerate(
        [{"connector": "qformer"}, {"fusion": "none"}, {"tokens": 0, "micl": False, "fusion": "head"}]
    ):
        encoder = seeing(backbone_folder("qwen3"), lexicon=True, **changes)
        folder = tmp_path / str(number)
        encoder.save_pretrained(folder)
        loaded = NoteEncoder.from_pretrained(folder)
        np.testing.assert_allclose(loaded.encode(NOTES), encoder.encode(NOTES), atol=1e-6)
        assert (loaded.model_version, loaded.states_version) == (encoder.model_version, encoder.states_version)
        loaded.weights_changed()
        assert (loaded.model_version, loaded.states_version) == (encoder.model_version, encoder.states_version)
        assert loaded.sight is not None and loaded.sight.config == encoder.sight.config  # type: ignore[union-attr]


def test_a_model_of_text_takes_the_place_of_one_that_saw_and_leaves_nothing_of_it(
    backbone_folder: Folder, tmp_path: Path
) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    encoder.save_pretrained(tmp_path)
    NoteEncoder(encoder.backbone, encoder.head, LIMITS).save_pretrained(tmp_path)
    assert not (tmp_path / "vision").exists()
    assert NoteEncoder.from_pretrained(tmp_path).sight is None


def test_a_damaged_sight_is_refused(backbone_folder: Folder, tmp_path: Path) -> None:
    seeing(backbone_folder("qwen3")).save_pretrained(tmp_path)
    (tmp_path / "vision" / "sight.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match=r"sight\.safetensors"):
        NoteEncoder.from_pretrained(tmp_path)


def test_versions_change_with_what_is_seen_and_with_the_weights_that_see(backbone_folder: Folder) -> None:
    folder = backbone_folder("qwen3")
    versions = {
        seeing(folder, **changes).model_version
        for changes in ({}, {"fusion": "none"}, {"micl": False}, {"tokens": 4}, {"images": 1}, {"connector": "pooled"})
    }
    assert len(versions) == 6
    encoder = seeing(folder)
    before = encoder.states_version, encoder.model_version
    with torch.no_grad():
        encoder.sight.gate.value.weight.add_(0.1)  # type: ignore[union-attr]
    encoder.weights_changed()
    assert encoder.states_version != before[0] and encoder.model_version != before[1]
    late = seeing(folder, tokens=0, micl=False, fusion="head")
    blind = NoteEncoder(late.backbone, late.head, LIMITS)
    assert late.states_version == blind.states_version  # its states are the text's: a cache of them serves both
    assert late.model_version != blind.model_version


def test_what_cannot_be_read_is_refused_by_name_and_what_can_is_not_lost(
    backbone_folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    with pytest.raises(InputError, match=r"1 of 2 notes have nothing to read, the first is '1'"):
        encoder.encode([Note(title="fine"), Note(images=[b"\x89PNG\r\n\x1a\nbroken"])])
    vectors = encoder.encode([Note(title="fine", images=[b"no picture"]), Note(title="fine")])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert "note '0'" in caplog.text
    with pytest.raises(InputError, match="images is bytes"):
        encoder.encode([{"title": "a", "images": RED}])
    with pytest.raises(InputError, match="an image is str"):
        encoder.encode([Note(title="a", images=["photo.jpg"])])


def test_features_cost_the_states_that_are_held_of_them(backbone_folder: Folder) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    inputs = inputs_of(encoder, NOTES)
    assert encoder.costs([10] * 6, inputs.pictures).tolist() == [
        10 + 5 * k for k in (1, 0, 2, 1, 0, 2)
    ]  # 1 + 4 patches
    assert encoder.costs([10, 11], None).tolist() == [10, 11]
    late = seeing(backbone_folder("qwen3"), tokens=0, micl=False)
    assert late.costs([10] * 6, inputs_of(late, NOTES).pictures).tolist() == [11, 10, 12, 11, 10, 12]  # summaries alone
    sizes = [len(batch) for batch, _ in encoder.run(inputs, batch_tokens=1)]
    assert sizes == [1] * 6


def test_a_note_without_its_pictures_is_prepared_as_one_that_has_none(backbone_folder: Folder) -> None:
    encoder = seeing(backbone_folder("llama"), lexicon=True)
    bare = encoder.without_pictures(inputs_of(encoder, NOTES))
    expected = encoder.prepare(as_table(NOTES))
    assert bare.pictures is None
    assert [ids.tolist() for ids in bare.tokens] == [ids.tolist() for ids in expected.tokens]
    assert (bare.words != expected.words).nnz == 0


def test_a_prompt_that_its_images_make_too_long_says_so(backbone_folder: Folder) -> None:
    with pytest.raises(
        InputError, match=r"lower prompt\.content_tokens, or vision\.images x vision\.tokens \(8 x 64\)"
    ):
        seeing(backbone_folder("qwen3"), images=8, tokens=64, connector="qformer")


def test_visual_tokens_start_in_the_scale_of_token_embeddings_as_the_model_takes_them_in(
    backbone_folder: Folder,
) -> None:
    for architecture, scale in (("llama", 1.0), ("gemma2", 32**0.5)):
        backbone = load_backbone(str(backbone_folder(architecture)))
        weight = backbone.model.get_input_embeddings().weight  # type: ignore[operator]
        assert backbone.token_std == pytest.approx(scale * float(weight.detach().std()), rel=1e-3)
        encoder = seeing(backbone_folder(architecture))
        assert encoder.sight is not None and encoder.sight.connector is not None
        features = torch.randn(64, 5, encoder.sight.size)
        made = float(encoder.sight.connector(features).detach().std())
        assert made == pytest.approx(backbone.token_std, rel=0.25)


def test_a_template_of_ones_own_must_show_the_image(backbone_folder: Folder) -> None:
    backbone = load_backbone(str(backbone_folder("qwen3")))
    encoder = seeing(backbone_folder("qwen3"))
    own = {"category": "<title> <content> is <emb> in <output>", "hashtags": "<content> is <emb> on <output>"}

    def prompt(image: str | None) -> Any:
        template = own if image is None else {**own, "image": image}
        config = PromptConfig.model_validate({"template": template})
        return type(encoder.prompt)(backbone.tokenizer, config, style="auto", slots=encoder.prompt.slots)

    ids = prompt('Bild <image> als "<emb>" dann ').encode([("a", [], "b")], [1])[0]
    assert (ids == SLOT).sum() == 3
    with pytest.raises(ConfigError, match="no key `image`"):
        prompt(None)
    with pytest.raises(ConfigError, match="needs an <emb>"):
        prompt("Bild <image> dann ")
    for wrong in ("kein Bild", "<image> <image>", '"<emb>" <image>', "<image><emb>", "<image> <title>"):
        with pytest.raises(ConfigError):
            from noterec.config import make

            make(PromptConfig, {"template": {**own, "image": wrong}}, where="prompt")


def test_the_start_puts_images_beside_states_in_their_share() -> None:
    random = np.random.default_rng(0)
    states = torch.from_numpy(random.normal(size=(200, 6)).astype(np.float32))
    colour = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0) * 100
    seen = np.ones(200, dtype=bool)
    seen[::10] = False
    visual = Visual(colour, seen)

    def closeness(share: float) -> float:
        head = Head(6, 9, visual=4)
        start_from(head, states, None, visual, visual_share=share)
        vectors = head(states, None, *visual.on(torch.device("cpu"))).detach().numpy()
        same = np.abs(colour @ colour.T) > 0
        cosines = vectors @ vectors.T
        return float(cosines[same].mean() - cosines[~same].mean())

    assert abs(closeness(0.0)) < 0.03 < 0.1 < closeness(0.5) < closeness(2.0)
    head = Head(6, 9, visual=4)
    start_from(head, states, None, visual, visual_share=1.0)
    short = truncated(head, 3)
    whole = head(states, None, *visual.on(torch.device("cpu"))).detach()[:, :3]
    torch.testing.assert_close(
        short(states, None, *visual.on(torch.device("cpu"))), torch.nn.functional.normalize(whole, dim=-1)
    )
