"""Small valid ICC profiles (version 2): wide-gamut RGB, grey, and CMYK with a table in each direction."""

from __future__ import annotations

import itertools
import struct
import warnings

import numpy as np
from PIL import ImageCms
from skimage.color import lab2rgb, rgb2lab

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = (0.9642, 1.0, 0.8249)
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))  # at D50


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, start = b"", b"", 132 + 12 * (len(tags) + 2)
    for name, data in {b"desc": description(), b"cprt": b"text\0\0\0\0none\0", **tags}.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s28s", 2020, 1, 1, 0, 0, 0, b"acsp", b"\0" * 28) + fixed(*D50) + b"\0" * 48
    return head + struct.pack(">I", len(tags) + 2) + table + body


def description() -> bytes:
    return struct.pack(">4s4xI5s4x4x2x1x67x", b"desc", 5, b"test\0")


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(*numbers)


def gamma(power: float) -> bytes:
    return struct.pack(">4s4xIH", b"curv", 1, round(power * 256))


def table(inputs: int, outputs: int, points: int, values: np.ndarray) -> bytes:
    """Returns an 8-bit lookup table, the first channel slowest; `values` are in [0, 1]."""
    straight = bytes(range(256))
    head = struct.pack(">4s4xBBBx", b"mft1", inputs, outputs, points) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return head + straight * inputs + (values * 255).round().astype(np.uint8).tobytes() + straight * outputs


def cmyk() -> bytes:
    """Returns a profile of ideal inks, with half of the common grey printed as black."""
    steps, ramp = np.linspace(0, 1, 7), np.linspace(0, 1, 17)
    inks = np.array(list(itertools.product(steps, repeat=4)))
    lab = rgb2lab((1 - inks[:, :3]) * (1 - inks[:, 3:]))
    light, a, b = np.array(list(itertools.product(ramp, repeat=3))).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half of all Lab values are no colours
        rgb = lab2rgb(np.stack([light * 100, a * 255 - 128, b * 255 - 128], axis=1)).clip(0, 1)
    black = 0.5 * (1 - rgb.max(axis=1, keepdims=True))
    back = np.concatenate([(1 - rgb - black) / (1 - black), black], axis=1).clip(0, 1)
    forth = (lab + np.array([0, 128, 128])) / (100, 255, 255)
    tables = {b"A2B0": table(4, 3, 7, forth.clip(0, 1)), b"B2A0": table(3, 4, 17, back)}
    return profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": xyz(*D50), **tables})


WIDE = profile(
    b"mntr",
    b"RGB ",
    b"XYZ ",
    {b"wtpt": xyz(*D50)}
    | dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*primary) for primary in ADOBE_RGB), strict=True))
    | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2)),
)
GREY = profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": xyz(*D50), b"kTRC": gamma(1.8)})
CMYK = cmyk()
