"""A page of `diffedit ui` or `diffedit run --review` as a process, and a client with its token."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from command import INSTALLED

PATIENCE = 120.0  # seconds for anything to happen


class PageProcess:
    """A page that was started in a folder, with what its temporary files lie in."""

    def __init__(self, folder: Path, *words: object, address: bool = True) -> None:
        self.temporary = folder / "temporary files"
        self.temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [INSTALLED, *map(str, words)],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self.temporary), "BROWSER": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip() if address else ""
        self.base = re.sub(r"/(review)?\?token=.*", "", self.address)
        self.client = httpx.Client(base_url=self.base or "http://none", headers={"origin": self.base}, timeout=PATIENCE)
        if self.address:
            assert self.client.get(self.address.removeprefix(self.base)).status_code == 303

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def server(self) -> psutil.Process | None:
        """The private server, if it runs."""
        return next((one for one in self.children if "serve" in one.cmdline()), None)

    def job(self, kind: str, wait: bool = True, **more: Any) -> Any:
        """A job as the page asks for it, when it has ended unless it is not waited for."""
        request = {"kind": kind, "picture": "p1", "tab": "t", **more}
        answer = self.client.post("/api/jobs", json=request)
        assert answer.status_code == 202, answer.text
        return self.ended(answer.json()["id"]) if wait else answer.json()

    def job_now(self, number: str) -> Any:
        return next(one for one in self.client.get("/api/state").json()["jobs"] if one["id"] == number)

    def ended(self, number: str) -> Any:
        return until(lambda: (job := self.job_now(number))["status"] not in ("waiting", "running") and job)

    def end(self, number: int = signal.SIGINT) -> int:
        """Ends the page by a signal, and returns its exit code."""
        self.process.send_signal(number)
        self.client.close()
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def page(folder: Path, *words: object) -> Iterator[PageProcess]:
    """Context of a page, which is ended with all that it started."""
    running = PageProcess(folder, *words)
    left = []
    try:
        yield running
        left = running.children if running.process.poll() is None else []
    finally:
        if running.process.poll() is None:
            running.end()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def until(happened: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Waits until something is true, and returns it."""
    deadline = time.monotonic() + patience
    while not (said := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return said
