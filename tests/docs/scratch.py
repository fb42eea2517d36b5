"""What the pages take for granted: a platform, a split, a model, an index, ..., tiny, each made once if a page asks for it."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from noterec.config import PromptConfig, SampleConfig, TrainConfig

# Few steps of a narrow `tiny`: another model than its start, and one that writes.
FEW: dict[str, Any] = dict(
    steps=4, batch_notes=32, vocabulary=500, dimension=32, valid_every=2, checkpoint_every=2, device="cpu",
    prompt=PromptConfig(title_tokens=16, hashtags_tokens=12, content_tokens=48),
)  # fmt: skip


class Scratch:
    """A folder of ready-made things, and copies of them for the pages.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self.models = root / "models"

    def make_models(self) -> None:
        """Random stand-ins for models of the hub: a language model and a vision encoder."""
        from tests import backbones, vision_models

        backbones.make("qwen3", self.models / "language")
        vision_models.make("clip", self.models / "vision")

    def page(self, name: str, things: list[str] | None) -> Path:
        """A folder for a page that holds copies of these things; of all there are for None."""
        folder = self.root / "pages" / name.replace("/", "-").removesuffix(".md")
        folder.mkdir(parents=True)
        for thing in MAKERS if things is None else things:
            made = self.have(thing)
            target = folder / thing
            target.parent.mkdir(parents=True, exist_ok=True)
            if made.is_dir():
                shutil.copytree(made, target, dirs_exist_ok=True)
            else:
                shutil.copy2(made, target)
        return folder

    def have(self, thing: str) -> Path:
        """The store's copy of a thing; it is made if it isn't there.

        Raises:
            KeyError: there is no such thing to be made.
        """
        target = self.store / thing
        if not target.exists():
            make = MAKERS[thing]
            target.parent.mkdir(parents=True, exist_ok=True)
            here = Path.cwd()
            os.chdir(self.store)  # models and reports remember paths, which have to be those of the page
            try:
                make(self)
            finally:
                os.chdir(here)
        return target


def _sample(scratch: Scratch) -> None:
    from noterec.notes.sample import sample

    sample("data/mine", SampleConfig(notes=240, users=150, image_px=16))


def _fresh(scratch: Scratch) -> None:
    """Ten notes that data/mine doesn't have: copies under other ids, said in other words."""
    scratch.have("data/mine")
    some = pl.read_parquet("data/mine/notes/*.parquet").head(10)
    Path("data/fresh/notes").mkdir(parents=True)
    renamed = some.with_columns(note_id=pl.lit("fresh-") + pl.col("note_id"), title=pl.lit("Again: ") + pl.col("title"))
    renamed.write_parquet("data/fresh/notes/part-0.parquet")


def _dump(scratch: Scratch) -> None:
    """data/mine as another maker's CSV files, its pictures beside them."""
    scratch.have("data/mine")
    notes = pl.read_parquet("data/mine/notes/*.parquet")
    Path("dump/pictures").mkdir(parents=True)
    with Path("dump/items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "description", "hashtags", "category", "brand", "images", "created_at"])
        for note in notes.iter_rows(named=True):
            path = f"pictures/{note['note_id']}.png"
            for image in (note["images"] or [])[:1]:
                Path("dump", path).write_bytes(image["bytes"])
            tags = ",".join(note["hashtags"] or [])
            shown = path if note["images"] else ""
            row = [
                note["note_id"],
                note["title"],
                note["content"],
                tags,
                note["category"],
                "Roam",
                shown,
                note["created_at"],
            ]
            rows.writerow(row)
    log = pl.read_parquet("data/mine/engagement/*.parquet").rename({"user_id": "customer", "note_id": "item_id"})
    log.write_csv("dump/engagement.csv")
    log.write_csv("dump/purchases.csv")


def _split(scratch: Scratch) -> None:
    from noterec import split

    scratch.have("data/mine")
    split("data/mine", out="split")


def _pairs(scratch: Scratch) -> None:
    from noterec import pairs

    scratch.have("split")
    pairs("split/train", out="pairs.parquet")


def _train(out: str, **more: Any) -> Callable[[Scratch], None]:
    def make(scratch: Scratch) -> None:
        from noterec import train

        scratch.have("pairs.parquet")
        train(
            "split/train",
            pairs="pairs.parquet",
            out=out,
            valid_pairs="split/valid-pairs.parquet",
            valid_notes="data/mine",
            config=TrainConfig(**FEW, **more),
        )

    return make


def _embeddings(out: str) -> Callable[[Scratch], None]:
    def make(scratch: Scratch) -> None:
        from noterec import embed

        scratch.have("model")
        embed("data/mine", model="model", out=out)

    return make


def _views(scratch: Scratch) -> None:
    from noterec import modalities

    scratch.have("seeing")
    modalities("data/mine", model="seeing", out="views")


def _categories(scratch: Scratch) -> None:
    from noterec import generate

    scratch.have("writer")
    generate("data/mine", model="writer", task="category", out="categories")


def _index(scratch: Scratch) -> None:
    from noterec import build_index

    scratch.have("embeddings")
    for _ in range(2):  # an earlier bundle to go back to
        build_index("embeddings", notes="data/mine", new="split/new-notes.parquet", out="index")


def _report(out: str) -> Callable[[Scratch], None]:
    def make(scratch: Scratch) -> None:
        from noterec import EvaluateConfig, evaluate

        scratch.have("embeddings")
        evaluate({"mine": "embeddings"}, notes="data/mine", split="split", out=out, config=EvaluateConfig())

    return make


def _demo(scratch: Scratch) -> None:
    from noterec import demo

    demo("demo", notes=240, users=150, config=TrainConfig(**FEW))


MAKERS: dict[str, Callable[[Scratch], None]] = {
    "data/mine": _sample,
    "data/fresh": _fresh,
    "dump": _dump,
    "split": _split,
    "pairs.parquet": _pairs,
    "model": _train("model"),
    "writer": _train("writer", tasks={"alpha": 1.0}),
    "seeing": _train("seeing", vision={"encoder": "tiny"}),
    "views": _views,
    "categories": _categories,
    "embeddings": _embeddings("embeddings"),
    "index": _index,
    "report": _report("report"),
    "report-yesterday": _report("report-yesterday"),
    "report-today": _report("report-today"),
    "demo": _demo,
}
