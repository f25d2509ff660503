"""Reads the edits of PIE-Bench, PIE-Bench++, MagicBrush, Emu Edit and folders in their formats."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.piebench.cases import Case, Mask, Size, decoded
from benchmarks.piebench.parquet import rows_of_parquet
from diffedit_cli.errors import InputError, reason

MAPPING, PICTURES = "mapping_file.json", "annotation_images"
TURNS, CAPTIONS, METADATA = "edit_turns.json", "global_descriptions.json", "metadata.jsonl"
TYPES = {
    "0": "random", "1": "change object", "2": "add object", "3": "delete object", "4": "change content",
    "5": "change pose", "6": "change colour", "7": "change material", "8": "change background", "9": "change style",
}  # fmt: skip
"""PIE-Bench's types of edits by `editing_type_id`."""
Reader = Callable[[str], Image.Image]  # from the name of a column
Row = tuple[Mapping[str, Any], Reader]


@dataclass(frozen=True)
class DataSet:
    title: str
    cases: tuple[Case, ...]

    def chosen(self, kinds: Sequence[str] = (), most: int | None = None) -> tuple[Case, ...]:
        """Returns the cases of these types (default: all), at most the first `most` of each. Raises InputError."""
        have = Counter(case.kind for case in self.cases)
        if unknown := [kind for kind in kinds if kind not in have]:
            raise InputError(f"{self.title} has no edits of type {unknown[0]}; name some of {', '.join(have)}.")
        seen: Counter[str] = Counter()
        kept = []
        for case in self.cases:
            seen[case.kind] += 1
            if (not kinds or case.kind in kinds) and (most is None or seen[case.kind] <= most):
                kept.append(case)
        return tuple(kept)


def read(path: Path, captions: Path | None = None) -> DataSet:
    """Returns the data set in a folder or file, whose format its content tells; pictures are read later.

    `captions` is MagicBrush's file of descriptions (default: the one beside its turns). Raises InputError.
    """
    try:
        found = _read(path, captions)
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror}; check its name.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is not in the format of its data set ({reason(error)}); get it again.") from error
    for what in ("name", "path"):
        (value, times), *_ = Counter(getattr(case, what) for case in found.cases).most_common(1) or [("", 1)]
        if times > 1:
            raise InputError(f"{path} has {times} edits with the {what} {value}; keep one of them.")
    if not found.cases:
        raise InputError(f"{path} holds no edits; name a data set as docs/benchmark.md describes it.")
    return found


def _read(path: Path, captions: Path | None) -> DataSet:
    if path.is_file() and path.suffix == ".json":
        return DataSet("PIE-Bench", tuple(_mapped(path)))
    if (path / MAPPING).is_file():
        return DataSet("PIE-Bench", tuple(_mapped(path / MAPPING)))
    if (path / TURNS).is_file():
        return DataSet("MagicBrush", tuple(_magicbrush(_turns(path), captions or path / CAPTIONS)))
    if (path / METADATA).is_file():
        return DataSet("Emu Edit", tuple(map(_emu, _listed(path))))
    files = [path] if path.suffix == ".parquet" else sorted(path.rglob("*.parquet"))
    if not files:
        raise InputError(f"{path} holds no {MAPPING}, {TURNS}, {METADATA} or .parquet; name a folder that does.")
    rows = list(rows_of_parquet(files))
    if "source_img" in rows[0][0]:
        return DataSet("MagicBrush", tuple(_magicbrush(rows, captions)))
    if "input_caption" in rows[0][0]:
        return DataSet("Emu Edit", tuple(map(_emu, rows)))
    return DataSet("PIE-Bench++", tuple(map(_piebench_pp, rows)))


def _mapped(path: Path) -> Iterator[Case]:
    """Yields the cases of PIE-Bench's mapping file; pictures lie in `annotation_images` beside it."""
    for name, item in json.loads(path.read_text(encoding="utf-8")).items():
        yield Case(
            name=name,
            path=_inside(item["image_path"]),
            kind=str(item["editing_type_id"]),
            source=plain(item["original_prompt"]),
            target=plain(item["editing_prompt"]),
            instruction=item.get("editing_instruction", ""),
            read_picture=partial(_opened, path.parent / PICTURES / item["image_path"]),
            read_mask=partial(_of_runs, item.get("mask")),
        )


def _piebench_pp(row: Row) -> Case:
    item, picture = row
    return Case(
        name=str(item["id"]),
        path=_inside(f"{item['folder']}/{item['id']}.png"),
        kind=(re.match(r"\d", item["folder"]) or re.match(r"\d", str(item["id"])))[0],  # as in 1_change_object_80
        source=plain(item["source_prompt"]),
        target=plain(item["target_prompt"]),
        instruction="",
        read_picture=partial(picture, "image"),
        read_mask=partial(_of_runs, item["mask"]),
    )


def _magicbrush(rows: Sequence[Row], captions: Path | None) -> Iterator[Case]:
    """Yields the cases of MagicBrush, one for each turn; without a file of captions they have no prompts."""
    said = json.loads(captions.read_text(encoding="utf-8")) if captions and captions.is_file() else {}
    for item, picture in rows:
        image, turn = str(item["img_id"]), int(item["turn_index"])
        of_image = said.get(image, {})
        before = f"{image}-output{turn - 1}.png" if turn > 1 else f"{image}-input.png"
        yield Case(
            name=f"{image}-{turn}",
            path=_inside(f"{image}/{image}-output{turn}.png"),
            kind=f"turn {turn}",
            source=of_image.get(before, ""),
            target=of_image.get(f"{image}-output{turn}.png", ""),
            instruction=item["instruction"],
            read_picture=partial(picture, "source_img"),
            read_mask=partial(_of_picture, partial(picture, "mask_img")),
        )


def _emu(row: Row) -> Case:
    item, picture = row
    name = "-".join(str(item[part]) for part in ("split", "idx") if item.get(part) is not None)
    return Case(
        name=name,
        path=_inside(f"{item['task']}/{name}.png"),
        kind=item["task"],
        source=item["input_caption"],
        target=item["output_caption"],
        instruction=item["instruction"],
        read_picture=partial(picture, "image"),
        read_mask=partial(_of_runs, None),
    )


def _turns(folder: Path) -> list[Row]:
    """Returns the rows of MagicBrush's own archive, whose turns name their files."""
    turns = json.loads((folder / TURNS).read_text(encoding="utf-8"))
    rows: list[Row] = []
    for item in turns:
        image = item["input"].partition("-")[0]
        turn = int(re.fullmatch(r".*-output(\d+)\.\w+", item["output"])[1])
        files = {"source_img": item["input"], "mask_img": item["mask"]}
        found = {"img_id": image, "turn_index": turn, "instruction": item["instruction"], **files}
        rows.append((found, partial(_named, folder / "images" / image, found)))
    return rows


def _listed(folder: Path) -> list[Row]:
    """Returns the rows of a folder of pictures with `metadata.jsonl`, as the hub's library reads and writes it."""
    lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [(row, partial(_named, folder, {"image": row["file_name"]})) for row in rows]


def _named(folder: Path, files: Mapping[str, Any], column: str) -> Image.Image:
    return _opened(folder / _inside(files[column]))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or reason(error)}; get it again.") from error


def _of_runs(runs: object, size: Size) -> Mask | None:
    """Decodes a list of runs, or its numbers as text: PIE-Bench++ has "0 262144" for the whole picture."""
    if runs is None:
        return None
    if isinstance(runs, str):
        runs = [int(one) if one.isascii() and one.isdecimal() else one for one in runs.split()]
    return decoded(runs, size)


def _of_picture(read: Callable[[], Image.Image], size: Size) -> Mask:
    """Returns where MagicBrush's picture of a mask is transparent; one without transparency is white there."""
    image = read()
    alpha = "A" in image.getbands()
    grey = (image.getchannel("A") if alpha else image.convert("L")).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(grey) < 128 if alpha else np.asarray(grey) >= 128


def plain(prompt: str) -> str:
    """Returns a prompt without the brackets around the words that change."""
    return prompt.replace("[", "").replace("]", "")


def _inside(path: str) -> str:
    """Returns a relative path as it is. Raises InputError for one that leaves its folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise InputError(f"The data set names {path}, which is not in its folder; correct it there.")
    return path
