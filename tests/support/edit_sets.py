"""Writes miniature data sets of edits in the formats of PIE-Bench, PIE-Bench++, MagicBrush and Emu Edit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from checkout import SAMPLES
from numpy.typing import NDArray
from PIL import Image

SIDE = 512
PLACES = {
    "0": "0_random_140",
    "1": "1_change_object_80/1_artificial/1_animal",
    "4": "4_change_attribute_content_40",
    "6": "6_change_attribute_color_40",
    "8": "8_change_background_80",
    "9": "9_change_style_80",
}
OBJECT = [number for row in range(130, 380) for number in (row * SIDE + 140, 230)]
CASES: tuple[tuple[str, str, str, str, list[int]], ...] = (
    ("000000000000", "a cat", "a dog", "cat dog", []),
    ("111000000000", "a [cat] on the grass", "a [dog] on the grass", "cat dog", OBJECT),
    ("411000000000", "a cat", "a cat and a [dog]", "", [261000, 5000]),
    ("611000000000", "a [blue] cat", "a [red] cat", "cat cat", [0, 3, 262143, 1, 262144, 7, 300000, 2]),
    ("811000000000", "a cat", "a cat [on the beach]", "", [0, 512 * 500]),
    ("911000000000", "a [photo] of a cat", "a [watercolour] of a cat", "", [0, 262144]),
)
"""Name, prompts, blended words and mask; the first digit of a name is its type."""


def write_piebench(folder: Path) -> Path:
    """Writes six edits as PIE-Bench has them, one without `blended_word`, with each edge that a mask can have."""
    mapping: dict[str, Any] = {}
    for name, source, target, blended, runs in CASES:
        path = f"{PLACES[name[0]]}/{name}.jpg"
        file = folder / "annotation_images" / path
        file.parent.mkdir(parents=True)
        picture(len(mapping)).save(file, quality=95)
        mapping[name] = {
            "image_path": path,
            "original_prompt": source,
            "editing_prompt": target,
            "editing_instruction": f"Make it {target.replace('[', '').replace(']', '')}",
            "editing_type_id": name[0],
            "blended_word": blended,
            "mask": runs,
        }
    del mapping["000000000000"]["blended_word"]
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def picture(number: int) -> Image.Image:
    """Returns the sample cat at PIE-Bench's size, moved a little further with each number."""
    with Image.open(SAMPLES / "cat.png") as cat:
        large = cat.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return Image.fromarray(np.roll(np.asarray(large), 16 * number, axis=1))


def write_parquet(file: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    """Writes rows whose pictures are stored as the hub's library stores them, some to a row group."""
    import pyarrow
    from pyarrow import parquet

    stored = [{name: _stored(value) for name, value in row.items()} for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(stored), file, row_group_size=group)
    return file


def _stored(value: Any) -> Any:
    if not isinstance(value, Image.Image):
        return value
    file = io.BytesIO()
    value.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def masked_out(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """Returns a picture that is transparent within a mask, as MagicBrush has its masks."""
    shown = image.convert("RGBA")
    shown.putalpha(Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)))
    return shown
