"""What lies in a picture's file beside the pixels, as it is stored there, whatever the format."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

MOST = 2**26  # bytes that a file's compressed metadata may unpack to
NOTES = 50  # on what is left out: a stranger's file may have any number of odd parts
PADDING = b"\0\xff\t\r\n "
CALLED = {"exif": "EXIF block", "xmp": "XMP packet", "icc_profile": "colour profile"}


@dataclass
class RawMetadata:
    """All parts are bytes without the marks that a format puts around them; what is not there is empty."""

    exif: bytes = b""
    xmp: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)  # kinds and contents of a PNG's other chunks
    colours: list[tuple[bytes, bytes]] = field(default_factory=list)  # those of its chunks that say what colours are
    cicp: tuple[int, int] | None = None  # primaries and transfer characteristics, by ITU-T H.273
    resources: bytearray = field(default_factory=bytearray)  # Photoshop's, one after the other
    comments: list[bytes] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # what an edited picture does not have, in words
    several: bool = False  # whether there are more pictures in the file
    room: int = MOST  # bytes that may still be unpacked

    def note(self, words: str) -> None:
        """Something that an edited picture does not have."""
        words = words if len(self.left_out) < NOTES else "more of the kind"
        if words not in self.left_out:
            self.left_out.append(words)

    def note_rest(self, rest: bytes) -> None:
        """What lies behind the picture, unless it only fills the file up."""
        if rest.strip(PADDING):
            self.note(f"{len(rest)} bytes behind the picture")

    def put(self, part: str, block: bytes) -> None:
        """A part of which a file should have one: the first counts, and others that say something else are left out."""
        before: bytes = getattr(self, part)
        if not before:
            setattr(self, part, block)
        elif block.rstrip(b"\0") not in (b"", before.rstrip(b"\0")):
            self.note(f"another {CALLED[part]}")

    def unpacked(self, data: bytes) -> bytes:
        """Inflated. Raises ValueError for what is damaged, or more than there is room for."""
        if self.room <= 0:
            raise ValueError(f"all unpacks to more than {MOST >> 20} MB")
        stream = zlib.decompressobj()
        try:
            result = stream.decompress(data, self.room)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        self.room -= len(result)
        if stream.unconsumed_tail:
            raise ValueError(f"all unpacks to more than {MOST >> 20} MB")
        if not stream.eof:
            raise ValueError("it is cut")
        return result
