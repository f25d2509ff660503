"""Edits XMP packets: cuts out what does not hold for an edited picture; all else stays byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
GOOGLE, ADOBE, EXTENSIONS = "http://ns.google.com/photos/1.0/", "http://ns.adobe.com/", "Iptc4xmpExt"
TIFF, EXIF, XMP = f"{ADOBE}tiff/1.0/", f"{ADOBE}exif/1.0/", f"{ADOBE}xap/1.0/"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MADE_WITH_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SOURCE_TYPE = "DigitalSourceType"
# Namespaces of prefixes that a packet uses without declaring them.
USUAL = {"tiff": TIFF, "exif": EXIF, "xmp": XMP, "xap": XMP, "rdf": RDF, EXTENSIONS: IPTC, "xmpGImg": f"{XMP}g/img/"}
USUAL |= {"hdrgm": f"{ADOBE}hdr-gain-map/1.0/", "xmpNote": f"{ADOBE}xmp/note/", "GCamera": f"{GOOGLE}camera/"}
USUAL |= {"Container": f"{GOOGLE}container/", "GContainer": f"{GOOGLE}container/", "Item": f"{GOOGLE}container/item/"}
# Namespaces that describe other contents of the file or how the picture looked, with their name in messages, if any.
OUTDATED = {
    f"{ADOBE}hdr-gain-map/1.0/": "its gain map",
    "http://ns.apple.com/HDRGainMap/1.0/": "its gain map",
    f"{GOOGLE}container/": "",
    f"{GOOGLE}container/item/": "",
    f"{GOOGLE}depthmap/": "its depth map",
    f"{GOOGLE}image/": "the picture within its XMP",
    f"{XMP}g/img/": "",  # thumbnails
}
OUTDATED_NAMES = {
    (XMP, "Thumbnails"): "",
    (f"{ADOBE}xmp/note/", "HasExtendedXMP"): "its extended XMP",
    ("http://purl.org/dc/terms/", "provenance"): "",  # content credentials
}
OUTDATED_STARTS = {(f"{GOOGLE}camera/", "MotionPhoto"): "its video", (f"{GOOGLE}camera/", "MicroVideo"): "its video"}
PLACES = {
    ("http://www.metadataworkinggroup.com/schemas/regions/", "Regions"),
    ("http://ns.microsoft.com/photo/1.2/", "RegionInfo"),
    (IPTC, "ImageRegion"),
    (EXIF, "SubjectArea"),
    (EXIF, "SubjectLocation"),
}
PLACES_CALLED = "its marked regions, since the pixels were rotated upright"
TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*("[^"]*"|'[^']*')""")

MOST = 2**17  # most elements and attributes: a file with more costs seconds and hundreds of MB

Name = tuple[str, str]  # namespace and local name
Span = tuple[int, int]


@dataclass
class _Walk:
    """A parser of a packet that collects the byte spans to cut out, with their replacements."""

    data: bytes
    outdated: Callable[[Name], str | None]
    values: dict[Name, bytes]
    changes: list[tuple[Span, bytes]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    open: list[tuple[Name, Span, list[str]]] = field(default_factory=list)  # name, span of tag, prefixes declared
    spaces: dict[str, list[str]] = field(default_factory=dict)  # namespaces by prefix, the innermost last
    about: bytes | None = None  # rdf:about of the first description
    named: int = 0

    def start(self, name: str, attributes: list[str]) -> None:
        self.named += 1 + len(attributes) // 2
        if self.named > MOST:
            raise ValueError(f"it has more than {MOST} elements and attributes")
        tag = TAG.match(self.data, self.parser.CurrentByteIndex)
        if tag is None:
            raise ValueError("one of its tags cannot be located")
        declared = list[str]()
        for found in ATTRIBUTE.finditer(tag[0]) if b"xmlns:" in tag[0] else ():
            if found[1].startswith(b"xmlns:"):
                declared.append(found[1][6:].decode())
                self.spaces.setdefault(declared[-1], []).append(found[2][1:-1].decode())
        self.open.append((self._named(name), tag.span(), declared))
        for found in ATTRIBUTE.finditer(tag[0]):
            self._attribute(tag.start(), found[1].decode(), found)

    def _attribute(self, tag: int, key: str, found: re.Match[bytes]) -> None:
        name = self._named(key)
        if key.startswith("xmlns:"):
            if self.spaces[key[6:]][-1] in OUTDATED:
                self._change(tag, found.span(), b"")
        elif (called := self.outdated(name)) is not None:
            self._change(tag, found.span(), b"", called)
        elif (value := self.values.get(name)) is not None:
            self._change(tag + 1, (found.start(2), found.end(2) - 2), value)
        elif name == (RDF, "about") and self.about is None:
            self.about = found[2][1:-1].replace(b'"', b"&quot;")

    def _named(self, name: str) -> Name:
        prefix, _, local = name.rpartition(":")
        declared = self.spaces.get(prefix)
        return declared[-1] if declared else USUAL.get(prefix, prefix), local

    def end(self, _: str) -> None:
        name, (start, tag_end), declared = self.open.pop()
        for prefix in declared:
            self.spaces[prefix].pop()
        empty = self.data[tag_end - 2 : tag_end] == b"/>"
        inside_end = self.parser.CurrentByteIndex
        end = tag_end if empty else self.data.index(b">", inside_end) + 1
        if (called := self.outdated(name)) is not None:
            self._change(0, (start, end), b"", called)
        elif not empty and name in self.values and self.data.find(b"<", tag_end, inside_end) < 0:
            self._change(0, (tag_end, inside_end), self.values[name])

    def _change(self, offset: int, span: Span, put_in: bytes, called: str = "") -> None:
        self.changes.append(((offset + span[0], offset + span[1]), put_in))
        if called and called not in self.left_out:
            self.left_out.append(called)

    def __post_init__(self) -> None:
        self.parser = expat.ParserCreate("UTF-8")
        self.parser.ordered_attributes = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self.start, self.end
        self.parser.StartDoctypeDeclHandler = _refuse

    def changed(self) -> bytes:
        """Parses the packet and returns it with all changes. Raises ValueError if it is not XML."""
        try:
            self.parser.Parse(self.data, True)
        except expat.ExpatError as error:
            raise ValueError(str(error)) from error
        parts, at = [], 0
        for (start, end), put_in in sorted(self.changes, key=lambda change: (change[0][0], -change[0][1])):
            if start >= at:  # else it lies within a span already cut
                parts += [self.data[at:start], put_in]
                at = end
        return b"".join([*parts, self.data[at:]])


def _refuse(*_: object) -> None:
    raise ValueError("it declares a document type, which XMP does not allow")


def _bytes(packet: bytes) -> bytes:
    """Returns the packet in UTF-8, without padding. Raises ValueError if it cannot be decoded."""
    packet = packet.rstrip(b"\0")
    return packet.decode("utf-16").encode() if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else packet


def clean(packet: bytes, size: tuple[int, int], turned: bool) -> tuple[bytes, list[str]]:
    """Returns the packet as it holds for an edited, upright picture of `size`, and descriptions of what was left out.

    `turned` is whether the pixels were turned upright, so that marked places no longer hold. Raises ValueError if the
    packet is not XML.
    """

    def outdated(name: Name) -> str | None:
        for (space, start), words in OUTDATED_STARTS.items():
            if name[0] == space and name[1].startswith(start):
                return words
        if turned and name in PLACES:
            return PLACES_CALLED
        return OUTDATED.get(name[0], OUTDATED_NAMES.get(name))

    width, height = (str(side).encode() for side in size)
    values = {(TIFF, "Orientation"): b"1", (TIFF, "ImageWidth"): width, (TIFF, "ImageLength"): height}
    values |= {(EXIF, "PixelXDimension"): width, (EXIF, "PixelYDimension"): height}
    walk = _Walk(_bytes(packet), outdated, values)
    return walk.changed(), walk.left_out


def mark_generated(packet: bytes) -> bytes:
    """Returns the packet with IPTC's Digital Source Type, which states that a model made part of the picture.

    An empty packet yields a new one. Raises ValueError if the packet is not XML or has no place for the statement.
    """
    source_type = f'xmlns:{EXTENSIONS}="{IPTC}" {EXTENSIONS}:{SOURCE_TYPE}="{MADE_WITH_A_MODEL}"'
    said = f'<rdf:Description rdf:about="%s" {source_type}/>'
    if not packet:
        head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        return (head + _rdf(said % "") + '</x:xmpmeta><?xpacket end="w"?>').encode()
    walk = _Walk(_bytes(packet), lambda name: "" if name == (IPTC, SOURCE_TYPE) else None, {})
    packet = walk.changed()
    element = said % (walk.about or b"").decode()
    if (end := packet.rfind(b"</rdf:RDF>")) < 0:
        element, end = _rdf(element), packet.rfind(b"</")
    if end < 0:
        raise ValueError("it is empty")
    return packet[:end] + element.encode() + packet[end:]


def _rdf(element: str) -> str:
    return f'<rdf:RDF xmlns:rdf="{RDF}">{element}</rdf:RDF>'
