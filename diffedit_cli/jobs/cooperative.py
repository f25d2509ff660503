"""Runs several tasks in threads, one thread at a time, and answers their questions together as a batch.

Shared state therefore needs no lock, and the order of execution is the same each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Semaphore, Thread
from types import TracebackType
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Done = TypeVar("Done")

PATIENCE = 0.05  # seconds between two rounds while all tasks wait


class CooperativeBatcher(Generic[Question, Answer]):
    """Runs tasks in turn and batches their questions; leaving the context raises `Stopped` in unfinished tasks."""

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]]) -> None:
        """Takes `answer`, which returns for each question the answer, or the exception to raise in the asking task."""
        self._answer = answer
        self._turns: list[_Turn[Question, Answer]] = []
        self._at_work: _Turn[Question, Answer] | None = None
        self._stopped = False

    def __enter__(self) -> CooperativeBatcher[Question, Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        for turn in self._turns:
            turn.go.release()
            turn.thread.join()

    @property
    def count(self) -> int:
        """Number of unfinished tasks."""
        return len(self._turns)

    def begin(self, work: Callable[[], Done]) -> Future[Done]:
        """Adds a task that starts in the next round, and returns the future of its result."""
        done: Future[Done] = Future()

        def run() -> None:
            try:
                self._take(turn)
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)
            turn.over = True
            turn.back.release()

        turn = _Turn[Question, Answer](Thread(target=run, daemon=True))
        self._turns.append(turn)
        turn.thread.start()
        return done

    def round(self) -> None:
        """Runs each task in turn until it asks, waits or ends, then answers all questions together."""
        begun = len(self._turns)
        for turn in self._turns:
            self._at_work = turn
            turn.go.release()
            turn.back.acquire()
        self._turns = [turn for turn in self._turns if not turn.over]
        asking = [turn for turn in self._turns if turn.question is not None]
        questions = [turn.question for turn in asking if turn.question is not None]
        if questions:
            for turn, answer in zip(asking, self._answers(questions), strict=True):
                turn.question, turn.answer = None, answer
        elif len(self._turns) == begun:
            time.sleep(PATIENCE)

    def ask(self, question: Question) -> Answer:
        """Returns the answer to a question of the running task, or raises the answer if it is an exception."""
        turn = self._own_turn()
        turn.question = question
        self._pass(turn)
        assert turn.answer is not None
        if isinstance(turn.answer, Exception):
            raise turn.answer
        return turn.answer

    def wait(self) -> None:
        """Pauses the running task for a round, in which the other tasks continue."""
        self._pass(self._own_turn())

    def _own_turn(self) -> _Turn[Question, Answer]:
        assert self._at_work is not None
        return self._at_work

    def _pass(self, turn: _Turn[Question, Answer]) -> None:
        turn.back.release()
        self._take(turn)

    def _take(self, turn: _Turn[Question, Answer]) -> None:
        turn.go.acquire()
        if self._stopped:
            raise TaskCancelled

    def _answers(self, questions: Sequence[Question]) -> Sequence[Answer | Exception]:
        try:
            return self._answer(questions)
        except Exception as error:
            return [error] * len(questions)


class TaskCancelled(BaseException):
    """Raised in an unfinished task when its result is no longer needed."""


class _Turn(Generic[Question, Answer]):
    def __init__(self, thread: Thread) -> None:
        self.thread = thread
        self.go, self.back = Semaphore(0), Semaphore(0)
        self.question: Question | None = None
        self.answer: Answer | Exception | None = None
        self.over = False
