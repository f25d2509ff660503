"""Draws the sample pictures and their true masks: ``python -m training.samples``.

Each sample is a scene of the built-in world from a held-out seed, which training never uses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.scenes import HELD_OUT, Scene, scene

PROJECT = Path(__file__).parent.parent
PICTURES = PROJECT / "sample_images"
TRUTH = PROJECT / "tests" / "samples"


@dataclass(frozen=True)
class Sample:
    """A scene and an edit of it; the true mask is that of the object `changed`."""

    name: str
    offset: int  # seed minus HELD_OUT
    kind: str
    objects: tuple[str, ...]
    place: str
    source: str
    target: str

    def draw(self) -> Scene:
        return scene(HELD_OUT + self.offset, kind=self.kind, objects=list(self.objects), place=self.place)

    @property
    def changed(self) -> str:
        return next(name for name in self.objects if name in self.source.split())


SAMPLES = (
    Sample("cat", 217, "one", ("cat",), "grass", "cat", "dog"),
    Sample("dog-on-beach", 102, "one", ("dog",), "beach", "a dog on the beach", "a cat on the beach"),
    Sample("penguin-in-snow", 103, "one", ("penguin",), "snow", "penguin", "rabbit"),
    Sample("car-in-desert", 104, "one", ("car",), "desert", "car", "bus"),
    Sample("balloon-at-night", 105, "one", ("balloon",), "night", "a balloon", "a ball"),
    Sample("teapot-on-table", 106, "one", ("teapot",), "table", "teapot", "cake"),
    Sample("horse-on-grass", 107, "one", ("horse",), "grass", "horse", "cow"),
    Sample("elephant-in-desert", 108, "one", ("elephant",), "desert", "elephant", "tiger"),
    Sample("cat-and-rose", 109, "two", ("cat", "rose"), "grass", "a cat and a rose", "a dog and a rose"),
    Sample("duck-and-ball", 110, "two", ("duck", "ball"), "beach", "a duck and a ball", "a chick and a ball"),
    Sample("sheep-and-house", 111, "two", ("sheep", "house"), "snow", "a sheep and a house", "a pig and a house"),
    Sample("bowl-of-apples", 112, "bowl", ("apples",), "table", "a bowl of apples", "a bowl of oranges"),
    Sample("bowl-of-lemons", 113, "bowl", ("lemons",), "beach", "a bowl of lemons", "a bowl of strawberries"),
    Sample("bowl-of-pears", 114, "bowl", ("pears",), "night", "a bowl of pears", "a bowl of apples"),
)


def main() -> None:
    """Writes sample_images/NAME.png, tests/samples/NAME.mask.png and the prompts, tests/samples/edits.json."""
    for folder in (PICTURES, TRUTH):
        folder.mkdir(parents=True, exist_ok=True)
    edits: list[dict[str, Any]] = []
    for sample in SAMPLES:
        drawn = sample.draw()
        drawn.picture.save(PICTURES / f"{sample.name}.png", optimize=True)
        drawn.masks[sample.changed].save(TRUTH / f"{sample.name}.mask.png", optimize=True)
        edits.append({"name": sample.name, "from": sample.source, "to": sample.target})
    (TRUTH / "edits.json").write_text(json.dumps(edits, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
