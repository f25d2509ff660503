"""Hands a command to a running `diffedit serve`: its arguments, folder, environment and standard streams.

Imports nothing heavy. If anything fails before the server has begun the command, it runs in its own process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffedit_cli import __version__
from diffedit_cli.cli import settings_file
from diffedit_cli.cli.console import tell
from diffedit_cli.errors import CODES, INTERRUPTED, INTERRUPTION, DeviceError
from diffedit_cli.storage import paths

COMMANDS = ("edit", "mask", "invert")
PATIENCE = 2.0  # seconds to wait for a server, about as long as starting without one takes
STARTING = 60.0  # seconds in which a server that is starting listens
ANSWER = 1.0  # seconds to wait for a message of the other side, if it is idle

# Protocol, with messages of one byte: the server sends READY when it is the client's turn; the client then sends GO or
# STOP, and later INTERRUPT. GO carries the descriptors of standard input, output, error and the working folder; the
# length of the request and the request in JSON follow. The server sends BEGUN if it accepts it, then the exit code.
READY, GO, STOP, INTERRUPT, BEGUN = b"r", b"g", b"s", b"i", b"b"
DESCRIPTORS = 4
LENGTH = 8  # bytes of the length, big-endian
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user and group id

# Prefixes of variables that are read when libraries are imported or the process starts: a server serves only clients
# with the same values.
_STARTED_WITH = (
    *("CUDA_", "DIFFUSERS_", "DNNL_", "GOMP_", "HF_", "HIP_", "HOME", "HSA_", "HUGGINGFACE_", "KMP_", "LANG", "LC_"),
    *("LD_", "MALLOC_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "ROCR_", "TMPDIR"),
    *("TOKENIZERS_", "TORCH", "TRANSFORMERS_", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
)
_SECRET = "_TOKEN"  # end of the names of variables that are read when they are needed
_ALSO = ("PATH", "USER", "LOGNAME", "XDG_RUNTIME_DIR")  # variables that a server needs, and that may differ


class Beginning(NamedTuple):
    """The address and the environment of a server for this process, before libraries add to its environment."""

    address: Path
    environment: dict[str, str]


beginning: Beginning | None = None
"""Set for a command that would leave a server behind."""


def folder() -> Path:
    """Returns the folder of the servers' sockets."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "diffedit" if runtime else paths.of_user("cache") / "serve"


def address() -> Path:
    """Returns the socket of a server with the same program, libraries and environment as this process.

    Its name begins with a digest of what stays when the program or a library is replaced by another version.
    """
    package = Path(__file__).parent.parent
    places = [*sorted(package.rglob("*.py")), *(Path(path) for path in sys.path if path.endswith("-packages"))]
    stays = {"program": [str(package), sys.executable], "environment": started_with()}
    now = {
        "program": [__version__, sys.version],
        "files": [[str(path), path.stat().st_mtime_ns, path.stat().st_size] for path in places if paths.is_there(path)],
    }
    return folder() / f"{_digest(stays)}-{_digest(now)}.socket"


def _digest(said: object) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def started_with() -> dict[str, str]:
    """Returns the variables of this process that a server must have been started with, to serve it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_STARTED_WITH) and not name.endswith(_SECRET)
    }


def chosen(words: list[str]) -> str:
    """Returns the value of --serve on a command line, in the environment or in the user's settings: on, auto or off.

    Any other value is returned as it is, for the command to refuse.
    """
    value: object = os.environ.get("DIFFEDIT_SERVE")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, told = word.partition("=")
        if option == "--serve":
            value = told if equals else following
    if value is None:
        with contextlib.suppress(OSError, ValueError, RecursionError):  # the command complains of its settings
            value = settings_file.read(settings_file.users_file()).get("serve")
    return settings_file.plain_serve(str(settings_file.ON if value is None else value))


def hand_over(words: list[str]) -> int | None:
    """Returns the exit code of a command line that a server ran, or None if this process has to run it."""
    if not words or words[0] not in COMMANDS or (serve := chosen(words)) == settings_file.OFF:
        return None
    try:
        # ValueError: a path that cannot exist. RuntimeError: a user without a home folder.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if not hasattr(socket, "AF_UNIX") or not (serve == settings_file.AUTO or paths.is_folder(folder())):
                return None
            at = address()
            if serve == settings_file.AUTO:
                _note_beginning(at)
            with connect(at) as (connection, _):
                if connection.recv(1) == READY:
                    _send(connection, words)
                    if connection.recv(1) == BEGUN:
                        return _awaited(connection)
    except KeyboardInterrupt:
        tell(f"diffedit: {INTERRUPTION}")
        return INTERRUPTED
    return None


def _note_beginning(address: Path) -> None:
    global beginning
    also = {name: os.environ[name] for name in _ALSO if name in os.environ}
    beginning = Beginning(address, also | started_with())


@contextlib.contextmanager
def connect(path: Path) -> Iterator[tuple[socket.socket, int]]:
    """Connects to a server of this user, and yields the connection and the server's process id (0 if not known).

    Raises OSError if there is no server, or it belongs to another user.
    """
    check_private(path.parent)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        yield connection, peer(connection)


def check_private(path: Path) -> None:
    """Raises PermissionError unless the folder belongs to this user, and only this user may access it."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user alone")


def peer(connection: socket.socket) -> int:
    """Returns the process id of the other side, 0 if it is not known. Raises PermissionError for another user."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.getuid():
        raise PermissionError("the other side is another user")
    return int(process)


def _send(connection: socket.socket, words: list[str]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    data = json.dumps({"words": words, "umask": umask, "environment": dict(os.environ)}).encode()
    here = os.open(".", os.O_RDONLY)
    try:
        socket.send_fds(connection, [GO], [0, 1, 2, here])
        connection.sendall(len(data).to_bytes(LENGTH, "big") + data)
    finally:
        os.close(here)


def _awaited(connection: socket.socket) -> int:
    """Waits for the exit code of the command and returns it.

    The first Ctrl-C is passed on to the server. A second one ends this process, which the server notices.
    """
    connection.settimeout(None)
    try:
        code = _answer(connection)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the command may have just ended
            connection.sendall(INTERRUPT)
        code = _answer(connection)
    if code and code[0] in CODES:
        return code[0]
    tell("diffedit: The server ended before the command was done, perhaps for lack of memory; run the command again.")
    return DeviceError.code


def _answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except OSError:
        return b""


def stop_all() -> int:
    """Ends every server of this user, each after its current command; returns how many there were.

    Waits for those that are starting.
    """
    stopped, until = 0, time.monotonic() + STARTING
    while _starting() and time.monotonic() < until:
        time.sleep(ANSWER / 10)
    for path in _sockets():
        with contextlib.suppress(OSError), connect(path) as (connection, _):
            connection.settimeout(None)
            if connection.recv(1) == READY:
                connection.sendall(STOP)
                connection.recv(1)  # returns without data once the server has ended
                stopped += 1
    return stopped


def stop_outdated() -> None:
    """Ends the idle servers that no command can use any longer, because the program or its libraries have changed."""
    own = address()
    stays = own.name.partition("-")[0]
    for path in _sockets():
        if path != own and path.name.partition("-")[0] == stays:
            with contextlib.suppress(OSError), connect(path) as (connection, _):
                connection.settimeout(ANSWER)
                if connection.recv(1) == READY:
                    connection.sendall(STOP)


def state() -> list[tuple[int, str]]:
    """Returns the process id and the state of each server of this user.

    The state is starting, idle, busy or ending, with a note if the server is of another version or environment. The
    process of a server that is starting is not known (0).
    """
    found = []
    for path in _sockets():
        with contextlib.suppress(OSError), connect(path) as (connection, process):
            connection.settimeout(ANSWER)
            try:
                said = "idle" if connection.recv(1) == READY else "ending"
            except TimeoutError:
                said = "busy"
            found.append((process, said if path == address() else f"{said}, of another version or environment"))
    return [*found, *((0, "starting") for _ in _starting())]


def _starting() -> list[Path]:
    """Returns the sockets of servers that do not listen yet: their lock is held."""
    if not hasattr(socket, "AF_UNIX") or not paths.is_folder(folder()):
        return []
    found = []
    with contextlib.suppress(OSError):  # the folder of another user
        for lock in sorted(folder().glob("*.lock")):
            if not paths.is_there(lock.with_suffix(".socket")) and _is_held(lock):
                found.append(lock.with_suffix(".socket"))
    return found


def _is_held(lock: Path) -> bool:
    import fcntl

    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _sockets() -> list[Path]:
    if not hasattr(socket, "AF_UNIX") or not paths.is_folder(folder()):
        return []
    with contextlib.suppress(OSError):  # the folder of another user
        return sorted(path for path in folder().iterdir() if path.suffix == ".socket")
    return []
