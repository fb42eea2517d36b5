"""`noterec train`: from a dataset and its pairs to a model folder.

Everything that is fitted, the tokenizer, the lexicon, the head's first geometry, the weights, comes from the training notes. The
valid notes serve only to choose among looks. What is unfinished lives in OUT/training and is continued by the same command;
`noterec.json` appears when the model is whole.
"""

from __future__ import annotations

import logging
import os

import polars as pl
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.config import TrainConfig
from noterec.engagement.table import load_pairs
from noterec.errors import GateError, InputError
from noterec.notes.dataset import Dataset
from noterec.training import processes, start
from noterec.training.cold_recall import ColdRecall
from noterec.training.notes import new_intake, notes_of_pairs, train_notes
from noterec.training.plan import Plan
from noterec.training.run_folder import TrainSummary, clear_run, close_run, fingerprint_of, open_run

logger = logging.getLogger(__name__)


def train(
    dataset: str | os.PathLike[str],
    *,
    pairs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    valid_pairs: str | os.PathLike[str] | None = None,
    valid_notes: str | os.PathLike[str] | None = None,
    config: TrainConfig = TrainConfig(),
    cache: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> TrainSummary:
    """Train an encoder so that notes that people engage with together lie close together.

    Args:
        dataset: the training notes; those with nothing to read are left out.
        pairs: related pairs among them.
        out: the model folder. An unfinished run there is continued if its settings and input are the same.
        valid_pairs: relevant notes of cold queries, for early stopping and the choice of weights.
        valid_notes: a dataset that also holds the notes which the valid pairs name; `dataset` unless given.
        config: backbone, way, sizes, learning rates.
        cache: the cache's root, with the readout states of frozen backbones and what vision encoders made of pictures;
            `$NOTEREC_CACHE` or ~/.cache/noterec unless given.
        image_root: the folder below which pictures that are given by path are read.
        restart: throw away what is in `out`.

    Returns:
        What was reached.

    Raises:
        InputError: too few pairs, unknown notes, nothing to read, no usable picture for a model that shall see.
        ArtefactError: `out` holds a model, or an unfinished run, of other settings or input.
        GateError: the best weights find less than the backbone without any training; nothing is saved.
    """
    folder = storage.local(out)
    with progress.stage("train") as record:
        source = Dataset(dataset)
        device = processes.own_device(config.device, config.devices)
        tower, intake = new_intake(config, device, cache=cache, image_root=image_root)
        notes = train_notes(source, intake)
        backbone = start.new_backbone(config, notes)
        plan = Plan.of(config, notes.num_rows, backbone.kind, device)
        known, unknown = load_pairs(pairs, pl.Series(notes["note_id"].to_pylist(), dtype=pl.String))
        valid, extra = None, notes.slice(0, 0)
        if valid_notes is not None and valid_pairs is None:
            raise InputError("valid_notes without valid_pairs; expected the pairs of cold queries too (--valid-pairs)")
        if valid_pairs is not None:
            valid = pl.DataFrame(storage.read_table(valid_pairs, schema.PAIRS).select(schema.PAIRS.names))
            others = Dataset(valid_notes if valid_notes is not None else dataset)
            extra, valid = notes_of_pairs(valid, others, intake, train=notes)
        encoder = start.new_encoder(config, plan, backbone, notes, tower)
        tasks = start.new_tasks(encoder, plan, config, notes)
        pictures = intake.pictures_of(pa.concat_tables([notes, extra]))
        fingerprint = fingerprint_of(config, encoder, notes, extra, known, valid, pictures)
        finished = open_run(folder, fingerprint, restart=restart)
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
            intake=intake,
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
                bf16=plan.bf16,
                seed=config.seed,
            )
        zero_shot = start.set_geometry(encoder, data, recall, config, bf16=plan.bf16)
        from noterec.training.fit import fit  # Lightning takes seconds to load, and a finished run doesn't need it

        steps, looks = fit(encoder, data, recall, tasks, config, plan, folder / "training")
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
        if processes.is_first():
            close_run(folder, fingerprint, summary)
            encoder.save_pretrained(folder, origin=origin)
            clear_run(folder)
        return summary
