"""Sha256 of records and files; that of a big one is remembered, so that a checkpoint of gigabytes is read once."""

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

BIG = 4 * 2**20  # below this reading the file costs no more than looking it up
CHUNK = 2**20


def of_record(record: Mapping[str, Any]) -> str:
    """Sha256 (hex) of the record's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_bytes(data: bytes) -> str:
    """Sha256 (hex) of what a file holds, or will."""
    return hashlib.sha256(data).hexdigest()


def of_content(path: Path) -> str:
    """Sha256 (hex) of a file's content, read now. Raises OSError."""
    total = hashlib.sha256()
    with paths.open_to_read(path) as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def of_file(path: Path, memo: Path) -> str:
    """Sha256 (hex) of a file's content, from `memo` where the file has not changed since it was read.

    The folder `memo` holds one small file for each path, replaced whole: any number of processes may use it.
    Raises OSError where `path` cannot be read.
    """
    before = _identity(path)
    if path.stat().st_size < BIG:
        return of_content(path)
    note = memo / hashlib.sha256(str(files.resolved(path)).encode()).hexdigest()
    if known := _recall(note, before):
        return known
    digest = of_content(path)
    if _identity(path) == before:  # it did not change while it was read
        with contextlib.suppress(OSError, OutputError):  # what is not remembered is read again
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
    """Tells a damaged note from a whole one."""
    return hashlib.sha256(f"{identity} {digest}".encode()).hexdigest()[:16]
