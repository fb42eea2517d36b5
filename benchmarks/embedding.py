"""How fast notes become vectors, against loops that people would write, on one machine, in one run, with the same weights.

    python benchmarks/embedding.py --model SmolLM2-135M --dataset data/office --notes 256

Arms, each run `--rounds` times in turn, the best round counting:

- reference: the loop of the paper's kind: batches in the table's order, padded to their longest, the whole causal LM with its
  language-model head and all layers' states kept, of which the last layer's state at the last token is read.
- sorted: notes of like length together, the trunk alone.
- sentence-transformers: its own `encode`, with last-token pooling, of the same prompts as text, in float32 and in bfloat16. It
  tokenises a prompt as one text, so a token here and there is another one, and so are its vectors.
- noterec, in each precision.

The share of the matrix product's speed counts the products that must be computed: of every note's own tokens, and of what all
prompts share once. It is stated against two peaks, both measured at the model's own shapes: torch's linear, and the fastest float32
kernel that there is here. Needs `pip install 'noterec[cpu,dev]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import noterec
from noterec.embedding.units import rates
from noterec.model.batching import Meter, pad, plan
from noterec.model.inputs import Inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal language model: a folder or hub id")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--notes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--batch", type=int, default=32, help="notes of a batch of the reference's loop and of sentence-transformers"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)

    encoder = noterec.NoteEncoder.from_pretrained(given.model, device="cpu")
    table = next(noterec.Dataset(given.dataset).note_batches(["title", "hashtags", "content"], batch_rows=given.notes))
    inputs = encoder.prepare(table)
    lengths = np.array([len(ids) for ids in inputs.tokens])
    shared = len(encoder.prompt.prefix)
    print(
        f"{len(inputs)} notes, {lengths.mean():.1f} tokens each, {shared} of them in every prompt; torch {torch.__version__}, "
        f"{given.threads} threads"
    )

    arms: dict[str, Callable[[], np.ndarray]] = {
        "reference": lambda: reference(encoder, inputs, given.batch),
        "sorted": lambda: sorted_trunk(encoder, inputs),
        "sentence-transformers": sentence_transformers(encoder, inputs, given.model, given.batch, torch.float32),
        "sentence-transformers bf16": sentence_transformers(encoder, inputs, given.model, given.batch, torch.bfloat16),
    }
    for precision in given.precisions.split(","):
        fast = encoder.accelerated(precision)
        arms[f"noterec {precision}"] = lambda fast=fast: ours(fast, inputs)
    best: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(given.rounds):
        for name, arm in arms.items():
            started = time.perf_counter()
            vectors[name] = arm()
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - started)
            print(f"  {name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    truth = vectors["reference"]
    result: dict[str, Any] = {}
    for name, seconds in best.items():
        result[name] = {
            "notes_per_second": len(inputs) / seconds,
            "times_reference": best["reference"] / seconds,
            "times_sentence_transformers": best["sentence-transformers"] / seconds,
            "largest_difference": float(np.abs(vectors[name] - truth).max()),
            "top10_overlap": overlap(truth, vectors[name]),
        }
    rows = batch_rows(inputs, shared)
    work = (int((lengths - shared).sum()) + shared) * sum(
        2 * n * k * count for (n, k), count in shapes(encoder).items()
    )
    peaks = {"torch": peak(encoder, rows, torch_linear), "fastest": peak(encoder, rows, None)}
    fp32 = work / best["noterec fp32"] / 1e9
    efficiency = {name: {"gflops": speed, "share": fp32 / speed} for name, speed in peaks.items()}
    meter = Meter()
    ours(encoder.accelerated("fp32"), inputs, meter)
    if given.json:
        print(
            json.dumps({"arms": result, "efficiency": efficiency, "padding": 1 - meter.tokens / meter.padded}, indent=2)
        )
        return
    print(f"\n{'arm':<28}{'notes/s':>9}{'x reference':>13}{'x s.-t.':>9}{'largest diff':>14}{'top-10 overlap':>16}")
    for name, row in result.items():
        print(
            f"{name:<28}{row['notes_per_second']:>9.2f}{row['times_reference']:>13.2f}{row['times_sentence_transformers']:>9.2f}"
            f"{row['largest_difference']:>14.1e}{row['top10_overlap']:>16.3f}"
        )
    print(
        f"\nnoterec fp32: {rates(meter.tokens, meter.padded, best['noterec fp32'])}, {fp32:.0f} GFLOP/s in needed products"
    )
    for name, row in efficiency.items():
        print(
            f"  {100 * row['share']:.0f} % of {row['gflops']:.0f} GFLOP/s, the product's own speed ({name}) at the model's shapes"
        )


def reference(encoder: Any, inputs: Inputs, batch: int) -> np.ndarray:
    """(B, H) unit-norm states, the way the paper's code reads them."""
    parts = []
    for start in range(0, len(inputs), batch):
        ids, lengths = pad(inputs.tokens[start : start + batch], encoder.backbone.tokenizer.pad_token_id)
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]  # (b, T)
        given = encoder.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        parts.append(given.hidden_states[-1][torch.arange(len(ids)), lengths - 1])
    return np.asarray(F.normalize(torch.cat(parts), dim=-1).numpy())


def sorted_trunk(encoder: Any, inputs: Inputs, batch_tokens: int = 4096) -> np.ndarray:
    """(B, H) unit-norm states, of the trunk alone, notes of like length together."""
    states = np.empty((len(inputs), encoder.backbone.hidden_size), dtype=np.float32)
    for batch in plan([len(ids) for ids in inputs.tokens], batch_tokens):
        ids, lengths = pad([inputs.tokens[place] for place in batch], encoder.backbone.tokenizer.pad_token_id)
        states[batch] = encoder.backbone.readout(ids, lengths).numpy()
    return states / np.linalg.norm(states, axis=1, keepdims=True)


def sentence_transformers(
    encoder: Any, inputs: Inputs, model: str, batch: int, dtype: torch.dtype
) -> Callable[[], np.ndarray]:
    """sentence-transformers' own `encode` of the same prompts, in a dtype."""
    from sentence_transformers import SentenceTransformer, models

    words = models.Transformer(model, max_seq_length=encoder.prompt.max_tokens, model_kwargs={"dtype": dtype})
    if words.tokenizer.pad_token is None:
        words.tokenizer.pad_token = words.tokenizer.eos_token
    pooling = models.Pooling(encoder.backbone.hidden_size, pooling_mode="lasttoken")
    peer = SentenceTransformer(modules=[words, pooling], device="cpu")
    texts = [encoder.backbone.tokenizer.decode(ids) for ids in inputs.tokens]
    return lambda: np.asarray(
        peer.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False).astype(np.float32)
    )


def ours(encoder: Any, inputs: Inputs, meter: Meter | None = None) -> np.ndarray:
    """(B, D) unit-norm vectors."""
    vectors = np.empty((len(inputs), encoder.dimension), dtype=np.float32)
    for batch, part in encoder.run(inputs, meter=meter):
        vectors[batch] = part
    return vectors


def overlap(truth: np.ndarray, vectors: np.ndarray, k: int = 10) -> float:
    """Mean share of each note's k nearest by `truth` that are also its k nearest by `vectors`."""

    def nearest(rows: np.ndarray) -> np.ndarray:
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)
        return np.argpartition(-scores, k, axis=1)[:, :k]

    pairs = zip(nearest(truth), nearest(vectors), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in pairs]))


def shapes(encoder: Any) -> Counter[tuple[int, int]]:
    """How often each (out, in) of a matrix stands in the trunk."""
    return Counter(
        tuple(part.weight.shape) for part in encoder.model.base_model.modules() if isinstance(part, torch.nn.Linear)
    )


def batch_rows(inputs: Inputs, shared: int) -> int:
    """Rows of a middling batch as the engine makes it: tokens without what is shared."""
    batches = plan([len(ids) - shared for ids in inputs.tokens], 2048)
    middle = batches[len(batches) // 2]
    return int(sum(len(inputs.tokens[place]) - shared for place in middle))


def torch_linear(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: F.linear(rows, weight)


def packed_linear(weight: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda given: torch.ops.mkldnn._linear_pointwise(given, packed, None, "none", [], "")


def peak(
    encoder: Any, rows: int, kernel: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]] | None
) -> float:
    """GFLOP/s of the model's matrix products one after the other; the faster of the kernels for each shape where none is given."""
    seconds = flops = 0.0
    for (out, inner), count in shapes(encoder).items():
        given, weight = torch.randn(rows, inner), torch.randn(out, inner)
        kernels = [torch_linear(weight)] if kernel is not None else [torch_linear(weight), packed_linear(weight, rows)]
        seconds += count * min(timed(product, given) for product in kernels)
        flops += count * 2 * rows * out * inner
    return flops / seconds / 1e9


def timed(product: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor, tries: int = 15) -> float:
    """Seconds of the best of several calls."""
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        product(given)
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
