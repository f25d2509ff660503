"""URLs of any file system that fsspec knows, `s3://` and `gs://` among them: files are fetched and sent whole."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from diffedit_cli.errors import DiffEditError, InputError, OutputError, UsageError
from diffedit_cli.storage import atomic

PATTERN = "*?["
HERE = ("file://", "local://")  # what fsspec takes for this machine's files
AHEAD = 4  # files that are fetched before they are needed

T = TypeVar("T")


def is_url(source: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be seen; macOS leaves folders of such files in its archives."""
    return name.startswith(".") or name == "__MACOSX"


def local(source: str) -> str:
    """The path that a URL of this machine means; anything else as it is. Raises UsageError for what is no URL."""
    return url2pathname(_split(source)) if source.lower().startswith(HERE) else source


def name(url: str) -> str:
    """What the file at a URL is called. Of the web's, what follows a `?` is no part of it. Raises UsageError."""
    path = unquote(_split(url)) if url.lower().startswith("http") else url
    return PurePosixPath(path).name or "unnamed"


def _split(url: str) -> str:
    """The path in a URL. Raises UsageError."""
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise UsageError(f"{url} is not a URL: {error}; check how it is written.") from None


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and what it calls the place.

    Raises UsageError for one that none knows, or whose package is not installed, InputError where it cannot be reached.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url} needs a package that is not here: {error} (with pip install).") from None
    except ValueError as error:
        raise UsageError(f"{url} is of no known file system ({error}); see fsspec's list of them.") from None
    except Exception as error:  # each file system raises what it likes
        raise InputError(_unreachable(url, error)) from error
    if "file" in found[0].protocol:
        raise UsageError(f"{url} lies on this machine; give its path.")
    return found


def identity(url: str) -> str | None:
    """The same text of two URLs that mean one file, however they are written; None of one that nothing can open."""
    try:
        system, place = open_url(url)
    except DiffEditError:  # which fails what needs it, and nothing else
        return None
    return f"{type(system).__name__} {place}"


def fetch(url: str, path: Path) -> None:
    """Writes the file at a URL to `path`. Raises UsageError, InputError."""
    system, place = open_url(url)
    try:
        system.get_file(place, str(path))
    except FileNotFoundError:
        raise InputError(f"There is no {url}; check the name.") from None
    except Exception as error:
        raise InputError(_unreachable(url, error)) from error


def send(path: Path, url: str) -> None:
    """Writes a file to a URL, in place of what is there. Raises UsageError, OutputError."""
    system, place = open_url(url)
    try:
        system.put_file(str(path), place)
    except Exception as error:
        raise OutputError(_unreachable(url, error)) from error


def list_folder(url: str, *, recursive: bool) -> Iterator[tuple[str, str]]:
    """The files of a URL's folder or pattern in order: each URL, and its path below the folder that they are all in.

    Of a single file itself and its name. Hidden files and folders are left out. Raises UsageError, InputError.
    """
    system, place = open_url(url)
    try:
        if system.isdir(place):
            root, found = url, system.find(place, maxdepth=None if recursive else 1)
        elif any(sign in place for sign in PATTERN):
            root, found = re.split(f"[^/]*[{re.escape(PATTERN)}]", url, maxsplit=1)[0], system.glob(place)
        else:
            yield url, name(url)
            return
    except Exception as error:
        raise InputError(_unreachable(url, error)) from error
    root = root.rstrip("/")
    for path in sorted(found):
        below = path.removeprefix(open_url(root)[1]).lstrip("/")
        if not any(map(is_hidden, below.split("/"))):
            yield f"{root}/{below}", below


def names(url: str) -> set[str]:
    """What lies below a URL's folder, by paths relative to it; nothing where there is none. Raises as `opened` does."""
    system, place = open_url(url)
    try:
        system.invalidate_cache()
        return {path.removeprefix(place).lstrip("/") for path in system.find(place)}
    except FileNotFoundError:
        return set()
    except Exception as error:
        raise OutputError(_unreachable(url, error)) from error


class Fetched:
    """Files at URLs, in a folder of this machine while they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AHEAD, "fetch")
        self._lock = Lock()
        self._folder: Path | None = None
        self._left = contextlib.ExitStack()
        self._urls: dict[str, str] = {}  # by paths

    def __enter__(self) -> Fetched:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._left.close()

    def get(self, url: str) -> Path:
        """Raises UsageError, InputError."""
        try:
            with self._lock:
                self._folder = self._folder or self._left.enter_context(atomic.elsewhere())
            path = Path(tempfile.mkdtemp(dir=self._folder)) / name(url)
        except OSError as error:
            raise InputError(f"{url} cannot be fetched to {error.filename}: {error.strerror}; set TMPDIR.") from error
        fetch(url, path)
        self._urls[str(path)] = url
        return path

    def url(self, path: str) -> str:
        """Where the file at a path came from; other paths are themselves."""
        return self._urls.get(path, path)

    def drop(self, path: str) -> None:
        """Removes a file that is no longer needed; others than those fetched stay."""
        if self._urls.pop(path, None) is not None:
            Path(path).unlink(missing_ok=True)
            Path(path).parent.rmdir()

    def ahead(self, wanted: Iterator[tuple[str, T]]) -> Iterator[tuple[Path | DiffEditError | None, T]]:
        """Of each (URL, what wants it) the path, or why there is none; several are fetched while earlier ones are used.

        For an empty URL there is no path, and no waiting.
        """
        waiting: deque[tuple[Future[Path | DiffEditError], T]] = deque()
        for url, what in wanted:
            if url:
                waiting.append((self._pool.submit(_or_error, self.get, url), what))
            while waiting and (len(waiting) > AHEAD or not url):
                path, other = waiting.popleft()
                yield path.result(), other
            if not url:
                yield None, what
        for path, other in waiting:
            yield path.result(), other


def _or_error(get: Callable[[str], Path], url: str) -> Path | DiffEditError:
    try:
        return get(url)
    except DiffEditError as error:
        return error


def _unreachable(url: str, error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{url} cannot be reached ({said}); check the name, your credentials and the network."
