"""Several pieces of work in turns: who works when, what is answered together, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from diffedit_cli.jobs.cooperative import CooperativeBatcher, TaskCancelled
from diffedit_cli.storage.cache import Cache


class Doubling:
    """Answers with twice the number, but not to odd ones, and notes what it was asked at once."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, questions: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(questions))
        return [ValueError(f"{one} is odd") if one % 2 else 2 * one for one in questions]


def summing(together: CooperativeBatcher[int, int], *numbers: int) -> Callable[[], int]:
    return lambda: sum(together.ask(number) for number in numbers)


def worked(together: CooperativeBatcher[int, int]) -> None:
    while together.count:
        together.round()


def test_what_is_asked_in_a_round_is_answered_together() -> None:
    doubling = Doubling()
    with CooperativeBatcher(doubling) as together:
        done = [together.begin(summing(together, *numbers)) for numbers in ((2, 4, 6), (8,), (10, 12))]
        together.round()
        together.round()
        later = together.begin(summing(together, 14))
        worked(together)
    assert doubling.asked == [[2, 8, 10], [4, 12], [6, 14]]
    assert [one.result() for one in (*done, later)] == [24, 16, 44, 28]


def test_only_one_works_at_a_time() -> None:
    working: list[int] = []

    def work() -> None:
        for number in (2, 4):
            working.append(1)
            assert sum(working) == 1
            working.pop()
            together.ask(number)

    with CooperativeBatcher(Doubling()) as together:
        done = [together.begin(work) for _ in range(5)]
        worked(together)
    assert [one.exception() for one in done] == [None] * 5


def test_a_failure_is_its_own() -> None:
    def failing() -> int:
        raise KeyError("mine")

    with CooperativeBatcher(Doubling()) as together:
        odd, fine, failed = map(together.begin, (summing(together, 2, 3, 4), summing(together, 2, 4, 6), failing))
        worked(together)
    assert fine.result() == 24
    assert isinstance(failed.exception(), KeyError)
    with pytest.raises(ValueError, match="3 is odd"):
        odd.result()


def test_whoever_gets_no_answer_can_go_on() -> None:
    def broken(_: Sequence[int]) -> list[int]:
        raise RuntimeError("broken")

    def work() -> str:
        with pytest.raises(RuntimeError, match="broken"):
            together.ask(1)
        return "well"

    with CooperativeBatcher(broken) as together:
        done = [together.begin(work) for _ in range(2)]
        worked(together)
    assert [one.result() for one in done] == ["well", "well"]


def test_one_that_waits_for_a_lock_of_another_lets_it_go_on(tmp_path: Path) -> None:
    made: list[str] = []

    def work(name: str, cache: Cache) -> int:
        with cache.exclusively("0123"):
            if cache.find("kind", "0123") is None:
                made.append(name)
                answer = together.ask(2) + together.ask(4)
                cache.store("kind", "0123", b"x")
                return answer
        return together.ask(6)

    doubling = Doubling()
    with CooperativeBatcher(doubling) as together:
        done = [together.begin(lambda name=name: work(name, Cache(tmp_path, together.wait))) for name in "abc"]  # type: ignore[misc]
        worked(together)
    assert [one.result() for one in done] == [12, 12, 12]
    assert made == ["a"]
    assert sorted(doubling.asked) == [[2], [4], [6, 6]]


def test_one_that_waits_alone_waits_for_another_process(tmp_path: Path) -> None:
    turns = 0

    def wait() -> None:
        nonlocal turns
        turns += 1
        together.wait()

    def work() -> str:
        with Cache(tmp_path, wait).exclusively("0123"):
            return "mine"

    with CooperativeBatcher(Doubling()) as together:
        with Cache(tmp_path).exclusively("0123"):  # elsewhere
            done = together.begin(work)
            while turns < 3:
                together.round()
        assert not done.done()
        worked(together)
    assert done.result() == "mine"
    assert turns == 3


def test_work_that_nobody_waits_for_ends_where_it_is() -> None:
    tidied: list[str] = []

    def work(name: str) -> None:
        try:
            together.ask(2)
            together.ask(4)
        except Exception:
            tidied.append("caught")
        finally:
            tidied.append(name)

    threads = threading.active_count()
    with CooperativeBatcher(Doubling()) as together:
        done = [together.begin(lambda name=name: work(name)) for name in "abc"]  # type: ignore[misc]
        together.round()
        done.append(together.begin(lambda: work("late")))
    assert tidied == ["a", "b", "c"]
    assert all(isinstance(one.exception(), TaskCancelled) for one in done)
    assert threading.active_count() == threads
