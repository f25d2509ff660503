"""The review of a run: finds the masks of all pictures, notes decisions, and paints the accepted pictures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.cli.ui import command_lines
from diffedit_cli.cli.ui.worker import Worker, was_stopped
from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.jobs.review_decisions import Decision, Key, ReviewDecisions
from diffedit_cli.results import results_log
from diffedit_cli.storage import files

CORRECTED = "corrected"  # folder of the masks that a person drew, beside the decisions
FOUND = "found"  # folder of the masks that were found


@dataclass
class Card:
    """A picture of the review."""

    id: str
    path: Path
    output: Path  # of its result, below --out
    given: Mapping[str, Any]  # its own options, from a job file
    size: tuple[int, int] = (0, 0)
    state: str = "waiting"  # waiting, found, failed or painted
    area: float | None = None
    message: str | None = None
    version: int = 0  # counts changes of its mask and its result, for their addresses

    @property
    def key(self) -> Key:
        return str(self.path), str(self.output)

    @property
    def label(self) -> str:
        return str(self.output).removesuffix(".png")


@dataclass
class Painting:
    running: bool = False
    done: int = 0
    total: int = 0
    stage: str | None = None
    step: int = 0
    steps: int = 0


@dataclass
class Review:
    """The cards, and what was decided about them."""

    out: Path
    cards: dict[str, Card]
    decisions: ReviewDecisions
    max_pixels: int

    def learn(self) -> None:
        """Finds out which cards an earlier review has painted already."""
        told: dict[Path, dict[str, Any]] = {}
        for part in results_log.parts(self.out):
            for line in results_log.lines(part):
                if line.get("status") == "done" and isinstance(line.get("output"), str):
                    told[files.resolve(results_log.current_path(self.out, line["output"]))] = line
        for card in self.cards.values():
            painted = told.get(files.resolve(self.result(card)))
            if painted is not None and self.result(card).is_file() and self._is_current(card, painted):
                card.state = "painted"

    def _is_current(self, card: Card, line: Mapping[str, Any]) -> bool:
        """Whether the result of a card was painted with its present mask."""
        used = self.given_mask(card)
        expected = used or self.out / f"{card.label}.mask.png"
        if files.resolve(Path(str(line.get("mask")))) != files.resolve(expected):
            return False
        return used is None or used.stat().st_mtime <= self.result(card).stat().st_mtime

    def result(self, card: Card) -> Path:
        return self.out / card.output

    def given_mask(self, card: Card) -> Path | None:
        """Returns the mask that a person corrected, or that the job file names."""
        corrected = self._corrected(card)
        if corrected.is_file() and (self.decisions.row(card.key) or {}).get("mask") == str(corrected):
            return corrected
        return Path(str(card.given["mask"])) if "mask" in card.given else None

    def mask(self, card: Card) -> Path:
        """Returns the file of the card's mask."""
        return self.given_mask(card) or self.decisions.folder / FOUND / f"{card.label}.png"

    def _corrected(self, card: Card) -> Path:
        return self.decisions.folder / CORRECTED / f"{card.label}.png"

    def row(self, card: Card, corrected: bool) -> dict[str, Any]:
        mask = {"mask": str(self._corrected(card))} if corrected else {}
        return {"input": str(card.path), "output": str(card.output), **card.given, **mask}

    def is_corrected(self, card: Card) -> bool:
        return self.given_mask(card) == self._corrected(card)

    def decide(self, cards: Sequence[Card], decision: Decision) -> None:
        """Notes a decision about cards; a correction is kept, also of a refused picture. Raises OutputError."""
        if any(card.state == "failed" and card.area is None for card in cards) and decision == "accepted":
            raise UsageError("A picture without a mask cannot be accepted; refuse it, or draw its mask.")
        self.decisions.decide({card.key: self.row(card, self.is_corrected(card)) for card in cards}, decision)

    def correct(self, card: Card, data: bytes | None) -> None:
        """Keeps a mask that a person drew and accepts the picture; None goes back to the found one. Raises OutputError.

        Reads pictures, so it may take long.
        """
        if data is not None:
            path = self._corrected(card)
            files.make_folder(path.parent, "--out")
            files.publish(path, data)
        elif card.area is None and not self.mask(card).is_file():
            raise UsageError("No mask was found in this picture; draw one, or refuse it.")
        self.decisions.decide({card.key: self.row(card, data is not None)}, "accepted")
        card.state, card.message, card.version = "found", None, card.version + 1
        self.measure(card)

    def accepted(self) -> list[Card]:
        return [card for card in self.cards.values() if self.decisions.decision(card.key) == "accepted"]

    def look(self, card: Card) -> None:
        """Reads the size of a picture. Raises InputError for what is not one."""
        from diffedit_cli.images import codecs

        card.size = codecs.load(card.path, self.max_pixels).size

    def measure(self, card: Card) -> None:
        """Reads the share of the picture that its mask covers. Raises InputError."""
        from diffedit_cli.images import masks

        card.area = masks.load_mask(self.mask(card), max_pixels=self.max_pixels).share

    def record_of(self, card: Card) -> dict[str, Any]:
        """Returns a card as the page needs it."""
        width, height = card.size
        address = f"/review/{card.id}/{{}}?v={card.version}"
        shows = card.area is not None
        return {
            "id": card.id, "name": str(card.output), "width": width, "height": height, "state": card.state,
            "decision": self.decisions.decision(card.key), "corrected": self.is_corrected(card), "area": card.area,
            "message": card.message, "picture": address.format("picture"), "small": address.format("small"),
            "mask": address.format("mask") if shows else None,
            "result": address.format("result") if card.state == "painted" else None,
        }  # fmt: skip


def _sentence(error: Exception) -> str:
    if isinstance(error, DiffEditError):
        return str(error)
    return f"An internal error occurred ({type(error).__name__}: {error})."


class ReviewWork:
    """Finds the masks of a review, and paints what is accepted. Its methods run in the event loop's thread."""

    def __init__(self, review: Review, worker: Worker, mask_words: Sequence[str], run_words: Sequence[str]) -> None:
        """`mask_words` are the options of each `diffedit mask`, `run_words` those of the `diffedit run` that paints."""
        self.review, self._worker, self._mask_words, self._run_words = review, worker, mask_words, run_words
        self.changed: Callable[[], None] = lambda: None
        self.painting = Painting()
        self.problem: str | None = None  # why the last painting ended early
        self._wanted, self._stopping = asyncio.Event(), False

    def want_painting(self) -> None:
        """Asks for the accepted pictures to be painted, as soon as the mask in progress is found."""
        if not self.review.accepted():
            raise UsageError("No picture is accepted yet.")
        self.painting, self._stopping = Painting(running=True), False
        self._wanted.set()
        self.changed()

    async def stop(self) -> None:
        """Ends the painting; what is painted stays."""
        self._stopping = True
        if self.painting.running:
            await self._worker.stop(times=2)

    async def work(self) -> None:
        """Finds masks, and paints whenever that is asked for, forever."""
        waiting = [card for card in self.review.cards.values() if card.state in ("waiting", "painted")]
        while True:
            if self.painting.running:
                try:
                    await self._paint()
                except Exception as error:  # the review goes on, whatever a painting meets
                    self.painting, self.problem = Painting(), _sentence(error)
            elif waiting:
                await self._find(waiting.pop(0))
            else:
                self._wanted.clear()
                if not self.painting.running:
                    await self._wanted.wait()
            self.changed()

    async def _find(self, card: Card) -> None:
        """Finds the mask of a card, unless a person or a job file gave one."""
        before = card.state
        try:
            await asyncio.to_thread(self.review.look, card)
            if self.review.given_mask(card) is None:
                await self._ask_for_mask(card)
            await asyncio.to_thread(self.review.measure, card)
            card.state = before if before == "painted" else "found"
        except Exception as error:  # the next picture's mask is found, whatever this one meets
            card.state, card.message = "failed", _sentence(error)

    async def _ask_for_mask(self, card: Card) -> None:
        path = self.review.mask(card)
        files.make_folder(path.parent, "--out")
        await self._worker.warm_up()
        own = [word for name, value in card.given.items() for word in command_lines.of_row(name, value)]
        words = ["mask", command_lines.argument(card.path), *self._mask_words, *own]
        outcome = await self._worker.run([*words, *command_lines.option("output", path)], lambda *_: None)
        if outcome.code:
            raise InputError(outcome.message or "No mask was found.")

    def paint_words(self) -> list[str]:
        """Returns the words of the command that paints the accepted pictures."""
        return [
            "run",
            str(self.review.decisions.path("accepted")),
            *command_lines.option("out", self.review.out),
            *self._run_words,
        ]

    async def _paint(self) -> None:
        """Paints the accepted pictures with diffedit run, which skips those that are up to date."""
        cards = {str(self.review.result(card)): card for card in self.review.cards.values()}
        accepted = self.review.accepted()
        by_input = {str(card.path): card for card in accepted}
        self.painting.total = len(accepted)
        await self._worker.cool_down()  # a run loads the model itself

        def step(stage: str, done: int, total: int) -> None:
            self.painting.stage, self.painting.step, self.painting.steps = stage, done, total
            self.changed()

        def take(said: dict[str, Any]) -> None:
            self.painting.done += 1
            card = cards.get(str(said.get("output"))) or by_input.get(str(said.get("input")))
            if card is not None:
                card.state = "painted" if said["status"] in ("done", "skipped") else "failed"
                card.message = said["error"]["message"] if said.get("error") else None
                card.version += 1
            self.changed()

        if not self._stopping:
            outcome = await self._worker.run(self.paint_words(), step, take)
            ended_early = outcome.code and not (outcome.results or was_stopped(outcome))
            self.problem = outcome.message if ended_early else None
        self.painting = Painting()

    def record(self) -> dict[str, Any]:
        """Returns the state of the review, without its cards."""
        decided = Counter(self.review.decisions.decision(card.key) for card in self.review.cards.values())
        states = Counter(card.state for card in self.review.cards.values())
        return {
            "counts": {**{name: decided[name] for name in ("open", "accepted", "refused")},
                       **{name: states[name] for name in ("painted", "failed")}},
            "finding": {"done": len(self.review.cards) - states["waiting"], "total": len(self.review.cards)},
            "painting": vars(self.painting), "problem": self.problem,
            "command": command_lines.line(self.paint_words()),
        }  # fmt: skip
