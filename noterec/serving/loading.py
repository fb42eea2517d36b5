"""What a service needs, from its folders."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from noterec import progress
from noterec.config import ServeConfig
from noterec.errors import ArtefactError
from noterec.serving.explorer.figures import load_figures
from noterec.serving.service import Service

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

Path = str | os.PathLike[str]


class ModelSource:
    """Where a service's model is: a folder, a link to one that is turned to another one, or a name on a hub."""

    def __init__(self, path: Path, *, device: str) -> None:
        """Args: the model; where it computes."""
        self._path, self._device = path, device
        self._loaded: object = None

    def load(self) -> NoteEncoder:
        """Load what is there now."""
        from noterec.model.encoder import NoteEncoder

        self._loaded = self._stamp()
        return NoteEncoder.from_pretrained(self._path, device=self._device)

    def load_version(self, version: str) -> NoteEncoder:
        """Load the model of a version, if it is there by now.

        Raises:
            ArtefactError: another one is there. What was loaded is not loaded again until it changes.
        """
        if self._stamp() != self._loaded:
            encoder = self.load()
            if encoder.model_version == version:
                return encoder
        raise ArtefactError(
            f"the index is of model version {version}, and {self._path} holds another model; put that one there (of the nightly "
            "job, HOME/live-model always is the live index's), or start the service with it"
        )

    def _stamp(self) -> object:
        """What differs once the model is another; loading is dear, this is not."""
        folder = pathlib.Path(self._path)
        if not folder.is_dir():
            return str(self._path)
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        return folder.resolve(), [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


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
        model: its model, loaded again where a newer index is of another one and this folder holds that by then; without it only
            notes of the index and vectors can be asked about.
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
        catalogue = related = None
        source = None if model is None else ModelSource(model, device=config.device)
        if notes is not None:
            from noterec.serving.explorer.catalogue import Catalogue

            catalogue = Catalogue.open(notes, image_root=image_root, images=config.images)
        if notes is not None or pairs is not None:
            from noterec.serving.explorer.related import Related

            related = Related.open(pairs, dataset=notes)
        service = Service(
            index,
            encoder=None if source is None else source.load(),
            exchange=None if source is None else source.load_version,
            catalogue=catalogue,
            related=related,
            report=report,
            token=token,
            config=config,
        )
        service.warm_up()
        stage.counts.update(rows_in=len(service.index), index=service.index.version)
    return service
