"""A headless Chromium for tests, driven by the chromedriver that its distribution ships with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "There is no Chromium with its chromedriver here; `make chromium` installs them on Debian, "
    "and CHROMIUM and CHROMEDRIVER say where they are elsewhere."
)
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def programs() -> tuple[str, str] | None:
    """Returns the paths of browser and driver, or None if either is missing."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def needed() -> tuple[str, str]:
    """Returns the paths of browser and driver; without them fails the test if BROWSER_TESTS=required, else skips it."""
    found = programs()
    if found is None:
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


@contextmanager
def started(profile: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Any]:
    """Context of a browser with an empty profile that logs every request and the errors of scripts."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = needed()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options, Service(driver))
    try:
        window.get("about:blank")
        requests(window)  # those of the browser's own first page
        yield window
    finally:
        window.quit()


def screen(window: Any, width: int, height: int, *, phone: bool = False) -> None:
    """Emulates a screen of this size; for a phone with touch in place of a mouse."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    window.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})


def requests(window: Any) -> list[str]:
    """Returns the URLs that pages have requested since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def complaints(window: Any) -> list[str]:
    """Returns the errors of scripts and violations of the content security policy since the last call."""
    return [entry["message"] for entry in window.get_log("browser")]
