"""Runs diffedit's commands in processes of their own, which a private `diffedit serve` keeps the model loaded for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.cli import server_start
from diffedit_cli.errors import INTERRUPTED, DeviceError

LONGEST = 2**24  # bytes of a line that a command writes
READY = 120.0  # seconds for the server to load its libraries
IDLE = 600  # seconds after which the server ends if nothing is asked, also if this process was killed
AGAIN = 0.5  # seconds between two interrupts, so that they are not taken for one
GRACE = 10.0  # seconds for a command to end after it was interrupted
COMPLAINT = "diffedit: "
OnStep = Callable[[str, int, int], None]
"""Receives the stage, and how many of how many steps are done."""


@dataclass
class Outcome:
    """What a command said: its exit code, its results (see `results/result.py`), and its last complaint."""

    code: int
    results: list[dict[str, Any]] = field(default_factory=list)
    message: str = ""


class Worker:
    """Runs one command at a time. The server is started when it is needed, and again if it ended."""

    def __init__(self, runtime: Path) -> None:
        """Keeps the server's socket and temporary files in the folder `runtime`, which only this user may enter."""
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "TMPDIR": str(runtime),
            "DIFFEDIT_SERVE": "on",
            "NO_COLOR": "1",
        }
        self._starting = asyncio.Lock()
        self._server: asyncio.subprocess.Process | None = None
        self._command: asyncio.subprocess.Process | None = None

    async def warm_up(self) -> None:
        """Starts the server unless it runs, and waits until it listens or has failed to."""
        async with self._starting:
            if self._server is not None and self._server.returncode is None:
                return
            self._server = await self._start("serve", "--idle", str(IDLE), stdout=asyncio.subprocess.DEVNULL)
            assert self._server.stderr is not None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.stderr.readline(), READY)
            self._draining = asyncio.create_task(_each_line(self._server.stderr, lambda _: None))

    async def cool_down(self) -> None:
        """Ends the server, so that its memory is free."""
        server, self._server = self._server, None
        if server is not None and server.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            await self._ended(server)

    async def run(
        self, words: list[str], on_step: OnStep, on_result: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> Outcome:
        """Runs a command with --json and --progress json, and returns its outcome."""
        self._command = command = await self._start(*words, "--json", "--progress", "json")
        outcome = Outcome(0)
        assert command.stdout is not None
        assert command.stderr is not None
        await asyncio.gather(
            _each_line(command.stdout, lambda text: _take_result(text, outcome, on_result)),
            _each_line(command.stderr, lambda text: _take_step(text, outcome, on_step)),
        )
        code = await command.wait()
        self._command = None
        if code < 0:
            outcome.message = f"The worker was ended by signal {-code}, perhaps for lack of memory; try again."
        outcome.code = code if code >= 0 else DeviceError.code
        return outcome

    async def stop(self, times: int = 1) -> None:
        """Interrupts the command that runs, as Ctrl-C does, and ends it if it does not heed that.

        A run finishes the pictures in progress unless it is interrupted `times` = 2 times.
        """
        command = self._command
        if command is None or command.returncode is not None:
            return
        for number in range(times):
            await asyncio.sleep(AGAIN if number else 0)
            with contextlib.suppress(ProcessLookupError):
                command.send_signal(signal.SIGINT)
        await self._ended(command)

    @property
    def server_process(self) -> int | None:
        """The process id of the server, if it runs."""
        return self._server.pid if self._server is not None and self._server.returncode is None else None

    async def close(self) -> None:
        await self.stop()
        await self.cool_down()

    async def _start(self, *words: str, stdout: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *server_start.program(*words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=LONGEST,
            start_new_session=True,  # Ctrl-C of the terminal is for the page, which ends what it started
        )

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _each_line(stream: asyncio.StreamReader, take: Callable[[str], None]) -> None:
    while line := await stream.readline():
        take(line.decode("utf-8", "replace").strip())


def _take_result(text: str, outcome: Outcome, on_result: Callable[[dict[str, Any]], None]) -> None:
    said = _object(text)
    if said is not None:
        outcome.results.append(said)
        on_result(said)
        if isinstance(said.get("error"), dict):
            outcome.message = str(said["error"].get("message", ""))


def _take_step(text: str, outcome: Outcome, on_step: OnStep) -> None:
    said = _object(text)
    if said is not None and {"stage", "done", "total"} <= said.keys():
        on_step(str(said["stage"]), int(said["done"]), int(said["total"]))
    elif text.startswith(COMPLAINT):
        outcome.message = text.removeprefix(COMPLAINT)


def _object(text: str) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def was_stopped(outcome: Outcome) -> bool:
    return outcome.code == INTERRUPTED
