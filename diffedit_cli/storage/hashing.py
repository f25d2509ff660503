"""SHA-256 of records and files. Digests of large files are stored, so that a checkpoint of gigabytes is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffedit_cli.errors import OutputError
from diffedit_cli.storage import files, paths
from diffedit_cli.storage.cache import Cache

BIG = 4 * 2**20  # bytes; reading a smaller file costs no more than looking up its digest
CHUNK = 2**20


def of_record(record: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of the record's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_bytes(data: bytes) -> str:
    """Returns the SHA-256 (hex) of the content of a file, or of a file to be written."""
    return hashlib.sha256(data).hexdigest()


def of_content(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file's content, which is always read. Raises OSError."""
    total = hashlib.sha256()
    with paths.open_to_read(path) as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def of_file(path: Path, memo: Path) -> str:
    """Returns the SHA-256 (hex) of a file's content, from `memo` if the file has not changed since it was read.

    The folder `memo` holds one small file per path, replaced as a whole, so any number of processes may use it. Files
    smaller than BIG are always read. Raises OSError if `path` cannot be read.
    """
    before = _identity(path)
    if path.stat().st_size < BIG:
        return of_content(path)
    note = memo / hashlib.sha256(str(files.resolve(path)).encode()).hexdigest()
    if known := _recall(note, before):
        return known
    digest = of_content(path)
    if _identity(path) == before:  # the file did not change while it was read
        with contextlib.suppress(OSError, OutputError):  # without a note the file is read again
            Cache(memo.parent).put(note, f"{before} {digest} {_seal(before, digest)}".encode())
    return digest


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _recall(note: Path, identity: str) -> str | None:
    try:
        found, digest, seal = paths.read(note).decode("ascii").rsplit(" ", 2)
    except (OSError, ValueError):
        return None
    return digest if found == identity and seal == _seal(found, digest) else None


def _seal(identity: str, digest: str) -> str:
    """Returns a short checksum by which a damaged note is detected."""
    return hashlib.sha256(f"{identity} {digest}".encode()).hexdigest()[:16]
