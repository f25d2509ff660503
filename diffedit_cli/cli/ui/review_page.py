"""The addresses of the review page."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from diffedit_cli.cli.ui.app import PAUSE, QUIET, answers, body, page, said, static, view
from diffedit_cli.cli.ui.review import Card, ReviewWork
from diffedit_cli.errors import InputError, UsageError

DECISIONS = ("open", "accepted", "refused")


class ReviewPage:
    """Answers the requests of the review page, and tells every tab what changed."""

    def __init__(self, work: ReviewWork, prompts: Sequence[str]) -> None:
        self.work, self.review, self._prompts, self.closing = work, work.review, prompts, False
        self._listeners: set[asyncio.Event] = set()
        work.changed = self.changed

    def routes(self) -> list[Route]:
        return [
            Route("/", self.first),
            Route("/review", self.page),
            Route("/static/{name}", static),
            Route("/api/review", self.state),
            Route("/api/events", self.events),
            Route("/api/review/open", self.decide_open, methods=["POST"]),
            Route("/api/review/paint", self.paint, methods=["POST"]),
            Route("/api/review/stop", self.stop, methods=["POST"]),
            Route("/api/review/{id}", self.decide, methods=["POST"]),
            Route("/api/review/{id}/mask", self.correct, methods=["POST", "DELETE"]),
            Route("/review/{id}/{what}", self.picture),
        ]

    def changed(self) -> None:
        for event in self._listeners:
            event.set()

    async def first(self, request: Request) -> Response:  # noqa: ARG002
        return RedirectResponse("/review", 303)

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        return page("review.html.jinja", self.review.out.name)

    def _state(self) -> dict[str, object]:
        return {
            "from": self._prompts[0],
            "to": self._prompts[1],
            "out": str(self.review.out),
            **self.work.record(),
        }

    async def state(self, request: Request) -> Response:  # noqa: ARG002
        cards = [self.review.record_of(card) for card in self.review.cards.values()]
        return JSONResponse({**self._state(), "cards": cards})

    async def events(self, request: Request) -> Response:  # noqa: ARG002
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        """Yields the state with the cards that changed since the last message; all of them in the first."""
        told: dict[str, str] = {}
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            changed.set()
            while not self.closing:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), QUIET)
                changed.clear()
                cards = {card.id: self.review.record_of(card) for card in self.review.cards.values()}
                texts = {one: json.dumps(card) for one, card in cards.items()}
                fresh = [cards[one] for one, text in texts.items() if told.get(one) != text]
                told = texts
                yield f"event: review\ndata: {json.dumps({**self._state(), 'cards': fresh})}\n\n"
                await asyncio.sleep(PAUSE)
        finally:
            self._listeners.discard(changed)

    def _card(self, request: Request) -> Card:
        card = self.review.cards.get(request.path_params["id"])
        if card is None:
            raise UsageError("This picture is not in the review.")
        return card

    @answers
    async def decide(self, request: Request) -> Response:
        card, decision = self._card(request), (await said(request)).get("decision")
        if decision not in DECISIONS:
            raise UsageError(f"A decision is {', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}.")
        self.review.decide([card], decision)
        self.changed()
        return JSONResponse(self.review.record_of(card))

    @answers
    async def decide_open(self, request: Request) -> Response:
        decision = (await said(request)).get("decision")
        if decision not in DECISIONS[1:]:
            raise UsageError(f"A decision about all open pictures is {DECISIONS[1]} or {DECISIONS[2]}.")
        cards = [card for card in self.review.cards.values() if card.state in ("found", "painted")]
        self.review.decide([one for one in cards if self.review.decisions.decision(one.key) == "open"], decision)
        self.changed()
        return JSONResponse(self._state())

    @answers
    async def correct(self, request: Request) -> Response:
        card = self._card(request)
        data = (
            None if request.method == "DELETE" else await asyncio.to_thread(_drawn, card, await body(request, "mask"))
        )
        await asyncio.to_thread(self.review.correct, card, data)
        self.changed()
        return JSONResponse(self.review.record_of(card))

    @answers
    async def paint(self, request: Request) -> Response:  # noqa: ARG002
        self.work.want_painting()
        return JSONResponse(self._state(), 202)

    @answers
    async def stop(self, request: Request) -> Response:  # noqa: ARG002
        await self.work.stop()
        return JSONResponse(self._state())

    @answers
    async def picture(self, request: Request) -> Response:
        card, what = self._card(request), request.path_params["what"]
        known = {"picture": card.path, "mask": self.review.mask(card), "result": self.review.result(card)}
        if what == "small":
            return Response(await asyncio.to_thread(_small, card.path), media_type="image/png")
        if what not in known:
            raise UsageError("There is no such picture.")
        return await view(known[what], self.review.max_pixels)


def _small(path: Path) -> bytes:
    """Returns a small picture as PNG. Raises InputError."""
    from diffedit_cli.results import thumbnails

    try:
        image = thumbnails.of_picture(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the file.") from error
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _drawn(card: Card, data: bytes) -> bytes:
    """Returns a drawn mask as the PNG to keep. Raises InputError unless it is a mask of the picture's size."""
    from diffedit_cli.cli.ui.session_folder import read_drawn
    from diffedit_cli.images import masks

    return masks.pack_mask(read_drawn(data, card.size, card.path.name))
