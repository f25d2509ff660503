"""Servers of `diffedit serve` and their clients, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from command import Ran, finished, started

RUN_AND_TELL = """
import os, sys
from diffedit_cli.__main__ import main
try:
    main()
finally:
    with open(os.environ["TOLD"], "w") as file:
        file.write(" ".join(name for name in ("torch", "numpy", "PIL", "diffusers", "typer") if name in sys.modules))
"""


@dataclass
class Servers:
    """Those that a test has started, in a runtime folder of their own."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """One that listens."""
        server = started("serve", "--idle", "300", *words)
        self.running.append(server)
        assert server.stderr is not None
        assert server.stderr.readline().startswith(b"serving on ")
        return server

    def end(self) -> None:
        for server in self.running:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            server.communicate()

    @property
    def sockets(self) -> list[Path]:
        return list(self.folder.glob("diffedit/*.socket"))


def handed(*words: object, given: bytes = b"") -> Ran:
    """One command line in a process of its own."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", RUN_AND_TELL, *map(str, words)]
    return finished(subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe), given)


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
