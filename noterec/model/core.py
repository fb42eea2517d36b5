"""The inside of the encoder: prompt, backbone, sight, readout, head. Training and inference run the same lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec import storage
from noterec.config import PromptConfig
from noterec.errors import ConfigError, InputError
from noterec.model.backbone import Backbone
from noterec.model.batching import Meter
from noterec.model.head import Bags, Head, Visual
from noterec.model.inputs import Inputs, Pictures, Seen
from noterec.model.lexicon import Lexicon
from noterec.model.prompts import Prompt
from noterec.model.running import Run
from noterec.model.versions import versions_of
from noterec.model.vision.sight import Glimpse, Sight
from noterec.notes import note

if TYPE_CHECKING:
    from noterec.model.prefix import SharedPrefix


class Read(NamedTuple):
    """What a backbone made of b notes.

    Attributes:
        hidden: (b, T, H), the last layer's states.
        states: (b, W, H), those of the words that are read, after late fusion.
        glimpse: what was seen; None where no note has a picture.
    """

    hidden: Tensor
    states: Tensor
    glimpse: Glimpse | None


class EncoderCore(nn.Module):
    """Prompt, backbone, sight, readout and head: from what `prepare` gives to unit-norm embeddings.

    Attributes:
        backbone: the pretrained model with its tokenizer.
        head: the map to D dimensions, or None where the state itself is the embedding (zero-shot).
        lexicon: the words that the head knows, or None.
        sight: what it sees images with, or None for text alone.
        categories: the closed set that a category is chosen from, ascending; those of the training notes.
        logit_scale: () float32, τ of the contrastive loss; not used for encoding.
        precision: what `accelerated` made it for; None = an encoder like any other.
    """

    precision: str | None = None

    def __init__(
        self,
        backbone: Backbone,
        head: Head | None = None,
        prompt: PromptConfig | None = None,
        lexicon: Lexicon | None = None,
        sight: Sight | None = None,
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
        self.sight = sight
        self.prompt = Prompt(backbone.tokenizer, prompt, style=style, slots=None if sight is None else sight.slots)
        self._check_room(self.prompt.max_tokens)
        self._versions: tuple[str, str] | None = None
        self._prefix: SharedPrefix | None = None

    def check_room_to_write(self) -> None:
        """Raise an InputError where a request with its answer could be longer than the backbone reads."""
        self._check_room(self.prompt.max_request_tokens)

    def _check_room(self, tokens: int) -> None:
        limit = getattr(self.backbone.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and tokens > limit:
            slots = self.prompt.slots
            images = "" if slots is None else f", or vision.images x vision.tokens ({slots.images} x {slots.tokens})"
            raise InputError(
                f"prompt limits allow {tokens} tokens, the backbone reads {limit}; lower prompt.content_tokens{images}"
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
            self._versions = versions_of(self.backbone, self.prompt, self.head, self.lexicon, self.sight)
        return self._versions

    def weights_changed(self) -> None:
        """Forget the versions; to be called after the weights were trained or replaced."""
        if self.precision is not None:
            raise ConfigError(
                f"a copy that was accelerated ({self.precision}) stays as it is; change the encoder itself"
            )
        self._versions = None
        if self._prefix is not None:
            self._prefix.forget()
        if self.sight is not None:
            self.sight.weights_changed()

    @property
    def prefix(self) -> SharedPrefix:
        """What all notes begin with, to be computed once."""
        if self._prefix is None:
            from noterec.model.prefix import SharedPrefix

            self._prefix = SharedPrefix(self.backbone, self.prompt)
        return self._prefix

    def read(
        self,
        ids: Tensor,
        lengths: Tensor,
        readouts: Tensor | None = None,
        seen: Seen | None = None,
        *,
        prefix: Any = None,
    ) -> Read:
        """Run the backbone, and late fusion where there is any.

        Args:
            ids: (B, T) int64, right-padded, `SLOT` where a visual token goes.
            lengths: (B,) int64.
            readouts: (B, W) int64, positions of the words that are read; None = the last one of each note.
            seen: the notes' pictures; None = they have none.
            prefix: keys and values of what stands before all of it, from `SharedPrefix.cache`; positions don't count that.
        """
        readouts = lengths[:, None] - 1 if readouts is None else readouts
        glimpse = None if seen is None or self.sight is None else self.sight(seen)
        visual = None if glimpse is None else glimpse.tokens
        hidden = self.backbone.hidden(ids, lengths, visual, prefix=prefix)  # (B, T, H)
        states = self.backbone.pooled(hidden, lengths, readouts)  # (B, W, H)
        if self.precision is not None:
            states = states.float()  # a trunk in 16 bits; head and gate are in 32
        if glimpse is not None and self.sight is not None and self.sight.gate is not None:
            gate, (_, summary, by_note) = self.sight.gate, glimpse
            states = torch.stack([gate(word, summary, by_note) for word in states.unbind(1)], dim=1)
        return Read(hidden, states, glimpse)

    def project(
        self, states: Tensor, words: Any = None, summary: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """States, with words and images for an encoder whose head takes those in, to embeddings.

        Args:
            states: (B, H) any float.
            words: scipy CSR matrix (B, V) from `Inputs.words`; None = the notes have no word.
            summary: (B, V) of the notes' images; None = they have none.
            seen: (B,) bool, which of them do.

        Returns:
            (B, D) float32, unit-norm rows.
        """
        if self.head is None:
            return F.normalize(states.float(), dim=-1)
        device = states.device
        bags = None
        if self.head.lexicon:
            bags = Bags.none(len(states), device) if words is None else Bags.of(words, device)
        if self.head.visual and summary is None:
            summary = states.new_zeros(len(states), self.head.visual)
            seen = torch.zeros(len(states), dtype=torch.bool, device=device)
        return torch.as_tensor(self.head(states, bags, summary, seen))

    @torch.inference_mode()
    def project_states(self, states: np.ndarray, words: Any = None, visual: Visual | None = None) -> np.ndarray:
        """(B, H) float32 states, as `run(project=False)` gives them, word vectors and images to (B, D) float32 embeddings."""
        vectors = np.empty((len(states), self.dimension), dtype=np.float32)
        for start in range(0, len(states), 8192):
            end = start + 8192
            part = torch.from_numpy(states[start:end]).to(self.device)
            images = (None, None) if visual is None else visual.take(slice(start, end)).on(self.device)
            vectors[start:end] = self.project(part, None if words is None else words[start:end], *images).cpu().numpy()
        return vectors

    def forward(self, ids: Tensor, lengths: Tensor, words: Any = None, seen: Seen | None = None) -> Tensor:
        """Notes on the device to embeddings.

        Args:
            ids: (B, T) int64, right-padded, `SLOT` where a visual token goes.
            lengths: (B,) int64.
            words: scipy CSR matrix (B, V) from `Inputs.words`; None = the notes have no word.
            seen: the notes' pictures; None = they have none.

        Returns:
            (B, D) float32, unit-norm rows.
        """
        read = self.read(ids, lengths, seen=seen)
        images = (None, None) if read.glimpse is None else read.glimpse[1:]
        return self.project(read.states[:, 0], words, *images)

    def prepare(self, table: pa.Table, pictures: Pictures | None = None) -> Inputs:
        """Tokenise the notes of a table and count their words; their pictures come from `inputs.attach`."""
        texts = note.texts(table)
        shown = None if pictures is None or self.prompt.slots is None else pictures.counts.tolist()
        words = None if self.lexicon is None else self.lexicon.vectors(texts)
        return Inputs(self.prompt.encode(texts, shown), words, pictures if self.sight is not None else None)

    def without_pictures(self, inputs: Inputs) -> Inputs:
        """Prepared notes, their text alone."""
        if inputs.pictures is None:
            return inputs
        tokens = inputs.tokens
        if self.prompt.slots is not None:
            counts = inputs.pictures.counts.tolist()
            tokens = [self.prompt.without_images(ids, k) for ids, k in zip(tokens, counts, strict=True)]
        return Inputs(tokens, inputs.words)

    def costs(self, lengths: Sequence[int] | np.ndarray, pictures: Pictures | None) -> np.ndarray:
        """What notes cost of a budget of tokens: their own, and for each picture the states that are read of it.

        Where the vision tower moves, its own tokens are computed, with gradient; else the features that it gave are held, in
        float32, for the connector or for late fusion.

        Args:
            lengths: tokens of B notes.
            pictures: theirs; None = they have none.

        Returns:
            (B,) int64.
        """
        costs = np.asarray(lengths, dtype=np.int64)
        if pictures is None:
            return costs
        tower = pictures.gallery.tower
        each = tower.feature_shape[0] if pictures.gallery.frozen else tower.tokens
        return np.asarray(costs + each * pictures.counts)

    @torch.inference_mode()
    def run(
        self,
        inputs: Inputs,
        *,
        batch_tokens: int | None = None,
        project: bool = True,
        bf16: bool = False,
        image_word: bool = False,
        meter: Meter | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Encode prepared notes batch by batch, notes of like length together.

        What all notes begin with is computed once, where the backbone allows that (see `SharedPrefix`): the vectors are the same.

        Args:
            inputs: from `prepare`.
            batch_tokens: tokens of a batch that are computed, padding included; a picture costs some too, see `costs`. None = 2048
                on a CPU, 16384 on a GPU.
            project: False gives states (B, H) in place of embeddings (B, D).
            bf16: multiply the backbone's matrices in bfloat16; vectors then differ by about 1e-2 from float32.
            image_word: read the image word (n_v in arXiv:2405.16789) in place of the note's; every note must have a picture.
            meter: counts what is computed.

        Yields:
            (positions in `inputs` (b,) int64, vectors (b, D or H) float32).
        """
        assert not (bf16 and self.precision is not None), "one of both: bf16, or a copy that was accelerated"
        was_training = self.training
        self.eval()
        try:
            meter = Meter() if meter is None else meter
            yield from Run(self, inputs, batch_tokens, project, bf16, image_word, meter).parts()
        finally:
            self.train(was_training)
