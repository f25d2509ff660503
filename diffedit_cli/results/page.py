"""Writes the report page of a folder of `diffedit run`: a self-contained index.html, with thumbnails beside it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli import __version__
from diffedit_cli.errors import OutputError
from diffedit_cli.images import previews
from diffedit_cli.results import results_log, thumbnails
from diffedit_cli.results.disk_dict import DiskDict
from diffedit_cli.results.latest_lines import LatestLines, Line
from diffedit_cli.results.results_log import FINISHED, STATUSES, field
from diffedit_cli.storage import atomic, paths, seals
from diffedit_cli.storage.ownership import Ownership, Target

PAGE = "index.html"
MOST = 2**53  # whole numbers below are exact in JavaScript
CHANGED = 48  # of 255: thumbnails may differ by less where nothing was changed
TEMPLATES = Path(__file__).parent / "templates"
MAKERS = {make.__name__: make for make in (thumbnails.of_picture, thumbnails.of_mask)}


def write(
    folder: Path,
    owner: Ownership | None = None,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    holds: Callable[[Path], bool] = paths.is_file,
) -> Path:
    """Writes the report page of the results.jsonl in `folder`, and returns its path.

    `progress` is called with the number of thumbnails done and the number to make. `holds` says which files exist, if
    the folder stands for a remote one; no thumbnails are made of remote files. A foreign index.html is replaced only if
    `owner` allows it. Raises InputError if there are no readable results, OutputError if the page cannot be written.
    """
    owner = owner or Ownership()
    lines = LatestLines(folder)
    target = Target(folder / PAGE, remedy="move it away")
    owner.check(target)
    place, entries, summary = _Place(folder, holds), DiskDict(), _Summary(lines.unreadable)
    for number, line in enumerate(lines):
        entries[str(number)] = entry = _entry(line, place)
        summary.add(entry)
    place.make_thumbnails(owner, progress)
    shown = (_without(entry, place.missing) for _, entry in entries.items())
    owner.publish({target: _rendered(folder, summary, (entry | _known(cut=_cut(entry, folder)) for entry in shown))})
    return target.path


# The entries of the page


class _Place:
    """The folder of the page: finds the files that lines name, links to them, and collects the thumbnails to make."""

    def __init__(self, folder: Path, holds: Callable[[Path], bool]) -> None:
        self.folder, self._holds = folder, holds
        self.missing: set[str] = set()
        self._wanted = DiskDict()  # name of the thumbnail -> its source, and the function that makes it
        self._absolute = Path(os.path.abspath(folder))  # noqa: PTH100  # does not follow links

    def shown(self, recorded: str, make: thumbnails.Make, find: Callable[[str], Path | None]) -> Line:
        """Returns the name, link and thumbnail of a picture for the page, and collects the thumbnail to be made."""
        path, small = find(recorded), thumbnails.path_of(recorded, make)
        if path is not None and paths.is_file(path):
            if thumbnails.is_stale(self.folder / small, path):
                self._wanted[small] = [os.fspath(path), make.__name__]
        elif not self._holds(self.folder / small):  # an earlier thumbnail is still good
            self.missing.add(small)
        return _known(name=Path(recorded).name, full=self.address(path) if path else None, small=small)

    def make_thumbnails(self, owner: Ownership, progress: Callable[[int, int], None]) -> None:
        atomic.sweep(self.folder / thumbnails.FOLDER)  # also where no thumbnail is written
        if not self._wanted:
            return
        _make_folder(self.folder / thumbnails.FOLDER)
        wanted = ((self.folder / small, Path(source), MAKERS[make]) for small, (source, make) in self._wanted.items())
        missing = thumbnails.make_all(wanted, len(self._wanted), owner, progress)
        self.missing |= {f"{thumbnails.FOLDER}/{target.name}" for target in missing}

    def output(self, recorded: str) -> Path | None:
        """Returns where an output is now, or None if it does not exist."""
        path = results_log.current_path(self.folder, recorded, self._holds)
        return path if self._holds(path) else None

    def input(self, recorded: str) -> Path | None:
        """Returns where an input is now, or None: as recorded, or relative to a folder above the page's folder."""
        path = Path(recorded)
        near = () if path.is_absolute() else (parent / path for parent in self._absolute.parents)
        return next((candidate for candidate in (path, *near) if self._holds(candidate)), None)

    def address(self, path: Path) -> str:
        """Returns the link from the page to a file, relative if possible."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100
        try:
            relative = os.path.relpath(absolute, self._absolute)
        except ValueError:  # on another drive
            return absolute.as_uri()
        return quote(os.fsencode(Path(relative).as_posix()))


def _entry(line: Line, place: _Place) -> Line:
    """Returns the page's data of one line. No field is trusted to be of the expected type."""
    outputs = [output for output in field(line, "outputs", list) if isinstance(output, str)]
    first, mask = field(line, "output", str), field(line, "mask", str)
    finished = line["status"] in FINISHED
    seconds = {str(stage): value for stage, value in field(line, "seconds", dict).items() if _is_number(value)}
    area = line.get("mask_area") if _is_number(line.get("mask_area")) else None
    return _known(
        name=Path(line["input"]).name or line["input"],
        path=line["input"],
        status=line["status"],
        error=field(field(line, "error", dict), "message", str),
        to=field(line, "to", str),
        before=place.shown(line["input"], thumbnails.of_picture, place.input),
        after=[
            place.shown(output, thumbnails.of_picture, place.output)
            for output in (outputs or ([first] if first else []))
            if finished
        ],
        mask=place.shown(mask, thumbnails.of_mask, place.output) if mask and finished else None,
        area=area,
        small=True if area is not None and area < previews.LEAST else None,
        seconds=seconds,
        evaluations=sum(value for value in field(line, "evaluations", dict).values() if _is_number(value)) or None,
        cached=[str(stage) for stage, state in field(line, "cache", dict).items() if state == "hit"],
        model=field(line, "model", str),
        device=field(line, "device", str),
        seed=line.get("seed") if _is_number(line.get("seed")) else None,
        warnings=[warning for warning in field(line, "warnings", list) if isinstance(warning, str)],
        **{"from": field(line, "from", str)},
    )


def _known(**values: Any) -> Line:
    """Returns the values without empty ones, for a smaller page."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def _without(entry: Line, missing: set[str]) -> Line:
    """Returns the entry without thumbnails that do not exist; changes it in place."""
    shown = [entry["before"], *entry.get("after", []), *([entry["mask"]] if "mask" in entry else [])]
    for picture in shown:
        if picture["small"] in missing:
            del picture["small"]
    return entry


def _cut(entry: Line, folder: Path) -> float | None:
    """Returns the initial slider position in percent of the width: half of the masked or changed pixels lie left of it.

    Returns None if the thumbnails cannot be read here, as in a remote folder, or if no pixel is masked or changed.
    """
    small = [picture.get("small") for picture in (entry["before"], *entry.get("after", []), entry.get("mask", {}))]
    try:
        if len(small) == 2:
            return None  # no result, so no slider
        if small[-1]:
            edited = _pixels(folder / small[-1], "RGBA")[..., 3] > 0
        elif small[0] and small[1]:
            before, after = (_pixels(folder / name, "RGB").astype(int) for name in small[:2])
            edited = np.abs(before - after).max(axis=2) > CHANGED
        else:
            return None
    except (OSError, ValueError):  # missing, not a picture, or of different sizes
        return None
    left_of = np.concatenate([[0], edited.sum(axis=0).cumsum()])
    half = left_of[-1] / 2
    at = np.searchsorted(left_of, half, "left") + np.searchsorted(left_of, half, "right") - 1  # twice the middle
    return round(50 * int(at) / edited.shape[1], 1) if half else None


def _pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    with paths.open_to_read(path) as file, Image.open(file) as image:
        return np.asarray(image.convert(mode))


def _is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a number that JavaScript holds exactly; Python's JSON may hold infinities and NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {path} cannot be created: {error.strerror}; remove what is in its way, or check "
            "permissions and free space."
        ) from error


# The page


class _Summary:
    """Counts and sums over all entries, for the head of the page."""

    def __init__(self, unreadable: int) -> None:
        self.unreadable, self.count, self.small, self.seconds = unreadable, 0, 0, 0.0
        self.statuses = dict.fromkeys(STATUSES, 0)
        self.made_with: set[str] = set()

    def add(self, entry: Line) -> None:
        self.count += 1
        self.small += "small" in entry
        self.seconds += sum(entry.get("seconds", {}).values())
        self.statuses[entry["status"]] += 1
        if "model" in entry:
            self.made_with.add(f"{entry['model']} on {entry.get('device', '?')}")


def _rendered(folder: Path, summary: _Summary, entries: Iterator[Line]) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    chunks = environment.get_template("page.html.jinja").generate(
        version=__version__,
        seal=seals.BLANK.decode(),
        name=Path(os.path.abspath(folder)).name or str(folder),  # noqa: PTH100
        entries=entries,
        summary=summary,
        least=previews.LEAST,
        time=_duration(summary.seconds),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
    )
    return b"".join(chunk.encode("utf-8", "replace") for chunk in chunks)


def _digest(text: str) -> str:
    """Returns the hash by which a content security policy allows a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _duration(seconds: float) -> str:
    """Returns a duration as text: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
