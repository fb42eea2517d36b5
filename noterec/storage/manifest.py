"""The manifest of a folder of shards: what counts, in one small JSON file that is replaced in one step.

{"origin": {...}, "state": {...}, "shards": [
{"name": "shard-0123456789abcdef.parquet", "rows": 10000, "bytes": 2600000, "sha256": "..."},
...]}

It is written whole for each commit: 150 bytes a shard. At 100,000 shards, a billion notes in shards of 10,000, that is 15 MiB
and half a second; write larger shards, or commit several at once, before you get there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from noterec.errors import ArtefactError, InputError
from noterec.storage.files import atomic_write, parse_json
from noterec.storage.objects import ObjectPath
from noterec.storage.place import Place
from noterec.storage.stores import ConflictError

if TYPE_CHECKING:
    from obstore import UpdateVersion

MANIFEST = "manifest.json"


@dataclass
class Manifest:
    """What a manifest says.

    Attributes:
        origin: what made the table.
        shards: one record a shard, oldest first: name, rows, sha256, bytes (unless an older version wrote it), and facts.
        state: whatever else the writer keeps.
        replaced: shards were taken out of the list at some time, so that readers may still look for their names.
        version: of the object that it was read from; None for a local file.
    """

    origin: Any
    shards: list[dict[str, Any]]
    state: dict[str, Any] = field(default_factory=dict)
    replaced: bool = False
    version: UpdateVersion | None = None


def read_manifest(folder: Place) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        InputError: it can't be read.
        ArtefactError: it is none of noterec's.
    """
    file = folder / MANIFEST
    version = None
    try:
        if isinstance(file, ObjectPath):
            data, version, _ = file.fetch()
        else:
            data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{file}: can't be read: {error.strerror or error}") from error
    record = parse_json(data, file)
    try:
        found = Manifest(
            record["origin"],
            list(record["shards"]),
            dict(record.get("state", {})),
            bool(record.get("replaced", False)),
            version,
        )
        whole = all(_is_name(shard["name"]) and int(shard["rows"]) >= 0 for shard in found.shards)
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ArtefactError(f"{file}: no manifest of noterec's; remove it to have all *.parquet beside it read")
    return found


def write_manifest(folder: Place, manifest: Manifest) -> UpdateVersion | None:
    """Replace the manifest of a folder; in an object store only if it is still of `manifest.version`.

    Returns:
        The version that was written; None in a local folder.

    Raises:
        ConflictError: another job wrote it meanwhile (object stores).
        InputError: it can't be written.
    """
    lines = ",\n".join(  # a shard a line: for people to read, and with the C encoder, which writes no indents
        json.dumps(shard, ensure_ascii=False, default=str) for shard in manifest.shards
    )
    about = {"origin": manifest.origin, "state": manifest.state, **({"replaced": True} if manifest.replaced else {})}
    head = json.dumps(about, ensure_ascii=False, default=str)
    data = (head[:-1] + ', "shards": [' + ("\n" + lines if lines else "") + "]}\n").encode()
    file = folder / MANIFEST
    if not isinstance(file, ObjectPath):
        with atomic_write(file) as out:
            out.write(data)
        return None
    try:
        return file.put_if(data, manifest.version)
    except ConflictError as error:
        raise ConflictError(
            f"{file}: another job has written to this output since this one read it; nothing of theirs was changed. Let one "
            "job write at a time, and run this one again: it goes on from what is there"
        ) from error


def manifest_stamp(folder: Place) -> tuple[int, ...] | None:
    """What changes when a local manifest is replaced; None where there is none, or it is in a store."""
    file = folder / MANIFEST
    if isinstance(file, ObjectPath):
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _is_name(name: str) -> bool:
    """Only ever a file beside the manifest: no path leads out of the folder."""
    return name not in ("", ".", "..") and "/" not in name
