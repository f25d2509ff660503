"""Generates damaged and hostile pictures, and tests how the program handles each.

Run as a program with a folder, and with a range of seeds for mutations, it reads and writes each picture in one
process of bounded memory, and prints a line of JSON on the outcome.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import icc
import numpy as np
import picture_files
import pillow_heif
from PIL import Image, PngImagePlugin

from diffedit_cli.errors import DiffEditError
from diffedit_cli.images import codecs
from diffedit_cli.images.pictures import compose

pillow_heif.register_heif_opener()
MEMORY = 2 * 2**30  # bytes of address space: more than any of them may take
SUFFIXES = {"HEIF": ".heic", "JPEG": ".jpg", "TIFF": ".tif"}
GIANT = 60_000
WEBP_CANVAS = (GIANT - 1).to_bytes(3, "little")


@functools.cache
def good() -> dict[str, bytes]:
    """Returns a small valid file of each format and kind, with all the metadata that it can hold, by name."""
    kinds = [("PNG", "RGBA", 8), ("PNG", "RGB", 16), ("PNG", "L", 8), ("JPEG", "RGB", 8), ("JPEG", "CMYK", 8)]
    kinds += [("WEBP", "RGBA", 8), ("TIFF", "RGB", 8), ("TIFF", "RGBA", 16), ("TIFF", "CMYK", 8), ("AVIF", "RGB", 8)]
    files = {}
    for kind, mode, bits in kinds:
        pixels = picture_files.stored(mode, bits)
        profile = {"RGB": icc.SRGB, "RGBA": icc.SRGB}.get(mode)
        files[f"{mode}-{bits}{suffix(kind)}"] = picture_files.written(pixels, kind, mode, 6, profile)
    image = picture()
    files["true.bmp"] = saved(image, "BMP")
    files["palette.bmp"] = saved(image.convert("P"), "BMP")
    files["palette.gif"] = saved(image.convert("P"), "GIF", transparency=3)
    return files | {"RGB-8.heic": saved(image, "HEIF", exif=picture_files.exif(6).tobytes(), icc_profile=icc.SRGB)}


def corpus() -> Iterator[tuple[str, bytes]]:
    """Yields name and bytes of every bad file, and of valid files of unusual kinds."""
    whole = good()
    names = list(whole)
    for number, (name, data) in enumerate(whole.items()):
        yield name, data
        yield f"named-wrongly-{number}{Path(names[number - 1]).suffix}", data
        for share in range(5, 100, 5):
            yield f"cut-at-{share:02}-{name}", data[: len(data) * share // 100]
        for seed in range(20):
            yield f"flipped-{seed:02}-{name}", flipped(data, random.Random(f"{seed} {name}"))
    yield from nothings()
    yield from sizes()
    yield from giants(whole)
    yield from bombs()
    yield from several()
    yield from modes()
    yield from broken_metadata(whole)


def nothings() -> Iterator[tuple[str, bytes]]:
    for kind in ("png", "jpg", "webp", "tif", "bmp", "gif", "avif", "heic"):
        yield f"no-bytes.{kind}", b""
        yield f"one-byte.{kind}", b"\x89"
        yield f"zeros.{kind}", bytes(1000)
        yield f"words.{kind}", b"These are words, and no picture.\n"
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def sizes() -> Iterator[tuple[str, bytes]]:
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF"):
        longest = {"WEBP": 16_383, "AVIF": 16_384, "HEIF": 16_384}.get(kind, 20_000)
        for size in ((1, 1), (1, longest), (longest, 1), (2, 3)):
            with contextlib.suppress(RuntimeError):  # HEIC knows no picture of a single pixel
                yield f"{size[0]}-by-{size[1]}{suffix(kind)}", saved(Image.linear_gradient("L").resize(size), kind)


def giants(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yields files whose header states 60,000 x 60,000 pixels or another absurd size, with a small picture's data."""
    size = struct.pack(">II", GIANT, GIANT)
    png = whole["RGBA-8.png"]
    for name, header in {
        "giant": size,
        "none": bytes(8),
        "most": b"\x7f" + b"\xff" * 3 + b"\x7f" + b"\xff" * 3,
    }.items():
        yield f"{name}.png", png[:8] + picture_files.chunk(b"IHDR", header + png[24:29]) + png[33:]
    jpeg = whole["RGB-8.jpg"]
    frame = jpeg.index(b"\xff\xc0") + 5
    yield "giant.jpg", jpeg[:frame] + struct.pack(">HH", GIANT, GIANT) + jpeg[frame + 4 :]
    webp = whole["RGBA-8.webp"]
    yield "giant.webp", webp[:24] + WEBP_CANVAS * 2 + webp[30:]
    bmp = whole["true.bmp"]
    for name, sides in {
        "giant": (GIANT, GIANT),
        "none": (0, 0),
        "upside-down": (20, -GIANT),
        "most": (2**31 - 1,) * 2,
    }.items():
        yield f"{name}.bmp", bmp[:18] + struct.pack("<ii", *sides) + bmp[26:]
    gif = whole["palette.gif"]
    yield "giant.gif", gif[:6] + struct.pack("<HH", GIANT, GIANT) + gif[10:]
    frame = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    yield "giant-frame.gif", gif[: frame + 5] + struct.pack("<HH", GIANT, GIANT) + gif[frame + 9 :]
    for name in ("RGB-8.avif", "RGB-8.heic"):
        data = whole[name]
        at = data.index(b"ispe") + 8
        yield f"giant-{name}", data[:at] + size + data[at + 8 :]
    for bits in (8, 16):
        yield f"giant-{bits}.tif", tiff(GIANT, GIANT, bits=bits)
        yield f"none-{bits}.tif", tiff(0, 0, bits=bits)
        yield f"short-{bits}.tif", tiff(9_000, 9_000, bits=bits)
        yield f"sliver-{bits}.tif", tiff(1, 2**32 - 1, bits=bits)


def tiff(
    width: int,
    height: int,
    *,
    bits: int = 8,
    data: bytes = bytes(64),
    compression: int = 1,
    place: int = 8,
    following: int = 0,
) -> bytes:
    """Returns a grey TIFF of a single strip, or a further page of one at offset `place`."""
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1, 278: height, 279: len(data)}
    tags[273] = place + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + data


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yields decompression bombs: pixels beyond the limit, and text, profile and strips within a small picture."""
    zeros = zlib.compress(bytes(2 * 10**8), 9)
    header = picture_files.chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    end = picture_files.chunk(b"IDAT", zeros) + picture_files.chunk(b"IEND", b"")
    yield "bomb.png", b"\x89PNG\r\n\x1a\n" + header + end
    small = saved(picture(), "PNG")
    for kind, before in {b"zTXt": b"note\0\0", b"iCCP": b"ICC\0\0", b"iTXt": b"note\0\1\0\0\0"}.items():
        chunk = picture_files.chunk(kind, before + zeros)
        yield f"bomb-in-{kind.decode()}.png", small[:33] + chunk + small[33:]
        yield f"bombs-in-{kind.decode()}.png", small[:33] + chunk * 50 + small[33:]
    yield "bomb-in-pixels.png", small[:33] + picture_files.chunk(b"IDAT", zeros) + small[-12:]
    for bits in (8, 16):
        yield f"bomb-{bits}.tif", tiff(20_000, 20_000, bits=bits, data=zeros, compression=8)
        yield f"bomb-in-a-strip-{bits}.tif", tiff(20, 20, bits=bits, data=zeros, compression=8)


def several() -> Iterator[tuple[str, bytes]]:
    """Yields files of several pictures, some with endless or circular references."""
    frames = [picture().rotate(angle) for angle in (0, 90, 180)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        yield f"several{suffix(kind)}", saved(frames[0], kind, save_all=True, append_images=frames[1:])
    gif = saved(Image.new("P", (2, 2)), "GIF")
    first = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    yield "a-million.gif", gif[:first] + gif[first:-1] * 10**6 + b";"
    yield "in-a-circle.tif", tiff(4, 4, following=8)
    length = len(tiff(4, 4)) - 8
    pages = (tiff(4, 4, place=8 + number * length, following=8 + (number + 1) * length) for number in range(50_000))
    yield "many-pages.tif", tiff(4, 4)[:8] + b"".join(page[8:] for page in pages)


def modes() -> Iterator[tuple[str, bytes]]:
    image = picture()
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"):
        for kind in ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF"):
            try:
                through = (
                    image.convert("L").convert("LA" if mode == "PA" else "L") if mode in ("LA", "PA", "I;16") else image
                )
                yield f"mode-{mode.replace(';', '-')}{suffix(kind)}", saved(through.convert(mode), kind)
            except (OSError, ValueError):
                continue  # which the format cannot hold
    for number, transparency in enumerate((0, 255, bytes(range(200)), bytes(256))):
        yield f"transparent-{number}.png", saved(image.convert("P"), "PNG", transparency=transparency)
    short = saved(image.convert("P"), "PNG")
    at = short.index(b"PLTE")
    yield "no-palette.png", short[: at - 4] + short[at + 4 + 768 + 4 :]
    yield "short-palette.png", short[: at - 4] + picture_files.chunk(b"PLTE", bytes(30)) + short[at + 4 + 768 + 4 :]


def broken_metadata(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    circle = b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\0"  # a table that is its own inner table
    many = b"II*\0\x08\0\0\0\1\0\x00\x01\2\0\xff\xff\xff\xff\x08\0\0\0\0\0\0\0"  # a text of 4 GB
    turned = b"II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\xff\xff\0\0\0\0\0\0"  # an orientation that there is not
    worded = b"II*\0\x08\0\0\0\1\0\x12\x01\2\0\4\0\0\0six\0\0\0\0\0"
    several = b"II*\0\x08\0\0\0\1\0\x12\x01\3\0\2\0\0\0\6\0\6\0\0\0\0\0"
    exifs = {"noise": random.Random(1).randbytes(300), "circle": circle, "many": many, "turned": turned, "none": b""}
    exifs |= {"worded": worded, "twice": several}
    profiles = {"noise": random.Random(2).randbytes(300), "cut": icc.SRGB[:200], "none": b"", "words": b"no profile"}
    profiles |= {"zeros": bytes(500), "long": icc.SRGB[:4] + random.Random(3).randbytes(2**20)}
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"):
        for name, exif in exifs.items():
            if kind not in ("TIFF", "AVIF"):  # a TIFF is EXIF, and Pillow reads what it puts into an AVIF
                yield f"exif-{name}{suffix(kind)}", saved(picture(), kind, exif=b"Exif\0\0" + exif)
        for name, profile in profiles.items():
            yield f"profile-{name}{suffix(kind)}", saved(picture(), kind, icc_profile=profile)
    for kind in ("JPEG", "WEBP", "AVIF"):
        yield f"xmp{suffix(kind)}", saved(picture(), kind, xmp=random.Random(4).randbytes(300))
    for name, text in {"deep": "[" * 10**5, "wrong": '{"tool": "diffedit", "mask": 3}', "list": "[]"}.items():
        info = PngImagePlugin.PngInfo()
        info.add_text("diffedit", text)
        yield f"record-{name}.png", saved(picture(), "PNG", pnginfo=info)
    jpeg = whole["RGB-8.jpg"]
    yield "endless-marker.jpg", jpeg[:2] + b"\xff" * 10**6 + jpeg[2:]
    yield "many-markers.jpg", jpeg[:2] + (b"\xff\xe1\0\x08Exif\0\0") * 10**5 + jpeg[2:]
    yield "text-of-megabytes.jpg", jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * 500 + jpeg[2:]


def mutated(seed: int) -> tuple[str, bytes]:
    """Returns name and bytes of a valid file after a few random changes; equal for equal seeds."""
    chance = random.Random(seed)
    whole = good()
    name = list(whole)[seed % len(whole)]
    data = bytearray(whole[name])
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data)) if chance.random() < 0.7 else chance.randrange(min(200, len(data)))
        length = chance.choice((1, 1, 2, 4, 4, 16, 100))
        other = chance.randrange(len(data))
        changes = {
            "bit": bytes([data[at] ^ 1 << chance.randrange(8)]),
            "byte": chance.randbytes(1),
            "extreme": chance.choice((b"\0", b"\1", b"\x7f", b"\x80", b"\xff")) * chance.choice((1, 2, 4)),
            "noise": chance.randbytes(length),
            "copied": bytes(data[other : other + length]),
        }
        if (kind := chance.choice([*changes, "left out", "put in"])) == "left out":
            del data[at : at + length]
        elif kind == "put in":
            data[at:at] = changes["noise"]
        else:
            data[at : at + len(changes[kind])] = changes[kind]
        data = data or bytearray(b"\0")
    return f"{seed}-{name}", bytes(data)


def flipped(data: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(chance.choice((1, 4, 16))):
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def picture() -> Image.Image:
    return Image.frombytes("RGB", (28, 20), picture_files.stored("RGB", 8).tobytes())


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def suffix(kind: str) -> str:
    return SUFFIXES.get(kind, f".{kind.lower()}")


# What becomes of them


def used(path: Path) -> str:
    """Reads a picture, composes an edit into its upper left quarter, writes it, and reads the result again."""
    picture = codecs.load(path)
    codecs.read_record(path)
    picture.metadata.strip_metadata()
    width, height = picture.size
    picture.model_input((64, 64))
    mask = np.zeros((height, width), dtype=bool)
    mask[: (height + 1) // 2, : (width + 1) // 2] = True
    edited = compose(picture, np.zeros((64, 64, 3), dtype=np.uint8), mask, 2.0)
    target = path.parent / f"edited{codecs.default_extension(picture)}"
    chosen = codecs.output_format(target, edited)
    target.write_bytes(codecs.encode(edited, chosen, {"tool": "diffedit", "kind": "edit"}))
    again = codecs.load(target)
    assert again.size == picture.size
    assert again.record is not None or chosen == "BMP"
    if chosen in ("PNG", "TIFF", "WEBP", "BMP") and (again.mode, again.is_deep) == (picture.mode, picture.is_deep):
        assert np.array_equal(again.pixels[~mask], picture.pixels[~mask])
    target.unlink()
    return "used"


def tried(path: Path) -> dict[str, object]:
    started = time.process_time()  # of this process: the machine may be busy
    try:
        became, said = used(path), ""
    except DiffEditError as error:
        became, said = type(error).__name__, str(error)
    except Exception as error:
        became, said = "bug", repr(error)
    return {"name": path.name, "became": became, "said": said, "seconds": time.process_time() - started}


def main(folder: Path, *seeds: str) -> None:
    """Tries the files in the folder, or the mutations from the first seed to before the second."""
    good()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for path in sorted(folder.iterdir()) if not seeds else _mutations(folder, range(*map(int, seeds))):
        print(json.dumps(tried(path)), flush=True)


def _mutations(folder: Path, seeds: range) -> Iterator[Path]:
    for seed in seeds:
        name, data = mutated(seed)
        path = folder / name
        path.write_bytes(data)
        yield path
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
