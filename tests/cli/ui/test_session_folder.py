"""The folder of a session: what is uploaded or drawn gets names of its own, and nothing of others is touched."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import WORDS, diffedit
from PIL import Image

from diffedit_cli.cli.ui import session_folder
from diffedit_cli.cli.ui.session_folder import UNUSED_MASKS, SessionFolder, settings_of, view_of
from diffedit_cli.errors import DiffEditError, InputError, OutputError, UsageError

SIZE = (40, 30)


def encoded(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = SIZE, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1 if mode == "I;16" else "grey").save(buffer, kind, **more)
    return buffer.getvalue()


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> bytes:
    image, buffer = Image.new("L", size), io.BytesIO()
    image.paste(255, box)
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> SessionFolder:
    return SessionFolder(tmp_path / "out")


NAMES = {
    "cat.png": "cat.png", "../../etc/passwd": "passwd.png", "C:\\a\\b.JPG": "b.jpg", "a/b/c.png": "c.png",
    "": "picture.png", ".hidden.png": "hidden.png", "-rf.png": "rf.png", "a\x00b\n\x1b[31m.png": "ab[31m.png",
    "no ending": "no ending.png", "x" * 300 + ".webp": "x" * 100 + ".webp", "🐱 猫.png": "🐱 猫.png",
    "..": "picture.png", "a.b.c.png": "a.b.c.png", "a.<script>": "a.png", "<img src=x>.png": "<img src=x>.png",
    "~": "picture.png", "a\u202egnp.png": "agnp.png",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_upload_gets_a_plain_name_in_the_folder(name: str, folder: SessionFolder) -> None:
    opened = folder.take_upload(name, encoded())
    assert opened.path == folder.out / "pictures" / NAMES[name]
    assert opened.path.read_bytes() == encoded()
    assert (opened.size, opened.settings) == (SIZE, None)


def test_a_taken_name_gets_a_number(folder: SessionFolder) -> None:
    opened = [folder.take_upload("cat.png", encoded()) for _ in range(3)]
    assert [one.name for one in opened] == ["cat.png", "cat-2.png", "cat-3.png"]
    assert len({one.id for one in opened}) == 3


def bomb() -> bytes:
    """A PNG that says it has 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (100_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


BAD = {
    "nothing": b"",
    "text": b"<svg onload=alert(1)>",
    "bomb": bomb(),
    "torn": encoded(size=(400, 300))[:300],
    "html": b"<html>",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_picture_leaves_nothing_behind(what: str, folder: SessionFolder) -> None:
    with pytest.raises(InputError):
        folder.take_upload("x.png", BAD[what])
    assert not list((folder.out / "pictures").iterdir())
    assert not folder.pictures


@pytest.mark.parametrize(
    ("mode", "kind", "shown"),
    [("RGB", "JPEG", "RGB"), ("CMYK", "JPEG", "RGB"), ("L", "PNG", "RGB"), ("RGBA", "PNG", "RGBA"),
     ("LA", "PNG", "RGBA"), ("I;16", "PNG", "RGB"), ("P", "PNG", "RGB"), ("RGB", "WEBP", "RGB"),
     ("RGB", "TIFF", "RGB")],
)  # fmt: skip
def test_every_picture_is_shown_as_a_png(mode: str, kind: str, shown: str, folder: SessionFolder) -> None:
    opened = folder.take_upload(f"x.{kind.lower()}", encoded(mode, kind))
    view = Image.open(io.BytesIO(view_of(opened.path, folder.max_pixels)))
    assert (view.format, view.mode, view.size) == ("PNG", shown, SIZE)


def test_a_turned_picture_is_shown_upright(folder: SessionFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = folder.take_upload("x.jpg", encoded(kind="JPEG", exif=exif))
    assert opened.size == (30, 40)
    assert Image.open(io.BytesIO(view_of(opened.path, folder.max_pixels))).size == (30, 40)


def test_a_drawn_mask_is_kept_by_its_content(folder: SessionFolder) -> None:
    opened = folder.take_upload("x.png", encoded())
    first, same, other = (folder.take_mask(opened, mask_of((0, 0, width, 10))) for width in (10, 10, 20))
    assert first == same != other
    assert first["area"] == pytest.approx(100 / 1200)
    kept = np.asarray(Image.open(folder.mask(first["id"])))
    assert (kept == np.asarray(Image.open(io.BytesIO(mask_of((0, 0, 10, 10)))))).all()
    assert len(list((folder.out / "masks").iterdir())) == 2


WRONG = {"size": mask_of((0, 0, 4, 4), (40, 31)), "jpeg": encoded("L", "JPEG"), "text": b"white",
         "torn": mask_of((0, 0, 9, 9))[:40], "bomb": bomb(), "nothing": b""}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_mask_is_refused(what: str, folder: SessionFolder) -> None:
    opened = folder.take_upload("x.png", encoded())
    with pytest.raises(InputError):
        folder.take_mask(opened, WRONG[what])
    assert not (folder.out / "masks").exists()


def test_masks_that_no_edit_used_do_not_pile_up(folder: SessionFolder) -> None:
    opened = folder.take_upload("x.png", encoded(size=(100, 4)))
    used = folder.take_mask(opened, mask_of((0, 0, 1, 1), (100, 4)))["id"]
    folder.used.add(used)
    made = [folder.take_mask(opened, mask_of((0, 0, width, 4), (100, 4)))["id"] for width in range(2, 100)]
    assert {path.stem for path in (folder.out / "masks").iterdir()} == {
        one[1:] for one in [used, *made[-UNUSED_MASKS:]]
    }
    with pytest.raises(UsageError, match="not kept any longer"):
        folder.mask(made[0])


@pytest.mark.parametrize("identifier", [None, 3, [], "", "m", "../x", "p1", "results.jsonl"])
def test_only_what_was_opened_is_read(identifier: object, folder: SessionFolder) -> None:
    folder.take_upload("x.png", encoded())
    with pytest.raises(UsageError):
        folder.mask(identifier)
    if identifier != "p1":
        with pytest.raises(UsageError):
            folder.picture(identifier)
    with pytest.raises(UsageError):
        folder.result(str(identifier), 0)


def test_results_never_take_a_name_that_is_there(folder: SessionFolder) -> None:
    opened = folder.take_upload("cat.webp", encoded(kind="WEBP"))
    assert folder.next_output(opened, "a dog").name == "001-cat-a-dog.webp"
    (folder.out / "001 of mine.txt").touch()
    (folder.out / "002-cat-a-dog.mask.png").touch()
    assert folder.next_output(opened, "../../x").name == "003-cat-x.webp"
    for number in range(1, 1005):
        (folder.out / f"{number:03}-x.png").touch()
    assert folder.next_output(opened, "").name == "1005-cat.webp"


def test_results_are_lines_as_a_run_writes_them(folder: SessionFolder, tmp_path: Path) -> None:
    folder.out.mkdir()
    Image.new("RGB", SIZE).save(folder.out / "001-x.png")
    said = {
        "status": "done",
        "error": None,
        "input": "x.png",
        "output": str(folder.out / "001-x.png"),
        "outputs": [str(folder.out / "001-x.png")],
    }
    folder.keep_result(said)
    folder.keep_result(said | {"input": "y.png"})
    assert [json.loads(line)["input"] for line in (folder.out / "results.jsonl").read_text().splitlines()] == [
        "x.png",
        "y.png",
    ]
    assert diffedit("report", folder.out).code == 0
    assert (folder.out / "index.html").exists()
    folder.check()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(OutputError, match="was not made by diffedit"):
        SessionFolder(tmp_path / "other").check()
    assert (tmp_path / "other" / "results.jsonl").read_text() == '{"mine": 1}\n'


def test_a_folder_that_cannot_be_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another with --out"):
        SessionFolder(tmp_path / "file").check()
    monkeypatch.setattr(session_folder.os, "access", lambda *_: False)  # as for another user's folder
    with pytest.raises(OutputError, match="choose another with --out"):
        SessionFolder(tmp_path / "a" / "b").check()
    assert not (tmp_path / "a").exists()


def test_a_picture_that_diffedit_made_has_its_settings(here: Path) -> None:
    more = ("--threshold", "0.4", "--seed", "3", "--steps", "4", "--maps", "1", "--box", "0,0,30,30", "--anyway")
    assert diffedit("edit", "cat.png", *WORDS, *more, "-o", "dog.png").code == 0
    opened = SessionFolder(here / "out").open(here / "dog.png")
    wanted = {
        "from": "cat",
        "to": "dog",
        "threshold": 0.4,
        "seed": 3,
        "steps": 4,
        "maps": 1,
        "box": "0,0,30,30",
        "anyway": True,
    }
    assert opened.settings is not None
    assert {name: opened.settings.get(name) for name in wanted} == wanted


FOREIGN: list[Any] = [
    None, {}, {"kind": "mask"}, {"kind": "edit"}, {"kind": "edit", "edit": 3},
    {"kind": "edit", "edit": {"to": {"a": 1}}},
    {"kind": "edit", "edit": {"to": "x" * 10_000}}, {"kind": "edit", "edit": {"output": "/etc/passwd", "to": "dog"}},
    {"kind": "edit", "edit": {"to": "dog", "steps": [1, 2]}},
    {"kind": "edit", "lora": ["/etc/x"], "edit": {"to": "dog"}},
]  # fmt: skip


@pytest.mark.parametrize("record", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_record_sets_nothing_else(record: Any) -> None:
    settings = settings_of(record)
    assert settings is None or settings.keys() <= {"from", "to", "region", "room"} | {"invert-from", "last-level"}


def test_errors_are_those_of_diffedit(folder: SessionFolder) -> None:
    folder.out.parent.mkdir(exist_ok=True)
    folder.out.write_text("a file")
    with pytest.raises(DiffEditError):
        folder.take_upload("x.png", encoded())
    os.unlink(folder.out)  # noqa: PTH108
