"""The page's addresses: what the browser may ask, and what it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from diffedit_cli import __version__
from diffedit_cli.cli.ui import command_lines, session_folder
from diffedit_cli.cli.ui.editing import Editor
from diffedit_cli.cli.ui.job_queue import Job, JobQueue
from diffedit_cli.cli.ui.session_folder import SessionFolder
from diffedit_cli.errors import DiffEditError, InputError, UsageError

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = {"json": 2**20, "mask": 2**26, "picture": 2**29}  # bytes of a request, at most
KINDS = {".js": "text/javascript", ".css": "text/css"}
PAUSE = 0.1  # seconds between two messages to a tab, at least
QUIET = 15.0  # seconds after which a tab hears that the page is still there
Answer = Callable[[Request], Awaitable[Response]]


class TooLarge(DiffEditError):
    """A request with more bytes than its kind may have."""


def answers(call: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Wraps an answer: errors of diffedit become JSON with a message."""

    @functools.wraps(call)
    async def answer(self: Any, request: Request) -> Response:
        try:
            return await call(self, request)
        except TooLarge as error:
            return JSONResponse({"message": str(error)}, 413)
        except DiffEditError as error:
            return JSONResponse({"message": str(error)}, 400 if isinstance(error, UsageError) else 422)

    return answer


async def body(request: Request, kind: str) -> bytes:
    """Returns the bytes of a request. Raises TooLarge."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST[kind]:
            raise TooLarge(f"This is larger than the {LARGEST[kind] // 2**20} MB that the page takes.")
    return bytes(data)


async def said(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request. Raises UsageError for anything else."""
    try:
        found = json.loads(await body(request, "json"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError("The request is not a JSON object.")
    return found


class Page:
    """The editor: its state, and the answers to its requests."""

    def __init__(self, editor: Editor, jobs: JobQueue, about: dict[str, Any]) -> None:
        """`about` is the part of the state that does not change: models, options, presets."""
        self.editor, self.jobs, self._about = editor, jobs, about
        self.closing = False
        self.more_events: list[Callable[[], tuple[str, Any]]] = []

    @property
    def folder(self) -> SessionFolder:
        return self.editor.folder

    def routes(self) -> list[Route]:
        return [
            Route("/", self.editor_page),
            Route("/static/{name}", static),
            Route("/api/state", self.state),
            Route("/api/events", self.events),
            Route("/api/pictures", self.upload, methods=["POST"]),
            Route("/api/pictures/kept", self.edit_further, methods=["POST"]),
            Route("/api/pictures/{id}", self.close_picture, methods=["DELETE"]),
            Route("/api/masks", self.draw, methods=["POST"]),
            Route("/api/jobs", self.begin, methods=["POST"]),
            Route("/api/jobs/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/command", self.command, methods=["POST"]),
            Route("/pictures/{id}", self.picture),
            Route("/masks/{id}", self.mask),
            Route("/results/{id}/{number:int}", self.result),
            Route("/results/{id}/{number:int}/file", self.download),
        ]

    async def editor_page(self, request: Request) -> Response:  # noqa: ARG002
        return page("editor.html.jinja", self.folder.out.name)

    async def state(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({**self._about, **self._open(), "jobs": self.jobs.record()})

    def _open(self) -> dict[str, Any]:
        return {
            "pictures": [one.record() for one in self.folder.pictures.values()],
            "results": [one.told for one in self.folder.results.values()],
        }

    async def events(self, request: Request) -> Response:  # noqa: ARG002
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        told: dict[str, str] = {}
        async with self.jobs.listening() as changed:
            changed.set()
            while not self.closing:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), QUIET)
                changed.clear()
                messages = [("jobs", {"jobs": self.jobs.record()}), ("state", self._open())]
                messages += [make() for make in self.more_events]
                for event, data in messages:
                    text = json.dumps(data)
                    if told.get(event) != text:
                        told[event] = text
                        yield f"event: {event}\ndata: {text}\n\n"
                yield ": still there\n\n"
                await asyncio.sleep(PAUSE)

    @answers
    async def upload(self, request: Request) -> Response:
        data = await body(request, "picture")
        picture = await asyncio.to_thread(self.folder.take_upload, request.query_params.get("name", ""), data)
        self.jobs.changed()
        return JSONResponse(picture.record(), 201)

    @answers
    async def edit_further(self, request: Request) -> Response:
        asked = await said(request)
        number = asked.get("output", 0)
        path = self.folder.result(str(asked.get("result")), number if isinstance(number, int) else -1)
        picture = await asyncio.to_thread(self.folder.open, path)
        self.jobs.changed()
        return JSONResponse(picture.record(), 201)

    @answers
    async def close_picture(self, request: Request) -> Response:
        del self.folder.pictures[self.folder.picture(request.path_params["id"]).id]
        self.jobs.changed()
        return Response(status_code=204)

    @answers
    async def draw(self, request: Request) -> Response:
        picture = self.folder.picture(request.query_params.get("picture"))
        data = await body(request, "mask")
        return JSONResponse(await asyncio.to_thread(self.folder.take_mask, picture, data), 201)

    @answers
    async def begin(self, request: Request) -> Response:
        asked = await said(request)
        kind, tab = str(asked.get("kind")), str(asked.get("tab"))[:80]
        self.editor.check(kind, asked)
        job = self.jobs.add(kind, tab, asked)
        return JSONResponse(self._job(job), 202)

    @answers
    async def stop(self, request: Request) -> Response:
        job = self.jobs.jobs.get(request.path_params["id"])
        if job is None:
            raise UsageError("This job has ended.")
        await self.jobs.stop(job)
        return JSONResponse(self._job(job))

    def _job(self, job: Job) -> dict[str, Any]:
        return next(one for one in self.jobs.record() if one["id"] == job.id)

    @answers
    async def command(self, request: Request) -> Response:
        asked = await said(request)
        lines = {kind: command_lines.line(self.editor.command(kind, asked)) for kind in command_lines.CONTROLS}
        return JSONResponse(lines)

    @answers
    async def picture(self, request: Request) -> Response:
        return await self._view(self.folder.picture(request.path_params["id"]).path)

    @answers
    async def mask(self, request: Request) -> Response:
        return await self._view(self.folder.mask(request.path_params["id"]))

    @answers
    async def result(self, request: Request) -> Response:
        return await self._view(self.folder.result(request.path_params["id"], request.path_params["number"]))

    @answers
    async def download(self, request: Request) -> Response:
        path = _there(self.folder.result(request.path_params["id"], request.path_params["number"]))
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def _view(self, path: Path) -> Response:
        return await view(path, self.folder.max_pixels)


async def view(path: Path, max_pixels: int) -> Response:
    """Returns a picture as a PNG that any browser shows. Raises InputError if the file is gone or damaged."""
    return Response(await asyncio.to_thread(session_folder.view_of, _there(path), max_pixels), media_type="image/png")


def _there(path: Path) -> Path:
    """Returns the path of a file. Raises InputError if it is gone."""
    if not path.is_file():
        raise InputError(f"The file {path.name} is not there any longer; it was removed or renamed.")
    return path


async def static(request: Request) -> Response:
    """Returns a script or a style of the page."""
    path = TEMPLATES / request.path_params["name"]
    if path.parent != TEMPLATES or path.suffix not in KINDS or not path.is_file():
        return Response("There is no such file.", 404)
    return FileResponse(path, media_type=KINDS[path.suffix])


def page(template: str, name: str) -> Response:
    """Returns a page with its texts, which scripts read from it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    texts = json.loads((TEMPLATES / "texts.json").read_text(encoding="utf-8"))
    return Response(
        environment.get_template(template).render(texts=texts, version=__version__, name=name), media_type="text/html"
    )


def application(routes: list[Route], lifespan: Any) -> Starlette:
    """Returns the application of a page; `lifespan` is entered when it starts and left when it ends."""
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={ClientDisconnect: _nobody})


async def _nobody(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)
