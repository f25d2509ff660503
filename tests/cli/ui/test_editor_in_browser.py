"""The editor in Chromium, as a person uses it: with the mouse, with the keyboard alone, on a phone, in two tabs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from checkout import SAMPLES
from command import INSTALLED
from pages import PageProcess, page, until
from PIL import Image

pytestmark = [pytest.mark.thorough]
EVIL = "<img src=x onerror=\"document.body.dataset.evil='1'\">"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def running(tmp_path: Path) -> Iterator[PageProcess]:
    shutil.copy(SAMPLES / "teapot-on-table.png", tmp_path / "teapot.png")
    with page(tmp_path, "ui", "teapot.png", "--no-browser") as process:
        yield process


class Person:
    """What a person sees of the page, and does."""

    def __init__(self, window: Any, address: str) -> None:
        self.window = window
        self.open(address)

    def open(self, address: str) -> None:
        chromium.screen(self.window, 1280, 800)
        self.window.get(address)
        self.window.execute_script("sessionStorage.clear()")
        self.window.get(address.split("?")[0])
        until(lambda: self.is_shown("#mask-view canvas"))

    def find(self, selector: str) -> Any:
        return self.window.find_element("css selector", selector)

    def is_shown(self, selector: str) -> bool:
        return any(one.is_displayed() for one in self.window.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        self.find(selector).clear()
        self.find(selector).send_keys(text)

    def slide(self, selector: str, value: float) -> None:
        said = (
            "const [one, value] = arguments; one.value = value; one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        self.window.execute_script(said, self.find(selector), value)

    def press(self, *keys: str) -> None:
        chain = self.actions()
        chain.send_keys(*keys).perform()

    def chord(self, *keys: str) -> None:
        chain = self.actions()
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def actions(self) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.window)

    def drag(self, selector: str, start: tuple[int, int], by: tuple[int, int]) -> None:
        moved = self.actions().move_to_element_with_offset(self.find(selector), *start).click_and_hold()
        moved.move_by_offset(*by).release().perform()

    def says(self, part: str) -> Callable[[], bool]:
        return lambda: part in self.text("#status")

    def ask_for(self, source: str, target: str) -> None:
        self.type("#from", source)
        self.type("#to", target)
        until(self.says("of the picture is repainted"))

    def paint(self) -> None:
        before = len(self.window.find_elements("css selector", "#results button"))
        self.click("#paint")
        until(lambda: len(self.window.find_elements("css selector", "#results button")) > before)
        until(self.says("Done in"))


@pytest.fixture
def person(window: Any, running: PageProcess) -> Iterator[Person]:
    window.get("about:blank")
    chromium.requests(window)  # those of the test before
    window.get_log("browser")
    someone = Person(window, running.address)
    yield someone
    errors = [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [one for one in errors if "/api/events" not in one and "ERR_CONNECTION_REFUSED" not in one]
    assert all(url.startswith((running.base, "data:", "blob:", "about:")) for url in chromium.requests(window))


def evaluations(running: PageProcess) -> list[int]:
    jobs = running.client.get("/api/state").json()["jobs"]
    return [job["mask"]["evaluations"] for job in jobs if job["mask"]]


def repeated(line: str, folder: Path, apart: Path) -> bytes:
    """What the shown command writes in a copy of the folder without its results, with a cache of its own."""
    words = shlex.split(line)
    shutil.copytree(folder, apart, ignore=shutil.ignore_patterns("00*", "temporary files"))
    environment = {**os.environ, "DIFFEDIT_CACHE_DIR": str(apart / "own cache")}
    subprocess.run([INSTALLED, *words[1:]], cwd=apart, env=environment, check=True)
    return (apart / words[words.index("--output") + 1]).read_bytes()


def test_look_decide_paint(person: Person, running: PageProcess, tmp_path: Path, tmp_path_factory: Any) -> None:
    person.ask_for("teapot", "cake")
    person.slide("#threshold", 0.3)
    until(lambda: len(evaluations(running)) == 2)
    time.sleep(1)  # moves of one control that follow each other are one step of undo
    person.slide("#threshold", 0.7)
    until(lambda: len(evaluations(running)) == 3)
    first, *others = evaluations(running)
    assert first > 0
    assert others == [0, 0]
    until(lambda: "--threshold 0.7" in person.text("#command"))
    person.click("[data-tool=brush]")
    person.drag(".mask-canvas", (-60, -90), (40, 20))
    until(lambda: "--mask diffedit-ui/masks/" in person.text("#command"))
    person.click("#undo")
    until(lambda: "--mask" not in person.text("#command"))
    person.click("#undo")
    until(lambda: "--threshold 0.3" in person.text("#command"))
    person.click("#redo")
    person.click("#redo")
    until(lambda: "--mask diffedit-ui/masks/" in person.text("#command"))
    person.paint()
    assert person.is_shown("#result-view canvas")
    line, link = person.text("#command"), person.find("#download").get_attribute("href")
    written = running.client.get(link.removeprefix(running.base)).content
    assert written == (tmp_path / "diffedit-ui" / "001-teapot-cake.png").read_bytes()
    assert repeated(line, tmp_path, tmp_path_factory.mktemp("apart") / "copy") == written
    before, after, mask = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        for name in ("teapot.png", "diffedit-ui/001-teapot-cake.png", "diffedit-ui/001-teapot-cake.mask.png")
    )
    assert (before != after).any()
    assert not ((before != after).any(axis=2) & (mask[..., 0] == 0)).any()


def test_box_point_and_regions_are_in_the_command(person: Person) -> None:
    person.ask_for("teapot", "cake")
    person.click("[data-tool=box]")
    person.drag(".mask-canvas", (-150, -20), (140, 150))
    until(lambda: "--box " in person.text("#command"))
    person.click("[data-tool=point]")
    person.actions().move_to_element_with_offset(person.find(".mask-canvas"), -90, 60).click().perform()
    until(lambda: "--point " in person.text("#command"))
    person.click("#clear")
    until(lambda: "--box" not in person.text("#command"))
    for layer in ("within", "exclude"):
        person.click("[data-tool=brush]")
        person.find(f"#layer option[value={layer}]").click()
        person.drag(".mask-canvas", (-90, 40), (30, 30))
        until(lambda layer=layer: f"--{layer} diffedit-ui/masks/" in person.text("#command"))


def test_the_keyboard_is_enough(person: Person, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    focused = lambda: person.window.switch_to.active_element.get_attribute("id")  # noqa: E731
    for _ in range(40):
        if focused() == "from":
            break
        person.press(Keys.TAB)
    assert focused() == "from"
    person.press("teapot", Keys.TAB, "cake")
    until(person.says("of the picture is repainted"))
    person.press(Keys.TAB, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    until(lambda: "--threshold 0.54" in person.text("#command"))
    person.press("b")
    person.press(*[Keys.ARROW_LEFT] * 3, Keys.SPACE, Keys.ARROW_UP, Keys.SPACE)
    until(lambda: "--mask diffedit-ui/masks/" in person.text("#command"))
    person.chord(Keys.CONTROL, "z")
    person.chord(Keys.CONTROL, "z")
    until(lambda: "--mask" not in person.text("#command"))
    person.chord(Keys.CONTROL, Keys.ENTER)
    until(person.says("Done in"))
    assert (tmp_path / "diffedit-ui" / "001-teapot-cake.png").exists()
    person.press("1")
    assert person.is_shown("#mask-view canvas")
    person.press("2")
    assert person.is_shown("#result-view canvas")
    person.press("?")
    assert person.is_shown("#help")
    person.press(Keys.ESCAPE)
    assert not person.is_shown("#help")


def test_every_control_has_a_name(person: Person) -> None:
    for summary in person.window.find_elements("css selector", "summary"):
        person.window.execute_script("arguments[0].parentElement.open = true", summary)
    for control in person.window.find_elements("css selector", "button, input, select, canvas, a, progress"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(person: Person, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    person.window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    person.ask_for("teapot", "cake")
    chromium.screen(person.window, 390, 844, phone=True)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert person.window.execute_script(wide) == [390, 390]
    person.click("[data-tool=brush]")
    assert person.window.execute_script(wide) == [390, 390]
    colours = person.window.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colours.strip("rgb()").split(","))) < 200) == (scheme == "dark")
    chromium.screen(person.window, 1280, 800)


def test_a_second_tab_waits_in_line(person: Person, running: PageProcess) -> None:
    person.ask_for("teapot", "cake")
    begun = running.job("edit", wait=False, settings={"from": "teapot", "to": "cake", "steps": 300})
    until(lambda: running.job_now(begun["id"])["stage"] == "invert")
    person.slide("#threshold", 0.4)
    until(person.says("Waits in line; jobs before it: 1."))
    running.client.post(f"/api/jobs/{begun['id']}/stop")
    until(person.says("of the picture is repainted"))


def test_what_it_does_goes_on_without_the_tab(person: Person, running: PageProcess) -> None:
    person.ask_for("teapot", "cake")
    person.window.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    person.type("#steps", "60")
    person.click("#paint")
    until(lambda: person.is_shown("#stop"))
    person.window.get("about:blank")
    person.window.get(running.base)
    until(lambda: person.is_shown("#results button"))
    assert person.find("#from").get_attribute("value") == "teapot"
    assert person.find("#steps").get_attribute("value") == "60"
    person.click("#results button")
    until(lambda: person.is_shown("#result-view canvas"))


def test_a_killed_worker_is_told_and_replaced(person: Person, running: PageProcess) -> None:
    person.ask_for("teapot", "cake")
    person.window.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    person.type("#steps", "300")
    until(lambda: "--steps 300" in person.text("#command"))
    person.click("#paint")
    until(person.says("Inverting"))
    assert running.server is not None
    running.server.kill()
    until(lambda: "The worker ended" in person.text("#problem"))
    person.type("#steps", "4")
    until(lambda: "--steps 4" in person.text("#command"))
    person.paint()


def test_words_and_names_are_text(person: Person, running: PageProcess, tmp_path: Path) -> None:
    path = tmp_path / f"{EVIL.replace('/', '')}.png"
    shutil.copy(SAMPLES / "cat.png", path)
    person.find("#open").send_keys(str(path))
    until(lambda: len(running.client.get("/api/state").json()["pictures"]) == 2)
    person.type("#from", EVIL)
    person.type("#to", "dog")
    until(lambda: person.is_shown("#problem") or "repainted" in person.text("#status"))
    assert EVIL.split('"')[0] in person.text("#command").replace("'\"'\"'", "'")
    assert person.window.execute_script("return document.body.dataset.evil") is None
    assert not person.window.find_elements("css selector", "img[onerror]")


def test_what_is_not_seen_can_be_painted_anyway(person: Person) -> None:
    person.type("#from", "horse")
    person.type("#to", "dog")
    until(lambda: "No horse is seen" in person.text("#problem"))
    person.click("#paint-anyway")
    until(lambda: "--anyway" in person.text("#command"))
    until(person.says("Done in"))


def test_a_result_is_edited_further_and_a_made_picture_shows_its_settings(person: Person, tmp_path: Path) -> None:
    person.ask_for("teapot", "cake")
    person.window.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    person.type("#variants-count", "2")
    person.type("#seed", "5")
    person.paint()
    variants = person.window.find_elements("css selector", "#variants button")
    assert [one.accessible_name for one in variants] == ["Variant 1, seed 5", "Variant 2, seed 6"]
    variants[1].click()
    person.click("#further")
    until(lambda: person.find("#from").get_attribute("value") == "cake")
    assert person.find("#to").get_attribute("value") == ""
    assert len(person.window.find_elements("css selector", "#pictures button")) == 2
    person.find("#open").send_keys(str(tmp_path / "diffedit-ui" / "001-teapot-cake.png"))
    until(lambda: person.is_shown("#made-by"))
    assert [person.find(f"#{name}").get_attribute("value") for name in ("from", "to", "seed")] == [
        "teapot",
        "cake",
        "5",
    ]


def test_a_page_that_ended_is_told(person: Person, running: PageProcess) -> None:
    assert not person.is_shown("#connection")
    running.end()
    until(lambda: person.is_shown("#connection"))
