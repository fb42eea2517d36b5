"""`noterec modalities`: the same notes as one model sees them by text and images, by either alone, and with the images shuffled.

modalities("dataset", model="model", out="modalities")

Fine-tuned end to end, a language model may come to read the text alone (arXiv:2405.16789 §3). `noterec evaluate --modalities` tells
from these tables whether it did.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from noterec import progress, storage
from noterec.config import EmbedConfig
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.notes.dataset import Dataset

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

View = Literal["both", "text", "image", "shuffled"]
VIEWS: tuple[View, ...] = get_args(View)

FORMAT, FORMAT_VERSION = "noterec modalities", 1
RECORD_FILE = "modalities.json"


@dataclasses.dataclass(frozen=True)
class ModalitiesSummary:
    """What one run of `modalities` did; of each view its notes encoded, unchanged and rejected, as `embed` counts them."""

    out: str
    model_version: str
    dimension: int
    notes: int  # live notes in the dataset
    views: dict[View, dict[str, int]]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Views:
    """A folder that `modalities` wrote: one embeddings table per view, all of the same notes by the same model."""

    folder: Path
    dataset: str
    model_version: str
    versions: dict[View, str]  # as they stand in the tables; those of both are the model's own

    def table(self, view: View) -> Path:
        """Where the embeddings of a view are."""
        return self.folder / view


def modalities(
    dataset: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | NoteEncoder,
    out: str | os.PathLike[str],
    config: EmbedConfig = EmbedConfig(),
    cache: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
) -> ModalitiesSummary:
    """Embed a dataset's notes in every view, only those that are new or changed; run again, a killed run is continued.

    Args:
        dataset: the folder with the notes.
        model: a folder of a model that was trained with images, or a loaded encoder.
        out: a folder for the tables both, text, image and shuffled, and modalities.json, written when all four are whole.
        config: as for `embed`; its view is set here.
        cache: the root of all caches, as for `embed`.
        image_root: the only folder below which pictures that the notes give by path are read.

    Returns:
        Counts and seconds.

    Raises:
        InputError: the model reads text only, the notes have no text or no image at all; and as `embed`.
        ConfigError: config names a view.
        ArtefactError: `out` holds the views of another model.
    """
    from noterec.embedding.engine import (
        checked,
        embed,
    )  # here: an evaluation reads the record, and needs no torch for that
    from noterec.model.encoder import NoteEncoder

    devices = checked(config, model, cache)
    crowded = len(devices) > 1 or config.engine == "ray"  # then every process loads the model itself
    if config.view != "both":
        raise ConfigError(f"view={config.view}: all of {', '.join(VIEWS)} are written; leave view out")
    source, target = Dataset(dataset), storage.local(out)
    if isinstance(model, NoteEncoder):
        encoder = model
    else:
        encoder = NoteEncoder.from_pretrained(
            model, device="cpu" if crowded else devices[0], dimension=config.dimension
        )
    if encoder.sight is None:
        raise InputError(
            f"{'the encoder' if encoder is model else model} reads text only, so there is nothing to compare; expected a model "
            "that was trained with images (noterec train --set vision.encoder=...)"
        )
    with progress.stage("modalities") as record:
        if (target / RECORD_FILE).is_file() and (found := load_views(target)).model_version != encoder.model_version:
            raise ArtefactError(
                f"{target}: holds the views of model version {found.model_version}, this model's is {encoder.model_version}; "
                "give another output folder, or delete this one"
            )
        (target / RECORD_FILE).unlink(missing_ok=True)  # from here on the tables may differ in what they hold
        summaries = {
            view: embed(
                dataset,
                model=model if crowded else encoder,
                out=target / view,
                config=config.model_copy(update={"view": view}),
                cache=cache,
                image_root=image_root,
            )
            for view in VIEWS
        }
        for view, done in summaries.items():
            if not done.encoded + done.unchanged:
                raise InputError(
                    f"{source.path}: none of the {done.notes} notes has anything to encode in view={view}, so there is nothing to "
                    "compare; expected notes with texts and images"
                )
        counts = {
            view: {name: getattr(done, name) for name in ("encoded", "unchanged", "rejected")}
            for view, done in summaries.items()
        }
        written = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "dataset": str(source.path),
            "model_version": encoder.model_version,
            "dimension": encoder.dimension,
            "versions": {view: done.model_version for view, done in summaries.items()},
            "notes": summaries["both"].notes,
            "rejected": {view: done.rejected for view, done in summaries.items()},
        }
        storage.write_json(target / RECORD_FILE, written)
        encoded = sum(done.encoded for done in summaries.values())
        record.counts.update(rows_in=summaries["both"].notes, rows_out=encoded)
        return ModalitiesSummary(
            out=str(target),
            model_version=encoder.model_version,
            dimension=encoder.dimension,
            notes=summaries["both"].notes,
            views=counts,
            seconds=record.seconds,
        )


def load_views(path: str | os.PathLike[str]) -> Views:
    """Read the record of a folder that `modalities` wrote.

    Raises:
        InputError: it has none, as it is another folder, or its run did not end.
        ArtefactError: the record is damaged or of another format.
    """
    folder = storage.local(path)
    file = folder / RECORD_FILE
    if not file.is_file():
        raise InputError(
            f"{folder}: no {RECORD_FILE} there; expected a folder that `noterec modalities` wrote to its end: run it again"
        )
    record = storage.read_json(file)
    try:
        known = (record["format"], record["format_version"]) == (FORMAT, FORMAT_VERSION)
        versions: dict[View, str] = {view: str(record["versions"][view]) for view in VIEWS}
        found = Views(folder, str(record["dataset"]), str(record["model_version"]), versions)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise ArtefactError(
            f"{file}: not a record of format version {FORMAT_VERSION}; run `noterec modalities` into a new folder"
        )
    return found
