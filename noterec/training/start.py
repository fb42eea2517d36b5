"""Where training starts: notes in memory, a backbone, a head with the geometry that needs no training."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from noterec import progress
from noterec.config import PromptConfig, TrainConfig
from noterec.embedding.intake import Intake, cache_folder
from noterec.embedding.states import StateCache
from noterec.errors import InputError
from noterec.model import tiny
from noterec.model.backbone import Backbone, load_backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Head, start_from
from noterec.model.lexicon import Lexicon
from noterec.model.lora import add_adapters
from noterec.model.tasks import Tasks
from noterec.model.vision.sight import Sight
from noterec.model.vision.tower import VisionTower
from noterec.notes import note
from noterec.training.cold_recall import ColdRecall, Look, states_of
from noterec.training.material import Material, rows_of_pairs
from noterec.training.plan import Plan
from noterec.training.processes import own_device

logger = logging.getLogger(__name__)

VISUAL_SHARES = (0.0, 0.3, 1.0)  # how much an image may weigh beside a text in the head's first geometry
SCALE_NOTES = 64  # notes whose states tell their scale
START_NOTES = 2000  # notes whose states set the head's first geometry, where the backbone isn't frozen


def new_backbone(config: TrainConfig, train: pa.Table) -> Backbone:
    """The backbone as it is before training; the tokenizer of `tiny` comes from the training notes."""
    if config.backbone != "tiny":
        return load_backbone(config.backbone, layers=config.layers, device=own_device(config.device, config.devices))
    words = (
        part
        for title, tags, content in note.texts(train)
        for part in (title, content, " ".join(f"#{tag}" for tag in tags))
    )
    tokenizer = tiny.tiny_tokenizer(words, config.vocabulary)
    return Backbone(tiny.tiny_model(tokenizer, config.seed), tokenizer, "causal")


def new_encoder(
    config: TrainConfig, plan: Plan, backbone: Backbone, train: pa.Table, tower: VisionTower | None = None
) -> NoteEncoder:
    """The backbone with an untrained head; lexicon and closed set of categories come from the training notes."""
    sight = None
    prompt = config.prompt
    if prompt.style == "auto" and config.backbone == "tiny":
        prompt = prompt.model_copy(update={"style": "short"})
    if tower is not None:
        gated = plan.vision.fusion == "gate"
        scale = _state_std(backbone, prompt, train.slice(0, SCALE_NOTES)) if gated else 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            sight = Sight(tower, plan.vision, backbone, state_std=scale)
    lexicon = Lexicon.of(note.texts(train), size=plan.lexicon) if plan.lexicon else None
    lexicon = lexicon or None  # no word stands in two notes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = Head(
            backbone.hidden_size,
            config.dimension,
            branch=config.head_branch,
            lexicon=0 if lexicon is None else len(lexicon),
            visual=tower.hidden_size if tower is not None and plan.vision.fusion == "head" else 0,
        )
    if plan.way == "lora":
        add_adapters(backbone, config.lora, seed=config.seed)
    if config.gradient_checkpointing:
        model: Any = backbone.model
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    encoder = NoteEncoder(backbone, head, prompt, lexicon, sight)
    if plan.alpha:
        encoder.check_room_to_write()
        names = set(train["category"].to_pylist()) - {None, ""}
        encoder.categories = sorted(str(name) for name in names)
    with torch.no_grad():
        encoder.logit_scale.fill_(plan.logit_scale)
    return encoder.to(own_device(config.device, config.devices))


def _state_std(backbone: Backbone, prompt: PromptConfig, notes: pa.Table) -> float:
    """The standard deviation of the elements of some notes' states, as the backbone gives them."""
    encoder = NoteEncoder(backbone, prompt=prompt).to(next(backbone.model.parameters()).device)
    states = [part for _, part in encoder.run(encoder.prepare(notes), batch_tokens=4096, project=False)]
    return float(np.concatenate(states).std())


def new_tasks(encoder: NoteEncoder, plan: Plan, config: TrainConfig, train: pa.Table) -> Tasks | None:
    """What the training notes can write, or None where nothing is to be learned.

    Raises:
        InputError: writing was asked for, and no note has a category or hashtags.
    """
    if not plan.alpha:
        return None
    tasks = Tasks(note.texts(train), train["category"].to_pylist(), encoder.prompt, config.tasks, config.seed)
    filed, tagged = tasks.able
    if filed or tagged:
        logger.info("train: %d of %d notes have a category to write, %d have hashtags", filed, train.num_rows, tagged)
        return tasks
    if config.tasks.alpha:
        raise InputError(
            f"tasks.alpha={config.tasks.alpha}, but none of the {train.num_rows} training notes has a category or hashtags that "
            f"fit {config.prompt.output_tokens} output tokens; give notes that have, or tasks.alpha=0"
        )
    logger.warning("train: no note has a category or hashtags to write; the contrastive loss is trained alone")
    return None


def material(
    encoder: NoteEncoder,
    train: pa.Table,
    extra: pa.Table,
    pairs: pl.DataFrame,
    *,
    frozen: bool,
    cache: str | os.PathLike[str] | None,
    batch_tokens: int,
    bf16: bool = False,
    intake: Intake | None = None,
) -> Material:
    """All notes as the encoder reads them; for a frozen backbone with their states, computed once and cached on disk."""
    table = pa.concat_tables([train, extra])
    ids = np.asarray(table["note_id"].to_pylist(), dtype=object)
    contents = np.unique(table["content_hash"].to_numpy(), return_inverse=True)[1]
    pictures = None if intake is None else intake.pictures_of(table)
    inputs = encoder.prepare(table, pictures)
    states, visual = None, None
    if pictures is not None and encoder.head is not None and encoder.head.visual and pictures.gallery.frozen:
        visual = pictures.visual()
    if frozen:
        hashes = note.content_hashes(table)  # the states are of the text alone
        stored = StateCache(cache_folder(cache, "states"), encoder, precision="bf16" if bf16 else "fp32")
        with progress.track("states", len(inputs), "notes") as bar:
            states, _ = stored.states_of(
                encoder, inputs, hashes, batch_tokens=batch_tokens, advance=bar.advance, bf16=bf16
            )
    anchors, related, scores = rows_of_pairs(pairs, ids[: train.num_rows])
    return Material(ids, train.num_rows, inputs, states, anchors, related, scores, contents, visual)


def set_geometry(
    encoder: NoteEncoder, data: Material, recall: ColdRecall | None, config: TrainConfig, *, bf16: bool
) -> Look | None:
    """Start the head from the geometry of the training notes, whichever finds more on the valid queries: centred or not, with
    images or without.

    Returns:
        The look of the zero-shot backbone, without any head and reading the text alone, where there are valid pairs and the
        backbone is pretrained.
    """
    head = encoder.head
    assert head is not None
    if config.backbone == "tiny":  # random states have no geometry worth keeping; words have
        if data.inputs.words is not None:
            nothing = torch.zeros(data.train, head.hidden_size)
            random_map = head.linear.weight.detach().clone()
            start_from(head, nothing, data.inputs.words[: data.train], centre=False, seed=config.seed)
            with torch.no_grad():
                head.linear.weight.copy_(random_map)
                head.mean.zero_()
                head.spread.fill_(1.0)
        return None
    rows = np.arange(data.train)
    if data.states is None and data.train > START_NOTES:
        rows = np.sort(np.random.default_rng(config.seed).choice(data.train, START_NOTES, replace=False))
    states = states_of(encoder, data, rows, config.batch_tokens, bf16=bf16)
    words = None if data.inputs.words is None else data.inputs.words[rows]
    visual = None if data.visual is None else data.visual.take(rows)

    def start(centre: bool, share: float) -> None:
        start_from(head, torch.from_numpy(states), words, visual, centre=centre, visual_share=share, seed=config.seed)

    if recall is None:
        start(True, VISUAL_SHARES[1])
        return None
    pool = recall.states(encoder)  # the backbone stands still: its states serve all three looks
    zero_shot = _zero_shot(encoder, data, recall, pool)
    looks = {}
    for centre in (True, False):
        for share in VISUAL_SHARES if visual is not None else VISUAL_SHARES[:1]:
            start(centre, share)
            looks[centre, share] = recall.look(encoder, 0, states=pool)
            logger.info(
                "start geometry centre=%s, images' share %.1f: cold recall@10 %.4f",
                centre,
                share,
                looks[centre, share].recall_at_10,
            )
    start(*max(looks, key=lambda tried: looks[tried].value))  # the first of equals
    return zero_shot


def _zero_shot(encoder: NoteEncoder, data: Material, recall: ColdRecall, states: np.ndarray) -> Look:
    """The look of the backbone as others trained it: without head, and without a connector and a gate that are random yet.

    Args:
        encoder: with the head that will be trained.
        data: the notes.
        recall: looks.
        states: of its pool, with whatever the encoder sees.
    """
    if encoder.sight is not None and encoder.sight.in_states:
        text = dataclasses.replace(data, inputs=encoder.without_pictures(data.inputs))
        states = recall.states(encoder, text)
    head, encoder.head = encoder.head, None
    look = recall.look(encoder, 0, states=states)
    encoder.head = head
    return look
