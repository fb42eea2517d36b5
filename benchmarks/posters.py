"""New notes and their nearest neighbours as one picture, to judge by eye: pictures, titles and cosines.

    python benchmarks/posters.py DATASET --split SPLIT --out posters.jpg \\
        --arm "image alone=runs/films/image" --arm "text and image=runs/films/both"

A row is a new test note, drawn at random among those with a picture and with related notes, and its nearest neighbours among all
notes, arm by arm. A green frame marks a neighbour that is among the test's related notes.
"""

from __future__ import annotations

import argparse
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from noterec import storage
from noterec.config import ImagesConfig
from noterec.errors import ImageError
from noterec.index.vectors import Embeddings, load_embeddings
from noterec.notes.dataset import Dataset
from noterec.notes.images.decode import decode
from noterec.notes.images.source import ImageSource
from noterec.ranking.topk import top_k

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

# In pixels.
WIDTH, HEIGHT = 92, 138  # of a tile
GAP, BLOCK_GAP, MARGIN = 8, 22, 14
TITLE_LINES, LINE, TITLE_SIZE, HEAD_SIZE = 2, 12, 11, 15
HEAD = 30
FRAME = 4
PAPER, INK, FAINT, FRAME_COLOUR, EMPTY = "white", "#1c1c1c", "#6d6d6d", "#12a150", "#e4e4e4"


@dataclass(frozen=True)
class Tile:
    """A note as it is drawn."""

    note_id: str
    score: float | None  # cosine to the row's query; None for the query itself
    related: bool


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .jpg file")
    parser.add_argument("--arm", action="append", required=True, metavar="CAPTION=EMBEDDINGS")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-root", type=Path)
    parser.add_argument("--max-bytes", type=int, default=400_000, help="the quality is lowered to stay below")
    options = parser.parse_args()
    arms = [entry.partition("=")[::2] for entry in options.arm]
    tables = [load_embeddings(path) for _, path in arms]
    pairs = pl.read_parquet(options.split / "test-pairs.parquet")
    notes = Notes(options.dataset, ImageSource(options.image_root))
    queries = drawn(pairs, notes, tables, options.queries, options.seed)
    relations = dict(pairs.group_by("anchor_id").agg("related_id").iter_rows())
    rows = [[[Tile(query, None, False)]] for query in queries]
    for table in tables:
        for row, tiles in zip(rows, nearest(table, queries, relations, options.neighbours), strict=True):
            row.append(tiles)
    picture = sheet(rows, ["new", *(caption for caption, _ in arms)], notes)
    size = save(picture, options.out, options.max_bytes)
    print(f"{options.out}: {picture.width} x {picture.height} px, {size:,} bytes")


class Notes:
    """The titles and pictures of a dataset."""

    def __init__(self, dataset: Path, source: ImageSource) -> None:
        frame = Dataset(dataset).notes(["title", "images"])
        self._titles: dict[str, str] = dict(zip(frame["note_id"], frame["title"].fill_null(""), strict=True))
        self._entries = dict(zip(frame["note_id"], frame["images"].to_list(), strict=True))
        self._source = source

    def title(self, note_id: str) -> str:
        """A note's title, empty if it has none."""
        return self._titles[note_id]

    def picture(self, note_id: str) -> Image | None:
        """A note's first picture, None if it has none that is usable."""
        entries = self._entries[note_id]
        if not entries:
            return None
        try:
            return decode(self._source.read(entries[0]), ImagesConfig())
        except ImageError:
            return None


def drawn(pairs: pl.DataFrame, notes: Notes, tables: list[Embeddings], n: int, seed: int) -> list[str]:
    """Queries of the test, at random among those that have a picture and a vector in every table."""
    known = set.intersection(*(set(table.ids) for table in tables))
    found = []
    candidates: list[str] = pairs["anchor_id"].unique().sort().to_list()
    for row in np.random.default_rng(seed).permutation(len(candidates)):
        query = candidates[row]
        if query in known and notes.picture(query) is not None:
            found.append(query)
        if len(found) == n:
            return found
    raise SystemExit(f"only {len(found)} test queries have a picture and vectors; {n} were asked for")


def nearest(table: Embeddings, queries: list[str], relations: dict[str, list[str]], k: int) -> list[list[Tile]]:
    """The k nearest of all notes for each query, itself excepted."""
    place = {note_id: row for row, note_id in enumerate(table.ids)}
    rows = np.array([place[query] for query in queries])
    scores, found = top_k(table.vectors[rows], table.vectors, k, exclude=rows)  # (Q, k)
    return [
        [
            Tile(table.ids[int(row)], float(score), table.ids[int(row)] in relations[query])
            for row, score in zip(line, values, strict=True)
        ]
        for query, line, values in zip(queries, found, scores, strict=True)
    ]


def sheet(rows: list[list[list[Tile]]], captions: list[str], notes: Notes) -> Image:
    """All rows, each a list of blocks of tiles, with a caption above each block."""
    from PIL import Image, ImageDraw, ImageFont

    blocks = [len(block) for block in rows[0]]
    widths = [count * WIDTH + (count - 1) * GAP for count in blocks]
    row_height = HEIGHT + TITLE_LINES * LINE + LINE + 16
    size = (2 * MARGIN + sum(widths) + (len(blocks) - 1) * BLOCK_GAP, 2 * MARGIN + HEAD + len(rows) * row_height)
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    head, small = ImageFont.load_default(HEAD_SIZE), ImageFont.load_default(TITLE_SIZE)
    left = MARGIN
    for number, (caption, width) in enumerate(zip(captions, widths, strict=True)):
        pen.text((left, MARGIN), caption, fill=INK, font=head)
        if number:
            middle = left - BLOCK_GAP // 2
            pen.line((middle, MARGIN, middle, size[1] - MARGIN), fill=EMPTY)
        for line, row in enumerate(rows):
            for column, tile in enumerate(row[number]):
                x, y = left + column * (WIDTH + GAP), MARGIN + HEAD + line * row_height
                draw(canvas, pen, (x, y), tile, notes, small)
        left += width + BLOCK_GAP
    return canvas


def draw(
    canvas: Image, pen: ImageDraw, at: tuple[int, int], tile: Tile, notes: Notes, font: FreeTypeFont | ImageFont
) -> None:
    """One note: its picture, what it is called, and how near it is."""
    from PIL import Image, ImageOps

    x, y = at
    picture = notes.picture(tile.note_id)
    if picture is None:
        pen.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), fill=EMPTY)
        pen.text((x + 8, y + 8), "no picture", fill=FAINT, font=font)
    else:
        fitted = ImageOps.contain(picture, (WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        canvas.paste(fitted, (x + (WIDTH - fitted.width) // 2, y + (HEIGHT - fitted.height) // 2))
    if tile.related:
        pen.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), outline=FRAME_COLOUR, width=FRAME)
    y += HEIGHT + 3
    # Pillow's own font has no accented letters.
    letters = unicodedata.normalize("NFKD", notes.title(tile.note_id))
    for line in wrapped("".join(letter for letter in letters if not unicodedata.combining(letter)), pen, font):
        pen.text((x, y), line, fill=INK, font=font)
        y += LINE
    if tile.score is not None:
        pen.text((x, y), f"{tile.score:.2f}", fill=FRAME_COLOUR if tile.related else FAINT, font=font)


def wrapped(text: str, pen: ImageDraw, font: FreeTypeFont | ImageFont) -> list[str]:
    """A title in at most TITLE_LINES lines of a tile's width, the end cut where it is longer."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= WIDTH or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:TITLE_LINES]
    for number, line in enumerate(kept):
        cut = line
        ended = number + 1 < len(kept) or len(lines) == len(kept)
        while cut and pen.textlength(cut + ("" if ended and cut == line else "…"), font=font) > WIDTH:
            cut = cut[:-1]
        kept[number] = cut if ended and cut == line else cut.rstrip() + "…"
    return kept


def save(picture: Image, out: Path, max_bytes: int) -> int:
    """Write a JPEG of at most so many bytes, and return how many it has."""
    for quality in range(92, 50, -2):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True, progressive=True)
        if stream.tell() <= max_bytes:
            with storage.atomic_write(out) as file:
                file.write(stream.getvalue())
            return stream.tell()
    raise SystemExit(f"{out}: more than {max_bytes:,} bytes at any quality; draw fewer queries")


if __name__ == "__main__":
    main()
