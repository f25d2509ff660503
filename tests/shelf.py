"""A file system for fsspec, `shelf://`, that commands in processes of their own can share: a folder, named by SHELF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class Shelf(DirFileSystem):
    """Whole objects, as in an object store: each appears by one rename."""

    protocol = "shelf"

    def __init__(self, **options: Any) -> None:
        super().__init__(path=os.environ["SHELF"], fs=LocalFileSystem(auto_mkdir=True), **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        part = f"{rpath}.{os.getpid()}.part"
        super().put_file(lpath, part, **options)
        Path(self._join(part)).replace(self._join(rpath))


def install(folder: Path) -> Path:
    """Makes a folder that tells whoever has it on PYTHONPATH of this file system, as an installed package does."""
    about = folder / "shelf-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nshelf = shelf:Shelf\n")
    (folder / "shelf.py").write_text(Path(__file__).read_text())
    return folder
