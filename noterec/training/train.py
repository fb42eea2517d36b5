"""`noterec train`: from a dataset and its pairs to a model folder.

Everything that is fitted, the tokenizer, the lexicon, the head's first geometry, the weights, comes from the training notes. The
valid notes serve only to choose among looks. What is unfinished lives in OUT/training and is continued by the same command;
`noterec.json` appears when the model is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from noterec import progress, schema, storage
from noterec.config import TrainConfig
from noterec.engagement.pairs import load_pairs
from noterec.errors import ArtefactError, GateError, InputError
from noterec.model.backbone import fast_bf16
from noterec.model.encoder import NoteEncoder
from noterec.model.folder import NOTEREC_FILE
from noterec.notes import note
from noterec.notes.dataset import Dataset
from noterec.training import start
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.material import Batches, GraphBlocks, Material, PairBatches, Steps

logger = logging.getLogger(__name__)

RECORD_FILE = "train.json"  # what a finished training reached
RUN_FILE = "run.json"  # marks a training folder as ours


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a training run reached; the looks are at cold valid queries and None where no valid pairs were given."""

    out: str
    model_version: str
    backbone: str
    way: str
    objective: str
    dimension: int
    train_notes: int
    pairs: int
    unknown_pairs: int  # left out: they name notes that are not in the dataset or have no text
    steps: int  # run in all, those before a resumption included
    zero_shot: Look | None  # the backbone's own states, no head
    first: Look | None  # the head's first geometry
    best: Look | None  # the weights that were kept
    seconds: float


def train(
    dataset: str | os.PathLike[str],
    *,
    pairs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    valid_pairs: str | os.PathLike[str] | None = None,
    valid_notes: str | os.PathLike[str] | None = None,
    config: TrainConfig = TrainConfig(),
    cache: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> TrainSummary:
    """Train an encoder so that notes that people engage with together lie close together.

    Args:
        dataset: the training notes; those without text are left out.
        pairs: related pairs among them.
        out: the model folder. An unfinished run there is continued if its settings and input are the same.
        valid_pairs: relevant notes of cold queries, for early stopping and the choice of weights.
        valid_notes: a dataset that also holds the notes which the valid pairs name; `dataset` unless given.
        config: backbone, way, sizes, learning rates.
        cache: folder of readout states for a frozen backbone; `$NOTEREC_CACHE` or ~/.cache/noterec unless given.
        restart: throw away what is in `out`.

    Returns:
        What was reached.

    Raises:
        InputError: too few pairs, unknown notes, no text.
        ArtefactError: `out` holds a model, or an unfinished run, of other settings or input.
        GateError: the best weights find less than the backbone without any training; nothing is saved.
    """
    folder = storage.local(out)
    with progress.stage("train") as record:
        source = Dataset(dataset)
        notes = start.train_notes(source)
        plan = start.Plan.of(config, notes.num_rows)
        known, unknown = load_pairs(pairs, pl.Series(notes["note_id"].to_pylist(), dtype=pl.String))
        valid, extra = None, notes.slice(0, 0)
        if valid_notes is not None and valid_pairs is None:
            raise InputError("valid_notes without valid_pairs; expected the pairs of cold queries too (--valid-pairs)")
        if valid_pairs is not None:
            valid = pl.DataFrame(storage.read_table(valid_pairs, schema.PAIRS).select(schema.PAIRS.names))
            extra, valid = start.valid_notes(notes, valid, Dataset(valid_notes if valid_notes is not None else dataset))
        encoder = start.new_encoder(config, plan, notes)
        fingerprint = _fingerprint(config, encoder, notes, extra, known, valid)
        finished = _open(folder, fingerprint, restart=restart)
        if finished is not None:
            return finished
        frozen = plan.way == "frozen"
        data = start.material(
            encoder,
            notes,
            extra,
            known,
            frozen=frozen,
            cache=cache,
            batch_tokens=config.batch_tokens,
            bf16=config.precision == "bf16",
        )
        recall = None
        if valid is None:
            logger.warning("train: no valid pairs: all steps are run and the last weights kept, better or not")
        else:
            recall = ColdRecall(
                data,
                valid,
                queries=plan.valid_queries,
                pool=plan.valid_pool,
                batch_tokens=config.batch_tokens,
                bf16=_precision(config, encoder.device, frozen=frozen) == "bf16-mixed",
                seed=config.seed,
            )
        zero_shot = start.set_geometry(encoder, data, recall, config)
        steps, looks = _fit(encoder, data, recall, config, plan, folder / "training")
        best = max(looks, key=lambda look: (look.value, -look.step)) if looks else None
        if plan.steps and best is not None and zero_shot is not None and best.value < zero_shot.value:
            raise GateError(
                f"training ended below the backbone as it is: cold recall@10 / 100 {best.recall_at_10:.4f} / "
                f"{best.recall_at_100:.4f}, zero-shot {zero_shot.recall_at_10:.4f} / {zero_shot.recall_at_100:.4f}; nothing "
                f"was saved. Use --model {config.backbone} itself, a larger --dimension (now {config.dimension}), or more pairs"
            )
        origin = {"config": config.model_dump(mode="json"), "dataset": source.path.name, "fingerprint": fingerprint}
        record.counts.update(rows_in=notes.num_rows, pairs=known.height, steps=steps)
        summary = TrainSummary(
            out=str(folder),
            model_version=encoder.model_version,
            backbone=config.backbone,
            way=plan.way,
            objective=plan.objective,
            dimension=encoder.dimension,
            train_notes=notes.num_rows,
            pairs=known.height,
            unknown_pairs=unknown,
            steps=steps,
            zero_shot=zero_shot,
            first=looks[0] if looks else None,
            best=best,
            seconds=record.seconds,
        )
        storage.write_json(
            folder / "training" / RECORD_FILE, {"fingerprint": fingerprint, "summary": dataclasses.asdict(summary)}
        )
        encoder.save_pretrained(folder, origin=origin)  # last: a model that is whole has its record
        for name in ("last.ckpt", "best.safetensors"):
            (folder / "training" / name).unlink(missing_ok=True)
        return summary


def _fit(
    encoder: NoteEncoder, data: Material, recall: ColdRecall | None, config: TrainConfig, plan: start.Plan, folder: Path
) -> tuple[int, list[Look]]:
    """Run the steps that are left; returns how many were run in all, and the looks. The encoder has the kept weights."""
    batches: Batches = (GraphBlocks if plan.objective == "graph" else PairBatches)(data, plan.batch_notes, config.seed)
    if plan.steps == 0:
        encoder.weights_changed()
        return 0, [] if recall is None else [recall.look(encoder, 0)]
    import lightning.pytorch as lightning
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from torch.utils.data import DataLoader

    from noterec.training.module import Checkpoint, ContrastiveModule, KeepBest, load_best

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = ContrastiveModule(encoder, data, config, plan)
    checkpoint = folder / "last.ckpt"
    source = Steps(batches, plan.steps)
    if checkpoint.is_file():
        try:
            source.start = int(torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"])
        except Exception as error:  # whatever a damaged file makes torch raise
            raise ArtefactError(
                f"{checkpoint}: the checkpoint does not load ({error}); train again with --restart"
            ) from error
        logger.info("train: continuing at step %d", source.start)
    best_file = folder / "best.safetensors"
    with progress.track("train", plan.steps, "steps") as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # about workers and log intervals, which are as meant
        bar.advance(source.start)
        keep = None if recall is None else KeepBest(recall, config, plan.steps, best_file, bar)
        version = f"from-step-{source.start}"
        device = encoder.device
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=_precision(config, device, frozen=data.states is not None),
            max_steps=plan.steps,
            max_epochs=-1,
            logger=[
                CSVLogger(folder, name="logs", version=version, flush_logs_every_n_steps=20),
                TensorBoardLogger(folder, name="logs", version=version),
            ],
            log_every_n_steps=5,
            callbacks=[c for c in (keep, Checkpoint(checkpoint, config.checkpoint_every)) if c is not None],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loader = DataLoader(source, batch_size=None, collate_fn=_as_is)
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint if source.start else None, weights_only=True)
        except SystemExit as stopped:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from stopped
    if keep is not None:
        load_best(module, best_file)
    encoder.weights_changed()
    encoder.to(device).eval()
    return trainer.global_step, [] if keep is None else keep.looks


def _as_is(batch: Any) -> Any:
    return batch


def _precision(config: TrainConfig, device: torch.device, *, frozen: bool) -> Any:
    """Mixed bfloat16 where a backbone is trained on hardware that multiplies in it; float32 otherwise."""
    if config.precision != "auto":
        return {"fp32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    return "bf16-mixed" if not frozen and fast_bf16(device) else "32-true"


def _fingerprint(
    config: TrainConfig,
    encoder: NoteEncoder,
    notes: pa.Table,
    extra: pa.Table,
    pairs: pl.DataFrame,
    valid: pl.DataFrame | None,
) -> str:
    """Changes with the settings, the backbone as it is at the start, the notes' text, the pairs."""
    tables = [config.hash, encoder.states_version]
    for table in (notes, extra):
        tables.append(storage.value_hash(table["note_id"].to_pylist()))
        tables.append(_array_hash(note.content_hashes(table)))
    for frame in (pairs, valid):
        if frame is not None:
            tables.append(storage.value_hash([frame["anchor_id"].to_list(), frame["related_id"].to_list()]))
            tables.append(_array_hash(frame["score"].to_numpy()))
    return storage.value_hash(tables)


def _array_hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _open(folder: Path, fingerprint: str, *, restart: bool) -> TrainSummary | None:
    """Make the output ready; the summary of a run that already finished with the same settings and input."""
    training = folder / "training"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the model")
    ours = (training / RUN_FILE).is_file() or (folder / NOTEREC_FILE).is_file()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise InputError(f"{folder}: is not empty and holds no noterec model or training; give another --out")
    if restart:
        (folder / NOTEREC_FILE).unlink(missing_ok=True)
        if (training / RUN_FILE).is_file():
            shutil.rmtree(training)
    record = training / RECORD_FILE
    if (folder / NOTEREC_FILE).is_file():
        found = storage.read_json(record) if record.is_file() else {}
        if found.get("fingerprint") != fingerprint:
            raise ArtefactError(
                f"{folder}: holds a model of other settings or input; give another --out, or --restart to replace it"
            )
        logger.info("%s: trained already with these settings and input; nothing to do", folder)
        looks = {
            k: Look(**v) if v else None for k, v in found["summary"].items() if k in ("zero_shot", "first", "best")
        }
        return TrainSummary(**{**found["summary"], **looks})
    unfinished = training / RUN_FILE
    if unfinished.is_file() and storage.read_json(unfinished)["fingerprint"] != fingerprint:
        raise ArtefactError(
            f"{folder}: holds an unfinished training of other settings or input; give another --out, or --restart"
        )
    storage.write_json(unfinished, {"fingerprint": fingerprint})
    return None
