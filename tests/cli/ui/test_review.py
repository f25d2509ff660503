"""`diffedit run --review`: what is accepted is painted as a run paints it, and what was decided survives a kill."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from checkout import SAMPLES
from command import WORDS, diffedit
from pages import PageProcess, page, until
from PIL import Image, ImageDraw

from diffedit_cli.cli.ui import command, review_command
from diffedit_cli.cli.ui.review import Card, Review, ReviewWork
from diffedit_cli.jobs.review_decisions import ReviewDecisions
from diffedit_cli.storage.ownership import Ownership

RUN = ("run", "in", *WORDS, "--out", "out", "--steps", "4", "--maps", "2", "--anyway")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("cat", "cat-and-rose", "teapot-on-table"):
        shutil.copy(SAMPLES / f"{name}.png", tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    return tmp_path


def state(running: PageProcess) -> Any:
    return running.client.get("/api/review").json()


def found(running: PageProcess) -> dict[str, Any]:
    """The cards by name, once all masks are found."""
    said = until(lambda: (now := state(running))["finding"]["done"] == now["finding"]["total"] and now)
    return {card["name"]: card for card in said["cards"]}


def decide(running: PageProcess, card: Any, decision: str) -> Any:
    return running.client.post(f"/api/review/{card['id']}", json={"decision": decision})


def painted(running: PageProcess) -> dict[str, Any]:
    assert running.client.post("/api/review/paint").status_code == 202
    until(lambda: not state(running)["painting"]["running"])
    return found(running)


def corrected(running: PageProcess, card: Any) -> bytes:
    """The found mask with a corner painted white."""
    mask, buffer = Image.open(io.BytesIO(running.client.get(card["mask"]).content)).convert("L"), io.BytesIO()
    ImageDraw.Draw(mask).rectangle((0, 0, 50, 50), fill=255)
    mask.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.thorough
def test_what_is_accepted_is_painted(folder: Path) -> None:
    with page(folder, *RUN, "--review") as running:
        cards = found(running)
        assert {name: card["state"] for name, card in cards.items()} == dict.fromkeys(cards, "found") | {
            "broken.png": "failed"
        }
        assert "is not a picture that can be read" in cards["broken.png"]["message"]
        assert decide(running, cards["broken.png"], "accepted").status_code == 400
        assert decide(running, cards["cat.png"], "sold").status_code == 400
        assert running.client.post("/api/review/paint").json() == {"message": "No picture is accepted yet."}
        decide(running, cards["cat-and-rose.png"], "refused")
        drawn = corrected(running, cards["teapot-on-table.png"])
        answer = running.client.post(f"/api/review/{cards['teapot-on-table.png']['id']}/mask", content=drawn).json()
        assert (answer["decision"], answer["corrected"]) == ("accepted", True)
        assert answer["area"] > cards["teapot-on-table.png"]["area"]
        running.client.post("/api/review/open", json={"decision": "accepted"})
        after = painted(running)
        assert {name: card["state"] for name, card in after.items()} == {
            "broken.png": "failed", "cat-and-rose.png": "found", "cat.png": "painted", "teapot-on-table.png": "painted"
        }  # fmt: skip
        assert running.client.get(after["cat.png"]["result"]).status_code == 200
        command_shown = state(running)["command"]
    assert not (folder / "out" / "cat-and-rose.png").exists()
    assert (
        command_shown
        == "diffedit run out/review/accepted.jsonl --out out --from cat --to dog --anyway --maps 2 --steps 4"
    )
    assert diffedit(*command_shown.split()[1:]).lines[-1].startswith("2 skipped")
    (folder / "in" / "broken.png").unlink()
    assert diffedit(*(word if word != "out" else "plain" for word in RUN)).code == 0
    assert (folder / "out" / "cat.png").read_bytes() == (folder / "plain" / "cat.png").read_bytes()
    assert (folder / "out" / "teapot-on-table.png").read_bytes() != (
        folder / "plain" / "teapot-on-table.png"
    ).read_bytes()


@pytest.mark.thorough
def test_decisions_survive_a_kill_and_results_are_known_again(folder: Path) -> None:
    (folder / "in" / "broken.png").unlink()
    running = PageProcess(folder, *RUN, "--review")
    cards = found(running)
    decide(running, cards["cat.png"], "accepted")
    decide(running, cards["cat-and-rose.png"], "refused")
    painted(running)
    drawn = corrected(running, cards["teapot-on-table.png"])
    running.client.post(f"/api/review/{cards['teapot-on-table.png']['id']}/mask", content=drawn)
    left = running.children
    running.process.kill()
    for one in left:
        one.kill()
    with page(folder, *RUN, "--review") as again:
        cards = found(again)
        told = {name: (card["state"], card["decision"], card["corrected"]) for name, card in cards.items()}
        assert told == {
            "cat.png": ("painted", "accepted", False), "cat-and-rose.png": ("found", "refused", False),
            "teapot-on-table.png": ("found", "accepted", True),
        }  # fmt: skip
        address = f"/api/review/{cards['cat.png']['id']}/mask"
        again.client.post(address, content=corrected(again, cards["cat.png"]))
        assert found(again)["cat.png"]["state"] == "found"  # its result is that of another mask
        assert found(again)["teapot-on-table.png"]["state"] == "found"
        after = painted(again)
        assert [after[name]["state"] for name in ("cat.png", "teapot-on-table.png")] == ["painted"] * 2
        back = again.client.delete(address).json()
        assert (back["state"], back["corrected"], back["area"]) == ("found", False, cards["cat.png"]["area"])


@pytest.mark.thorough
def test_painting_is_stopped_and_goes_on(folder: Path) -> None:
    (folder / "in" / "broken.png").unlink()
    with page(folder, *RUN, "--steps", "300", "--review") as running:
        for card in found(running).values():
            decide(running, card, "accepted")
        running.client.post("/api/review/paint")
        until(lambda: state(running)["painting"]["stage"] == "invert")
        running.client.post("/api/review/stop")
        until(lambda: not state(running)["painting"]["running"])
        assert state(running)["counts"]["painted"] < 3
        assert state(running)["problem"] is None
        running.client.post("/api/review/paint")
        until(lambda: state(running)["painting"]["stage"] == "invert")
        assert running.end(signal.SIGINT) == 0
    assert not list(running.temporary.iterdir())


@pytest.mark.thorough
def test_rows_keep_their_own_options_and_regions(folder: Path) -> None:
    (folder / "regions").mkdir()
    for name in ("cat", "teapot-on-table"):
        region = Image.new("L", (256, 256))
        region.paste(255, (0, 0, 128, 256))
        region.save(folder / "regions" / f"{name}.png")
    rows = [
        {"input": "in/cat.png", "output": "a/one.png", "threshold": 0.3},
        {"input": "in/teapot-on-table.png", "from": "teapot"},
    ]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("run", "jobs.jsonl", *RUN[2:], "--within", "regions/{stem}.png")
    with page(folder, *words, "--review") as running:
        cards = found(running)
        assert {*cards} == {"a/one.png", "in/teapot-on-table.png"}
        for card in cards.values():
            mask = Image.open(io.BytesIO(running.client.get(card["mask"]).content)).convert("L")
            box = mask.getbbox()
            assert box is not None
            assert box[2] <= 128
            decide(running, card, "accepted")
        assert {card["state"] for card in painted(running).values()} == {"painted"}
    accepted = [json.loads(line) for line in (folder / "out/review/accepted.jsonl").read_text().splitlines()]
    assert accepted[0] == {"input": "in/cat.png", "output": "a/one.png", "threshold": 0.3, "within": "regions/cat.png"}
    assert (accepted[1]["from"], accepted[1]["output"]) == ("teapot", "in/teapot-on-table.png")
    assert (folder / "out" / "a" / "one.png").exists()


@pytest.mark.parametrize(
    "words",
    [("--mask", "in/cat.png"), ("--latents", "x"), ("--shard", "1/2"), ("--ray", "2"), ("--dry-run",), ("--json",)],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_what_a_review_cannot_do_is_told(words: tuple[str, ...]) -> None:
    ran = diffedit(*RUN, "--review", *words)
    assert (ran.code, ran.err) == (2, f"diffedit: --review shows a page to one person; leave out {words[0]}.\n")


@pytest.mark.parametrize("source", ["-", "file:///tmp/pictures"])
@pytest.mark.usefixtures("folder")
def test_only_pictures_of_this_machine_are_reviewed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_command, "serve", lambda *_: pytest.fail("the page opens"))
    ran = diffedit("run", source, *RUN[2:], "--review", given=b"in/cat.png\n")
    assert ran.code in (2, 3)
    assert len(ran.lines) == 1


def test_a_foreign_decision_file_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_command, "serve", lambda *_: pytest.fail("the page opens"))
    (folder / "out" / "review").mkdir(parents=True)
    (folder / "out" / "review" / "accepted.jsonl").write_text("mine")
    ran = diffedit(*RUN, "--review")
    assert (ran.code, len(ran.lines)) == (6, 1)
    assert (folder / "out" / "review" / "accepted.jsonl").read_text() == "mine"
    assert command.NOT_REVIEWED
    assert os.listdir(folder / "out") == ["review"]  # noqa: PTH208


class Broken:
    """A worker that fails in a way that nobody foresaw."""

    async def warm_up(self) -> None:
        raise PermissionError(13, "Permission denied")

    cool_down = warm_up


def test_the_review_goes_on_whatever_a_picture_meets(folder: Path) -> None:
    names = ("cat.png", "teapot-on-table.png")
    cards = {name: Card(name, Path("in") / name, Path(name), {}) for name in names}
    found = Review(folder / "out", cards, ReviewDecisions(folder / "out", Ownership()), 10**8)
    work = ReviewWork(found, Broken(), [], [])  # type: ignore[arg-type]

    async def reviewed() -> None:
        task = asyncio.create_task(work.work())
        while any(card.state == "waiting" for card in cards.values()):
            await asyncio.sleep(0.01)
        found.decisions.decide({card.key: found.row(card, corrected=False) for card in cards.values()}, "accepted")
        work.want_painting()
        while work.painting.running:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(asyncio.wait_for(reviewed(), 60))
    said = "An internal error occurred (PermissionError: [Errno 13] Permission denied)."
    assert [(card.state, card.message) for card in cards.values()] == [("failed", said)] * 2
    assert work.problem == said
