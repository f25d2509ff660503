"""Reads the metadata of GIF files."""

from __future__ import annotations

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = b"GIF8"
HEADER, FRAME, EXTENSION, END = 13, 0x2C, 0x21, 0x3B
CONTROL, COMMENT, TEXT, APPLICATION = 0xF9, 0xFE, 0x01, 0xFF
RESOURCES = b"MGK8BIM0000"  # ImageMagick's block of Photoshop resources
APPLICATIONS = {
    b"NETSCAPE2.0": "",  # repeat count of an animation
    b"ANIMEXTS1.0": "",
    b"ICCRGBG1012": "its colour profile, which GIF readers ignore",
    b"XMP DataXMP": "its XMP",
    b"MGKIPTC0000": "its IPTC",
}


def read(data: bytes) -> RawMetadata:
    """Returns comments and Photoshop resources, also from after the first frame, and notes of all other blocks."""
    stored = RawMetadata()
    try:
        at = HEADER + _colours(data[10])
        while data[at] != END:
            if data[at] == FRAME:
                at = _blocks(data, at + 11 + _colours(data[at + 9]))[0]
            elif data[at] == EXTENSION:
                at = _extension(stored, data, at + 1)
            elif data[at]:
                break
            else:
                at += 1
        stored.note_rest(data[at + (data[at] == END) :])
    except IndexError:  # the file is truncated
        pass
    return stored


def _colours(flags: int) -> int:
    """Returns the size of a colour table in bytes, 0 if the flags say that there is none."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _extension(stored: RawMetadata, data: bytes, at: int) -> int:
    """Stores or notes the extension whose label is at `at`; returns the offset of its end."""
    label = data[at]
    end, blocks = _blocks(data, at + 1)
    if label == COMMENT:
        stored.comments.append(b"".join(blocks))
    elif label == APPLICATION:
        name = blocks[0] if blocks else b""
        if name == RESOURCES:
            stored.resources += b"".join(blocks[1:])
        elif words := APPLICATIONS.get(name, f"the block {name.decode('latin-1')}"):
            stored.note(words)
    elif label != CONTROL:
        stored.note("its text" if label == TEXT else f"the block {label}")
    return end


def _blocks(data: bytes, at: int) -> tuple[int, list[bytes]]:
    """Returns the offset of the end of the sub-blocks that begin at `at`, and their contents."""
    found = []
    while length := data[at]:
        found.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return at + 1, found
