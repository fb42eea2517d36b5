"""Where training starts: notes in memory, a backbone, a head with the geometry that needs no training."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from noterec import progress
from noterec.config import TrainConfig
from noterec.embedding.states import StateCache, default_folder
from noterec.errors import InputError
from noterec.model import tiny
from noterec.model.backbone import Backbone, load_backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Head, start_from
from noterec.model.lexicon import Lexicon
from noterec.model.lora import add_adapters
from noterec.model.tasks import Tasks
from noterec.notes import note
from noterec.notes.dataset import Dataset
from noterec.training.cold_recall import ColdRecall, Look, states_of
from noterec.training.material import Material, rows_of_pairs
from noterec.training.plan import Plan
from noterec.training.processes import own_device

logger = logging.getLogger(__name__)

START_NOTES = 2000  # notes whose states set the head's first geometry, where the backbone isn't frozen


def train_notes(dataset: Dataset) -> pa.Table:
    """The notes that have text, ordered by note_id, with the columns that are encoded.

    Raises:
        InputError: none has.
    """
    tables = []
    dropped = 0
    for table in dataset.note_batches([*note.ENCODED_COLUMNS, "category"]):
        readable = note.has_text(table)
        dropped += int((~readable).sum())
        tables.append(table.filter(pa.array(readable)))
    if not tables or not sum(table.num_rows for table in tables):
        raise InputError(f"{dataset.path}: no note has any text to train on")
    if dropped:
        logger.warning("train: %d notes without text are left out", dropped)
    return pa.concat_tables(tables).sort_by("note_id")


def valid_notes(train: pa.Table, valid_pairs: pl.DataFrame, dataset: Dataset) -> tuple[pa.Table, pl.DataFrame]:
    """The notes that valid pairs name beyond the training notes, and the pairs whose notes have text.

    Raises:
        InputError: the dataset lacks notes that the pairs name, or a query is a training note.
    """
    named = set(valid_pairs["anchor_id"]) | set(valid_pairs["related_id"])
    seen = set(train["note_id"].to_pylist())
    warm = set(valid_pairs["anchor_id"]) & seen
    if warm:
        raise InputError(
            f"{len(warm)} queries of the valid pairs are training notes, the first is {min(warm)!r}; a model that has seen them "
            "can't be chosen by them: give the valid-pairs.parquet and train/ of one `noterec split`"
        )
    missing = named - seen
    wanted = pa.array(sorted(missing), pa.string())
    tables = [
        table.filter(pa.compute.is_in(table["note_id"], value_set=wanted))
        for table in dataset.note_batches([*note.ENCODED_COLUMNS, "category"])
    ]
    extra = pa.concat_tables(tables).sort_by("note_id")
    lacking = missing - set(extra["note_id"].to_pylist())
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(named)} notes that the valid pairs name are not in {dataset.path}, the first is "
            f"{min(lacking)!r}; give the dataset that holds them as valid notes (--valid-notes)"
        )
    readable = note.has_text(extra)
    silent = set(extra["note_id"].filter(pa.array(~readable)).to_pylist())
    if silent:
        logger.warning("train: %d notes of the valid pairs have no text and are left out", len(silent))
    known = valid_pairs.filter(~pl.col("anchor_id").is_in(silent) & ~pl.col("related_id").is_in(silent))
    return extra.filter(pa.array(readable)), known


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


def new_encoder(config: TrainConfig, plan: Plan, backbone: Backbone, train: pa.Table) -> NoteEncoder:
    """The backbone with an untrained head; lexicon and closed set of categories come from the training notes."""
    lexicon = Lexicon.of(note.texts(train), size=plan.lexicon) if plan.lexicon else None
    lexicon = lexicon or None  # no word stands in two notes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = Head(
            backbone.hidden_size,
            config.dimension,
            branch=config.head_branch,
            lexicon=0 if lexicon is None else len(lexicon),
        )
    prompt = config.prompt
    if prompt.style == "auto" and config.backbone == "tiny":
        prompt = prompt.model_copy(update={"style": "short"})
    if plan.way == "lora":
        add_adapters(backbone, config.lora, seed=config.seed)
    if config.gradient_checkpointing:
        model: Any = backbone.model
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    encoder = NoteEncoder(backbone, head, prompt, lexicon)
    if plan.alpha:
        encoder.check_room_to_write()
        names = set(train["category"].to_pylist()) - {None, ""}
        encoder.categories = sorted(str(name) for name in names)
    with torch.no_grad():
        encoder.logit_scale.fill_(plan.logit_scale)
    return encoder.to(own_device(config.device, config.devices))


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
) -> Material:
    """All notes as the encoder reads them; for a frozen backbone with their states, computed once and cached on disk."""
    table = pa.concat_tables([train, extra])
    ids = np.asarray(table["note_id"].to_pylist(), dtype=object)
    hashes = note.content_hashes(table)
    contents = np.unique(hashes, return_inverse=True)[1]
    inputs = encoder.prepare(table)
    states = None
    if frozen:
        stored = StateCache(cache if cache is not None else default_folder(), encoder, bf16=bf16)
        with progress.track("states", len(inputs), "notes") as bar:
            states, _ = stored.states_of(encoder, inputs, hashes, batch_tokens=batch_tokens, bar=bar)
    anchors, related, scores = rows_of_pairs(pairs, ids[: train.num_rows])
    return Material(ids, train.num_rows, inputs, states, anchors, related, scores, contents)


def set_geometry(
    encoder: NoteEncoder, data: Material, recall: ColdRecall | None, config: TrainConfig, *, bf16: bool
) -> Look | None:
    """Start the head from the geometry of the training notes, centred or not, whichever finds more on the valid queries.

    Returns:
        The look of the zero-shot backbone without any head, where there are valid pairs and states at hand.
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
    if recall is None:
        start_from(head, torch.from_numpy(states), words, centre=True, seed=config.seed)
        return None
    pool = recall.states(encoder)  # the backbone stands still: its states serve all three looks
    encoder.head = None
    zero_shot = recall.look(encoder, 0, states=pool)
    encoder.head = head
    looks = {}
    for centre in (False, True):
        start_from(head, torch.from_numpy(states), words, centre=centre, seed=config.seed)
        looks[centre] = recall.look(encoder, 0, states=pool)
        logger.info("start geometry centre=%s: cold recall@10 %.4f", centre, looks[centre].recall_at_10)
    if looks[False].value > looks[True].value:
        start_from(head, torch.from_numpy(states), words, centre=False, seed=config.seed)
    return zero_shot
