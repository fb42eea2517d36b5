"""What a stage takes in of a note's row: its text, or its pictures too; what of it is shown is the view.

The images column holds megabytes a row. So pictures go into the gallery while a few rows are in memory, and what travels on is
their place there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa

from noterec import progress, storage
from noterec.config import ImagesConfig
from noterec.errors import ConfigError
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Pictures, Unseen, attach
from noterec.model.vision.gallery import Gallery
from noterec.notes import note
from noterec.notes.images.source import ImageSource

READ_ROWS = 8192
READ_ROWS_WITH_IMAGES = 128
PICTURES = "pictures"  # the column with places in the gallery


def cache_root() -> Path:
    """`$NOTEREC_CACHE`, or `~/.cache/noterec`."""
    return Path(os.environ.get("NOTEREC_CACHE") or Path.home() / ".cache" / "noterec").expanduser()


def cache_folder(cache: str | os.PathLike[str] | None, kind: Literal["states", "images"]) -> Path:
    """The folder of one kind of cache below the root that a caller names, or below `cache_root()`."""
    return (storage.local(cache) if cache is not None else cache_root()) / kind


class Intake:
    """Takes notes in, batch by batch.

    Attributes:
        columns: what is read of the notes table.
        batch_rows: how many rows at a time.
        gallery: where the pictures go; None where none are shown.
        unseen: pictures that were left out so far.
        tried: pictures that were looked at so far, those left out included.
    """

    def __init__(
        self,
        source: ImageSource | None = None,
        gallery: Gallery | None = None,
        *,
        view: str = "both",
        has_text: Callable[[pa.Table], np.ndarray] = note.has_text,
    ) -> None:
        """Take in text alone, or pictures too.

        Args:
            source: where pictures are read from; None = text alone.
            gallery: where they go; needed with `source`.
            view: what of a note is encoded, see `EmbedConfig.view`.
            has_text: which notes of a table have text that the stage reads, (B,) bool.

        Raises:
            ConfigError: a view of images, and none are taken in.
        """
        if gallery is None and view not in ("both", "text"):
            raise ConfigError(f"view={view}: this model reads text alone; expected both or text")
        self._shown = gallery is not None and view != "text"
        self._texts = view not in ("image", "visual")
        self._view, self._source, self._has_text = view, source, has_text
        self.gallery = gallery if self._shown else None
        self.columns = [*note.ENCODED_COLUMNS, *(["images"] if self._shown else [])]
        self.batch_rows = READ_ROWS_WITH_IMAGES if self._shown else READ_ROWS
        self.unseen: list[Unseen] = []
        self.tried = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes that decode pictures; what was taken in stays."""
        if self.gallery is not None:
            self.gallery.close()

    def clear(self) -> None:
        """Forget where pictures are: what was taken in so far has been used; the cache on disk stays."""
        if self.gallery is not None:
            self.gallery.clear()

    @property
    def partial(self) -> bool:
        """Whether the view is one that a sound note may have nothing of."""
        return self._view not in ("both", "shuffled")

    @property
    def lacking(self) -> str:
        """What a note that is left out doesn't have."""
        if not self._shown:
            return "no text"
        return "neither text nor a usable picture" if self._texts else "no usable picture"

    def readable(self, table: pa.Table) -> np.ndarray:
        """Which notes have anything to show, as far as one can tell without decoding: (B,) bool."""
        text = self._has_text(table)
        if not self._shown:
            return text
        images = note.image_counts(table) > 0
        return text | images if self._texts else images

    def hashes(self, table: pa.Table) -> np.ndarray:
        """Content hashes of what is shown: (B,) uint64."""
        table = table if self._texts else _wordless(table)
        if not self._shown or "images" not in table.column_names or self._source is None:
            return note.content_hashes(table)
        stamp = self._source.stamp
        stamps = [[stamp(entry) for entry in (images or ())] for images in table["images"].to_pylist()]
        return note.content_hashes(table, stamps)

    def take_in(self, table: pa.Table, *, bar: progress.Bar | None = None) -> tuple[pa.Table, list[str]]:
        """Put the notes' pictures into the gallery.

        Returns:
            The notes that have anything to show, with the column `pictures`, places in the gallery, instead of `images`; the ids
            of the others, whose pictures are all unusable.
        """
        if self.gallery is None:
            return table, []
        pictures, unseen = attach(table, self.gallery, bar=bar)
        self.unseen.extend(unseen)
        self.tried += int(pictures.counts.sum()) + len(unseen)
        table = table if self._texts else _wordless(table)
        if "images" in table.column_names:
            table = table.drop_columns(["images"])
        places = pa.array([rows.tolist() for rows in pictures.rows], pa.list_(pa.int64()))
        table = table.append_column(PICTURES, places)
        some = pictures.counts > 0
        if self._texts:
            some |= self._has_text(table)
        blind = table["note_id"].filter(pa.array(~some)).to_pylist()
        return table.filter(pa.array(some)), blind

    def pictures_of(self, table: pa.Table) -> Pictures | None:
        """The pictures of a table that was taken in; None for text alone.

        In view `shuffled`, those of other notes of the table; none where no other has any.
        """
        if self.gallery is None:
            return None
        rows = [np.asarray(places, dtype=np.int64) for places in table[PICTURES].to_pylist()]
        if self._view == "shuffled":
            having = np.flatnonzero([len(places) > 0 for places in rows])
            order = np.random.default_rng(0).permutation(having)
            given = [rows[place] for place in np.roll(order, 1)]  # one cycle: nobody keeps their own
            if len(having) == 1:
                given = [given[0][:0]]
            for place, other in zip(order, given, strict=True):
                rows[place] = other
        return Pictures(rows, self.gallery)

    def glanced(self, table: pa.Table) -> np.ndarray:
        """How many pictures of each note would be shown, were all of them usable: (B,) int64; nothing is decoded."""
        counts = note.image_counts(table)
        return np.asarray(np.minimum(counts, 0 if self.gallery is None else self.gallery.images))

    def undecoded(self, table: pa.Table) -> pa.Table:
        """Notes as `take_in` would have them, their pictures left alone: `images` has as many entries, which say nothing.

        Their number is all that can be told, and their bytes would fill the memory.
        """
        if self.gallery is None:
            return table
        table = table if self._texts else _wordless(table)
        if "images" not in table.column_names:
            return table
        ends = np.concatenate(([0], note.image_counts(table).cumsum())).astype(np.int32)
        place, kind = table.schema.get_field_index("images"), table.schema.field("images").type
        images = pa.ListArray.from_arrays(pa.array(ends), pa.nulls(int(ends[-1]), kind.value_type))
        return table.set_column(place, "images", images)

    def set_aside(self, table: pa.Table) -> Pictures | None:
        """The pictures of a table that was taken in, to be used while the next ones are taken in; None for text alone."""
        pictures = self.pictures_of(table)
        if pictures is None or self.gallery is None:
            return None
        return Pictures(pictures.rows, self.gallery.set_aside())


def intake_of(
    encoder: NoteEncoder,
    images: ImagesConfig,
    *,
    view: str = "both",
    has_text: Callable[[pa.Table], np.ndarray] = note.has_text,
    cache: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
) -> Intake:
    """What an encoder takes in: text alone, or pictures too where it sees.

    Args:
        encoder: the encoder.
        images: how pictures are read.
        view, has_text: as in `Intake`.
        cache: what the vision tower makes of pictures is kept in its folder `images`; below `cache_root()` unless given.
        image_root: the folder below which pictures that are given by path are read.

    Raises:
        ConfigError: an image root for an encoder that reads text alone.
    """
    if encoder.sight is None:
        if image_root is not None:
            raise ConfigError(
                "image_root is given and this model reads text alone; leave it out, or train with vision.encoder"
            )
        return Intake(view=view, has_text=has_text)
    source = ImageSource.below(image_root, images)
    return Intake(source, encoder.gallery(source, folder=cache_folder(cache, "images")), view=view, has_text=has_text)


def _wordless(table: pa.Table) -> pa.Table:
    return note.blanked(table, [name for name in note.ENCODED_COLUMNS if name in table.column_names])
