"""The report page as people meet it: opened from a file, in headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import page_folder
import pytest
from page_folder import failed, line
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from diffedit_cli.results import page

pytestmark = pytest.mark.browser

Show = Callable[..., Any]
SCRIPT = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.started(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def window(browser: Any) -> Iterator[Any]:
    """The browser on an empty page; afterwards no page has complained, or asked for anything but files."""
    chromium.screen(browser, 1280, 860)
    browser.get("about:blank")
    chromium.requests(browser), chromium.complaints(browser)
    yield browser
    allowed = ("file:///", "data:", "about:")
    assert [address for address in chromium.requests(browser) if not address.startswith(allowed)] == []
    assert [said for said in chromium.complaints(browser) if "ERR_FILE_NOT_FOUND" not in said] == []


@pytest.fixture
def show(window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Opens the page of these lines."""

    def opened(*lines: dict[str, Any]) -> Any:
        monkeypatch.chdir(tmp_path)
        window.get(page.write(page_folder.write(tmp_path, *lines)).as_uri())
        return window

    return opened


def until(window: Any, script: str, *about: Any) -> Any:
    """What a script returns once that is true."""
    return WebDriverWait(window, 10, 0.05).until(lambda _: window.execute_script(f"return {script}", *about), script)


def all_of(window: Any, selector: str) -> list[Any]:
    return window.find_elements(By.CSS_SELECTOR, selector)


def one(window: Any, selector: str) -> Any:
    return window.find_element(By.CSS_SELECTOR, selector)


def names(window: Any) -> list[str]:
    """Those of the cards, in order, once the browser has drawn them: only what comes into sight is filled."""
    drawn = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))"
    window.execute_async_script(f"const [done] = arguments; {drawn}")
    return [name.text for name in all_of(window, ".card .name")]


def press(window: Any, *keys: str) -> None:
    ActionChains(window).send_keys(*keys).perform()


def cut(pair: Any) -> float:
    """Where a slider stands, in percent."""
    return float(pair.find_element(By.TAG_NAME, "input").get_property("value"))


def test_every_picture_has_a_card_with_before_after_and_figures(show: Show) -> None:
    window = show(line("cat.png"), line("dog.png", **{"from": None, "to": None}))
    assert names(window) == ["cat.png", "dog.png"]
    assert [words.text for words in all_of(window, ".words")] == ["cat → dog", ""]
    assert [figures.text for figures in all_of(window, ".figures")] == ["25.0 % masked · 2.0 s"] * 2
    loaded = "[...document.images].length == 6 && [...document.images].every((image) => image.naturalWidth == 120)"
    assert until(window, loaded)


def test_a_failure_shows_its_sentence(show: Show) -> None:
    window = show(failed("cat.png", "The mask is empty; lower --threshold."))
    assert one(window, ".card .why").text == "The mask is empty; lower --threshold."
    assert one(window, ".card .figures").text == "failed"
    assert not all_of(window, ".card input")


def test_a_picture_that_cannot_be_shown_leaves_its_place_empty(show: Show, tmp_path: Path) -> None:
    """Not a browser's sign for a broken one, with the word before."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "none.png").mkdir()
    window = show(failed("broken.png"), failed("none.png"), failed("cat.png"))
    shown = "[...document.querySelectorAll('.card img')].map((image) => image.checkVisibility())"
    assert until(window, f"document.querySelectorAll('.card .why').length == 3 && {shown}") == [False, False, True]
    one(window, ".name").click()
    assert until(window, "document.querySelector('.under > .none').textContent.endsWith('cannot show it.')")
    assert not window.execute_script("return document.querySelector('.stage img').checkVisibility()")


def test_dragging_moves_the_slider_and_opens_nothing(show: Show) -> None:
    window = show(line("cat.png"))
    pair = one(window, ".card .pair")
    assert cut(pair) == 50
    width = pair.size["width"]
    ActionChains(window).move_to_element(pair).click_and_hold().move_by_offset(width // 4, 0).release().perform()
    assert cut(pair) == pytest.approx(75, abs=2)
    clipped = window.execute_script("return getComputedStyle(arguments[0].querySelector('.after')).clipPath", pair)
    assert float(clipped.removesuffix("%)").rsplit(" ", 1)[1]) == pytest.approx(75, abs=2)
    assert not one(window, "#viewer").is_displayed()
    ActionChains(window).move_to_element(pair).click().perform()
    assert one(window, "#viewer").is_displayed()


def test_a_finger_moves_the_slider(show: Show, window: Any) -> None:
    chromium.screen(window, 360, 740, phone=True)
    show(line("cat.png"))
    pair = one(window, ".card .pair")
    box = window.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.x, box.y, box.width]", pair
    )
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.2), ("touchEnd", None)):
        points = [] if share is None else [{"x": box[0] + share * box[2], "y": box[1] + 20}]
        window.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert cut(pair) == pytest.approx(20, abs=2)
    assert not one(window, "#viewer").is_displayed()


def test_the_slider_is_an_input_for_keys_and_screen_readers(show: Show) -> None:
    window = show(line("cat.png"))
    press(window, Keys.ARROW_RIGHT)
    ActionChains(window).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    control = one(window, ".card input")
    assert window.switch_to.active_element == control
    assert "cat.png" in control.get_attribute("aria-label")
    press(window, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert cut(one(window, ".card .pair")) == 52


def test_the_mask_shows_under_the_pointer_and_under_the_focus(show: Show) -> None:
    window = show(line("cat.png"), line("dog.png"))
    opacity = "getComputedStyle(document.querySelectorAll('.card .mask')[{}]).opacity == '{}'"
    ActionChains(window).move_to_element(all_of(window, ".card .pair")[1]).perform()
    assert until(window, opacity.format(1, 1))
    assert until(window, opacity.format(0, 0))
    ActionChains(window).move_to_element(one(window, "h1")).perform()
    press(window, Keys.ARROW_RIGHT)
    assert until(window, opacity.format(0, 1))
    assert until(window, opacity.format(1, 0))


def test_filters(show: Show) -> None:
    window = show(
        line("a.png"),
        failed("b.png"),
        failed("c.png", status="withheld"),
        line("d.png", mask_area=0.001, to="a red fox"),
    )
    for value, expected in (("failed", "b"), ("withheld", "c"), ("small", "d"), ("all", "abcd")):
        one(window, f"[value={value}] + span").click()
        assert names(window) == [f"{letter}.png" for letter in expected]
    press(window, "/", "FOX cat")
    assert names(window) == ["d.png"]
    assert one(window, "#count").text == "1 of 4"
    press(window, " wolf")
    assert names(window) == []
    assert one(window, "#nothing").is_displayed()
    press(window, Keys.ESCAPE)
    assert len(names(window)) == 4


def test_order(show: Show) -> None:
    window = show(
        line("a.png", mask_area=0.2, seconds={"edit": 1}),
        line("b.png", mask_area=0.3, seconds={"edit": 3}),
        line("c.png", mask_area=0.1, seconds={"edit": 2}),
        failed("d.png"),
    )
    for value, expected in (("slowest", "bcad"), ("smallest", "cabd"), ("largest", "bacd"), ("run", "abcd")):
        one(window, f"#order [value={value}]").click()
        assert names(window) == [f"{letter}.png" for letter in expected]


def test_keys_go_through_the_grid_and_the_viewer(show: Show) -> None:
    window = show(*(line(f"{number}.png") for number in range(12)))
    press(window, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert window.switch_to.active_element.text == "5.png"  # four columns
    press(window, Keys.ENTER)
    assert one(window, "#viewer-name").text == "5.png"
    full = "[...document.querySelectorAll('.stage .before, .stage .after')].map((image) => decodeURI(image.src))"
    assert until(window, f"{full}.every((address) => address.endsWith('/5.png')) && {full}")
    press(window, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert (one(window, "#viewer-name").text, one(window, "#position").text) == ("6.png", "7 of 12")
    press(window, "m")
    assert until(window, "getComputedStyle(document.querySelector('.stage .mask')).opacity == '1'")
    press(window, "b")
    assert cut(one(window, ".stage .pair")) == 100
    press(window, Keys.ESCAPE)
    assert not one(window, "#viewer").is_displayed()
    assert window.switch_to.active_element.text == "6.png"
    press(window, "?")
    assert one(window, "#help").is_displayed()


def test_the_viewer_tells_all_that_is_known(show: Show) -> None:
    window = show(line("cat.png", warnings=["The mask is small."]))
    one(window, ".name").click()
    facts = one(window, "#facts").text
    for said in ("cat → dog", "25.0 % of the picture", "mask 0.5 s", "74", "builtin on cpu", "The mask is small."):
        assert said in facts


def test_the_viewer_shows_each_variant(show: Show, tmp_path: Path) -> None:
    page_folder.paint(tmp_path / "cat-2.png", "red")
    window = show(line("cat.png", outputs=["out/cat.png", "cat-2.png"]))
    one(window, ".name").click()
    one(window, ".tools [title='cat-2.png']").click()
    assert until(window, "document.querySelector('.stage .after').src.endsWith('/cat-2.png')")


def test_what_the_browser_cannot_show_is_shown_small(show: Show, tmp_path: Path) -> None:
    Image.new("RGB", (640, 320), "tan").save(tmp_path / "cat.tif")
    window = show(line("cat.tif"))
    one(window, ".name").click()
    assert until(window, "document.querySelector('.under > .none').textContent.includes('small copy')")
    assert until(window, "document.querySelector('.stage .before').naturalWidth == 320")


@pytest.mark.parametrize("name", ["50% #1?.png", 'it\'s "so" & <b>.png', "Käse 猫.png"])
def test_files_of_any_name_open(name: str, show: Show) -> None:
    window = show(line(name))
    assert names(window) == [name]
    one(window, ".name").click()
    assert until(window, "[...document.querySelectorAll('.stage .before, .stage .after')].every("
                         "(image) => image.naturalWidth == 120 && !image.src.endsWith('.webp'))")  # fmt: skip


def test_script_tags_stay_text(show: Show) -> None:
    name = SCRIPT.replace("/", "\N{FRACTION SLASH}") + ".png"
    window = show(
        line(name, warnings=[SCRIPT], **{"from": SCRIPT, "to": "</script><b>dog</b>"}), failed("b.png", SCRIPT)
    )
    assert one(window, ".words").text == f"{SCRIPT} → </script><b>dog</b>"
    assert names(window) == [name, "b.png"]
    assert one(window, ".why").text == SCRIPT
    one(window, ".name").click()
    press(window, Keys.ARROW_RIGHT)
    assert one(window, "#sentence").text == SCRIPT
    assert window.title == "out | diffedit"
    assert len(all_of(window, "body script")) == 2
    assert not all_of(window, "b")


def test_a_phone_has_one_column_and_nothing_beside_it(show: Show, window: Any) -> None:
    chromium.screen(window, 360, 740, phone=True)
    long = "a-name-without-end" * 10
    show(line(f"{long}.png", to="word " * 60), line("cat.png"), failed("dog.png", long))
    first, second = (card.rect for card in all_of(window, ".card")[:2])
    assert first["x"] == second["x"]
    assert first["width"] > 320
    assert window.execute_script("return document.documentElement.scrollWidth") == 360
    for card in range(3):
        window.execute_script("document.querySelectorAll('.name')[arguments[0]].click()", card)
        assert window.execute_script("return document.getElementById('viewer').scrollWidth") <= 360
        press(window, Keys.ESCAPE)


def test_thousands_of_pictures_are_shown_as_they_come_into_sight(window: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    lines = [line(f"{number}.png") for number in range(5000)]
    (folder / "results.jsonl").write_text("".join(json.dumps(about) + "\n" for about in lines))
    window.get(page.write(folder).as_uri())
    filled = "document.querySelectorAll('.card .pair').length"
    assert until(window, "document.querySelectorAll('.card').length == 5000")
    assert 0 < window.execute_script(f"return {filled}") < 100
    press(window, Keys.ARROW_RIGHT, Keys.END)
    assert window.switch_to.active_element.text == "4999.png"
    assert until(window, f"document.body.textContent.includes('4998.png') && {filled} < 100")
