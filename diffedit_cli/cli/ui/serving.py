"""Serves a page to this machine's browser until Ctrl-C, and ends what it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from diffedit_cli import __version__
from diffedit_cli.cli import config_file, model_options
from diffedit_cli.cli.console import answer, tell
from diffedit_cli.cli.ui import command_lines
from diffedit_cli.cli.ui.app import Page, application
from diffedit_cli.cli.ui.command import COMMANDS_OPTIONS, MAX_PIXELS
from diffedit_cli.cli.ui.editing import Editor
from diffedit_cli.cli.ui.job_queue import JobQueue
from diffedit_cli.cli.ui.security import Guard, new_token
from diffedit_cli.cli.ui.session_folder import SessionFolder
from diffedit_cli.cli.ui.worker import Worker
from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.models import registry
from diffedit_cli.models.names import NAMES
from diffedit_cli.pipeline.presets import PRESETS

HOST = "127.0.0.1"
LEAVING = 3  # seconds for answers in progress when the page ends
MOST_PORT = 65535
SHORT = ("/tmp", "/var/tmp")  # where temporary files may be, if the usual folder has a long name
LONGEST = 36  # bytes of that folder's path, as a socket's has 104 on some systems


def serve_editor(folder: SessionFolder, given: Mapping[str, Any]) -> None:
    """Serves the editor.

    Raises ModelError or UsageError for models and LoRAs that cannot be used, UsageError or OutputError for the address.
    """
    model_options.choose_model(dict(given), tell)
    with private_folder() as private:
        page, jobs, worker = editor_page(folder, given, private)

        @contextlib.asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            async with working(jobs, worker):
                yield
            page.closing = True

        def closing() -> None:
            page.closing = True
            jobs.changed()

        serve(lambda port, token: Guard(application(page.routes(), lifespan), port=port, token=token), given, closing)


def editor_page(folder: SessionFolder, given: Mapping[str, Any], private: Path) -> tuple[Page, JobQueue, Worker]:
    """Returns the editor with its line of jobs and its worker. Its files are in `private`, a folder of this user."""
    runtime, found = private / "runtime", private / "masks"
    for one in (runtime, found):
        one.mkdir(mode=0o700)
    worker = Worker(runtime)
    names = [name for name, one in NAMES.items() if not one.painter]
    here = [name for name in names if registry.is_here(name)]
    chosen = given["model"] or config_file.effective("model", registry.BUILTIN)
    words = command_lines.model_words(given, (*COMMANDS_OPTIONS, MAX_PIXELS))
    editor = Editor(folder, worker, found, words, list(given["lora"]), list(dict.fromkeys([chosen, *here])))
    models = [
        {"name": name, "title": name, "ready": name in here, "pull": f"diffedit models pull {name}"} for name in names
    ]
    if chosen not in names:
        models.insert(0, {"name": chosen, "title": Path(chosen).name, "ready": True, "pull": None})
    about = {
        "version": __version__, "out": str(folder.out), "model": chosen, "models": models, "presets": list(PRESETS),
        "loras": [{"name": one} for one in given["lora"]], "options": command_lines.described(),
    }  # fmt: skip
    jobs = JobQueue(editor.do, worker.stop)
    return Page(editor, jobs, about), jobs, worker


@contextlib.asynccontextmanager
async def working(jobs: JobQueue, worker: Worker) -> AsyncIterator[None]:
    """Context in which jobs are done; at its end the worker is stopped."""
    tasks = [asyncio.create_task(jobs.run()), asyncio.create_task(worker.warm_up())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await worker.close()


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yields a temporary folder that only this user may enter, with a path that is short enough for a socket below."""
    places = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), *SHORT)
    usable = (place for place in places if 0 < len(place) <= LONGEST and os.access(place, os.W_OK | os.X_OK))
    with tempfile.TemporaryDirectory(
        prefix="diffedit-ui-", dir=next(usable, None), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `_served`, which ends the page with exit code 0."""
        yield


def serve(
    make: Callable[[int, str], Guard], given: Mapping[str, Any], closing: Callable[[], None], at: str = "/"
) -> None:
    """Serves the application that `make` returns for a port and a token, and prints its address.

    `at` is the path of the page that is opened; `closing` is called before the server waits for answers in progress.
    """
    token = new_token()
    with _bound(given["port"]) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            make(port, token), log_config=None, access_log=False, timeout_graceful_shutdown=LEAVING,
            server_header=False, ws="none", lifespan="on",
        )  # fmt: skip
        asyncio.run(_served(_Server(config), listener, f"http://{HOST}:{port}{at}?token={token}", given, closing))


async def _served(
    server: _Server, listener: socket.socket, address: str, given: Mapping[str, Any], closing: Callable[[], None]
) -> None:
    def end() -> None:
        closing()
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        answer(address)
        sys.stdout.flush()
        tell(f"Results go to {given['out']}; end the page with Ctrl-C.")
        if given["browser"]:
            await asyncio.to_thread(webbrowser.open, address)
    await serving


def _bound(port: int) -> socket.socket:
    """Returns a socket on this machine's own address. Raises UsageError or OutputError for a wrong or used port."""
    if not 0 <= port <= MOST_PORT:
        raise UsageError(f"--port {port} is not a port; give one from 1 to {MOST_PORT}, or 0 for any that is free.")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OutputError(f"Port {port} cannot be used: {error.strerror}; choose another with --port.") from error
    return listener
