"""A file system `shelf://` for fsspec that separate processes can share: the folder in the variable SHELF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

POISON = "poison.png"  # whoever fetches it dies


class Shelf(DirFileSystem):
    """A folder that behaves like an object store: each object appears complete, by one rename."""

    protocol = "shelf"

    def __init__(self, **options: Any) -> None:
        super().__init__(path=os.environ["SHELF"], fs=LocalFileSystem(auto_mkdir=True), **options)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        if rpath.endswith(POISON):
            os._exit(1)
        super().get_file(rpath, lpath, **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        part = f"{rpath}.{os.getpid()}.part"
        super().put_file(lpath, part, **options)
        Path(self._join(part)).replace(self._join(rpath))


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `shelf://` known to commands started later, as an installed package would; returns the store's folder."""
    package = folder / "package"
    about = package / "shelf-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nshelf = shelf:Shelf\n")
    (package / "shelf.py").write_text(Path(__file__).read_text())
    monkeypatch.setenv("SHELF", str(folder / "shelf"))
    on_path = filter(None, [str(package), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(on_path))
    return folder / "shelf"
