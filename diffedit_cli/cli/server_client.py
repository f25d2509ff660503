"""Handing a command to `diffedit serve`, where one runs: its words, folder, environment and standard streams.

Nothing heavy is imported here. Whatever goes wrong before the server has begun, the command does its work itself.
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
from collections.abc import Iterator
from pathlib import Path

from diffedit_cli import __version__
from diffedit_cli.cli.console import tell
from diffedit_cli.errors import CODES, INTERRUPTED, INTERRUPTION, DeviceError
from diffedit_cli.storage import paths
from diffedit_cli.storage.cache import default_root

COMMANDS = ("edit", "mask", "invert")
OFF = {"0", "OFF", "NO", "FALSE"}
PATIENCE = 2.0  # seconds to wait for a server: about what starting without it takes
ANSWER = 1.0  # seconds for the other side to say something, when it has nothing else to do

# What is said, a byte each: the server READY when it is a client's turn, the client then GO or STOP, later INTERRUPT.
# With GO go the descriptors of standard input, output, error and the working folder; behind it come the length of the
# request, and the request in JSON. The server says BEGUN if it takes it, and the answer is the exit code.
READY, GO, STOP, INTERRUPT, BEGUN = b"r", b"g", b"s", b"i", b"b"
DESCRIPTORS = 4
LENGTH = 8  # bytes, the highest first
_CREDENTIALS = struct.Struct("3i")  # of the system: process, user, group

# What libraries read when they are imported, or the system when a program starts: another value, another server.
_STARTED_WITH = (
    *("CUDA_", "DIFFUSERS_", "DNNL_", "GOMP_", "HF_", "HIP_", "HOME", "HSA_", "HUGGINGFACE_", "KMP_", "LANG", "LC_"),
    *("LD_", "MALLOC_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "ROCR_", "TMPDIR"),
    *("TOKENIZERS_", "TORCH", "TRANSFORMERS_", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
)


def folder() -> Path:
    """Where servers listen."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "diffedit" if runtime else default_root() / "serve"


def address() -> Path:
    """The socket of a server that does what this process would: of the same program, libraries and environment."""
    package = Path(__file__).parent.parent
    places = [*sorted(package.rglob("*.py")), *(Path(path) for path in sys.path if path.endswith("-packages"))]
    said = {
        "program": [__version__, sys.executable, sys.version],
        "files": [[str(path), path.stat().st_mtime_ns, path.stat().st_size] for path in places if paths.is_there(path)],
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_STARTED_WITH)},
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return folder() / f"{digest[:16]}.socket"


def hand_over(words: list[str]) -> int | None:
    """The exit code of a command line that a server has done; None where this process has to do it."""
    if not words or words[0] not in COMMANDS or os.environ.get("DIFFEDIT_SERVE", "").upper() in OFF:
        return None
    try:
        # ValueError and RuntimeError: paths that there cannot be, and a user without a home
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if not hasattr(socket, "AF_UNIX") or not paths.is_folder(folder()):
                return None
            with connect(address()) as (connection, _):
                if connection.recv(1) == READY:
                    _send(connection, words)
                    if connection.recv(1) == BEGUN:
                        return _awaited(connection)
    except KeyboardInterrupt:
        tell(f"diffedit: {INTERRUPTION}")
        return INTERRUPTED
    return None


@contextlib.contextmanager
def connect(path: Path) -> Iterator[tuple[socket.socket, int]]:
    """A server of this user, and its process. Raises OSError where there is none, or it belongs to someone else."""
    check_private(path.parent)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        yield connection, peer(connection)


def check_private(path: Path) -> None:
    """Raises PermissionError unless the folder is this user's alone."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user alone")


def peer(connection: socket.socket) -> int:
    """The process on the other side; 0 where the system does not say. Raises PermissionError for another user's."""
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
    """The exit code. The first Ctrl-C is passed on; a second one is the end here, and the server notices."""
    connection.settimeout(None)
    try:
        code = _answer(connection)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # it may be done this very moment
            connection.sendall(INTERRUPT)
        code = _answer(connection)
    if code and code[0] in CODES:
        return code[0]
    tell("diffedit: The server ended before the work did, perhaps for lack of memory; run it again.")
    return DeviceError.code


def _answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except OSError:
        return b""


def stop_all() -> int:
    """Ends every server of this user, each after what it has in hand; how many there were."""
    stopped = 0
    for path in _sockets():
        with contextlib.suppress(OSError), connect(path) as (connection, _):
            connection.settimeout(None)
            if connection.recv(1) == READY:
                connection.sendall(STOP)
                connection.recv(1)  # nothing, when it is so far
                stopped += 1
    return stopped


def state() -> list[tuple[int, str]]:
    """The servers of this user: process, and whether it is idle, busy, or of another version or environment."""
    found = []
    for path in _sockets():
        with contextlib.suppress(OSError), connect(path) as (connection, process):
            connection.settimeout(ANSWER)
            try:
                said = "idle" if connection.recv(1) == READY else "ending"
            except TimeoutError:
                said = "busy"
            found.append((process, said if path == address() else f"{said}, of another version or environment"))
    return found


def _sockets() -> list[Path]:
    if not hasattr(socket, "AF_UNIX") or not paths.is_folder(folder()):
        return []
    with contextlib.suppress(OSError):  # another user's
        return sorted(path for path in folder().iterdir() if path.suffix == ".socket")
    return []
