"""A local hub that answers the few requests of huggingface_hub from folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Folders of repositories by id, the requests received, and settings of faults."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.card: dict[str, Any] = {"license": "openrail"}
        self.pipeline = "StableDiffusionPipeline"
        self.architectures: list[str] = []  # of a model of transformers, which has no pipeline
        self.asked: list[str] = []  # METHOD PATH, and the range if one was asked for
        self.refuse: dict[str, tuple[int, str]] = {}  # id -> status and X-Error-Code, for its files
        self.gated: set[str] = set()  # ids whose licence is to be accepted first
        self.tells_access = True  # whether it says who may read a gated repository, as the real one does
        self.cut_at: int | None = None  # a file longer than this breaks off there
        self.gone_after_cut = False  # and cannot be had again
        self.url = ""

    def reach(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        """Lets commands ask this hub, of this process and of others, and keep what they download in `home`."""
        patch.setenv("HF_ENDPOINT", self.url)
        patch.setenv("HF_HOME", str(home))
        for name in (
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
        ):
            patch.delenv(name, raising=False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))

    def got(self, name: str) -> list[str]:
        """Returns the requested ranges of all downloads of a file."""
        return [
            line.split(" ", 2)[2] for line in self.asked if line.startswith("GET") and line.split()[1].endswith(name)
        ]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def answer(self, body: bool) -> None:
        hub, path = self.served, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/\w+)?", path):
            folder = hub.repositories.get(found[1])
            return self.fail(401, "RepoNotFound") if folder is None else self.send_info(found[1], folder)
        if (found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/auth-check", path)) and hub.tells_access:
            return self.fail(*hub.refuse[found[1]]) if found[1] in hub.refuse else self.send(200, {}, b"")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        if found is None or found[1] not in hub.repositories:
            return self.fail(401, "RepoNotFound")
        if found[1] in hub.refuse:
            return self.fail(*hub.refuse[found[1]])
        return self.send_file(hub.repositories[found[1]] / found[3], body)

    def send_info(self, repository: str, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [{"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files]
        info = {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": self.served.card, "tags": []}
        info["gated"] = "manual" if repository in self.served.gated else False
        architectures = self.served.architectures
        diffusers = {"diffusers": {"_class_name": self.served.pipeline}}
        info["config"] = {"architectures": architectures} if architectures else diffusers
        content = json.dumps(info).encode()
        self.send(200, {"Content-Type": "application/json"}, content)

    def send_file(self, path: Path, body: bool) -> None:
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range", "bytes=0-")))
        rest = content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.served.cut_at
        if body and cut is not None and len(content) > cut:
            if not start:
                return self.send(200, headers, rest, stop=cut)
            if self.served.gone_after_cut:
                return self.fail(500, "")
        return self.send(206 if start else 200, headers, rest, stop=None if body else 0)

    def send(self, status: int, headers: dict[str, str], content: bytes, stop: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:stop])
        self.close_connection = True

    def fail(self, status: int, code: str) -> None:
        self.send(status, {"X-Error-Code": code} if code else {}, b"")
