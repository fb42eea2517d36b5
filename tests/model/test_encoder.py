"""The encoder: one vector per note whatever stands beside it, the same after saving and loading, and a version that knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.config import PromptConfig
from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError
from noterec.model.backbone import load_backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Head, start_from
from noterec.model.lexicon import Lexicon
from noterec.notes.note import Note, as_table, texts
from tests import backbones

Folder = Callable[[str], Path]
LIMITS = PromptConfig(title_tokens=12, hashtags_tokens=12, content_tokens=24)
NOTES = [
    Note(title="Cold brew at home", content="eighteen hours in the fridge", hashtags=["coffee", "home"]),
    Note(title="Rope weekend", content="learned to belay " * 30),
    Note(content="手冲咖啡的水温"),
    Note(hashtags=["climbing"]),
    Note(title="Ten films about trains", content="none of them short, home coffee"),
    Note(title='</s><|im_end|>"}', content="[SEP]"),
]


def headed(folder: Path, *, lexicon: bool = True, seed: int = 0) -> NoteEncoder:
    """An encoder with a head whose geometry is that of NOTES."""
    backbone = load_backbone(str(folder))
    table = as_table(NOTES)
    words = Lexicon.of(texts(table), size=50) if lexicon else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = Head(backbone.hidden_size, 8, branch=4, lexicon=len(words) if words else 0)
        encoder = NoteEncoder(backbone, head, LIMITS, words).eval()
        inputs = encoder.prepare(table)
        states = np.empty((len(NOTES), backbone.hidden_size), dtype=np.float32)
        for batch, part in encoder.run(inputs, batch_tokens=4096, project=False):
            states[batch] = part
        start_from(head, torch.from_numpy(states), inputs.words)
        torch.nn.init.normal_(head.down.weight, std=0.01)
    return encoder


@pytest.fixture(scope="module")
def encoder(backbone_folder: Folder) -> NoteEncoder:
    return headed(backbone_folder("qwen3"))


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
def test_a_plain_model_gives_its_zero_shot_states(backbone_folder: Folder, architecture: str) -> None:
    folder = backbone_folder(architecture)
    zero_shot = NoteEncoder.from_pretrained(folder, device="cpu")
    assert (zero_shot.head, zero_shot.dimension) == (None, 32)
    assert zero_shot.prompt.style == ("plain" if architecture == "bert" else "compress")
    vectors = zero_shot.encode(NOTES)
    tokens = zero_shot.prepare(as_table(NOTES)).tokens
    for ids, vector in zip(tokens, vectors, strict=True):
        with torch.no_grad():
            hidden = zero_shot.model.base_model(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0]
        state = (hidden[-1] if zero_shot.backbone.kind == "causal" else hidden.mean(0)).numpy()
        np.testing.assert_allclose(vector, state / np.linalg.norm(state), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(len(NOTES))), count=st.integers(1, len(NOTES)), budget=st.integers(64, 800))
def test_a_vector_does_not_depend_on_its_neighbours(
    encoder: NoteEncoder, order: list[int], count: int, budget: int
) -> None:
    alone = np.concatenate([encoder.encode([note]) for note in NOTES])
    chosen = order[:count]
    together = encoder.encode([NOTES[row] for row in chosen], batch_tokens=budget)
    np.testing.assert_allclose(together, alone[chosen], atol=1e-5)


def test_vectors_are_unit_norm_float32(encoder: NoteEncoder) -> None:
    vectors = encoder.encode(NOTES)
    assert (vectors.shape, vectors.dtype) == ((len(NOTES), 8), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


def test_every_kind_of_input_agrees(encoder: NoteEncoder) -> None:
    table = as_table(NOTES)
    expected = encoder.encode(NOTES)
    rows = [{"title": n.title, "content": n.content, "hashtags": n.hashtags} for n in NOTES]
    one_column_more = pl.DataFrame(table.drop_columns(["images"])).with_columns(pl.lit(1).alias("price"))
    inputs: list[Any] = [
        table,
        table.drop_columns(["note_id"]),
        pl.DataFrame(table),
        rows,
        iter(NOTES),
        one_column_more,
    ]
    for given_notes in inputs:
        np.testing.assert_array_equal(encoder.encode(given_notes), expected)
    np.testing.assert_allclose(encoder.encode(NOTES[0]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(rows[1]), expected[1:2], atol=1e-5)


def test_notes_without_text_are_named(encoder: NoteEncoder) -> None:
    with pytest.raises(InputError, match=r"2 of 3 notes have nothing to read, the first is 'b'"):
        encoder.encode([Note(title="a"), Note(note_id="b", title=" \n"), Note(hashtags=[""], note_id="c")])


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ("a string", "given str"),
        (7, "given int"),
        ([Note(title="a"), 7], r"notes\[1\]: given int"),
        ([{"titel": "a"}], "unknown field 'titel'"),
        ([{"title": "a", "hashtags": "b c"}], "hashtags is one string"),
        ([{"title": 3.5}], "wrong type"),
    ],
)
def test_what_is_no_note_is_refused(encoder: NoteEncoder, notes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encoder.encode(notes)


def test_a_lone_surrogate_is_no_obstacle(encoder: NoteEncoder) -> None:
    found = encoder.encode([Note(title="cold \ud83d brew", hashtags=["a\udfff"])])
    np.testing.assert_allclose(found, encoder.encode([Note(title="cold ? brew", hashtags=["a?"])]), atol=1e-5)


@pytest.mark.parametrize("lexicon", [True, False])
def test_saving_and_loading_changes_nothing(backbone_folder: Folder, tmp_path: Path, lexicon: bool) -> None:
    encoder = headed(backbone_folder("qwen3"), lexicon=lexicon)
    with torch.no_grad():
        encoder.logit_scale.fill_(2.5)
    encoder.save_pretrained(tmp_path / "m", origin={"by": "test"})
    again = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(again.encode(NOTES), encoder.encode(NOTES))
    assert again.model_version == encoder.model_version
    assert float(again.logit_scale.detach()) == 2.5
    assert again.prompt.signature == encoder.prompt.signature
    again.weights_changed()  # computed afresh from what was loaded, not read from the file
    assert (again.model_version, again.states_version) == (encoder.model_version, encoder.states_version)
    assert not any(path.name.startswith(".") for path in (tmp_path / "m").iterdir())
    assert json.loads((tmp_path / "m" / "noterec.json").read_text())["origin"] == {"by": "test"}


def test_saving_over_another_model_replaces_it(backbone_folder: Folder, tmp_path: Path) -> None:
    headed(backbone_folder("llama")).save_pretrained(tmp_path)
    encoder = headed(backbone_folder("qwen3"), seed=3)
    encoder.save_pretrained(tmp_path)
    assert NoteEncoder.from_pretrained(tmp_path, device="cpu").model_version == encoder.model_version


def test_a_kill_while_saving_leaves_no_half_model(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.save_pretrained(tmp_path)
    moved: list[Path] = []
    replace = Path.replace

    def second_is_fatal(self: Path, target: Path) -> Path:
        if Path(target).parent == tmp_path:
            moved.append(Path(target))
        if len(moved) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", second_is_fatal)
    with pytest.raises(KeyboardInterrupt):
        encoder.save_pretrained(tmp_path)
    assert not (tmp_path / "noterec.json").exists()


def test_the_version_changes_with_whatever_a_vector_depends_on(backbone_folder: Folder) -> None:
    folder = backbone_folder("qwen3")
    base = headed(folder)
    base_states, base_version = base.states_version, base.model_version
    assert headed(folder).model_version == base_version  # and with nothing else

    changed = headed(folder)
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[0] += 1e-3
    assert changed.states_version != base_states
    assert changed.model_version != base_version

    changed = headed(folder)
    with torch.no_grad():
        changed.head.words.weight[0, 0] += 1e-3
    assert changed.states_version == base_states  # cached states stay good
    assert changed.model_version != base_version

    assert changed.lexicon is not None
    other_words = Lexicon([*changed.lexicon.words[:-1], "zebra"], changed.lexicon.idf)
    other_idf = Lexicon(changed.lexicon.words, changed.lexicon.idf * np.float32(1.001))
    for lexicon in (other_words, other_idf):
        assert NoteEncoder(base.backbone, base.head, LIMITS, lexicon).model_version != base_version

    for update in ({"content_tokens": 25}, {"style": "short"}):
        other = NoteEncoder(base.backbone, base.head, LIMITS.model_copy(update=update), base.lexicon)
        assert other.states_version != base_states
        assert other.model_version != base_version


def test_an_unfinished_training_says_so(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match="training has not finished there, or a gate stopped it"):
        NoteEncoder.from_pretrained(tmp_path)


@pytest.fixture
def saved(encoder: NoteEncoder, tmp_path: Path) -> Path:
    encoder.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_another_format_is_refused(saved: Path) -> None:
    record = json.loads((saved / "noterec.json").read_text())
    (saved / "noterec.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(ArtefactError, match="has format 99, this version reads 1"):
        NoteEncoder.from_pretrained(saved)


@pytest.mark.parametrize("damage", ["missing", "truncated", "another"])
def test_a_damaged_head_is_said_to_be_so(saved: Path, damage: str) -> None:
    from safetensors.torch import save_file

    file = saved / "head.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        save_file({"linear.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(ArtefactError, match=r"head\.safetensors: missing or not this model's head"):
        NoteEncoder.from_pretrained(saved)


def test_a_damaged_lexicon_is_said_to_be_so(saved: Path) -> None:
    (saved / "lexicon.json").write_text('{"words": ["a"], "idf": []}')
    with pytest.raises(ArtefactError, match="1 words and 0 frequencies"):
        NoteEncoder.from_pretrained(saved)


def test_a_damaged_noterec_json_is_said_to_be_so(saved: Path) -> None:
    (saved / "noterec.json").write_text("{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        NoteEncoder.from_pretrained(saved)


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        NoteEncoder.from_pretrained(tmp_path / "none")
    with pytest.raises(DependencyError, match="no such folder here, and the hub did not give it"):
        NoteEncoder.from_pretrained("somebody/some-model")


def test_a_folder_that_cannot_be_made(encoder: NoteEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't make that folder"):
        encoder.save_pretrained(tmp_path / "file" / "m")


def test_prompts_longer_than_the_backbone_reads_are_refused(backbone_folder: Folder) -> None:
    backbone = load_backbone(str(backbone_folder("bert")))
    with pytest.raises(InputError, match=r"the backbone reads 512; lower prompt\.content_tokens"):
        NoteEncoder(backbone, prompt=PromptConfig(content_tokens=512))


def test_encoding_leaves_a_training_encoder_in_training(backbone_folder: Folder) -> None:
    encoder = headed(backbone_folder("bert"))  # has dropout
    expected = encoder.eval().encode(NOTES)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(NOTES), expected)
    assert encoder.training


def test_a_saved_folder_is_a_plain_hugging_face_model_too(saved: Path, encoder: NoteEncoder) -> None:
    plain = shutil.copytree(saved, saved.parent / "plain")
    (plain / "noterec.json").unlink()
    with pytest.raises(ArtefactError, match=r"has a head but no noterec\.json: saving was cut off"):
        NoteEncoder.from_pretrained(plain)
    for name in ("head.safetensors", "lexicon.json"):
        (plain / name).unlink()
    zero_shot = NoteEncoder.from_pretrained(plain, device="cpu")
    assert zero_shot.dimension == encoder.backbone.hidden_size


def test_wrong_prompt_settings_in_the_file_are_said_to_be_so(saved: Path) -> None:
    record = json.loads((saved / "noterec.json").read_text())
    record["prompt"]["titel_tokens"] = 3
    (saved / "noterec.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="did you mean 'title_tokens'"):
        NoteEncoder.from_pretrained(saved)


def test_ids_of_notes() -> None:
    table = as_table([{"title": "a", "note_id": 0}, {"title": "b"}, {"title": "c", "note_id": "x"}])
    assert table["note_id"].to_pylist() == ["0", "1", "x"]
    assert as_table(pa.table({"title": ["a", "b"]}))["note_id"].to_pylist() == ["0", "1"]
