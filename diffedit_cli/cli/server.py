"""The command `diffedit serve`: a process that keeps the model loaded and runs commands of clients, one at a time."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from diffedit_cli.cli import server_client
from diffedit_cli.errors import INTERRUPTED, DeviceError, DiffEditError, OutputError, UsageError
from diffedit_cli.jobs import interrupts
from diffedit_cli.storage import paths, streams

LARGEST = 16 * 2**20  # bytes of a request, at most; environments are smaller
REQUEST = 5.0  # seconds for a whole request to arrive
ATTENTION = 0.2  # seconds between two looks at a client, and between two attempts to interrupt its command
SMALL = 64  # pixels, the side of the picture that the warm-up edits
WARMING = [
    *("edit", "picture.png", "--from", "cat", "--to", "dog", "--model", "builtin", "--anyway", "--steps", "4"),
    *("--maps", "1", "--no-cache", "--quiet"),
]
DOUBTFUL = (DiffEditError.code, DeviceError.code, INTERRUPTED)
"""Exit codes after which the loaded model may be in an inconsistent state."""


class Server:
    """Accepts commands of its own user on a Unix socket, and runs each as a process of its own would."""

    def __init__(self, run: Callable[[], int]) -> None:
        """Creates the server; `run` runs the command in sys.argv and returns its exit code."""
        self._run = run
        self._working = self._stopping = False

    def serve(self, idle: float, ready: Callable[[Path], None]) -> None:
        """Serves until no client came for `idle` seconds or it is told to stop; calls `ready` once it listens.

        Raises UsageError if a server runs already or the system has no Unix sockets, OutputError if it cannot listen.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("This system has no Unix sockets to serve on; run the commands without a server.")
        paths.need_home(server_client.folder(), "listen in", "set XDG_RUNTIME_DIR")
        address = server_client.address()  # before importing libraries, which add to the environment
        from diffedit_cli.models.loader import LOADER, Loader

        self._forget, self._loads = LOADER.forget, Loader.load.__code__
        try:
            address.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            server_client.check_private(address.parent)
            with FileLock(address.with_suffix(".lock"), timeout=0):
                server_client.stop_outdated()
                LOADER.keep()
                self._warm_up()
                with _listening(address) as listener:
                    self._heed_signals()
                    listener.settimeout(idle)
                    ready(address)
                    self._answer_all(listener)
        except Timeout:
            raise UsageError("A server is running already; end it with: diffedit serve --stop.") from None
        except OSError as error:
            raise OutputError(f"A server cannot listen on {address}: {error}; set XDG_RUNTIME_DIR.") from error

    def _warm_up(self) -> None:
        """Runs a small edit, whatever its result, so that all imports of a command are done before a client waits."""
        from PIL import Image

        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIFFEDIT_")}
        with tempfile.TemporaryDirectory() as folder:
            Image.new("RGB", (SMALL, SMALL), "green").save(Path(folder) / "picture.png")
            environment |= dict.fromkeys(("DIFFEDIT_CACHE_DIR", "XDG_CONFIG_HOME"), folder)
            descriptors = [*(os.open(os.devnull, os.O_RDWR) for _ in range(3)), os.open(folder, os.O_RDONLY)]
            try:
                with _in_place_of(Request(WARMING, 0o077, environment), descriptors):
                    self._run()
            finally:
                _close(descriptors)

    def _heed_signals(self) -> None:
        signal.signal(signal.SIGUSR1, self._interrupt)  # sent by the thread that receives a client's Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # a client may use the terminal that the server was started on
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._working and not self._is_loading(frame):
            self._heard += 1
            interrupts.handle_sigint(number)

    def _stop(self, *_: object) -> None:
        self._stopping = True
        raise KeyboardInterrupt

    def _answer_all(self, listener: socket.socket) -> None:
        while not self._stopping:
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    return
                with connection, contextlib.suppress(OSError, ValueError):  # client gone, or request invalid
                    self._answer(connection)
                gc.collect()

    def _answer(self, connection: socket.socket) -> None:
        """Serves one client. Raises OSError if it is gone or too slow, ValueError if its request is invalid."""
        connection.settimeout(server_client.ANSWER)
        server_client.peer(connection)
        connection.sendall(server_client.READY)
        order, descriptors, _, _ = socket.recv_fds(connection, 1, server_client.DESCRIPTORS)
        try:
            if order == server_client.STOP:
                self._stopping = True
            elif order == server_client.GO and len(descriptors) == server_client.DESCRIPTORS:
                request = _received(connection)
                with _in_place_of(request, descriptors):
                    connection.sendall(server_client.BEGUN)
                    connection.settimeout(ATTENTION)
                    code = self._done(connection)
                connection.sendall(bytes([code]))
        finally:
            _close(descriptors)

    def _done(self, connection: socket.socket) -> int:
        """Runs the command and returns its exit code; a Ctrl-C of the client interrupts the command."""
        listening = threading.Thread(target=self._listen, args=(connection, server_client.peer(connection)))
        try:
            self._heard, self._working = 0, True
            listening.start()
            code = self._run()
        except KeyboardInterrupt:  # Ctrl-C before the command began, or as it ended
            code = INTERRUPTED
        finally:
            self._working = False
            interrupts.reset()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            listening.join()
        if code in DOUBTFUL:
            self._forget()
        return code

    def _listen(self, connection: socket.socket, client: int) -> None:
        """Signals every Ctrl-C and the end of the client to the main thread, repeatedly until each is handled."""
        asked, here = 0, True
        while self._working:
            if here:
                pressed = _pressed(connection, client)
                here = pressed is not False
                asked += pressed is not None
            else:
                time.sleep(ATTENTION)
            if self._heard < asked:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _is_loading(self, frame: FrameType | None) -> bool:
        """Returns whether a module or a model is being loaded, which an interruption would leave incomplete."""
        while frame is not None:
            if frame.f_code is self._loads or frame.f_code.co_filename.startswith("<frozen importlib"):
                return True
            frame = frame.f_back
        return False


def _pressed(connection: socket.socket, client: int) -> bool | None:
    """Returns True if the client pressed Ctrl-C, None if it sent nothing, False if it is gone.

    `client` is its process id, 0 if not known. The process is checked because other processes may keep its end of the
    connection open.
    """
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(client, 0)
            return None
    except OSError:
        pass
    return False


@contextlib.contextmanager
def _listening(address: Path) -> Iterator[socket.socket]:
    """Yields a socket that listens at the address, for this user only; the caller holds the lock.

    Replaces the socket that a killed server left there.
    """
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        umask = os.umask(0o177)
        try:
            listener.bind(str(address))
        finally:
            os.umask(umask)
        listener.listen()
        try:
            yield listener
        finally:
            address.unlink(missing_ok=True)


@dataclass(frozen=True)
class Request:
    """A command line with the umask and the environment of its client. Raises ValueError for an invalid field."""

    words: list[str]
    umask: int
    environment: dict[str, str]

    def __post_init__(self) -> None:
        words, variables = self.words, self.environment
        if not (isinstance(words, list) and all(map(_is_text, words)) and words and words[0] in server_client.COMMANDS):
            raise ValueError("it has no words of a command that is done here")
        if type(self.umask) is not int or not 0 <= self.umask <= 0o777:
            raise ValueError("it has no umask")
        if not isinstance(variables, dict) or not all(
            name and "=" not in name and _is_text(name) and _is_text(value) for name, value in variables.items()
        ):
            raise ValueError("it has no environment")


def _is_text(value: object) -> bool:
    """Returns whether the value is a string that the system accepts: it can be encoded, and has no zero byte."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _received(connection: socket.socket) -> Request:
    """Reads the request and nothing after it. Raises ValueError if it is invalid, OSError if it arrives too slowly."""
    until = time.monotonic() + REQUEST
    length = int.from_bytes(_exactly(connection, server_client.LENGTH, until), "big")
    if length > LARGEST:
        raise ValueError("it is too long")
    try:
        return Request(**json.loads(_exactly(connection, length, until)))
    except (TypeError, RecursionError) as error:  # unknown fields, or nested too deeply
        raise ValueError("it is not a request") from error


def _exactly(connection: socket.socket, length: int, until: float) -> bytes:
    data = b""
    while len(data) < length:
        if time.monotonic() > until:
            raise TimeoutError
        more = connection.recv(length - len(data))
        if not more:
            raise ValueError("it is cut off")
        data += more
    return data


@contextlib.contextmanager
def _in_place_of(request: Request, descriptors: list[int]) -> Iterator[None]:
    """Runs the block with the client's standard streams, working folder, environment, umask and arguments."""
    *three, folder = descriptors
    own_folder = os.open(".", os.O_RDONLY)
    own = [os.dup(number) for number in range(3)]
    words, environment, umask = sys.argv, dict(os.environ), os.umask(request.umask)
    objects = sys.stdin, sys.stdout, sys.stderr
    try:
        for number, descriptor in enumerate(three):
            os.dup2(descriptor, number)
        os.fchdir(folder)
        _set_environment(request.environment)
        sys.argv = [words[0], *request.words]
        sys.stdin, sys.stdout, sys.stderr = streams.open_streams()
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.argv, (sys.stdin, sys.stdout, sys.stderr) = words, objects
        _set_environment(environment)
        os.fchdir(own_folder)
        os.umask(umask)
        for number, descriptor in enumerate(own):
            os.dup2(descriptor, number)
        _close((*own, own_folder))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
