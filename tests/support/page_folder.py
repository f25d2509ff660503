"""Creates output folders like those of `run`, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from diffedit_cli.results.result import Result

WORDS = {"from": "cat", "to": "dog"}


def line(name: str, out: str = "out", **other: Any) -> dict[str, Any]:
    """Returns a line of results.jsonl on a finished picture, with the fields in `other` replaced."""
    fields = json.loads(Result(status="done", input=name).json())
    stem = Path(name).stem
    made = {
        "output": f"{out}/{stem}.png",
        "outputs": [f"{out}/{stem}.png"],
        "mask": f"{out}/{stem}.mask.png",
        "mask_area": 0.25,
        "model": "builtin",
        "device": "cpu",
        "seed": 0,
        "evaluations": {"mask": 16, "invert": 18, "edit": 40},
        "cache": {"mask": "hit", "invert": "miss"},
        "seconds": {"mask": 0.5, "invert": 0.25, "edit": 1.25},
    }
    return fields | made | WORDS | other


def failed(name: str, message: str = "Nothing to edit.", status: str = "failed", **other: Any) -> dict[str, Any]:
    """Returns a line of results.jsonl on a picture that failed."""
    error = {"code": 9 if status == "withheld" else 5, "message": message}
    return json.loads(Result(status="done", input=name).json()) | WORDS | {"status": status, "error": error} | other


def write(folder: Path, *lines: dict[str, Any], out: str = "out") -> Path:
    """Writes these lines into `folder`/`out` and the files that they name below `folder`; returns `folder`/`out`."""
    (folder / out).mkdir(parents=True, exist_ok=True)
    for about in lines:
        paint(folder / about["input"], "tan")
        if about["output"]:
            paint(folder / about["output"], "teal")
        if about["mask"]:
            mask(folder / about["mask"])
    text = "".join(json.dumps(about) + "\n" for about in lines)
    (folder / out / "results.jsonl").write_text(text, encoding="utf-8")
    return folder / out


def paint(path: Path, colour: str, size: tuple[int, int] = (120, 80)) -> None:
    if not path.exists():
        Image.new("RGB", size, colour).save(path)


def mask(path: Path, size: tuple[int, int] = (120, 80)) -> None:
    grey = Image.new("L", size)
    ImageDraw.Draw(grey).rectangle((30, 20, 89, 59), 255)
    grey.save(path)


def entries(page: Path) -> list[dict[str, Any]]:
    """Returns the entries embedded in the page."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="entries">')[1].split("</script>")[0])
