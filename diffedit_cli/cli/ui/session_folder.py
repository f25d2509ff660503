"""The folder of a session: uploaded pictures, drawn masks, results and `results.jsonl`, as `diffedit run` writes it.

Only what was opened here is ever read: requests name pictures and masks by id, never by path.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli.cli.ui import command_lines
from diffedit_cli.errors import InputError, OutputError, UsageError
from diffedit_cli.storage import files, paths

if TYPE_CHECKING:
    from diffedit_cli.images.masks import Mask

LONGEST_NAME = 100  # characters of an uploaded picture's name that are kept
UNUSED_MASKS = 20  # drawn masks that no edit used, at most


@dataclass(frozen=True)
class OpenPicture:
    """A picture that the page may show and edit."""

    id: str
    path: Path  # as commands name it, from the folder where diffedit was started
    name: str
    size: tuple[int, int]  # width and height, upright
    settings: Mapping[str, Any] | None

    def record(self) -> dict[str, Any]:
        width, height = self.size
        return {"id": self.id, "name": self.name, "width": width, "height": height, "url": f"/pictures/{self.id}",
                "settings": self.settings}  # fmt: skip


@dataclass(frozen=True)
class Painted:
    """A result as the page gets it, and its files."""

    told: Mapping[str, Any]
    files: list[Path]


@dataclass
class SessionFolder:
    """Files of a session. Methods that read pictures may take long, and run in threads."""

    out: Path
    max_pixels: int = files.MAX_PIXELS
    pictures: dict[str, OpenPicture] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    results: dict[str, Painted] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def open(self, path: Path, name: str | None = None) -> OpenPicture:
        """Opens a picture file. Raises InputError, or DeviceError if memory is short."""
        from diffedit_cli.images import codecs

        picture = codecs.load(path, self.max_pixels)
        opened = OpenPicture(
            f"p{next(self._ids)}", path, name or path.name, picture.size, settings_of(picture.record)
        )  # fmt: skip
        self.pictures[opened.id] = opened
        return opened

    def take_upload(self, name: str, data: bytes) -> OpenPicture:
        """Keeps an uploaded picture in the folder, under a name that was free, and opens it.

        Raises InputError for what is not a picture, OutputError if it cannot be written.
        """
        folder = self.out / "pictures"
        files.make_folder(folder, "--out")
        for path in _free(folder, _plain(name)):
            try:
                files.publish(path, data, _never_replacing)
            except FileExistsError:
                continue
            try:
                return self.open(path)
            except Exception:
                path.unlink(missing_ok=True)
                raise
        raise OutputError(f"No name is free in {folder}; choose another folder with --out.")

    def take_mask(self, picture: OpenPicture, data: bytes) -> dict[str, Any]:
        """Keeps a mask that a person drew; masks of equal content are one file. Raises InputError or OutputError."""
        from diffedit_cli.images import masks

        mask = read_drawn(data, picture.size, picture.name)
        identifier = f"m{mask.digest[:12]}"
        path = self.out / "masks" / f"{identifier[1:]}.png"
        files.make_folder(path.parent, "--out")
        data = masks.pack_mask(mask)
        if not (paths.is_file(path) and paths.read(path) == data):
            try:
                files.publish(path, data, _never_replacing)
            except FileExistsError:
                raise OutputError(f"{path} exists and is another mask; move it away, or use another --out.") from None
        self.masks.pop(identifier, None)
        self.masks[identifier] = path
        unused = [one for one, at in self.masks.items() if one not in self.used and at.parent == path.parent]
        for old in unused[:-UNUSED_MASKS]:
            self.masks.pop(old).unlink(missing_ok=True)
        return {"id": identifier, "url": f"/masks/{identifier}", "area": mask.share}

    def mask(self, identifier: object) -> Path:
        """Returns the file of a mask. Raises UsageError for one that is not known (any longer)."""
        if not isinstance(identifier, str) or identifier not in self.masks:
            raise UsageError("This mask is not kept any longer; draw or find it again.")
        return self.masks[identifier]

    def picture(self, identifier: object) -> OpenPicture:
        """Returns an open picture. Raises UsageError for one that is not open."""
        if not isinstance(identifier, str) or identifier not in self.pictures:
            raise UsageError("This picture is not open any longer; open it again.")
        return self.pictures[identifier]

    def result(self, identifier: str, number: int) -> Path:
        """Returns a file of a result. Raises UsageError for one that does not exist."""
        if identifier not in self.results or not 0 <= number < len(self.results[identifier].files):
            raise UsageError("There is no such result.")
        return self.results[identifier].files[number]

    def next_output(self, picture: OpenPicture, to: str) -> Path:
        """Returns the next free name of a result: 001-cat-dog.png, with a number above all others there."""
        from diffedit_cli.jobs.output_names import written_extension

        there = self.out.iterdir() if paths.is_folder(self.out) else ()
        number = max((int(found[0]) for path in there if (found := re.match(r"\d{3,9}", path.name))), default=0) + 1
        stem = re.sub(r"^\d{3,9}-", "", picture.path.stem)
        words = "-".join(filter(None, (_word(stem, 40), _word(to, 40)))) or "picture"
        return self.out / f"{number:03}-{words}{written_extension(picture.path)}"

    def keep_result(self, said: dict[str, Any]) -> None:
        """Appends the result of an edit to the folder's results.jsonl. Raises OutputError."""
        from diffedit_cli.results.results_log import ResultsLog

        with ResultsLog(self.out) as log:
            log.write(json.dumps(said))

    def check(self) -> None:
        """Raises OutputError if results cannot be written to the folder; it is created when there is one."""
        from diffedit_cli.results import results_log

        above = self.out
        while not os.path.lexists(above):
            above = above.absolute().parent
        if not paths.is_folder(above) or not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"The folder {self.out} cannot be written below {above}; choose another with --out.")
        if paths.is_folder(self.out):
            results_log.ResultsLog(self.out, writes=False).__exit__()


def read_drawn(data: bytes, size: tuple[int, int], name: str) -> Mask:
    """Returns a mask that a person drew for a picture of this size. Raises InputError for anything else."""
    from diffedit_cli.images import codecs, masks

    wrong = InputError(f"A mask of {name} is a PNG of {size[0]} x {size[1]} pixels.")
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise wrong
    try:
        image = codecs.open_picture(io.BytesIO(data))
    except (OSError, ValueError):
        raise wrong from None
    if image.size != size:
        raise wrong
    return masks.Mask(masks.as_mask(codecs.from_image(image, "the mask", size[0] * size[1])).pixels)


def view_of(path: Path, max_pixels: int) -> bytes:
    """Returns a picture as a PNG of 8 bits in sRGB, upright, for the browser; a mask stays grey. Raises InputError."""
    from diffedit_cli.images import codecs

    picture = codecs.load(path, max_pixels)
    image = picture.colours.to_srgb(picture.image) if picture.mode in ("L", "RGB") else picture.image
    if image.mode in ("CMYK", "LA", "RGBA"):
        image = picture.on_white() if image.mode == "CMYK" else image.convert("RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def settings_of(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the settings that made a picture, for the page's controls; None for a picture that diffedit did not make.

    A record, which may be foreign, holds anything: one that cannot be understood has no settings.
    """
    from diffedit_cli.cli.repeat_command import options_of

    if record is None or record.get("kind") != "edit":
        return None
    try:
        said = iter(options_of(record))
        found: dict[str, Any] = {}
        for word in said:
            name = word.removeprefix("--")
            if name.removeprefix("no-") in command_lines.SWITCHES:
                found[name.removeprefix("no-")] = not name.startswith("no-")
            elif name in command_lines.CONTROLS["edit"] - {"lora", "model"}:
                found[name] = _number_or_text(next(said))
            elif word.startswith("--"):
                next(said, None) if name != "vae-tiling" else None
        command_lines.words("edit", found)
    except Exception:
        return None
    return found


def _number_or_text(text: str) -> float | int | str:
    try:
        number = json.loads(text)
    except ValueError:
        return text
    return number if isinstance(number, int | float) and not isinstance(number, bool) else text


def _never_replacing(whole: Path, path: Path) -> None:
    os.link(whole, path)


def _free(folder: Path, name: str) -> list[Path]:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  # the name is not a path
    names = [name, *(f"{stem}-{number}{suffix}" for number in range(2, 1000))]
    return [folder / one for one in names if not os.path.lexists(folder / one)]


def _plain(name: str) -> str:
    """Returns an uploaded file's name without folders, control characters and leading dots or dashes."""
    last = re.split(r"[/\\]", name)[-1]
    stem, suffix = os.path.splitext("".join(one for one in last if one.isprintable()).strip().lstrip(".-~"))  # noqa: PTH122
    suffix = suffix[:10].lower() if re.fullmatch(r"\.\w{1,9}", suffix) else ""
    kept = stem[:LONGEST_NAME].encode("utf-8", "ignore")[: 2 * LONGEST_NAME].decode("utf-8", "ignore").strip()
    return f"{kept or 'picture'}{suffix or '.png'}"


def _word(text: str, most: int) -> str:
    return re.sub(r"[^\w]+", "-", text).strip("-")[:most].strip("-")
