"""Builds ICC colour profiles from a file's numeric description of its colours: primaries and a transfer curve."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

D50 = (0.9642, 1.0, 0.8249)
WHITE = (0.3127, 0.3290)  # D65
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273 colour primaries: x and y of red, green, blue and, where it is not D65, white.
PRIMARIES = {
    1: SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
UNSAID = (0, 2)  # values of ITU-T H.273 that specify nothing; sRGB is assumed
CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # of sRGB: exponent and constants a, b, c, d
# ITU-T H.273 transfer characteristics. Those of video get the curve of sRGB, as in browsers.
CURVES: dict[int, tuple[float, ...]] = {4: (2.2,), 5: (2.8,), 8: (1.0,)} | dict.fromkeys((1, 6, 13, 14, 15), CURVE)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SAME = 0.002  # of x and y: smaller differences are rounding


def of_cicp(primaries: int, transfer: int, grey: bool = False) -> bytes:
    """Returns a profile for ITU-T H.273 values, empty for sRGB. Raises ValueError for others, such as HDR."""
    if (primaries in PRIMARIES or primaries in UNSAID) and (transfer in CURVES or transfer in UNSAID):
        corners = PRIMARIES.get(primaries, SRGB)
        curve = CURVES.get(transfer, CURVE)
        return b"" if corners == SRGB and curve == CURVE else profile(corners, curve, grey)
    raise ValueError(f"primaries {primaries} and transfer {transfer} of ITU-T H.273")


def of_chunks(gamma: int, corners: Sequence[int], grey: bool = False) -> bytes:
    """Returns a profile for the values of PNG's gAMA and cHRM chunks, empty for sRGB.

    Values are in units of 1/100000, white first; `gamma` is 0 and `corners` empty where the file has no such chunk.
    Raises ValueError for impossible values.
    """
    white, primaries = [value / 1e5 for value in corners[:2]], [value / 1e5 for value in corners[2:]]
    primaries = [*primaries, *white] or list(SRGB)
    curve = CURVE if gamma == 0 or abs(gamma - 45455) <= 100 else (1e5 / gamma,)  # PNG's customary value for sRGB
    usual = [*SRGB, *WHITE][: len(primaries)]
    if curve == CURVE and np.abs(np.subtract(primaries, usual)).max() <= SAME:
        return b""
    return profile(primaries, curve, grey)


def profile(corners: Sequence[float], curve: Sequence[float], grey: bool = False) -> bytes:
    """Returns a display profile; `corners` are x and y of red, green, blue (and white).

    `curve` is an exponent alone, or an exponent and four constants (parametric curve of type 3). Raises ValueError if
    the corners span no gamut.
    """
    tags = {b"desc": _text("colours of the file"), b"cprt": _text("none"), b"wtpt": _xyz(D50)}
    kind, data = (0, curve) if len(curve) == 1 else (3, curve)
    shape = struct.pack(">4s4xHxx", b"para", kind) + _fixed(data)
    if grey:
        tags |= {b"kTRC": shape}
    else:
        matrix = _to_d50(np.array(corners, dtype=float).reshape(-1, 2))
        tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), shape)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    space = b"GRAY" if grey else b"RGB "
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s28x", 2025, 1, 1, 0, 0, 0, b"acsp") + _fixed(D50) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _to_d50(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the matrix (3, 3) from linear RGB to XYZ under D50; `points` (3 or 4, 2) are the corners (and white)."""
    if len(points) == 3:
        points = np.vstack([points, WHITE])
    if (points[:, 1] <= 0).any():
        raise ValueError("its primaries span no gamut")
    xyz = np.stack([points[:, 0] / points[:, 1], np.ones(4), (1 - points.sum(axis=1)) / points[:, 1]])
    try:
        matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    except np.linalg.LinAlgError as error:
        raise ValueError("its primaries span no gamut") from error
    scale = (BRADFORD @ np.array(D50)) / (BRADFORD @ xyz[:, 3])
    adapted: NDArray[np.float64] = np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        raise ValueError("its primaries span no gamut")
    return adapted


def _fixed(numbers: Sequence[float] | NDArray[np.float64]) -> bytes:
    try:
        return b"".join(struct.pack(">i", round(float(number) * 65536)) for number in numbers)
    except struct.error as error:
        raise ValueError("one of its numbers is too large") from error


def _xyz(numbers: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(numbers)


def _text(words: str) -> bytes:
    coded = words.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(coded), 28) + coded
