"""What Milvus calls the columns of an index, and how to reach it."""

from __future__ import annotations

import contextlib
import logging.config
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.errors import DependencyError, InputError

Floats = NDArray[np.float32]

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,199}"  # of a collection or a field
VARCHAR_BYTES = 65_535
ARRAY_ELEMENTS = 4096
SECONDS = 60.0  # for one answer of a server


@dataclass(frozen=True)
class Field:
    """One attribute as a field.

    Attributes:
        kind: the name of its Milvus type.
        element: of an array's elements, else None.
        time: whether it holds microseconds since 1970.
    """

    kind: str
    element: str | None = None
    time: bool = False

    @property
    def shown(self) -> str:
        """For people."""
        return f"ARRAY<{self.element}>" if self.element else f"{self.kind} (microseconds)" if self.time else self.kind

    def values(self, column: pl.Series) -> list[Any]:
        """A column as Milvus takes it, nulls as None."""
        if self.time:
            column = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None))).to_physical()
        elif isinstance(column.dtype, pl.Categorical | pl.Enum):
            column = column.cast(pl.String)
        return column.to_list()


def attribute_fields(attributes: pl.DataFrame) -> dict[str, Field]:
    """The field of every attribute besides note_id.

    Raises:
        InputError: a name, a type or a value that Milvus can't hold; the message says which.
    """
    _check_texts("note_id", attributes["note_id"], attributes["note_id"])
    fields = {}
    for name, dtype in attributes.schema.items():
        if name == "note_id":
            continue
        if not re.fullmatch(NAME, name) or name == "embedding":
            raise InputError(
                f"attribute {name[:80]!r} can't be a field of Milvus (letters, digits and _, and not 'embedding'); rename "
                "the column, or build the index without it"
            )
        column = attributes[name]
        if isinstance(dtype, pl.List):
            element = _kind(dtype.inner)
            if element is None or isinstance(dtype.inner, pl.Datetime | pl.Date):
                raise _unfit(name, dtype)
            longest = column.list.len().max()
            if isinstance(longest, int) and longest > ARRAY_ELEMENTS:
                raise InputError(f"attribute {name}: a list of {longest} elements; Milvus holds {ARRAY_ELEMENTS}")
            if column.explode(keep_nulls=False, empty_as_null=False).null_count():
                raise InputError(f"attribute {name}: a list holds null, and an array of Milvus can't; clean the column")
            if element == "VARCHAR":
                flat = pl.DataFrame({"note_id": attributes["note_id"], name: column}).explode(name)
                _check_texts(name, flat[name], flat["note_id"])
            fields[name] = Field("ARRAY", element)
            continue
        kind = _kind(dtype)
        if kind is None:
            raise _unfit(name, dtype)
        if kind == "VARCHAR":
            _check_texts(name, column.cast(pl.String), attributes["note_id"])
        if dtype == pl.UInt64 and isinstance(largest := column.max(), int) and largest >= 2**63:
            raise InputError(
                f"attribute {name}: {largest} is more than an INT64 of Milvus holds; build the index without it"
            )
        fields[name] = Field(kind, time=isinstance(dtype, pl.Datetime | pl.Date))
    return fields


def _kind(dtype: Any) -> str | None:
    """The Milvus type of a column, None where there is none."""
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "VARCHAR"
    if isinstance(dtype, pl.Boolean):
        return "BOOL"
    if isinstance(dtype, pl.Datetime | pl.Date) or (
        dtype.is_integer() and dtype.__class__.__name__ not in ("Int128", "UInt128")
    ):
        return "INT64"
    return "FLOAT" if isinstance(dtype, pl.Float32) else "DOUBLE" if isinstance(dtype, pl.Float64) else None


def _unfit(name: str, dtype: Any) -> InputError:
    return InputError(
        f"attribute {name} is {dtype}, for which Milvus has no field; expected text, numbers, truth values, times, or lists of "
        "them: build the index without it"
    )


def _check_texts(name: str, column: pl.Series, ids: pl.Series) -> None:
    sizes = column.str.len_bytes()
    longest = sizes.arg_max()
    if longest is not None and (sizes[longest] or 0) > VARCHAR_BYTES:
        raise InputError(
            f"{name} of note {ids[longest][:80]!r} takes {sizes[longest]} bytes; Milvus holds {VARCHAR_BYTES}: shorten it, or "
            f"build the index without {name}"
        )


def entities(attributes: pl.DataFrame, vectors: Floats, fields: dict[str, Field]) -> list[dict[str, Any]]:
    """Rows as Milvus takes them."""
    columns = [
        attributes["note_id"].to_list(),
        list(vectors),
        *(field.values(attributes[name]) for name, field in fields.items()),
    ]
    names = ["note_id", "embedding", *fields]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def stored(value: Any) -> Any:
    """A value that can be compared: a list as such, and any NaN like another."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int) else [stored(part) for part in value]


def named(uri: str) -> str:
    """A URI without its user and password."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)


@contextlib.contextmanager
def connected(uri: str, token: str | None) -> Iterator[Any]:
    """A client of a Milvus server, or of a file by Milvus Lite, closed at the end.

    Raises:
        DependencyError: pymilvus, or milvus-lite for a file, isn't installed.
        InputError: there is no server, it wants another token, or it refuses what it is asked.
    """
    try:
        with _logging_kept():
            import pymilvus
    except ImportError as error:
        raise DependencyError('pymilvus is not installed; install it: pip install "noterec[milvus]"') from error
    file = urlsplit(uri).scheme not in ("http", "https", "tcp", "unix")
    if file and not uri.endswith(".db"):
        raise InputError(f"uri {uri!r}: expected a server such as http://localhost:19530, or a file ending in .db")
    # Their logs repeat with a traceback what the exception says, or complain of what Milvus Lite leaves out.
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    release = None
    try:
        if file:
            release = _lite(uri)
        client = pymilvus.MilvusClient(uri, token=token or "", timeout=SECONDS)
        try:
            yield client
        finally:
            client.close()
    except pymilvus.MilvusException as error:
        message = str(error.message)
        raise InputError(
            f"{named(uri)}: {message if len(message) <= 300 else message[:300] + '...'} (from Milvus); check the address, the "
            "token and that the database is in order"
        ) from error
    finally:
        if release is not None:
            release()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _lite(uri: str) -> Any:
    """What frees a file of Milvus Lite when the export is done, None where this process had it open before."""
    try:
        from milvus_lite.server_manager import server_manager_instance as servers
    except ImportError as error:
        raise DependencyError(
            "milvus-lite, which opens a file ending in .db, is not installed; install it: pip install milvus-lite (it brings "
            "faiss-cpu, so not beside noterec[gpu]), or give the address of a server"
        ) from error
    path = str(Path(uri).absolute())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return None if path in servers._servers else lambda: servers.release_server(path)


def create(client: Any, collection: str, fields: dict[str, Field], dimension: int, index_type: str) -> None:
    """Make an empty collection for an index."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("note_id", DataType.VARCHAR, is_primary=True, max_length=VARCHAR_BYTES)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    for name, field in fields.items():
        options: dict[str, Any] = {"nullable": True}
        if "VARCHAR" in (field.kind, field.element):
            options["max_length"] = VARCHAR_BYTES
        if field.element is not None:
            options |= {"element_type": DataType[field.element], "max_capacity": ARRAY_ELEMENTS}
        schema.add_field(name, DataType[field.kind], **options)
    parameters = MilvusClient.prepare_index_params()
    parameters.add_index("embedding", index_type=index_type, metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=parameters, consistency_level="Strong")


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """pymilvus configures logging for the whole process when it is imported, and closes the handlers that are there, of which some
    close standard error: it is kept from that.
    """
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure
