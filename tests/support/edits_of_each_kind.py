"""Prompts of each kind of edit, and edits by the command that check that pixels outside of the mask are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command import Ran, diffedit
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.images import codecs, masks

GRASS = "on the grass"
PROMPTS = {
    "object": (f"a cat {GRASS}", f"a dog {GRASS}"),
    "attribute": (f"a cat {GRASS}", f"a black cat {GRASS}"),
    "background": (f"a cat {GRASS}", "a cat in the snow"),
    "everything": ("a photo of a cat", "a watercolour of a cat"),
    "add": (f"a cat {GRASS}", f"a cat and a rose {GRASS}"),
    "remove": (f"a cat and a rose {GRASS}", f"a rose {GRASS}"),
}
KINDS = tuple(PROMPTS)
SIZE = (60, 40)


def told(kind: str) -> tuple[str, ...]:
    source, target = PROMPTS[kind]
    return ("--from", source, "--to", target)


def done(*words: object) -> Ran:
    ran = diffedit(*words)
    assert ran.code == 0, ran.err
    return ran


def pixels(path: Path | str) -> NDArray[Any]:
    """Reads the pixels (H, W, C) of a picture in full bit depth."""
    found = codecs.load(Path(path)).pixels
    return found.reshape(*found.shape[:2], -1)


def white(path: Path | str) -> NDArray[np.bool_]:
    return masks.load_mask(Path(path), soft=True).pixels


def check(source: Path | str, mask: Path | str, *results: Path | str) -> NDArray[np.bool_]:
    """Asserts that results differ from their picture, and only in the mask; returns the mask."""
    M, before = white(mask), pixels(source)
    for result in results:
        after = pixels(result)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert not ((after != before).any(axis=2) & ~M).any()
        assert (after != before).any()
    return M


def run(name: str, *words: object, count: int = 1) -> dict[str, Any]:
    """Edits a picture in the working folder, checks the results with their mask, and returns the JSON output."""
    found = done("run", name, *words, "--out", "out", "--force", "--json").json
    stem, end = name.split(".")
    others = [Path("out") / f"{stem}-{number}.{end}" for number in range(2, count + 1)]
    M = check(name, Path("out") / f"{stem}.mask.png", Path("out") / name, *others)
    assert found["mask_area"] == M.mean()
    assert found["outputs"] == [str(path) for path in (Path("out") / name, *others)]
    return found


def drawn(path: Path, *box: int) -> Path:
    image = Image.new("L", SIZE)
    image.paste(255, box)
    image.save(path)
    return path
