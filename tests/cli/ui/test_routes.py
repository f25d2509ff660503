"""What the page answers: to the page's own requests, and to any others, never a bug."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image
from starlette.testclient import TestClient

from diffedit_cli.cli.ui import app, command_lines
from diffedit_cli.cli.ui.app import LARGEST, TEMPLATES, Page, application
from diffedit_cli.cli.ui.editing import Editor
from diffedit_cli.cli.ui.job_queue import JobQueue
from diffedit_cli.cli.ui.session_folder import SessionFolder
from diffedit_cli.cli.ui.worker import Outcome

SAID = {
    "status": "done", "error": None, "mask_area": 0.25, "region": "object", "evaluations": {"mask": 3}, "seed": 4,
    "seconds": {"mask": 0.5}, "warnings": [],
}  # fmt: skip


class StandIn:
    """A worker that writes pictures without a model."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.outcome = Outcome(0)
        self.server_process = None

    async def warm_up(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, words: list[str], on_step: Any) -> Outcome:
        self.lines.append(words)
        on_step("mask", 1, 2)
        given = dict(itertools.pairwise(words))
        count = int(given.get("--variants", 1))
        target = Path(given["--output"])
        outputs = [target, *(target.with_name(f"{target.stem}-{n}{target.suffix}") for n in range(2, count + 1))]
        for path in (*outputs, *([Path(given["--mask-output"])] if "--mask-output" in given else [])):
            Image.new("L", (40, 30)).save(path)
        said = SAID | {
            "input": words[1],
            "output": str(target),
            "outputs": [str(path) for path in outputs],
            "digests": {},
        }
        return Outcome(self.outcome.code, [] if self.outcome.code else [said], self.outcome.message)


class Browser:
    """A client of the page, and what is behind it."""

    def __init__(self, folder: Path) -> None:
        self.worker = StandIn()
        (folder / "private").mkdir()
        editor = Editor(
            SessionFolder(folder / "out"), self.worker, folder / "private",  # type: ignore[arg-type]
            model={"model": ["--model", "./mine"]}, loras=["style.safetensors"], models=["./mine", "builtin"],
        )  # fmt: skip
        jobs = JobQueue(editor.do, self.worker.stop)
        self.page = Page(editor, jobs, {"models": []})

        @contextlib.asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            task = asyncio.create_task(jobs.run())
            yield
            task.cancel()

        self.client = TestClient(application(self.page.routes(), lifespan))

    def open(self, name: str = "cat.png", data: bytes | None = None) -> Any:
        return self.client.post("/api/pictures", params={"name": name}, content=picture() if data is None else data)

    def do(self, kind: str = "edit", picture: str = "p1", **more: Any) -> Any:
        """A job, when it has ended."""
        chosen = {"from": "cat", "to": "dog"} | more.pop("settings", {})
        answer = self.client.post(
            "/api/jobs", json={"kind": kind, "picture": picture, "tab": "t", "settings": chosen} | more
        )
        assert answer.status_code == 202, answer.text
        while True:
            job = next(one for one in self.client.get("/api/state").json()["jobs"] if one["id"] == answer.json()["id"])
            if job["status"] not in ("waiting", "running"):
                return job


def picture(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    with made.client:
        yield made


def test_a_picture_is_opened_shown_and_closed(browser: Browser) -> None:
    opened = browser.open("<script>alert(1)</script>.png")
    assert opened.status_code == 201
    said = opened.json()
    assert said == {
        "id": "p1",
        "name": "script>.png",
        "width": 40,
        "height": 30,
        "url": "/pictures/p1",
        "settings": None,
    }
    assert browser.client.get("/api/state").json()["pictures"] == [said]
    shown = browser.client.get(said["url"])
    assert (shown.headers["content-type"], Image.open(io.BytesIO(shown.content)).size) == ("image/png", (40, 30))
    assert browser.client.delete("/api/pictures/p1").status_code == 204
    assert browser.client.get(said["url"]).status_code == 400
    assert browser.client.delete("/api/pictures/p1").status_code == 400


def test_what_is_no_picture_is_refused(browser: Browser) -> None:
    answer = browser.open(data=b"no picture")
    assert answer.status_code == 422
    assert "is not a picture that can be read" in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/pictures?name=x.png", "picture"), ("/api/masks?picture=p1", "mask"), ("/api/jobs", "json")],
)
def test_too_much_is_refused(browser: Browser, path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.open()
    monkeypatch.setitem(LARGEST, kind, 2**20)
    answer = browser.client.post(path, content=bytes(2**20 + 1))
    assert (answer.status_code, answer.json()) == (
        413,
        {"message": "This is larger than the 1 MB that the page takes."},
    )


def test_a_mask_is_found_and_shown(browser: Browser) -> None:
    browser.open()
    job = browser.do("mask", settings={"threshold": 0.4, "guidance": 3})
    assert job["mask"] == {"id": "ffound-1", "url": "/masks/ffound-1", "area": 0.25, "region": "object", "warnings": [],
                           "evaluations": 3, "seconds": 0.5}  # fmt: skip
    assert browser.client.get("/masks/ffound-1").status_code == 200
    (line,) = browser.worker.lines
    assert line[:8] == [
        "mask",
        str(browser.page.folder.out / "pictures/cat.png"),
        "--from",
        "cat",
        "--to",
        "dog",
        "--threshold",
        "0.4",
    ]
    assert line[-4:-2] == ["--model", "./mine"]


def test_found_masks_do_not_pile_up(browser: Browser) -> None:
    browser.open()
    for _ in range(70):
        job = browser.do("mask")
    assert browser.client.get(job["mask"]["url"]).status_code == 200
    assert browser.client.get("/masks/ffound-1").status_code == 400
    assert len(list(browser.page.editor.private.iterdir())) == 60


def test_an_edit_is_a_command_and_a_line_of_the_folder(browser: Browser) -> None:
    browser.open()
    buffer = io.BytesIO()
    Image.new("L", (40, 30), 255).save(buffer, "PNG")
    drawn = browser.client.post("/api/masks", params={"picture": "p1"}, content=buffer.getvalue()).json()
    request = {
        "picture": "p1",
        "settings": {"from": "cat", "to": "dog", "variants": 2},
        "mask": drawn["id"],
        "within": drawn["id"],
    }
    shown = browser.client.post("/api/command", json=request).json()
    result = browser.do(settings={"variants": 2}, mask=drawn["id"], within=drawn["id"])["result"]
    assert result["command"] == shown["edit"]
    (words,) = browser.worker.lines
    assert shlex.split(result["command"]) == ["diffedit", *words[:-2]]
    assert words[-2] == "--mask-output"
    file = str(browser.page.folder.out / "masks" / f"{drawn['id'][1:]}.png")
    assert (words[words.index("--mask") + 1], words[words.index("--within") + 1]) == (file, file)
    assert "--mask" not in shlex.split(shown["mask"])
    assert [one["name"] for one in result["outputs"]] == ["001-cat-dog.png", "001-cat-dog-2.png"]
    assert [one["seed"] for one in result["outputs"]] == [4, 5]
    for one in result["outputs"]:
        assert browser.client.get(one["url"]).headers["content-type"] == "image/png"
        file = browser.client.get(one["download"])
        assert file.content == (browser.page.folder.out / one["name"]).read_bytes()
        assert f'filename="{one["name"]}"' in file.headers["content-disposition"]
    assert browser.client.get(result["mask"]).status_code == 200
    (line,) = (browser.page.folder.out / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["mask"].endswith("001-cat-dog.mask.png")
    further = browser.client.post("/api/pictures/kept", json={"result": result["id"], "output": 1}).json()
    assert (further["id"], further["name"]) == ("p2", "001-cat-dog-2.png")


def test_a_failure_is_told(browser: Browser) -> None:
    browser.open()
    browser.worker.outcome = Outcome(5, message="No cat is seen.")
    assert browser.do("mask")["error"] == {"code": 5, "message": "No cat is seen."}
    browser.worker.outcome = Outcome(7)
    assert browser.do()["error"] == {"code": 7, "message": "The command ended with exit code 7; try again."}
    assert browser.client.post("/api/jobs/1/stop").json()["status"] == "failed"
    assert browser.client.post("/api/jobs/77/stop").status_code == 400


@pytest.mark.parametrize(
    "chosen",
    [{"model": "sd15"}, {"model": "/etc"}, {"lora": ["/etc/passwd"]}, {"lora": "style.safetensors"}, {"lora": [3]},
     {"output": "x"}, {"lora": ["style.safetensors/../../x"]}],
)  # fmt: skip
def test_no_other_file_is_named(browser: Browser, chosen: dict[str, Any]) -> None:
    browser.open()
    request = {"kind": "edit", "picture": "p1", "tab": "t", "settings": {"from": "cat", "to": "dog"} | chosen}
    for path in ("/api/jobs", "/api/command"):
        assert browser.client.post(path, json=request).status_code == 400
    assert browser.worker.lines == []


def test_a_chosen_model_and_lora_replace_those_of_the_page(browser: Browser) -> None:
    browser.open()
    browser.do(settings={"model": "builtin", "lora": ["style.safetensors:0.5"]})
    (words,) = browser.worker.lines
    assert [words[at + 1] for at, word in enumerate(words) if word == "--model"] == ["builtin"]
    assert words[words.index("--lora") + 1] == "style.safetensors:0.5"


TREE = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("kind", "picture", "tab", "settings", "mask", "within", "exclude")
REQUESTS = some.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, TREE) | {
    "kind": some.sampled_from(["mask", "edit"]) | TREE, "picture": some.just("p1") | TREE,
    "settings": some.dictionaries(some.sampled_from(sorted(command_lines.CONTROLS["edit"])), TREE, max_size=3) | TREE,
})  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_any_request_is_answered(browser: Browser, request: dict[str, Any]) -> None:
    if not browser.page.folder.pictures:
        browser.open()
    content = json.dumps(request)
    for path in ("/api/jobs", "/api/command", "/api/pictures/kept"):
        answer = browser.client.post(path, content=content)
        assert answer.status_code in (200, 202, 400), (path, answer.text)
        assert answer.status_code != 400 or answer.json()["message"]


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff", b"[" * 100_000, b'{"picture": NaN}'])
def test_what_is_no_object_is_refused(browser: Browser, content: bytes) -> None:
    for path in ("/api/jobs", "/api/command", "/api/pictures/kept"):
        assert browser.client.post(path, content=content).status_code == 400


@pytest.mark.parametrize(
    "path", ["/static/editor.html.jinja", "/static/texts.json", "/static/../app.py", "/static/..%2fapp.py",
             "/static//etc/passwd", "/static/%2e%2e/app.py", "/static/", "/static/nothing.js", "/nothing",
             "/results/r1/0", "/results/r1/-1", "/pictures/p9"],
)  # fmt: skip
def test_nothing_else_is_served(browser: Browser, path: str) -> None:
    assert browser.client.get(path).status_code in (400, 404)


def test_scripts_and_styles_are_served(browser: Browser) -> None:
    for file in TEMPLATES.iterdir():
        if file.suffix in (".js", ".css"):
            answer = browser.client.get(f"/static/{file.name}")
            assert answer.text == file.read_text()
            assert answer.headers["content-type"].startswith("text/")


def test_the_page_names_nothing_from_elsewhere(browser: Browser) -> None:
    text = browser.client.get("/").text
    assert "http://" not in text
    assert "https://" not in text
    assert "<style" not in text
    assert 'style="' not in text


def test_every_tab_hears_of_jobs_and_pictures(browser: Browser) -> None:
    browser.open()
    browser.do("mask")

    async def first() -> list[str]:  # what /api/events sends
        found = []
        async for text in browser.page._events():
            found.append(text)
            if text.startswith(":"):
                return found
        return found

    events = dict(text.removeprefix("event: ").split("\ndata: ") for text in asyncio.run(first())[:-1])
    assert [job["status"] for job in json.loads(events["jobs"])["jobs"]] == ["done"]
    assert [one["id"] for one in json.loads(events["state"])["pictures"]] == ["p1"]


def test_a_picture_that_is_gone_is_told(browser: Browser) -> None:
    browser.open()
    browser.page.folder.pictures["p1"].path.unlink()
    result = browser.do()["result"]["outputs"][0]
    (browser.page.folder.out / result["name"]).unlink()
    for path in ("/pictures/p1", result["url"], result["download"]):
        answer = browser.client.get(path)
        assert (answer.status_code, "is not there any longer" in answer.json()["message"]) == (422, True)


def test_all_addresses_are_tested() -> None:
    source = Path(__file__).read_text()
    for route in Page(None, None, {}).routes():  # type: ignore[arg-type]
        assert route.path.split("{")[0].rstrip("/") in source, route.path
    assert app.PAUSE < app.QUIET
