"""`diffedit serve`: a process that has everything loaded does the commands of others, one after the other."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffedit_cli import streams, warm
from diffedit_cli.errors import INTERRUPTED, DeviceError, DiffEditError, OutputError, UsageError

LARGEST = 16 * 2**20  # bytes of a request; environments are smaller
DOUBTFUL = (DiffEditError.code, DeviceError.code, INTERRUPTED)
"""Exit codes after which what is loaded may be half changed."""


class Server:
    """Listens for commands of its own user, and does each as if a process had been started for it."""

    def __init__(self, run: Callable[[], int]) -> None:
        """`run` does the command of sys.argv and returns its exit code."""
        self._run = run
        self._working = self._stopping = False

    def serve(self, idle: float, ready: Callable[[Path], None]) -> None:
        """Until nobody has asked for `idle` seconds, or it is told to stop. Calls `ready` when it listens.

        Raises UsageError where one serves already, OutputError where it cannot listen.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("This system has no Unix sockets to serve on; run the commands without a server.")
        address = warm.address()  # before the libraries, which add to the environment
        from diffedit_cli.loading import LOADER

        self._forget = LOADER.forget
        try:
            address.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            warm.check_private(address.parent)
            with FileLock(address.with_suffix(".lock"), timeout=0):
                LOADER.keep()
                with _listening(address) as listener:
                    self._heed_signals()
                    listener.settimeout(idle)
                    ready(address)
                    self._answer_all(listener)
        except Timeout:
            raise UsageError("A server is running already; end it with: diffedit serve --stop.") from None
        except OSError as error:
            raise OutputError(f"A server cannot listen on {address}: {error}; set XDG_RUNTIME_DIR.") from error

    def _heed_signals(self) -> None:
        signal.signal(signal.SIGUSR1, self._interrupt)  # of the thread that hears a client's Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # a client's terminal may also be the one it was started on
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, *_: object) -> None:
        if self._working:
            raise KeyboardInterrupt

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
                with connection, contextlib.suppress(OSError, ValueError):  # of a client that has gone
                    self._answer(connection)
                gc.collect()

    def _answer(self, connection: socket.socket) -> None:
        """One client. Raises OSError or ValueError for one that goes, or says something else."""
        connection.settimeout(warm.ANSWER)
        warm.peer(connection)
        connection.sendall(warm.READY)
        order, descriptors, _, _ = socket.recv_fds(connection, 1, warm.DESCRIPTORS)
        try:
            if order == warm.STOP:
                self._stopping = True
            elif order == warm.GO and len(descriptors) == warm.DESCRIPTORS:
                request = json.loads(_received(connection))
                connection.settimeout(None)
                with _in_place_of(request, descriptors):
                    code = self._done(connection)
                connection.sendall(bytes([code]))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _done(self, connection: socket.socket) -> int:
        """The exit code of the command; an interruption of the client interrupts it."""
        listening = threading.Thread(target=_listen, args=(connection,))
        try:
            self._working = True
            listening.start()
            code = self._run()
        except KeyboardInterrupt:  # before it began, or as it ended
            code = INTERRUPTED
        finally:
            self._working = False
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            listening.join()
        if code in DOUBTFUL:
            self._forget()
        return code


def _listen(connection: socket.socket) -> None:
    """Tells the main thread, which works, of every Ctrl-C of the client, and of its end."""
    said = warm.INTERRUPT
    while said:
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@contextlib.contextmanager
def _listening(address: Path) -> Iterator[socket.socket]:
    """What a server that was killed has left there goes; the caller holds the lock."""
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


def _received(connection: socket.socket) -> bytes:
    """The request, and nothing of what comes behind it. Raises ValueError for one that is cut off or too long."""
    length = int.from_bytes(_exactly(connection, warm.LENGTH), "big")
    if length > LARGEST:
        raise ValueError("the request is too long")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise ValueError("the request is cut off")
        data += more
    return data


@contextlib.contextmanager
def _in_place_of(request: dict[str, Any], descriptors: list[int]) -> Iterator[None]:
    """With a client's standard streams, working folder, environment, umask and words, for a while."""
    *three, folder = descriptors
    words, environment, umask = sys.argv, dict(os.environ), os.umask(request["umask"])
    own, own_folder = [os.dup(number) for number in range(3)], os.open(".", os.O_RDONLY)
    objects = sys.stdin, sys.stdout, sys.stderr
    try:
        for number, descriptor in enumerate(three):
            os.dup2(descriptor, number)
        os.fchdir(folder)
        _set_environment(request["environment"])
        sys.argv = [words[0], *request["words"]]
        sys.stdin, sys.stdout, sys.stderr = streams.opened()
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
        for descriptor in (*own, own_folder):
            os.close(descriptor)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
