"""Metadata of a picture's file as stored there, for all formats."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

MOST = 2**26  # most bytes that all compressed metadata of a file may unpack to
NOTES = 50  # most notes of what is left out: a file may hold any number of unknown parts
PADDING = b"\0\xff\t\r\n "
CALLED = {"exif": "EXIF block", "xmp": "XMP packet", "icc_profile": "colour profile"}


@dataclass
class RawMetadata:
    """Metadata blocks without the framing of the file's format; a missing part is empty."""

    exif: bytes = b""
    xmp: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)  # kind and content of a PNG's other chunks
    colours: list[tuple[bytes, bytes]] = field(default_factory=list)  # a PNG's colour chunks
    cicp: tuple[int, int] | None = None  # primaries and transfer characteristics of ITU-T H.273
    resources: bytearray = field(default_factory=bytearray)  # Photoshop's, concatenated
    comments: list[bytes] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # descriptions of what an edited picture loses
    several: bool = False  # whether the file holds more pictures
    room: int = MOST  # remaining bytes to unpack

    def note(self, words: str) -> None:
        """Adds a description of something that an edited picture loses."""
        words = words if len(self.left_out) < NOTES else "more of this kind"
        if words not in self.left_out:
            self.left_out.append(words)

    def note_rest(self, rest: bytes) -> None:
        """Notes the bytes after the picture, unless they are only padding."""
        if rest.strip(PADDING):
            self.note(f"{len(rest)} bytes after the picture")

    def put(self, part: str, block: bytes) -> None:
        """Stores a part that a file should hold once: the first counts, others that differ are noted as left out."""
        before: bytes = getattr(self, part)
        if not before:
            setattr(self, part, block)
        elif block.rstrip(b"\0") not in (b"", before.rstrip(b"\0")):
            self.note(f"another {CALLED[part]}")

    def unpack(self, data: bytes) -> bytes:
        """Returns zlib data unpacked. Raises ValueError if it is damaged, or larger than the remaining room."""
        if self.room <= 0:
            raise ValueError(f"the file's compressed metadata unpacks to more than {MOST >> 20} MB")
        stream = zlib.decompressobj()
        try:
            result = stream.decompress(data, self.room)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        self.room -= len(result)
        if stream.unconsumed_tail:
            raise ValueError(f"the file's compressed metadata unpacks to more than {MOST >> 20} MB")
        if not stream.eof:
            raise ValueError("it is truncated")
        return result
