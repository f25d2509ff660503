"""Metadata that an edited picture keeps of its input, and diffedit's record of how the picture was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin

from diffedit_cli.images import exif, jpeg, photoshop, png, xmp_packets
from diffedit_cli.images.exif import Directory
from diffedit_cli.images.raw_metadata import RawMetadata
from diffedit_cli.storage import records, seals

RECORD_TAG = 0x9213  # ImageHistory: holds the record, except in a PNG's text chunk and a GIF's comment
XMP_TAG, IPTC_TAG, RESOURCES_TAG, PROFILE_TAG, LAYERS_TAG, CREDENTIALS_TAG = 700, 33723, 34377, 34675, 37724, 52545
ORIENTATION = ExifTags.Base.Orientation.value
RESOLUTION_TAGS = (ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit)
INCHES = {2: 1.0, 3: 2.54}
# Tags on the layout of the pixels in a TIFF input, which do not hold for the output.
LAYOUT_TAGS = (
    *range(254, 267),
    273,
    277,
    278,
    279,
    284,
    *range(290, 294),
    317,
    *range(320, 342),
    347,
    *range(512, 533),
)
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
SAID = {LAYERS_TAG: "Photoshop's layers", CREDENTIALS_TAG: "its content credentials", RECORD_TAG: "its ImageHistory"}
WHOLE = "EXIF"  # in place of the names of tags if the whole block cannot be read
NAMED = 30  # most names listed for one reason
EXIF_MARK = b"Exif\0\0"
# What formats hold: those not named here hold EXIF, XMP and a colour profile.
HOLD_OF_BMP = ("dpi", "icc_profile")
HOLDERS = {"texts": ("PNG",), "resources": ("JPEG", "TIFF"), "iptc": ("JPEG", "TIFF"), "comments": ("JPEG", "PNG")}
HOLD_DPI, HOLD_NUMBERED_COLOURS = ("PNG", "JPEG", "TIFF", "BMP"), ("PNG", "AVIF", "HEIF")
OF_CODING = ("coding", "colours", "cicp", "stated", "unconverted")
OF_LOOKS = ("icc_profile", "dpi", *OF_CODING)


@dataclass(frozen=True)
class Metadata:
    """Metadata to be written with an edited picture, whose pixels are upright."""

    exif: bytes = b""  # without orientation and without the parts below
    xmp: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    coding: Mapping[str, Any] = field(default_factory=dict)  # encoder settings, for a file of the same format
    texts: tuple[png.Chunk, ...] = ()
    resources: bytes = b""  # Photoshop resources, IPTC among them
    iptc: bytes = b""  # from a TIFF that has it outside Photoshop resources
    comments: tuple[bytes, ...] = ()
    colours: tuple[png.Chunk, ...] = ()  # a PNG's colour chunks, in place of a profile
    cicp: tuple[int, int] | None = None  # ITU-T H.273 code points, in place of a profile
    stated: bytes = b""  # a profile equal to the two above, for formats that hold neither
    unconverted: str = ""  # description of `colours` or `cicp` if no profile can express them
    left_out: tuple[str, ...] = ()  # descriptions of what an edited picture loses

    def directory(self, record: Mapping[str, Any] | None = None) -> Directory:
        """Returns the EXIF as a directory that may be changed, with the record, if any."""
        directory = exif.read(self.exif.removeprefix(EXIF_MARK))[0] if self.exif else Directory()
        if record is not None:
            directory.put_text(RECORD_TAG, seals.text_with_room(record))
        return directory

    def strip_metadata(self) -> Metadata:
        """Returns only what affects how the picture looks: colours and resolution, which some formats have in EXIF."""
        whole = self.directory()
        kept = Directory(whole.order, {tag: whole.values[tag] for tag in RESOLUTION_TAGS if tag in whole.values})
        return Metadata(exif_block(kept), **{name: getattr(self, name) for name in OF_LOOKS})

    def without(self, part: str, words: str) -> Metadata:
        """Returns a copy without a part, which `words` describes among what is left out."""
        nothing: dict[str, Any] = {part: getattr(Metadata(), part)}
        return replace(self, left_out=(*self.left_out, words), **nothing)

    def for_format(self, chosen: str) -> Metadata:
        """Returns the metadata that format `chosen` can hold; descriptions of the rest are added to `left_out`."""
        fit = self._with_room() if chosen == "JPEG" and len(self.exif) > jpeg.LONGEST else self
        for part, words in self.parts().items():
            holders = HOLDERS.get(part)
            if (holders and chosen not in holders) or (chosen == "BMP" and part not in HOLD_OF_BMP):
                fit = fit.without(part, words)
        if self.unconverted and chosen not in HOLD_NUMBERED_COLOURS:
            fit = fit.without("unconverted", f"its colour description ({self.unconverted})")
        return fit

    def _with_room(self) -> Metadata:
        """Returns a copy with EXIF shortened to fit into one JPEG segment."""
        directory = self.directory()
        names = exif.shorten(directory, jpeg.LONGEST - len(EXIF_MARK))
        words = f"of its EXIF {in_words(names)}, for which JPEG has no room"
        return replace(self, exif=exif_block(directory), left_out=(*self.left_out, words))

    def parts(self) -> dict[str, str]:
        """Returns the names of the parts that are present, with their descriptions."""
        keys = [png.key(body) for kind, body in self.texts if kind in png.TEXTS]
        others = [f"the chunk {png.name(kind)}" for kind, _ in self.texts if kind not in png.TEXTS]
        texts = ", ".join([f"the text {in_words(keys)}"] * bool(keys) + ([in_words(others)] if others else []))
        words = {"icc_profile": "its colour profile", "dpi": "its resolution", "exif": "its EXIF", "xmp": "its XMP"}
        words |= {"texts": texts, "resources": "its IPTC and other Photoshop resources", "iptc": "its IPTC"}
        return {part: words for part, words in {**words, "comments": "its comment"}.items() if getattr(self, part)}

    def profile(self, chosen: str) -> bytes:
        """Returns the ICC profile to embed in format `chosen`."""
        numbered = chosen == "PNG" or (chosen in HOLD_NUMBERED_COLOURS and self.cicp)
        return self.icc_profile if numbered else self.stated or self.icc_profile

    def packet(self, record: Mapping[str, Any] | None) -> bytes:
        """Returns the XMP; for an edited picture it states that a model made part of the picture."""
        if record is None or record.get("kind") != "edit":
            return self.xmp
        try:
            return xmp_packets.mark_generated(self.xmp)
        except ValueError:  # the packet has no place for the statement
            return self.xmp

    def chunks(self, record: Mapping[str, Any] | None) -> list[png.Chunk]:
        """Returns the metadata as PNG chunks."""
        cicp = [(b"cICP", bytes([*self.cicp, 0, 1]))] if self.cicp and max(self.cicp) < 256 else []
        chunks = list(self.colours or cicp)
        chunks += [png.profile(self.icc_profile)] if self.icc_profile else []
        chunks += [png.resolution(self.dpi)] if self.dpi else []
        chunks += [(b"eXIf", self.exif.removeprefix(EXIF_MARK))] if self.exif else []
        xmp = self.packet(record)
        chunks += [png.packet(xmp)] if xmp else []
        chunks += self.texts
        chunks += [png.text("Comment", text.decode("latin-1")) for text in self.comments]
        return chunks + ([png_record(record)] if record is not None else [])

    def tags(self, record: Mapping[str, Any] | None) -> Directory:
        """Returns the metadata as TIFF tags, in little-endian order."""
        directory = exif.reorder(self.directory(record), "<")
        blocks = {RESOURCES_TAG: self.resources, IPTC_TAG: self.iptc, PROFILE_TAG: self.profile("TIFF")}
        for tag, data in blocks.items():
            if data:
                directory.put_bytes(tag, data)
        if xmp := self.packet(record):
            directory.put_bytes(XMP_TAG, xmp, exif.BYTE)
        if self.dpi:
            _put_resolution(directory, self.dpi)
        return directory

    def options(self, chosen: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns Pillow's `save` arguments for format `chosen`; none for PNG (see `chunks`) and TIFF (see `tags`)."""
        if chosen in ("PNG", "TIFF"):
            return {}
        options: dict[str, Any] = {"dpi": self.dpi} if self.dpi and chosen in HOLD_DPI else {}
        if chosen == "BMP":
            return options
        directory = self.directory(record)
        if chosen == "JPEG":
            options |= self._segments(record, directory)
        elif self.dpi and not directory.numbers(RESOLUTION_TAGS[0]):
            _put_resolution(directory, self.dpi)
        xmp, profile = self.packet(record), self.profile(chosen)
        options |= {"xmp": xmp} if xmp else {}
        options |= {"icc_profile": profile} if profile else {}
        if chosen == "HEIF" and self.cicp:
            options |= {"color_primaries": self.cicp[0], "transfer_characteristics": self.cicp[1]}
        return options | ({"exif": exif_block(directory)} if directory else {})

    def _segments(self, record: Mapping[str, Any] | None, directory: Directory) -> dict[str, Any]:
        """Returns JPEG segments that Pillow does not write; a record too long for the EXIF segment is a comment."""
        own = b"" if photoshop.holds_iptc(self.resources) or not self.iptc else photoshop.block(0x0404, self.iptc)
        extra = jpeg.resources(self.resources + own) + jpeg.comments(self.comments)
        options: dict[str, Any] = {"extra": extra} if extra else {}
        if record is not None and len(exif_block(directory)) > jpeg.LONGEST:
            text = directory.values.pop(RECORD_TAG).data[:-1]
            options |= {"comment": text} if len(text) <= jpeg.LONGEST else {}
        return options


def in_words(names: Iterable[str]) -> str:
    """Joins the first NAMED names, without duplicates, and the number of further ones: a file may hold any number."""
    once = list(dict.fromkeys(names))
    more = [f"and {len(once) - NAMED} more"] if len(once) > NAMED else []
    return ", ".join([*once[:NAMED], *more])


def exif_block(directory: Directory) -> bytes:
    """Returns the EXIF block as files other than TIFF store it, empty for an empty directory."""
    return EXIF_MARK + exif.encode(directory) if directory else b""


def _put_resolution(directory: Directory, dpi: tuple[float, float]) -> None:
    for tag, value in zip(RESOLUTION_TAGS, dpi, strict=False):
        directory.put(tag, exif.RATIONAL, min(round(value * 1000), 2**32 - 1), 1000)
    directory.put(RESOLUTION_TAGS[2], exif.SHORT, 2)


def directory_of(image: Image.Image, stored: RawMetadata, data: bytes | None) -> tuple[Directory, list[str]]:
    """Returns a picture's EXIF and the names of unreadable tags; `data` is the picture's file, if at hand."""
    if image.format == "TIFF":
        block = data or image.getexif().tobytes()
    else:
        block = stored.exif or image.info.get("exif") or b""
    if isinstance(block, str) or not block:
        return Directory(), []
    while block.startswith(EXIF_MARK):
        block = block.removeprefix(EXIF_MARK)
    try:
        return exif.read(block)
    except ValueError:
        return Directory(), [WHOLE]


def orientation(directory: Directory) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) if missing or invalid."""
    said = directory.numbers(ORIENTATION)
    return int(said[0]) if len(said) == 1 and said[0] in range(1, 9) else 1


def read(
    image: Image.Image, stored: RawMetadata, directory: Directory, lost: Sequence[str], size: tuple[int, int]
) -> Metadata:
    """Returns the metadata of a picture of upright size `size`; `directory` and `lost` come from `directory_of`."""
    info, turned = image.info, orientation(directory)
    unread = "its EXIF" if WHOLE in lost else f"of its EXIF {in_words(lost)}"
    left_out = [f"{unread}, which cannot be read"] if lost else []
    beside = {tag: directory.values.get(tag, exif.Value(0, 0, b"")).data for tag in (XMP_TAG, IPTC_TAG, RESOURCES_TAG)}
    xmp = stored.xmp or beside[XMP_TAG] or info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if _parsed(directory.text(RECORD_TAG)):  # of an earlier edit: does not describe this one
        del directory.values[RECORD_TAG]
    left_out += [words for tag, words in SAID.items() if tag in directory.values]
    dpi = _resolution(stored, info, directory)
    if dpi and turned in SIDEWAYS:
        dpi = dpi[::-1]
        _put_resolution(directory, dpi)
    for tag in (ORIENTATION, *beside, PROFILE_TAG, *LAYOUT_TAGS, *SAID):
        directory.values.pop(tag, None)
        directory.inner.pop(tag, None)
    left_out += exif.upright(directory, size, turned != 1)
    xmp, more = _packet(xmp.encode() if isinstance(xmp, str) else bytes(xmp), size, turned != 1)
    icc_profile = stored.icc_profile or bytes(info.get("icc_profile") or b"")
    there = {"EXIF": directory, "XMP": xmp, "colour profile": icc_profile}
    elsewhere = [name for name, block in there.items() if block]
    resources, lost_resources = photoshop.clean(
        bytes(stored.resources) or beside[RESOURCES_TAG], turned != 1, elsewhere
    )
    comment = info.get("comment", b"")
    comments = stored.comments or [comment.encode() if isinstance(comment, str) else bytes(comment or b"")]
    coding: dict[str, Any] = {"chroma": info["chroma"]} if "chroma" in info else {}
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        coding = _jpeg_coding(image, turned in SIDEWAYS)
    return Metadata(
        exif_block(directory),
        xmp,
        icc_profile,
        dpi,
        coding,
        tuple(chunk for chunk in stored.texts if not _is_record(chunk)),
        resources,
        beside[IPTC_TAG],
        tuple(text for text in comments if text and not _parsed(text)),
        tuple(stored.colours),
        stored.cicp,
        left_out=tuple(dict.fromkeys([*stored.left_out, *left_out, *more, *lost_resources])),
    )


def _resolution(stored: RawMetadata, info: Mapping[Any, Any], directory: Directory) -> tuple[float, float] | None:
    """Returns the resolution in dots per inch, or None if missing or not plausible."""
    across, down, unit = (directory.numbers(tag)[:1] for tag in RESOLUTION_TAGS)
    inch = INCHES.get(int(unit[0]) if unit else 2)
    said = (across[0] * inch, down[0] * inch) if across and down and inch else info.get("dpi")
    dpi = stored.dpi or said
    try:
        return dpi if dpi and all(0 < value < 2**22 for value in dpi) else None
    except TypeError:  # a TIFF that has text in place of numbers
        return None


def _packet(xmp: bytes, size: tuple[int, int], turned: bool) -> tuple[bytes, list[str]]:
    """Returns the XMP that holds for the edited picture, and descriptions of what is left out."""
    try:
        return xmp_packets.clean(xmp, size, turned) if xmp.strip(b"\0") else (b"", [])
    except ValueError as error:
        return b"", [f"XMP that cannot be read ({error})"]


def _is_record(chunk: png.Chunk) -> bool:
    kind, body = chunk
    return kind == b"tEXt" and png.key(body) == records.KEY and _parsed(_text_of(body)) is not None


def _text_of(body: bytes) -> str:
    return body.partition(b"\0")[2].decode("latin-1")


def _jpeg_coding(image: JpegImagePlugin.JpegImageFile, turned: bool) -> dict[str, Any]:
    """Returns the input's quantisation tables and subsampling, adapted for the least loss if `turned` sideways."""
    stored, sampling = image.quantization, JpegImagePlugin.get_sampling(image)
    numbers = [layer[3] for layer in image.layer]
    if not numbers or not all(number in stored for number in numbers):
        return {}  # a lossless JPEG
    tables = [stored[numbers[0]]]
    others = [stored[number] for number in dict.fromkeys(numbers[1:3])]  # of chroma, for which Pillow takes one table
    tables += [[min(values) for values in zip(*others, strict=True)]] if others else []
    if turned:
        tables = [[table[at % 8 * 8 + at // 8] for at in range(64)] for table in tables]
    # Pillow writes only the horizontal kind of 4:2:2, and no rarer sampling
    if image.mode in ("RGB", "YCbCr") and (sampling == -1 or (sampling == 1 and turned)):
        sampling = 0
    return {"qtables": tables, "subsampling": sampling}


def png_record(record: Mapping[str, Any]) -> png.Chunk:
    """Returns a PNG text chunk that holds the record."""
    return png.text(records.KEY, seals.text_with_room(record))


def record_in(image: Image.Image, directory: Directory, stored: RawMetadata) -> dict[str, Any] | None:
    """Returns diffedit's record in the picture's text chunks, comments or EXIF, or None."""
    found = record_among(body for kind, body in stored.texts if kind == b"tEXt")
    said = [image.info.get(records.KEY), *stored.comments, image.info.get("comment"), directory.text(RECORD_TAG)]
    return found or next(filter(None, map(_parsed, said)), None)


def record_among(texts: Iterable[bytes]) -> dict[str, Any] | None:
    """Returns the record in the contents of PNG text chunks, or None."""
    return next(filter(None, (_parsed(_text_of(body)) for body in texts if png.key(body) == records.KEY)), None)


def peek(image: Image.Image) -> tuple[Directory, RawMetadata]:
    """Returns the parts of an opened picture's metadata that can hold a record, without reading the pixels."""
    directory, said = Directory(), image.getexif().get(RECORD_TAG)
    if isinstance(said, str):
        directory.put_text(RECORD_TAG, said)
    comments = [body for kind, body in getattr(image, "applist", ()) if kind == "COM"]
    return directory, RawMetadata(comments=comments)


def _parsed(text: Any) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    if not records.is_sound(record) or record.get("tool") != records.KEY:
        return None
    return {name: value for name, value in record.items() if name != seals.KEY}
