"""The encoder: prompt, backbone, readout, head. One class for every backbone, for training and inference alike."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec import progress, storage
from noterec.config import GenerateConfig, PromptConfig, make
from noterec.errors import ConfigError, InputError
from noterec.model import backbone as backbones
from noterec.model import folder as folders
from noterec.model.backbone import Backbone
from noterec.model.batching import pad, plan
from noterec.model.head import Bags, Head, truncated
from noterec.model.lexicon import Lexicon
from noterec.model.prompts import Prompt
from noterec.model.templates import Task
from noterec.model.versions import versions_of
from noterec.notes import note

if TYPE_CHECKING:
    from noterec.model.generation.categories import Categories
    from noterec.model.generation.writer import Generation

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """B notes as an encoder reads them."""

    tokens: list[np.ndarray]  # B arrays (T_b,) int64
    words: Any  # scipy CSR matrix (B, V) float32, or None for an encoder without a lexicon

    def __len__(self) -> int:
        return len(self.tokens)


class NoteEncoder(nn.Module):
    """Turns notes into unit-norm embeddings whose cosine says how related two notes are.

    Attributes:
        backbone: the pretrained model with its tokenizer.
        head: the map to D dimensions, or None where the state itself is the embedding (zero-shot).
        lexicon: the words that the head knows, or None.
        categories: the closed set that a category is chosen from, ascending; those of the training notes.
        logit_scale: () float32, τ of the contrastive loss; not used for encoding.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head | None = None,
        prompt: PromptConfig | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        """Put an encoder together; most callers want `from_pretrained`."""
        super().__init__()
        prompt = prompt or PromptConfig()
        style = prompt.style
        if style == "auto":
            style = "compress" if backbone.kind == "causal" else "plain"
        self.backbone = backbone
        self.model = backbone.model  # registered, so that it moves and saves with the encoder
        self.head = head
        self.lexicon = lexicon
        self.categories: list[str] = []
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.prompt = Prompt(backbone.tokenizer, prompt, style=style)
        self._check_room(self.prompt.max_tokens)
        self._versions: tuple[str, str] | None = None

    def check_room_to_write(self) -> None:
        """Raise an InputError where a request with its answer could be longer than the backbone reads."""
        self._check_room(self.prompt.max_request_tokens)

    def _check_room(self, tokens: int) -> None:
        limit = getattr(self.backbone.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and tokens > limit:
            raise InputError(
                f"prompt limits allow {tokens} tokens, the backbone reads {limit}; lower prompt.content_tokens"
            )

    @property
    def dimension(self) -> int:
        """D, the length of an embedding."""
        return self.backbone.hidden_size if self.head is None else self.head.dimension

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def states_version(self) -> str:
        """Changes whenever a note's state before the head would: weights, tokenizer, prompt, limits."""
        return self._version_hashes()[0]

    @property
    def writer_version(self) -> str:
        """Changes whenever what is written about a note would: the state's version, the tasks' prompts, the closed set."""
        return storage.value_hash([self.states_version, self.prompt.task_signature, self.categories])

    @property
    def model_version(self) -> str:
        """Changes whenever a note's embedding would: the state's version and the head."""
        return self._version_hashes()[1]

    def _version_hashes(self) -> tuple[str, str]:
        if self._versions is None:
            self._versions = versions_of(self.backbone, self.prompt, self.head, self.lexicon)
        return self._versions

    def weights_changed(self) -> None:
        """Forget the versions; to be called after the weights were trained or replaced."""
        self._versions = None

    def states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Readout states: (B, T) int64 right-padded ids and (B,) lengths to (B, H)."""
        return self.backbone.readout(ids, lengths)

    def project(self, states: Tensor, words: Any = None) -> Tensor:
        """States, and word vectors for an encoder with a lexicon, to embeddings.

        Args:
            states: (B, H) any float.
            words: scipy CSR matrix (B, V) from `Inputs.words`.

        Returns:
            (B, D) float32, unit-norm rows.
        """
        if self.head is None:
            return F.normalize(states.float(), dim=-1)
        bags = None if words is None else Bags.of(words, self.device)
        return torch.as_tensor(self.head(states, bags))

    @torch.inference_mode()
    def project_states(self, states: np.ndarray, words: Any = None) -> np.ndarray:
        """(B, H) float32 states, as `run(project=False)` gives them, and word vectors to (B, D) float32 embeddings."""
        vectors = np.empty((len(states), self.dimension), dtype=np.float32)
        for start in range(0, len(states), 8192):
            end = start + 8192
            part = torch.from_numpy(states[start:end]).to(self.device)
            vectors[start:end] = self.project(part, None if words is None else words[start:end]).cpu().numpy()
        return vectors

    def forward(self, ids: Tensor, lengths: Tensor, words: Any = None) -> Tensor:
        """(B, T) int64 right-padded ids, (B,) lengths and word vectors to (B, D) float32 embeddings, unit-norm rows."""
        return self.project(self.states(ids, lengths), words)

    def prepare(self, table: pa.Table) -> Inputs:
        """Tokenise the notes of a table and count their words."""
        texts = note.texts(table)
        return Inputs(self.prompt.encode(texts), None if self.lexicon is None else self.lexicon.vectors(texts))

    @torch.inference_mode()
    def run(
        self, inputs: Inputs, *, batch_tokens: int, project: bool = True, bf16: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Encode prepared notes batch by batch, notes of like length together.

        Args:
            inputs: from `prepare`.
            batch_tokens: tokens of a batch, padding included.
            project: False gives states (B, H) in place of embeddings (B, D).
            bf16: multiply the backbone's matrices in bfloat16; vectors then differ by about 1e-2 from float32.

        Yields:
            (positions in `inputs` (b,) int64, vectors (b, D or H) float32).
        """
        was_training = self.training
        self.eval()
        try:
            for batch in plan([len(sequence) for sequence in inputs.tokens], batch_tokens):
                ids, lengths = pad([inputs.tokens[i] for i in batch], self.backbone.tokenizer.pad_token_id)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    vectors = self.states(ids.to(self.device), lengths.to(self.device))
                if project:
                    vectors = self.project(vectors, None if inputs.words is None else inputs.words[batch])
                yield batch, vectors.float().cpu().numpy()
        finally:
            self.train(was_training)

    def encode(self, notes: Any, *, batch_tokens: int = 16384, show_progress: bool = False) -> np.ndarray:
        """Encode notes.

        The vector of a note doesn't depend on the notes beside it or on their order (within 1e-5).

        Args:
            notes: a pyarrow.Table or polars.DataFrame of the notes schema, or an iterable of `noterec.Note` or dict.
            batch_tokens: tokens of a batch, padding included; lower it where memory is short.
            show_progress: show a bar with a rate.

        Returns:
            (B, D) float32, unit-norm rows in the order of `notes`.

        Raises:
            InputError: a note has no text at all, or is no note.
        """
        table = note.as_table(notes)
        empty = ~note.has_text(table)
        if empty.any():
            ids = table["note_id"].filter(pa.array(empty)).to_pylist()
            raise InputError(
                f"{len(ids)} of {table.num_rows} notes have no text, the first is {ids[0]!r}; expected a title, hashtags "
                "or content in every note"
            )
        inputs = self.prepare(table)
        vectors = np.empty((table.num_rows, self.dimension), dtype=np.float32)
        with (
            progress.shown() if show_progress else contextlib.nullcontext(),
            progress.track("encode", len(inputs), "notes") as bar,
        ):
            for batch, part in self.run(inputs, batch_tokens=batch_tokens):
                vectors[batch] = part
                bar.advance(len(batch))
        return vectors

    def generate(
        self,
        notes: Any,
        task: Task = "category",
        *,
        n: int | None = None,
        categories: Categories | None = None,
        config: GenerateConfig = GenerateConfig(),
    ) -> list[Generation]:
        """Write a category, or n hashtags, for notes.

        Args:
            notes: as `encode` takes them.
            task: "category" or "hashtags".
            n: hashtags per note; None = config.n.
            categories: the closed set: names, a file or a dataset; None = the model's own.
            config: decoding and samples.

        Returns:
            B generations in the order of `notes`.

        Raises:
            InputError: the model can't write, there are no categories, or a note has no text that the task's prompt shows.
        """
        from noterec.model.generation.writer import Writer

        config = config if n is None else make(GenerateConfig, {**config.model_dump(), "n": n}, where="generate")
        return Writer(self, task, categories=categories, config=config).answers(note.as_table(notes))

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
        encoder = cls(saved.backbone, saved.head, saved.prompt, saved.lexicon)
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
        """
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
        folders.save(storage.local(path), self.backbone, self.head, self.lexicon, self.categories, record)

    def push_to_hub(self, repo: str, *, private: bool = True) -> None:
        """Upload the encoder to a repository of the Hugging Face hub (needs a login there)."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo, folder_path=folder)
