"""Where training starts: notes in memory, a backbone, a head with the geometry that needs no training."""

from __future__ import annotations

import dataclasses
import logging
import os

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from noterec import progress
from noterec.config import TrainConfig
from noterec.embedding.states import StateCache, default_folder
from noterec.errors import InputError
from noterec.model import tiny
from noterec.model.backbone import Backbone, choose_device, load_backbone
from noterec.model.encoder import Inputs, NoteEncoder
from noterec.model.head import Head, start_from
from noterec.model.lexicon import Lexicon
from noterec.notes import note
from noterec.notes.dataset import Dataset
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.material import Material, rows_of_pairs

logger = logging.getLogger(__name__)

SMALL_NOTES = 10_000
START_NOTES = 5000  # notes whose states set the head's first geometry, where the backbone isn't frozen
LEXICON_WORDS = 100_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration with every `auto` decided."""

    way: str
    objective: str
    steps: int
    lr: float
    words_lr: float
    batch_notes: int
    lexicon: int
    valid_queries: int
    valid_pool: int
    logit_scale: float

    @classmethod
    def of(cls, config: TrainConfig, train_notes: int) -> Plan:
        """Decide what the configuration leaves open, given how many notes there are to train on."""
        small = train_notes < SMALL_NOTES  # few relations are learned by heart in a few large steps
        tiny_model = config.backbone == "tiny"
        way = config.way if config.way != "auto" else "full" if tiny_model else "frozen"
        frozen = way == "frozen"
        objective = config.objective if config.objective != "auto" else "graph" if frozen else "pairs"
        graph = objective == "graph"
        return cls(
            way=way,
            objective=objective,
            steps=config.steps if config.steps is not None else 120 if tiny_model else 300,
            lr=config.lr or (2e-3 if tiny_model else 3e-4 if small else 1e-3),
            words_lr=config.words_lr or (1e-2 if tiny_model else 1e-3 if small else 3e-3),
            batch_notes=config.batch_notes or ((1024 if small else 2048) if graph else 256),
            lexicon=config.lexicon if config.lexicon is not None else LEXICON_WORDS if frozen or tiny_model else 0,
            valid_queries=config.valid_queries or (5000 if frozen else 500),
            valid_pool=config.valid_pool or (100_000 if frozen else 4000),
            logit_scale=config.logit_scale if config.logit_scale is not None else 2.66 if graph else 3.0,
        )


def train_notes(dataset: Dataset) -> pa.Table:
    """The notes that have text, ordered by note_id, with the columns that are encoded.

    Raises:
        InputError: none has.
    """
    tables = []
    dropped = 0
    for table in dataset.note_batches(list(note.ENCODED_COLUMNS)):
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
        for table in dataset.note_batches(list(note.ENCODED_COLUMNS))
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


def new_encoder(config: TrainConfig, plan: Plan, train: pa.Table) -> NoteEncoder:
    """The backbone with an untrained head; tokenizer of `tiny` and lexicon come from the training notes."""
    texts = note.texts(train)
    device = choose_device(config.device)
    if config.backbone == "tiny":
        if config.layers is not None or plan.way == "frozen":
            raise InputError("backbone tiny is trained from scratch: it takes neither layers nor way=frozen")
        words = (part for title, tags, content in texts for part in (title, content, " ".join(f"#{t}" for t in tags)))
        tokenizer = tiny.tiny_tokenizer(words, config.vocabulary)
        backbone = Backbone(tiny.tiny_model(tokenizer, config.seed), tokenizer, "causal")
    else:
        backbone = load_backbone(config.backbone, layers=config.layers, device=device)
        if plan.way == "full":
            backbone.model.float()  # small steps are lost in bfloat16 weights; the products may still be in bfloat16
    lexicon = Lexicon.of(texts, size=plan.lexicon) if plan.lexicon else None
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
    encoder = NoteEncoder(backbone, head, prompt, lexicon)
    with torch.no_grad():
        encoder.logit_scale.fill_(plan.logit_scale)
    return encoder.to(device)


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


def set_geometry(encoder: NoteEncoder, data: Material, recall: ColdRecall | None, config: TrainConfig) -> Look | None:
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
    if data.states is None:
        random = np.random.default_rng(config.seed)
        rows = np.sort(random.choice(data.train, min(data.train, START_NOTES), replace=False))
        states = np.empty((len(rows), encoder.backbone.hidden_size), dtype=np.float32)
        tokens = [data.inputs.tokens[row] for row in rows]
        with progress.track("first states", len(rows), "notes") as bar:
            for batch, values in encoder.run(Inputs(tokens, None), batch_tokens=config.batch_tokens, project=False):
                states[batch] = values
                bar.advance(len(batch))
    else:
        rows, states = np.arange(data.train), data.states[: data.train]
    words = None if data.inputs.words is None else data.inputs.words[rows]
    if recall is None:
        start_from(head, torch.from_numpy(states), words, centre=True, seed=config.seed)
        return None
    encoder.head = None
    zero_shot = recall.look(encoder, 0)
    encoder.head = head
    looks = {}
    for centre in (False, True):
        start_from(head, torch.from_numpy(states), words, centre=centre, seed=config.seed)
        looks[centre] = recall.look(encoder, 0)
        logger.info("start geometry centre=%s: cold recall@10 %.4f", centre, looks[centre].recall_at_10)
    if looks[False].value > looks[True].value:
        start_from(head, torch.from_numpy(states), words, centre=False, seed=config.seed)
    return zero_shot
