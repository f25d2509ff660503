"""`diffedit run --dry-run`: what a run would do, and that it is not done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command import WORDS, Ran, diffedit, picture


def run(*words: object, given: bytes = b"") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", "out", "--json", given=given)


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def statuses(ran: Ran) -> list[str]:
    return [result["status"] for result in results(ran)]


def test_a_dry_run_says_what_a_run_would_do_and_does_nothing(here: Path) -> None:
    """A run after it does what it said, also of pictures that cannot be, or whose results are a stranger's."""
    album = here / "album"
    for name in ("a.png", "b.jpg", "sub/a.png", "sub/deep/c.png"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        picture(album / name, (40, 40 + len(name)))
    everything = sorted(here.rglob("*"))
    assert statuses(run("album", "-r", "--dry-run")) == ["planned"] * 4
    assert sorted(here.rglob("*")) == everything
    run("-", given=b"album/b.jpg\nalbum/sub/deep/c.png\n")
    picture(album / "a.png", (50, 50))
    (album / "sub" / "a.png").unlink()
    (album / "b.jpg").rename(here / "out" / "album" / "b.jpg")
    picture(album / "b.jpg", (50, 50))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in here.rglob("*")}
    paths = b"album/a.png\nalbum/b.jpg\nalbum/sub/a.png\nalbum/sub/deep/c.png\n"
    foreseen = run("-", "--dry-run", given=paths + b"https://no.where/d.png\n")
    stopped = run("-", "--dry-run", "--fail-fast", given=paths)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in here.rglob("*")} == before
    assert statuses(foreseen) == ["planned", "failed", "failed", "skipped", "planned"]
    assert (foreseen.code, statuses(stopped)) == (8, ["planned", "failed"])
    done = run("-", given=paths)
    for planned, made in zip(results(foreseen)[:4], results(done), strict=True):
        assert planned["status"] == {"done": "planned"}.get(made["status"], made["status"])
        assert all(planned[said] == made[said] for said in ("error", "input", "output", "outputs", "identity"))
