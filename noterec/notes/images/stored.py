"""The images of one note, read from where it stands in a dataset's files: the rest of the column never enters memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noterec import storage
from noterec.errors import InputError

_IMAGE_ROWS = 32  # pictures decoded from Parquet at a time
_BUFFER_BYTES = 1 << 20  # of a column with pictures: it is streamed, not loaded


def stored_images(file: storage.Place, row: int, note_id: str) -> list[Any]:
    """The images of the note in a row of a file; its row group is streamed up to there.

    Args:
        file: one of a dataset's `note_files`.
        row: of that file, the first being 0, as `Dataset.located_batches` gives it.
        note_id: the note that is expected there.

    Returns:
        Its entries of the images column, {"bytes", "path"} each; none where it has none.

    Raises:
        InputError: another note stands there: the file was written to since.
    """
    try:
        with pq.ParquetFile(file.open("rb"), buffer_size=_BUFFER_BYTES) as parquet:
            ends = np.cumsum([parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)])
            group = int(np.searchsorted(ends, row, side="right"))
            if group == len(ends):
                raise changed(file)
            start = int(ends[group - 1]) if group else 0
            for batch in parquet.iter_batches(_IMAGE_ROWS, row_groups=[group], columns=["note_id", "images"]):
                if row < start + batch.num_rows:
                    if str(batch["note_id"][row - start].as_py()) != note_id:
                        raise changed(file)
                    return batch["images"][row - start].as_py() or []
                start += batch.num_rows
    except (pa.ArrowException, OSError, KeyError) as error:
        raise changed(file) from error
    raise changed(file)


def changed(file: storage.Place) -> InputError:
    """What to say when notes no longer stand where they stood."""
    return InputError(f"{file}: was written to since it was opened, its pictures are elsewhere now; open it again")
