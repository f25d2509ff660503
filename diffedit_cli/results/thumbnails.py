"""Thumbnails for the report page: made once, and again only when their source has changed."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter

from diffedit_cli.errors import DiffEditError
from diffedit_cli.images import codecs, metadata, previews
from diffedit_cli.results import results_log
from diffedit_cli.storage import paths, records
from diffedit_cli.storage.ownership import Ownership, Target

FOLDER = "thumbnails"
DIGITS = 20  # of the digest in a thumbnail's name
NAMED = re.compile(rf"[0-9a-f]{{{DIGITS}}}\.webp")
SIDE = 320  # pixels of the longer side, at most
FAINTEST, STRONGEST = 70, 150  # of 255: opacity of the tint where the mask is weakest, and where it is full
AT_ONCE = 4  # threads; more would hold too many large pictures in memory
QUEUE = 4 * AT_ONCE  # thumbnails that are submitted to the threads at a time

Make = Callable[[Path], Image.Image]


def path_of(recorded: str, make: Make) -> str:
    """Returns the thumbnail's path below the page's folder, from the recorded path, so that folders can move.

    The name is a digest, because a name made from the picture's own could be too long, or belong to another picture.
    """
    digest = hashlib.sha256(f"{make.__name__} {recorded}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{FOLDER}/{digest[:DIGITS]}.webp"


def is_thumbnail(path: Path) -> bool:
    """Returns whether a file is a thumbnail of a run's page."""
    named = path.parent.name == FOLDER and NAMED.fullmatch(path.name)
    return bool(named) and paths.is_file(path.parent.parent / results_log.NAME)


def make_all(
    wanted: Iterable[tuple[Path, Path, Make]], total: int, owner: Ownership, progress: Callable[[int, int], None]
) -> set[Path]:
    """Makes thumbnails, each (target, source, function), and calls `progress` with the number done and `total`.

    Returns the targets that cannot be made, such as files that `owner` knows as inputs. Raises OutputError.
    """
    missing: set[Path] = set()
    tasks: dict[Future[bool], Path] = {}
    done = itertools.count(1)

    def settle(some: Iterable[Future[bool]]) -> None:
        for task in list(some):
            target = tasks.pop(task)
            if not task.result():
                missing.add(target)
            progress(next(done), total)

    with warnings.catch_warnings(), ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # here, for all threads: one thread's reset would undo it for the others
        try:
            for target, source, how in wanted:
                tasks[pool.submit(_write, target, source, how, owner)] = target
                if len(tasks) >= QUEUE:
                    settle(wait(tasks, return_when=FIRST_COMPLETED).done)
            settle(as_completed(list(tasks)))
        except BaseException:  # a full disk, or Ctrl-C: do not try the rest
            pool.shutdown(cancel_futures=True)
            raise
    return missing


def is_stale(target: Path, source: Path) -> bool:
    """Whether a thumbnail is missing or not newer than its source."""
    try:
        return target.stat().st_mtime_ns <= source.stat().st_mtime_ns
    except OSError:
        return True


def _write(target: Path, source: Path, make: Make, reads: Ownership) -> bool:
    """Writes a thumbnail; returns False if its source cannot be read, or its target is an input or a foreign file.

    A foreign file is not replaced even with --force.
    """
    owner, wanted = Ownership(), Target(target, remedy="move it away")
    exif = metadata.exif_block(metadata.Metadata().directory(records.record("thumbnail", {})))
    try:
        reads.check_input(target, wanted.remedy)
        owner.check(wanted)
        image = make(source)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=80, method=2, exif=exif)  # method 2: half the time, hardly more bytes
    except (DiffEditError, OSError, ValueError, MemoryError):
        return False
    owner.publish({wanted: buffer.getvalue()})
    return True


def of_picture(path: Path) -> Image.Image:
    """Returns a thumbnail of a picture, upright and in sRGB, of at most SIDE pixels. Raises InputError."""
    image = _roughly(path) or codecs.load(path).on_white()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def _roughly(path: Path) -> Image.Image | None:
    """Returns a large JPEG decoded at 1/2, 1/4 or 1/8 of its size, in a fraction of the time; None for other files."""
    try:
        with codecs.open_picture(path) as image:
            if image.format not in ("JPEG", "MPO") or max(image.size) < 4 * SIDE:
                return None
            image.draft(image.mode, (2 * SIDE, 2 * SIDE))
            return codecs.from_image(image, str(path)).on_white()
    except (DiffEditError, OSError, ValueError):
        return None  # the caller reads the whole file, and reports the error


def of_mask(path: Path) -> Image.Image:
    """Returns a tint with an outline to lay over a thumbnail; it is transparent where nothing is masked.

    Raises InputError.
    """
    grey = codecs.load(path).on_white().convert("L")
    scale = min(1.0, SIDE / max(grey.size))
    grey = grey.resize([max(1, round(side * scale)) for side in grey.size], Image.Resampling.BOX)
    masked = grey.point([0] + [255] * 255)  # wherever the mask is not zero, so that no speck is lost
    alpha = ImageChops.darker(
        masked, grey.point([FAINTEST + (STRONGEST - FAINTEST) * value // 255 for value in range(256)])
    )
    outline = ImageChops.subtract(masked, masked.filter(ImageFilter.MinFilter(3)))
    tint = Image.new("RGB", grey.size, previews.TINT)
    tint.putalpha(ImageChops.lighter(alpha, outline))
    return tint
