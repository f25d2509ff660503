"""Thumbnails of the report page: how they look, when they are made, and what none is made of."""

from __future__ import annotations

import os
from pathlib import Path

import page_folder
import pytest
from page_folder import entries, line, paint
from PIL import Image

from diffedit_cli.results import page
from diffedit_cli.storage import atomic
from diffedit_cli.storage.ownership import Ownership


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*lines: dict[str, object]) -> list[dict[str, object]]:
    """The entries of the page of these lines."""
    return entries(page.write(page_folder.write(Path(), *lines)))


def test_thumbnails_are_small_and_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (4000, 2000), "tan").save("cat.jpg", exif=exif)
    (entry,) = made(line("cat.jpg"))
    with Image.open(Path("out", entry["before"]["small"])) as image:
        assert (image.format, image.size) == ("WEBP", (160, 320))


def test_a_thumbnail_of_a_mask_is_transparent_outside_of_it() -> None:
    (entry,) = made(line("cat.png"))
    with Image.open(Path("out", entry["mask"]["small"])) as image:
        alpha = image.convert("RGBA").getchannel("A")
    assert alpha.getpixel((0, 0)) == 0
    assert 100 < alpha.getpixel((60, 40)) < 200
    assert alpha.getpixel((30, 40)) > 240


def test_thumbnails_are_made_again_only_when_older_than_their_picture() -> None:
    (entry,) = made(line("cat.png"))
    before, after = (Path("out", picture["small"]) for picture in (entry["before"], entry["after"][0]))
    first = before.stat().st_mtime_ns, after.stat().st_mtime_ns
    page.write(Path("out"))
    assert (before.stat().st_mtime_ns, after.stat().st_mtime_ns) == first
    soon = first[0] + 10**9
    os.utime("cat.png", ns=(soon, soon))
    page.write(Path("out"))
    assert before.stat().st_mtime_ns != first[0]
    assert after.stat().st_mtime_ns == first[1]


def test_a_small_picture_that_is_an_input_is_not_made_again() -> None:
    (entry,) = made(line("cat.png"))
    small = Path("out", entry["before"]["small"])
    before = small.read_bytes()
    paint(Path("other.png"), "navy")
    Path("other.png").replace("cat.png")
    (entry,) = entries(page.write(Path("out"), Ownership(force=True, inputs=[small])))
    assert small.read_bytes() == before
    assert "small" not in entry["before"]
    page.write(Path("out"))
    assert small.read_bytes() != before


def test_what_was_left_beside_whole_thumbnails_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PACE", 0.0)
    made(line("cat.png"))
    left = Path("out", "thumbnails", ".one.webp.diffedit--a1f96515.part")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    page.write(Path("out"))
    assert not left.exists()


def test_what_cannot_be_decoded_has_no_thumbnail() -> None:
    Path("cat.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (entry,) = made(line("cat.png"))
    assert entry["before"] == {"name": "cat.png", "full": "../cat.png"}
    assert not list(Path("out", "thumbnails").glob(".*"))


@pytest.mark.parametrize("extension", [".tif", ".heic"])
def test_pictures_that_browsers_do_not_show_have_thumbnails(extension: str) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    paint(Path(f"cat{extension}"), "tan")
    (entry,) = made(line(f"cat{extension}"))
    assert Path("out", entry["before"]["small"]).is_file()
