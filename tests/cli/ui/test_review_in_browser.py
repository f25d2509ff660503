"""A review of fifty pictures in Chromium: three refused, two corrected, the rest painted, and a kill in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from checkout import SAMPLES
from command import WORDS
from pages import PageProcess, page, until
from PIL import Image

from diffedit_cli.images import codecs

pytestmark = [pytest.mark.thorough]
COUNT = 50
LONG = 500.0  # seconds for fifty masks, or fifty results, on a busy machine
EVIL = '<img src=x onerror="document.body.dataset.evil=1">'
REFUSED, CORRECTED = ("003.png", "017.png", "042.png"), ("005.png", "030.png")
RUN = ("run", "in", *WORDS, "--out", "out", "--steps", "4", "--maps", "1", "--anyway", "--review")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    cat = np.asarray(Image.open(SAMPLES / "cat.png").convert("RGB"))
    for number in range(COUNT - 1):
        Image.fromarray(np.roll(cat, 3 * number, axis=1)).save(tmp_path / "in" / f"{number:03}.png")
    Image.fromarray(cat).save(tmp_path / "in" / f"{EVIL}.png")
    return tmp_path


class Reviewer:
    """What a person sees of the review, and does."""

    def __init__(self, window: Any, running: PageProcess, count: int = COUNT) -> None:
        self.window = window
        chromium.screen(window, 1280, 800)
        window.get(running.address)
        until(lambda: len(self.all(".card")) == count and not self.find("#finding").is_displayed(), LONG)

    def find(self, selector: str) -> Any:
        return self.window.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.window.find_elements("css selector", selector))

    def card(self, name: str) -> Any:
        """The card of a picture, brought into view."""
        found = next(
            one for one in self.all(".card") if one.find_element("css selector", ".name").get_attribute("title") == name
        )
        self.window.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        return found

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.window).send_keys(*keys).perform()

    def focus(self, name: str) -> Any:
        card = self.card(name)
        self.window.execute_script("arguments[0].focus()", card.find_element("css selector", ".shown"))
        return card

    def decision(self, name: str) -> str:
        return str(self.card(name).get_attribute("data-decision"))

    def correct(self, name: str) -> None:
        """Opens the correction by its key, paints under the brush, and saves."""
        from selenium.webdriver.common.keys import Keys

        self.focus(name)
        self.press("c")
        until(lambda: self.find("#correct").is_displayed() and self.find("#correct canvas").is_displayed())
        until(lambda: not self.find("#save").is_enabled())
        until(lambda: self.window.switch_to.active_element == self.find("#correct canvas"))
        self.press(Keys.ARROW_UP, Keys.SPACE, Keys.ARROW_LEFT, Keys.SPACE)
        until(lambda: self.find("#save").is_enabled())
        self.find("#save").click()
        until(lambda: not self.find("#correct").is_displayed())


def counts(running: PageProcess) -> dict[str, int]:
    return dict(running.client.get("/api/review").json()["counts"])


def kill(running: PageProcess) -> None:
    """Kills the page and what it started, at once."""
    left = running.children
    os.kill(running.process.pid, signal.SIGKILL)
    for one in left:
        one.kill()
    running.process.wait()


def test_fifty_pictures_are_reviewed_and_painted(window: Any, folder: Path) -> None:
    with page(folder, *RUN) as running:
        person = Reviewer(window, running)
        for name in REFUSED[:2]:
            person.card(name).find_element("css selector", "[data-decide=refused]").click()
            until(lambda name=name: person.decision(name) == "refused")
        person.focus(REFUSED[2])
        person.press("r")
        until(lambda: person.decision(REFUSED[2]) == "refused")
        for name in CORRECTED:
            person.correct(name)
            until(lambda name=name: person.decision(name) == "accepted")
        person.find("#accept-all").click()
        until(lambda: counts(running)["open"] == 0)
        person.find("#paint").click()
        until(lambda: counts(running)["painted"] >= 5)
        kill(running)
        until(lambda: person.find("#connection").is_displayed())
    with page(folder, *RUN) as again:
        person = Reviewer(window, again)
        before = counts(again)
        assert (before["refused"], before["accepted"], before["open"]) == (3, COUNT - 3, 0)
        assert 5 <= before["painted"] < COUNT - 3
        assert [person.decision(name) for name in REFUSED] == ["refused"] * 3
        person.find("#paint").click()
        until(lambda: counts(again)["painted"] == COUNT - 3, LONG)
        until(lambda: not again.client.get("/api/review").json()["painting"]["running"])
        assert again.end() == 0

    results = {path.name for path in (folder / "out").glob("*.png") if not path.name.endswith(".mask.png")}
    assert results == {path.name for path in (folder / "in").iterdir()} - {*REFUSED}
    accepted = [json.loads(line) for line in (folder / "out/review/accepted.jsonl").read_text().splitlines()]
    assert {row["output"] for row in accepted if "mask" in row} == {*CORRECTED}
    for name in CORRECTED:
        record = codecs.read_record(folder / "out" / name)
        assert record is not None
        assert "drawn" in record["mask"]
    assert window.execute_script("return document.body.dataset.evil ?? null") is None
    assert window.execute_script("return document.querySelectorAll('img[onerror]').length") == 0


def test_the_keyboard_is_enough_and_a_phone_wide_enough(window: Any, folder: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    few = 6
    for path in sorted((folder / "in").iterdir())[few:]:
        path.unlink()
    with page(folder, *RUN) as running:
        person = Reviewer(window, running, few)
        person.press(Keys.ARROW_RIGHT, "a", Keys.ARROW_RIGHT, "r", Keys.ARROW_RIGHT, "a", "o")
        decisions = lambda: [person.decision(f"{number:03}.png") for number in range(3)]  # noqa: E731
        until(lambda: decisions() == ["accepted", "refused", "open"])
        person.focus("000.png")
        person.press(Keys.ENTER)
        until(lambda: person.find("#large").is_displayed())
        person.press(Keys.ESCAPE)
        assert not person.find("#large").is_displayed()
        person.press("?")
        assert person.find("#help").is_displayed()
        person.press(Keys.ESCAPE)
        person.find("[data-filter=accepted]").click()
        assert sum(card.is_displayed() for card in person.all(".card")) == 1
        person.find("[data-filter=all]").click()
        for control in person.all("header button, nav button, footer button, .card:first-child button"):
            if control.is_displayed():
                assert control.accessible_name
        chromium.screen(window, 390, 844, phone=True)
        assert window.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        person.press("p")
        until(lambda: counts(running)["painted"] == 1)
        chromium.screen(window, 1280, 800)
        assert running.end() == 0
