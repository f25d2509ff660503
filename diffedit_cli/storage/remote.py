"""Files at URLs of any fsspec file system, such as `s3://` and `gs://`: they are fetched and sent as a whole."""

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
HERE = ("file://", "local://")  # URL prefixes of local files in fsspec
AHEAD = 4  # files fetched before they are needed

T = TypeVar("T")


def is_url(source: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden; macOS adds a folder of hidden files to its archives."""
    return name.startswith(".") or name == "__MACOSX"


def local(source: str) -> str:
    """Returns the path of a local file's URL, and any other text unchanged. Raises UsageError for a malformed URL."""
    return url2pathname(_split(source)) if source.lower().startswith(HERE) else source


def name(url: str) -> str:
    """Returns the file name in a URL, for http(s) without the query. Raises UsageError for a malformed URL."""
    path = unquote(_split(url)) if url.lower().startswith("http") else url
    return PurePosixPath(path).name or "unnamed"


def _split(url: str) -> str:
    """Returns the path in a URL. Raises UsageError for a malformed URL."""
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise UsageError(f"{url} is not a URL: {error}; check how it is written.") from None


def open_url(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path of the URL in that file system.

    Raises UsageError if the scheme is unknown, its package is not installed or the URL is local, and InputError if the
    URL cannot be reached.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url} needs a package that is not installed: {error} (with pip install).") from None
    except ValueError as error:
        raise UsageError(f"{url} has an unknown URL scheme ({error}); use a scheme that fsspec supports.") from None
    except Exception as error:  # file systems raise errors of any type
        raise InputError(_unreachable(url, error)) from error
    if "file" in found[0].protocol:
        raise UsageError(f"{url} lies on this machine; give its path.")
    return found


def identity(url: str) -> str | None:
    """Returns a text that is equal for all URLs of the same file, or None for a URL that cannot be opened."""
    try:
        system, place = open_url(url)
    except DiffEditError:  # raised again where the URL is used, and only there
        return None
    return f"{type(system).__name__} {place}"


def fetch(url: str, path: Path) -> None:
    """Downloads the file at a URL to `path`. Raises UsageError, InputError."""
    system, place = open_url(url)
    try:
        system.get_file(place, str(path))
    except FileNotFoundError:
        raise InputError(f"There is no {url}; check the name.") from None
    except Exception as error:
        raise InputError(_unreachable(url, error)) from error


def send(path: Path, url: str) -> None:
    """Uploads a file to a URL and replaces the file there. Raises OutputError, and what `open_url` raises."""
    system, place = open_url(url)
    try:
        system.put_file(str(path), place)
    except Exception as error:
        raise OutputError(_unreachable(url, error)) from error


def list_folder(url: str, *, recursive: bool) -> Iterator[tuple[str, str]]:
    """Yields the files of a URL's folder or pattern in order: each URL, and its path below their common folder.

    A single file yields its URL and its name. Hidden files and folders are left out. Raises UsageError, InputError.
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
    """Returns the relative paths of all files below a URL's folder; an empty set if the folder does not exist.

    Raises OutputError if the folder cannot be listed, and what `open_url` raises.
    """
    system, place = open_url(url)
    try:
        system.invalidate_cache()
        return {path.removeprefix(place).lstrip("/") for path in system.find(place)}
    except FileNotFoundError:
        return set()
    except Exception as error:
        raise OutputError(_unreachable(url, error)) from error


class DownloadedFiles:
    """Local copies of files at URLs, in a temporary folder while they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AHEAD, "fetch")
        self._lock = Lock()
        self._folder: Path | None = None
        self._left = contextlib.ExitStack()
        self._urls: dict[str, str] = {}  # by the path of the copy

    def __enter__(self) -> DownloadedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._left.close()

    def get(self, url: str) -> Path:
        """Downloads the file at a URL and returns the path of the copy. Raises UsageError, InputError."""
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
        """Returns the URL that the copy at a path was fetched from; any other path is returned unchanged."""
        return self._urls.get(path, path)

    def drop(self, path: str) -> None:
        """Removes a copy that is no longer needed; files that were not fetched stay."""
        if self._urls.pop(path, None) is not None:
            Path(path).unlink(missing_ok=True)
            Path(path).parent.rmdir()

    def ahead(self, wanted: Iterator[tuple[str, T]]) -> Iterator[tuple[Path | DiffEditError | None, T]]:
        """Yields for each (URL, item) the path of the copy, or the error, and the item; several are fetched in advance.

        For an empty URL the path is None and nothing is fetched. The order is kept.
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
