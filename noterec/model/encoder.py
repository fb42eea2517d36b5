"""The encoder as people use it: notes in, vectors or words out, saved and loaded. One class for every backbone."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import torch

from noterec import progress, storage
from noterec.config import GenerateConfig, ImagesConfig, PromptConfig, make
from noterec.errors import ConfigError, InputError
from noterec.model import backbone as backbones
from noterec.model import folder as folders
from noterec.model.core import EncoderCore
from noterec.model.head import truncated
from noterec.model.inputs import Inputs, Pictures, attach
from noterec.model.templates import Task
from noterec.model.vision.gallery import Gallery
from noterec.notes import note
from noterec.notes.images.source import ImageSource

if TYPE_CHECKING:
    from noterec.model.generation.categories import Categories
    from noterec.model.generation.writer import Generation
    from noterec.model.kernels import Precision

logger = logging.getLogger(__name__)

NOTES_AT_A_TIME = 1024  # whose pictures are held in memory


class NoteEncoder(EncoderCore):
    """Turns notes into unit-norm embeddings whose cosine says how related two notes are.

    The parts that it is made of are those of `EncoderCore`.
    """

    def gallery(self, source: ImageSource, *, folder: str | os.PathLike[str] | None = None) -> Gallery:
        """Where this encoder's pictures are kept, as its vision tower takes them in.

        Args:
            source: where they may be read from, and how.
            folder: of the cache on disk; None = in memory, where decoding stays in this process unless `images.workers` says
                otherwise: a script or a notebook may not be able to start others.
        """
        assert self.sight is not None, "an encoder that sees"
        return Gallery(
            self.sight.tower,
            source,
            frozen=True,
            images=self.sight.config.images,
            folder=None if folder is None else storage.local(folder),
            config=source.limits,
            workers_default=0 if folder is None else None,
        )

    def encode(
        self,
        notes: Any,
        *,
        batch_tokens: int | None = None,
        show_progress: bool = False,
        image_root: str | os.PathLike[str] | None = None,
        images: ImagesConfig = ImagesConfig(),
    ) -> np.ndarray:
        """Encode notes.

        The vector of a note doesn't depend on the notes beside it or on their order (within 2e-5, in float32).

        Args:
            notes: a pyarrow.Table or polars.DataFrame of the notes schema, or an iterable of `noterec.Note` or dict.
            batch_tokens: tokens of a batch, padding included; lower it where memory is short. None = 2048 on a CPU, whose caches
                hold so much, and 16384 on a GPU.
            show_progress: show a bar with a rate.
            image_root: the folder below which pictures that are given by path are read; for a model that sees.
            images: how pictures are read, and what they may be. One that can't be used is left out with a warning.

        Returns:
            (B, D) float32, unit-norm rows in the order of `notes`.

        Raises:
            InputError: a note has neither text nor, for a model that sees, a usable picture, or is no note.
        """
        table = note.as_table(notes)
        vectors = np.empty((table.num_rows, self.dimension), dtype=np.float32)
        with (
            self._in_memory(image_root, images) as gallery,
            progress.shown() if show_progress else contextlib.nullcontext(),
            progress.track("encode", table.num_rows, "notes") as bar,
        ):
            step = table.num_rows if gallery is None else NOTES_AT_A_TIME
            for start in range(0, table.num_rows, max(1, step)):
                inputs = self._readable(table.slice(start, step), gallery)
                for batch, part in self.run(inputs, batch_tokens=batch_tokens):
                    vectors[start + batch] = part
                    bar.advance(len(batch))
                if gallery is not None:
                    gallery.clear()
        return vectors

    def accelerated(self, precision: Precision = "fp32") -> NoteEncoder:
        """A copy for inference that multiplies faster and shares the weights that it doesn't replace.

        Its versions are those of this encoder; it can't be trained, saved or written with.

        Args:
            precision: fp32 (the same numbers within 1e-5), bf16, fp16 (GPU) or int8; `noterec.model.kernels.accelerated` says what
                each does, and `noterec calibrate` what it costs.

        Raises:
            ConfigError: a precision that the device or this backbone doesn't have.
        """
        from noterec.model.kernels import accelerated

        return accelerated(self, precision)

    @contextlib.contextmanager
    def _in_memory(self, image_root: str | os.PathLike[str] | None, images: ImagesConfig) -> Iterator[Gallery | None]:
        """A gallery that keeps what it holds in memory; None for an encoder of text alone."""
        if self.sight is None:
            if image_root is not None:
                raise ConfigError("image_root is given and this model reads text alone; leave it out")
            yield None
            return
        with self.gallery(ImageSource.below(image_root, images)) as gallery:
            yield gallery

    def _readable(self, table: pa.Table, gallery: Gallery | None) -> Inputs:
        """Prepared notes, each with something to read; a picture that can't be used is left out with a warning."""
        pictures = None
        empty = ~note.has_text(table)
        if gallery is not None:
            pictures = _attached(table, gallery)
            empty &= pictures.counts == 0
        if empty.any():
            ids = table["note_id"].filter(pa.array(empty)).to_pylist()
            or_picture = "" if gallery is None else ", or a usable picture,"
            raise InputError(
                f"{len(ids)} of {table.num_rows} notes have nothing to read, the first is {ids[0]!r}; expected a title, hashtags "
                f"or content{or_picture} in every note"
            )
        return self.prepare(table, pictures)

    def generate(
        self,
        notes: Any,
        task: Task = "category",
        *,
        n: int | None = None,
        categories: Categories | None = None,
        config: GenerateConfig = GenerateConfig(),
        image_root: str | os.PathLike[str] | None = None,
    ) -> list[Generation]:
        """Write a category, or n hashtags, for notes.

        Args:
            notes: as `encode` takes them.
            task: "category" or "hashtags".
            n: hashtags per note; None = config.n.
            categories: the closed set: names, a file or a dataset; None = the model's own.
            config: decoding and samples.
            image_root: as in `encode`.

        Returns:
            B generations in the order of `notes`.

        Raises:
            InputError: the model can't write, there are no categories, or a note has neither text nor a picture that the task's
                prompt shows.
        """
        from noterec.model.generation.writer import Writer

        if self.precision is not None:
            raise ConfigError(
                f"a copy that was accelerated ({self.precision}) gives vectors alone; write with the encoder itself"
            )
        config = config if n is None else make(GenerateConfig, {**config.model_dump(), "n": n}, where="generate")
        table = note.as_table(notes)
        writer = Writer(self, task, categories=categories, config=config)
        with self._in_memory(image_root, config.images) as gallery:
            pictures = None
            if (
                gallery is not None and self.prompt.slots is not None
            ):  # images that are taken in late aren't written about
                pictures = _attached(table, gallery)
            return writer.answers(table, pictures)

    @classmethod
    def from_backbone(
        cls, name: str, *, layers: int | None = None, prompt: PromptConfig | None = None, device: str = "auto"
    ) -> Self:
        """A zero-shot encoder: a backbone's own states, no head (D = H)."""
        place = backbones.choose_device(device)
        encoder = cls(backbones.load_backbone(name, layers=layers, device=place), prompt=prompt)
        return encoder.to(place).eval()

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, device: str = "auto", dimension: int | None = None
    ) -> Self:
        """Load an encoder from a folder that `save_pretrained` wrote, or from the hub.

        A plain Hugging Face model (a folder, a hub id or `minilm`) gives its zero-shot encoder.

        Args:
            name: the folder or hub id.
            device: auto, cpu, cuda, cuda:1, ...
            dimension: use only the first so many dimensions of the embedding, best one of those that were trained for it
                (`matryoshka`); the result is an encoder of its own, with its own version. None = all.

        Raises:
            InputError, DependencyError: there is no such model.
            ConfigError: the model has fewer dimensions, or no head that could be cut.
            ArtefactError: the folder is damaged or of a newer format.
        """
        place = backbones.choose_device(device)
        source = folders.find(name)
        saved = folders.load(source, place) if folders.is_saved(source) else None
        if dimension is not None and (saved is None or saved.head is None):
            raise ConfigError(f"dimension={dimension}: {name} has no trained head; its states can't be cut")
        if saved is None:
            return cls.from_backbone(str(source), device=device)
        encoder = cls(saved.backbone, saved.head, saved.prompt, saved.lexicon, saved.sight)
        with torch.no_grad():
            encoder.logit_scale.fill_(saved.logit_scale)
        encoder.categories = saved.categories
        encoder._versions = (saved.states_version, saved.model_version)
        if dimension not in (None, encoder.dimension) and encoder.head is not None:
            encoder.head = truncated(encoder.head, dimension)
            if dimension not in saved.lengths:
                trained = ", ".join(map(str, saved.lengths)) or "none but the whole"
                logger.warning(
                    "%s: %d dimensions were not trained (matryoshka); trained are %s", name, dimension, trained
                )
            encoder.weights_changed()
        return encoder.to(place).eval()

    def save_pretrained(self, path: str | os.PathLike[str], *, origin: Mapping[str, Any] | None = None) -> None:
        """Save as a Hugging Face folder with `head.safetensors` and `noterec.json` beside the backbone's own files.

        A backbone with adapters that aren't merged is not written: the adapters are, and the place where it is.
        `noterec.json` is removed first and written last: a folder that has it is whole.

        Args:
            path: the folder; made where it doesn't exist. Other files in it stay.
            origin: what the model was trained on, kept in noterec.json.

        Raises:
            ConfigError: this is a copy that was accelerated.
        """
        if self.precision is not None:
            raise ConfigError(
                f"a copy that was accelerated ({self.precision}) has no whole weights; save the encoder itself"
            )
        record = {
            "model_version": self.model_version,
            "states_version": self.states_version,
            "dimension": self.dimension,
            "readout": self.backbone.kind,
            "prompt": self.prompt.saved.model_dump(),
            "head": None if self.head is None else self.head.shape,
            "logit_scale": float(self.logit_scale.detach()),
            "origin": dict(origin or {}),
        }
        if self.sight is not None:
            record["vision"] = self.sight.config.model_dump(mode="json")
        folders.save(storage.local(path), self.backbone, self.head, self.lexicon, self.sight, self.categories, record)

    def push_to_hub(self, repo: str, *, private: bool = True) -> None:
        """Upload the encoder to a repository of the Hugging Face hub (needs a login there)."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo, folder_path=folder)


def _attached(table: pa.Table, gallery: Gallery) -> Pictures:
    pictures, unseen = attach(table, gallery)
    if unseen:
        first = unseen[0]
        logger.warning(
            "%d pictures can't be used and are left out, the first is image %d of note %r: %s",
            len(unseen),
            first.image,
            first.note_id,
            first.message,
        )
    return pictures
