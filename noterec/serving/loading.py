"""What a service needs, from its folders."""

from __future__ import annotations

import os

from noterec import progress
from noterec.config import ServeConfig
from noterec.serving.explorer.figures import load_figures
from noterec.serving.service import Service

Path = str | os.PathLike[str]


def open_service(
    index: Path,
    *,
    model: Path | None = None,
    notes: Path | None = None,
    pairs: Path | None = None,
    report: Path | None = None,
    image_root: Path | None = None,
    token: str | None = None,
    config: ServeConfig = ServeConfig(),
) -> Service:
    """Load everything that answers need.

    Args:
        index: the index.
        model: its model; without it only notes of the index and vectors can be asked about.
        notes: the dataset, for people to look at.
        pairs: related pairs, to say what is co-engaged.
        report: folder of an evaluation, to be shown.
        image_root: the only folder below which pictures that the dataset gives by path are read.
        token: what a request must carry to change the index; None = nobody can.
        config: the settings.

    Raises:
        InputError, ArtefactError, ConfigError: something isn't there, is damaged, or doesn't belong to the rest.
    """
    with progress.stage("serve") as stage:
        if report is not None:
            load_figures(report)
        encoder = catalogue = related = None
        if model is not None:
            from noterec.model.encoder import NoteEncoder

            encoder = NoteEncoder.from_pretrained(model, device=config.device)
        if notes is not None:
            from noterec.serving.explorer.catalogue import Catalogue

            catalogue = Catalogue.open(notes, image_root=image_root, images=config.images)
        if notes is not None or pairs is not None:
            from noterec.serving.explorer.related import Related

            related = Related.open(pairs, dataset=notes)
        service = Service(
            index, encoder=encoder, catalogue=catalogue, related=related, report=report, token=token, config=config
        )
        service.warm_up()
        stage.counts.update(rows_in=len(service.index), index=service.index.version)
    return service
