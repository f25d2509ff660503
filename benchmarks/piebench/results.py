"""The folder of a benchmark: results in PIE-Bench's layout, and what is known of each, so that a killed run resumes.

METHOD/method.json                    what the results depend on, besides the case
METHOD/annotation_images/IMAGE_PATH   the result
METHOD/edits/CASE.json                its cost, written after it; without it the result is made again
METHOD/figures/CASE.json              its figures
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from benchmarks.methods import Outcome
from benchmarks.piebench.backbones import Backbone
from benchmarks.piebench.cases import Case, overlap
from benchmarks.piebench.datasets import PICTURES
from benchmarks.piebench.figures import FIGURES, Compared, Pixels, aligned, figures_digest, measure
from benchmarks.piebench.methods import METHODS, Asked
from diffedit_cli.errors import InputError, ModelError, NothingToEdit, UsageError, Withheld
from diffedit_cli.storage import files, hashing

TOLD, EDITS, FOUND = "method.json", "edits", "figures"
FOLDER = "folder"  # key in the identity of a method that was not run here
COST = ("iou", "evaluations", "seconds")
Row = dict[str, Any]


class Results:
    """The results of one method; `told` is all that they depend on besides the case."""

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        self.folder, self.told, self.label = folder, told, folder.name

    @classmethod
    def begun(cls, out: Path, label: str, told: Mapping[str, Any]) -> Results:
        """Returns a new or resumed method. Raises UsageError if its name is taken by other settings, OutputError."""
        if not re.fullmatch(r"\w[\w.+-]*", label):
            raise UsageError(f"A method cannot be called {label!r}; use letters, digits, dots and hyphens.")
        folder, told = out / label, json.loads(json.dumps(told))
        if (before := _read(folder / TOLD)) and before != told:
            changed = next(name for name in {**before, **told} if before.get(name) != told.get(name))
            raise UsageError(
                f"{folder} holds results with {changed} {before.get(changed)}, not {told.get(changed)}; "
                "call this one differently with --label, or name another folder with --out."
            )
        cls._publish(folder / TOLD, _json(told))
        return cls(folder, told)

    @classmethod
    def all_in(cls, out: Path) -> list[Results]:
        """Returns every method with results in this folder, in the order of METHODS, those of other tools last."""
        found = [cls(path.parent, told) for path in sorted(out.glob(f"*/{TOLD}")) if (told := _read(path))]
        order = [*METHODS, None]
        return sorted(found, key=lambda one: order.index(one.told.get("method")))

    def picture(self, case: Case) -> Path:
        """Returns where the result of a case lies, be it there or not."""
        if FOLDER not in self.told:
            return self.folder / PICTURES / case.path
        place = Path(self.told[FOLDER])
        return (place / PICTURES if (place / PICTURES).is_dir() else place) / case.path

    def key(self, case: Case, asked: Asked) -> str:
        """Returns what identifies the result of a case: the method, the pictures and the words."""
        said = [case.name, case.path, case.source, case.target, case.instruction, list(asked.picture.shape)]
        return hashing.of_record({"method": dict(self.told), "case": said, "pictures": asked.digest})

    def edit(self, cases: Sequence[Case], build: Callable[[], Callable[[Asked], Outcome]], jpeg: int | None) -> None:
        """Makes the results that are missing; the method is built if there are any. Raises UsageError, OutputError."""
        method = None
        for number, case in enumerate(cases, 1):
            asked = Asked.of(case)
            if self.made(case, key := self.key(case, asked)):
                continue
            method = method or build()
            record: Row = {"key": key, "error": None}
            try:
                outcome = method(asked)
                final, mask = outcome.final, outcome.mask
                record |= {"evaluations": outcome.evaluations, "seconds": outcome.seconds}
            except (NothingToEdit, ModelError, Withheld) as error:
                final, record["error"] = asked.picture, str(error)
                mask = np.zeros(final.shape[:2], dtype=bool)
            except UsageError as error:
                raise UsageError(f"{case.name}: {error}") from error
            if mask is not None and asked.mask is not None:
                record["iou"] = overlap(mask, asked.mask)
            data = written(final, jpeg)
            self._publish(self.picture(case), data)
            self._publish(self._note(EDITS, case), _json({**record, "picture": hashing.of_bytes(data)}))
            wrong = f": {record['error']}" if record["error"] else ""
            say(f"{self.label}: {number} of {len(cases)}, {case.name}{wrong}")

    def made(self, case: Case, key: str) -> Row | None:
        """Returns the record of a finished result, None if it has to be made (again)."""
        record = _read(self._note(EDITS, case))
        if not record or record["key"] != key:
            return None
        try:
            return record if hashing.of_content(self.picture(case)) == record["picture"] else None
        except OSError:
            return None

    def row(self, case: Case, asked: Asked, backbones: Mapping[str, Backbone]) -> Row | None:
        """Returns figures and cost of a result, measured if they are not known yet; None if there is no result."""
        known: Row | None = {}
        if FOLDER not in self.told and (known := self.made(case, self.key(case, asked))) is None:
            return None
        if not self.picture(case).is_file():
            return None
        try:
            with Image.open(self.picture(case)) as result:
                made, scaled = aligned(result, asked.picture.shape[:2])
        except OSError as error:
            raise InputError(f"{self.picture(case)} is not a picture: {error}; make it again.") from error
        compared = Compared(asked.picture, made, asked.mask, asked.target)
        row = {"case": case.name, "kind": case.kind, "scaled": scaled, "unedited": bool(known.get("error"))}
        return {**row, **{name: known.get(name) for name in COST}, **self._figures(case, compared, backbones)}

    def _figures(self, case: Case, compared: Compared, backbones: Mapping[str, Backbone]) -> Row:
        before, now, found = _read(self._note(FOUND, case)) or {}, {}, {}
        for name, figure in FIGURES.items():
            if figure.backbone and figure.backbone not in backbones:
                continue
            backbone = backbones.get(figure.backbone)
            digest = figures_digest(compared, backbone)
            old = before.get(name, {})
            value = old["value"] if old.get("of") == digest else measure(compared, name, backbone)
            found[name] = None if value is None else float(value)
            now[name] = {"of": digest, "value": storable(found[name])}
        if now != before:
            self._publish(self._note(FOUND, case), _json({**before, **now}))
        return found

    def _note(self, part: str, case: Case) -> Path:
        return self.folder / part / f"{quote(case.name, safe='')}.json"

    @staticmethod
    def _publish(path: Path, data: bytes) -> None:
        files.make_folder(path.parent, "--out")
        files.publish(path, data)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def written(picture: Pixels, jpeg: int | None) -> bytes:
    """Returns a result's file: PNG, or JPEG of this quality."""
    file = io.BytesIO()
    if jpeg is None:
        Image.fromarray(picture).save(file, "PNG")
    else:
        Image.fromarray(picture).save(file, "JPEG", quality=jpeg)
    return file.getvalue()


def storable(value: Any) -> Any:
    """Returns a value as JSON can hold it: infinity as a string."""
    return str(value) if value == math.inf else value


def _json(record: Row) -> bytes:
    return json.dumps(record, indent=1, allow_nan=False).encode()


def _read(path: Path) -> Row | None:
    """Returns a record, None if there is none that can be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
