"""Which linear layers bear 8-bit integers: measured on made-up notes when an encoder is accelerated, not told by a model's name.

Layers of the same place in every block (all query projections, all down projections) are one group. Each group is rounded by itself
and some notes are encoded; its noise is the mean squared move of their embeddings, as a share of the mean squared distance between
two of them. Noise of different groups adds up, so the groups that cost least for their size are taken as long as the sum stays
below `MAX_NOISE`. The others keep a higher precision.

Measured with SmolLM2-135M on product texts: a noise of 0.1 % leaves 95 to 96 % of the ten nearest neighbours in place, 0.2 % leaves
94 %, 2 % three quarters. In such a model most of it comes from the down projections, whose inputs have outliers in any column.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from noterec.errors import ConfigError
from noterec.model.linears import LEVELS, Columns, Int8Linear, Slot, weight_of
from noterec.notes.note import Note, as_table

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

logger = logging.getLogger(__name__)

MAX_NOISE = 0.001  # share of the squared distance between notes

TEXTS: tuple[tuple[str, str, list[str]], ...] = (
    ("Cold brew at home", "Eighteen hours in the fridge, then a paper filter. Needs no sugar.", ["coffee", "home"]),
    (
        "First rope weekend",
        "Learned to belay and to fall. Shoes one size too small, fingers gone by noon.",
        ["climbing"],
    ),
    ("手冲咖啡的水温", "九十二度,研磨度中等,先闷蒸三十秒再慢慢注水。", ["咖啡", "生活"]),
    ("Lehrbuch Statistik, 3. Auflage", "Gut erhalten, ein paar Seiten mit Bleistift markiert. Abholung möglich.", []),
    (
        "Ten films about trains",
        "None of them short. The best one has no dialogue for its first hour.",
        ["film", "list"],
    ),
    (
        "Wireless mouse, black",
        "2.4 GHz, 1600 dpi, one AA battery included; works on glass. 12 months warranty.",
        ["office"],
    ),
    ("Receta de gazpacho", "Tomates maduros, pepino, ajo y un buen aceite. Se sirve muy frío.", ["cocina", "verano"]),
    ("Graph neural networks at scale", "We sample neighbourhoods by importance and train on a billion edges.", ["ml"]),
    ("Moving flats with a cat", "Keep her room for last, put the old blanket in the carrier, open nothing.", ["cats"]),
    (
        "Printer paper A4, 500 sheets",
        "80 g/m², bright white, for laser and inkjet. Box of five reams.",
        ["paper", "office"],
    ),
    (
        "Night train to Trieste",
        "Book the lower berth. Breakfast is a croissant in plastic and a view of the sea.",
        ["travel"],
    ),
    ("ソール交換の費用", "登山靴の張り替えは二週間ほど。予約は電話で。", ["登山"]),
)


def notes() -> pa.Table:
    """The made-up notes: a dozen subjects in several languages."""
    return as_table([Note(title=title, content=content, hashtags=tags) for title, content, tags in TEXTS])


def check_exact() -> None:
    """Raise a ConfigError where this CPU's product of 8-bit integers isn't exact: older ones add pairs up in 16 bits."""
    extreme = torch.full((64, 256), LEVELS, dtype=torch.int8)
    extreme[::2] = -LEVELS
    try:
        exact = bool((torch._int_mm(extreme, extreme.T.contiguous()).abs() == LEVELS * LEVELS * 256).all())
    except RuntimeError as error:
        raise ConfigError(
            f"precision=int8: torch has no product of integers here ({error}); use fp32 or bf16"
        ) from error
    if not exact:
        raise ConfigError("precision=int8: this CPU's products of 8-bit integers overflow (no VNNI); use fp32 or bf16")


def rounded_layers(
    encoder: NoteEncoder, layers: dict[str, nn.Module], replace: Callable[[nn.Module, str, nn.Module], None]
) -> dict[str, nn.Module]:
    """The layers that bear 8-bit integers, rounded.

    The choice is the same at every call on one machine: no clock is asked.

    Args:
        encoder: whose trunk holds `layers`, in float32; as before afterwards.
        layers: its linear layers by name.
        replace: puts a module in the place of a trunk's other, by name.

    Returns:
        By name; those that are missing are better kept in a higher precision.
    """
    trunk = encoder.backbone.trunk
    inputs = encoder.prepare(notes())
    columns, exact = _columns(encoder, layers, inputs)
    spread = float(((exact[:, None] - exact[None]) ** 2).sum(axis=2).sum() / (len(exact) * (len(exact) - 1)))
    groups: dict[str, list[str]] = {}
    for name in columns:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    slot = Slot()
    rounded: dict[str, nn.Module] = {}
    noise, size = {}, {}
    for group, names in groups.items():
        some = {name: Int8Linear(layers[name], columns[name], slot) for name in names}
        for name in names:
            replace(trunk, name, some[name])
        moved = _encoded(encoder, inputs) - exact  # (B, D)
        for name in names:
            replace(trunk, name, layers[name])
        noise[group] = float((moved**2).sum(axis=1).mean()) / spread
        size[group] = sum(weight_of(layers[name]).numel() for name in names)
        rounded |= some
    taken: list[str] = []
    total = 0.0
    for group in sorted(groups, key=lambda group: (noise[group] / size[group], group)):
        if total + noise[group] <= MAX_NOISE:
            taken.append(group)
            total += noise[group]
    kept = {group: f"{noise[group]:.2%}" for group in groups if group not in taken}
    say = logger.info if taken else logger.warning
    say(
        "int8: %d of %d groups of layers, %.0f %% of the products, at a noise of %.2g %%; in a higher precision: %s",
        len(taken),
        len(groups),
        100 * sum(size[group] for group in taken) / sum(size.values()),
        100 * total,
        kept or "none",
    )
    return {name: rounded[name] for group in taken for name in groups[group]}


def _columns(encoder: NoteEncoder, layers: dict[str, nn.Module], inputs: Any) -> tuple[dict[str, Columns], np.ndarray]:
    """How the input of each layer that runs is rounded, one object for layers of the same input; and the notes' embeddings."""
    squares: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    last: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0]
            shared[name] = shared[last[0][0]] if last and last[0][1] is x else name
            last[:] = [(name, x)]
            rows = x.reshape(-1, x.shape[-1]).float()  # (M, K)
            found = rows.square() / rows.square().mean(dim=1, keepdim=True).clamp_min(1e-30)  # (M, K)
            squares[name] = squares.get(name, 0) + found.sum(dim=0)  # (K,)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        vectors = _encoded(encoder, inputs)
    finally:
        for handle in handles:
            handle.remove()
    made = {name: Columns(squares[name].sqrt()) for name in squares if shared[name] == name}
    return {name: made[shared[name]] for name in squares}, vectors


def _encoded(encoder: NoteEncoder, inputs: Any) -> np.ndarray:
    vectors = np.empty((len(inputs), encoder.dimension), dtype=np.float32)
    for batch, part in encoder.run(inputs):
        vectors[batch] = part
    return vectors
