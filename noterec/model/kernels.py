"""A copy of an encoder for inference alone, whose backbone multiplies faster: `encoder.accelerated("int8")`.

Only linear layers of the trunk are replaced, four fifths of the work; embeddings, norms, attention, head and vision stay as they
are. What each precision means is with `accelerated`; what it costs in recall, `noterec calibrate` measures.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec.errors import ConfigError
from noterec.model import rounding
from noterec.model.backbone import Backbone, fast_bf16
from noterec.model.linears import HalfLinear, Int8WeightLinear, PackedLinear, is_linear, weight_of
from noterec.model.lora import merge_adapters

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16", "int8"]
FASTER = 0.9  # of the time of the plain product: what packing has to reach to be used
PROBE_ROWS = 512
AGREE: dict[str, float] = {
    "fp32": 1e-4,
    "bf16": 0.2,
    "fp16": 0.2,
    "int8": 0.5,
}  # of a state's length; beyond is a fault


def accelerated(encoder: NoteEncoder, precision: Precision = "fp32") -> NoteEncoder:
    """A copy for inference that shares every weight it doesn't replace; drop the original, and what was replaced is freed.

    - fp32: on a CPU, oneDNN's product from weights packed once, where a probe finds it right and faster here. The same numbers
      within 1e-5.
    - bf16: on a CPU, matrices multiplied in bfloat16, all else in float32; on a GPU the whole trunk in bfloat16.
    - fp16: the whole trunk in float16; GPUs only.
    - int8: on a CPU, integers: weights with a scale for each output, inputs with one for each token; layers that lose too much by
      it are multiplied in bfloat16 where that is fast and in float32 elsewhere (see `noterec.model.rounding`). On a GPU, weights
      alone are integers.

    Adapters that aren't merged are, in the copy. Versions are those of the original. The copy can't be trained, saved or written
    with.

    Args:
        encoder: stays as it is.
        precision: of the trunk's matrix products.

    Raises:
        ConfigError: a precision that the device or this backbone doesn't have.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}")
    if encoder.precision is not None:
        raise ConfigError(
            f"this encoder is accelerated already ({encoder.precision}); accelerate the one it was made of"
        )
    device = encoder.device
    on_cpu = device.type == "cpu"
    if precision == "fp16" and on_cpu:
        raise ConfigError("precision=fp16: a CPU doesn't multiply it; expected fp32, bf16 or int8 there, or a GPU")
    if precision == "bf16" and not fast_bf16(device):
        logger.warning("precision=bf16: this device (%s) has no hardware for it; fp32 is faster here", device)
    made = _copy(encoder).eval()
    trunk = made.backbone.trunk
    layers = linear_layers(trunk)
    if precision == "int8" and not layers:
        raise ConfigError(f"precision=int8: {type(trunk).__name__} has no linear layers to replace; use fp32")
    with torch.no_grad():
        made.prefix.hold()  # while all is float32
        expected = _states(made)
        if on_cpu:
            _for_cpu(made, layers, precision)
        elif precision != "fp32":
            _for_gpu(made, layers, precision)
        made.precision = precision
        try:
            _check(made, expected, precision)
        except ConfigError as error:
            if precision != "fp32":
                raise
            logger.warning("%s; its layers stay as they are", error)
            for name, layer in layers.items():
                replace(trunk, name, layer)
    return made


def linear_layers(trunk: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a trunk by name; not those of a pooler, which is never read."""
    named = trunk.named_modules()
    return {name: module for name, module in named if is_linear(module) and "pooler" not in name.split(".")}


def replace(trunk: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, own = name.rpartition(".")
    setattr(trunk.get_submodule(parent), own, module)


def _copy(encoder: NoteEncoder) -> NoteEncoder:
    """An encoder of its own with a trunk of its own, whose parameters are others of the same storage."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    backbone = encoder.backbone
    adapted = [module.get_base_layer() for module in backbone.model.modules() if isinstance(module, BaseTunerLayer)]
    own = {id(parameter) for layer in adapted for parameter in layer.parameters()}  # adapters are added into those
    memo: dict[int, Any] = {}
    for parameter in encoder.parameters():
        data = parameter.detach()
        memo[id(parameter)] = nn.Parameter(data.clone() if id(parameter) in own else data, requires_grad=False)
    model = copy.deepcopy(backbone.model, memo)
    theirs = Backbone(model, backbone.tokenizer, backbone.kind, backbone.name, backbone.layers)
    merge_adapters(theirs)
    theirs.model = theirs.trunk.requires_grad_(False)  # without a language-model head
    head, sight = copy.deepcopy(
        (encoder.head, encoder.sight), memo
    )  # their modes are their own, their weights are shared
    made = type(encoder)(theirs, head, encoder.prompt.saved, encoder.lexicon, sight)
    made.categories = list(encoder.categories)
    made.logit_scale = nn.Parameter(encoder.logit_scale.detach().clone(), requires_grad=False)
    made._versions = encoder._version_hashes()
    return made


def _for_cpu(made: NoteEncoder, layers: dict[str, nn.Module], precision: Precision) -> None:
    trunk = made.backbone.trunk
    chosen: dict[str, nn.Module] = {}
    if precision == "int8":
        rounding.check_exact()
        chosen = rounding.rounded_layers(made, layers, replace)
    rest = {name: layer for name, layer in layers.items() if name not in chosen}
    if precision == "bf16" or (precision == "int8" and fast_bf16(made.device)):
        high: Callable[[nn.Module], nn.Module] = HalfLinear
    elif rest and _packing_pays(max(rest.values(), key=lambda layer: weight_of(layer).numel()), timed=not chosen):
        high = PackedLinear
    else:
        high = _plain
    for name, layer in layers.items():
        replace(trunk, name, chosen[name] if name in chosen else high(layer))


def _for_gpu(made: NoteEncoder, layers: dict[str, nn.Module], precision: Precision) -> None:
    trunk = made.backbone.trunk
    if precision == "int8":
        for name, layer in layers.items():
            replace(trunk, name, Int8WeightLinear(layer))
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    for parameter in trunk.parameters():  # buffers stay: the angles of rotary positions don't bear 16 bits
        parameter.data = parameter.data.to(dtype)
    made.prefix.cast(dtype)


def _plain(layer: nn.Module) -> nn.Module:
    return layer


def _packing_pays(layer: nn.Module, *, timed: bool) -> bool:
    """Whether oneDNN's packed product is here, right, and faster than the plain one at the shape of this layer.

    Beside integers the last bit counts, so the clock isn't asked there (`timed` is false): the same layers at every call.
    """
    mkldnn: Any = torch.backends.mkldnn
    if not (mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    weight = weight_of(layer).contiguous()
    rows = torch.randn(PROBE_ROWS, weight.shape[1], generator=torch.Generator().manual_seed(0))
    bare = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    bare.weight = nn.Parameter(weight, requires_grad=False)
    try:
        packed = PackedLinear(bare)
        found, expected = packed(rows), F.linear(rows, weight)
    except RuntimeError as error:
        logger.info("packed products don't run here (%s); plain ones are used", error)
        return False
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        logger.warning("oneDNN's packed product is wrong on this machine; the plain one is used")
        return False
    return not timed or _seconds(lambda: packed(rows)) < FASTER * _seconds(lambda: F.linear(rows, weight))


def _seconds(work: Callable[[], Tensor]) -> float:
    """Of the fastest of a few times."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _states(encoder: NoteEncoder) -> Tensor:
    """States (B, H) of a few made-up notes, on the CPU."""
    inputs = encoder.prepare(rounding.notes()[:2])
    vectors = torch.empty(len(inputs), encoder.backbone.hidden_size)
    for batch, part in encoder.run(inputs, project=False):
        vectors[torch.from_numpy(batch)] = torch.from_numpy(part)
    return vectors


def _check(made: NoteEncoder, expected: Tensor, precision: Precision) -> None:
    """Refuse a copy that can't run or is another model than the original."""
    name = type(made.backbone.trunk).__name__
    try:
        found = _states(made)
    except (AttributeError, RuntimeError, TypeError) as error:  # code that reaches into its layers
        raise ConfigError(f"precision={precision}: {name} doesn't run so ({error}); use fp32") from error
    apart = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
    if not apart <= AGREE[precision]:
        raise ConfigError(
            f"precision={precision}: the states of a made-up note differ from the original's by {apart:.1e} of their length, more "
            f"than rounding can explain ({AGREE[precision]}); use another precision"
        )
    logger.debug("precision=%s: states within %.1e of the original's", precision, apart)
