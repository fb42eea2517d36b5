"""Files that are never half-written: atomic replacement, Parquet with its origin inside, and folders of shards.

A local file is written beside its final name, synced and renamed; an object in a store is put whole. A folder of shards counts
what its `manifest.json` names and nothing else, so a job that was killed leaves at most an unnamed file behind. Paths may be
local or URLs of object stores (s3://, gs://, az://), except where `local` refuses these.
"""

from noterec.storage.erasing import erase_rows, named
from noterec.storage.files import atomic_write, file_hash, read_json, value_hash, write_json
from noterec.storage.manifest import MANIFEST
from noterec.storage.objects import ObjectPath
from noterec.storage.parquet import (
    ORIGIN,
    ROW_GROUP_ROWS,
    open_parquet,
    origin_of,
    parquet_files,
    read_files,
    read_origin,
    read_table,
    write_table,
)
from noterec.storage.place import URL, Place, local, place, stamp_of
from noterec.storage.shards import Damage, ShardFolder, ShardRecord, write_shard
from noterec.storage.stores import ConflictError

__all__ = [
    "MANIFEST",
    "ORIGIN",
    "ROW_GROUP_ROWS",
    "URL",
    "ConflictError",
    "Damage",
    "ObjectPath",
    "Place",
    "ShardFolder",
    "ShardRecord",
    "atomic_write",
    "erase_rows",
    "file_hash",
    "local",
    "named",
    "open_parquet",
    "origin_of",
    "parquet_files",
    "place",
    "read_files",
    "read_json",
    "read_origin",
    "read_table",
    "stamp_of",
    "value_hash",
    "write_json",
    "write_shard",
    "write_table",
]
