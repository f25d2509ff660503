"""What lies in a picture's file beside the pixels: EXIF, XMP, colour profile, resolution, and how diffedit made it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from diffedit_cli import seals

RECORD_KEY = "diffedit"  # of the PNG text chunk; GIF has a comment, other formats EXIF's ImageHistory
RECORD_TAG = 0x9213  # ImageHistory
RECORDED_PARTS, RECORDED_LISTS = ("mask", "latents", "edit"), ("lora", "embedding", "size")
XMP_TAG, PROFILE_TAG = 700, 34675
ORIENTATION_IN_XMP = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["']))[0-9]""")
RESOLUTION_TAGS = (ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit)
INNER_TABLES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# How the pixels lay in a TIFF that the picture came from: not how they lie in ours. The last are Photoshop's layers.
LAYOUT_TAGS = (
    *range(254, 267), 273, 277, 278, 279, 284, *range(290, 294), 317, *range(320, 342), 347, *range(512, 533), 37724,
)  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """What goes back into the file with an edited picture, which lies upright."""

    exif: bytes = b""  # without orientation, and without the parts below
    xmp: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    coding: Mapping[str, Any] = field(default_factory=dict)  # of the pixels, for a file of the same format

    def directory(self, record: Mapping[str, Any] | None = None) -> Image.Exif:
        """A copy of the EXIF that may be changed, with the record if there is one."""
        exif = Image.Exif()
        exif.load(self.exif)
        if record is not None:
            exif[RECORD_TAG] = seals.told(record)
        return exif

    def stripped(self) -> Metadata:
        """What of it says how the picture looks: colour profile and resolution, which some formats have in EXIF."""
        kept, whole = Image.Exif(), self.directory()
        for tag in RESOLUTION_TAGS:
            if tag in whole:
                kept[tag] = whole[tag]
        return replace(self, exif=kept.tobytes() if len(kept) else b"", xmp=b"")

    def options(self, chosen: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
        """For Pillow's `save` in format `chosen`."""
        options: dict[str, Any] = {"dpi": self.dpi} if self.dpi else {}
        if chosen == "BMP":
            return options
        options |= {"icc_profile": self.icc_profile} if self.icc_profile else {}
        exif = self.directory(None if chosen == "PNG" else record)
        if chosen == "PNG":
            options["pnginfo"] = png_record(record)
            if self.xmp:
                options["pnginfo"].add_itxt("XML:com.adobe.xmp", self.xmp.decode(errors="replace"))
        elif chosen == "TIFF" and self.xmp:
            exif[XMP_TAG] = self.xmp
        elif self.xmp:
            options["xmp"] = self.xmp
        if len(exif):
            options["exif"] = exif if chosen == "TIFF" else exif.tobytes()
        return options


def read(image: Image.Image) -> Metadata:
    """Of a picture that is, or will be, turned upright."""
    exif, info = image.getexif(), image.info
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    if _parsed(exif.get(RECORD_TAG)):  # of an earlier edit: it does not tell how this one is made
        del exif[RECORD_TAG]
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    for tag in (ExifTags.Base.Orientation, XMP_TAG, PROFILE_TAG, *LAYOUT_TAGS):
        exif.pop(tag, None)
    coding: dict[str, Any] = {"chroma": info["chroma"]} if "chroma" in info else {}
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        coding = _jpeg_coding(image, turned)
    return Metadata(
        exif.tobytes() if len(exif) else b"",
        ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp),
        bytes(info.get("icc_profile") or b""),
        info.get("dpi"),
        coding,
    )


def _jpeg_coding(image: JpegImagePlugin.JpegImageFile, turned: bool) -> dict[str, Any]:
    """Quantisation tables and subsampling that lose least once the picture lies on its side, if it does."""
    tables, sampling = image.quantization, JpegImagePlugin.get_sampling(image)
    if turned:
        tables = {number: [table[at % 8 * 8 + at // 8] for at in range(64)] for number, table in tables.items()}
    # Pillow writes 4:2:2 lying only, and no rarer sampling at all
    if image.mode in ("RGB", "YCbCr") and (sampling == -1 or (sampling == 1 and turned)):
        sampling = 0
    return {"qtables": tables, "subsampling": sampling}


def png_record(record: Mapping[str, Any] | None) -> PngImagePlugin.PngInfo:
    """A PNG text chunk that holds the record, or nothing."""
    info = PngImagePlugin.PngInfo()
    if record is not None:
        info.add_text(RECORD_KEY, seals.told(record))
    return info


def record_in(image: Image.Image) -> dict[str, Any] | None:
    """How diffedit made the picture, or None."""
    texts = [image.info.get(RECORD_KEY), image.info.get("comment")]
    if image.format != "PNG":  # of which EXIF may stand behind the pixels: all of them would be read
        texts.append(image.getexif().get(RECORD_TAG))
    return next(filter(None, map(_parsed, texts)), None)


def _parsed(text: Any) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    if not is_sound(record) or record.get("tool") != RECORD_KEY:
        return None
    return {name: value for name, value in record.items() if name != seals.KEY}


def is_sound(record: Any) -> bool:
    """Whether it is built like a record of ours; a stranger's file may say anything of itself."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("kind", ""), str)
        and all(isinstance(record.get(part, {}), dict) for part in RECORDED_PARTS)
        and all(isinstance(record.get(name, []), list) for name in RECORDED_LISTS)
    )
