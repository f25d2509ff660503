"""What may be written: a seal tells whose a file is, no input is replaced, and nothing comes before the rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, Ran, diffedit, picture
from PIL import Image, PngImagePlugin

from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.images import codecs, masks, metadata, previews, provenance
from diffedit_cli.images.pictures import Picture
from diffedit_cli.results import results_log
from diffedit_cli.storage import artifacts, records, seals
from diffedit_cli.storage.ownership import Ownership, Target

RECORD = records.record("edit", {"from": "cat", "to": 'a "dog"' * 60})


@dataclass
class Told:
    """A book in which there is one digest."""

    digest: str

    def announce(self, digests: Mapping[str, str]) -> None:
        (self.digest,) = digests.values()

    def digests_of(self, path: Path) -> list[str]:  # noqa: ARG002
        return [self.digest]


def check(path: Path, *, inputs: list[Path] | None = None, kept: str | None = None, force: bool = False) -> None:
    owner = Ownership(force=force, inputs=inputs or [])
    owner.book = Told(kept) if kept else None
    owner.check(Target(path))


def sealed_file(path: Path, text: str = "") -> bytes:
    data = seals.seal(text.encode() + seals.text_with_room(RECORD).encode())
    path.write_bytes(data)
    return data


# Seals


def encoded(chosen: str, deep: bool = False) -> bytes:
    pixels = np.arange(40 * 60 * 3, dtype=np.uint16 if deep else np.uint8).reshape(40, 60, 3)
    shown = Picture("cat.png", pixels, "RGB", "PNG", metadata.Metadata())
    if chosen in ("gif", "webp"):
        return previews.animation(shown, shown, f".{chosen}", RECORD)
    if chosen == "safetensors":
        return artifacts.pack({"contrast": np.ones((3, 4), np.float32)}, RECORD)
    if chosen == "mask":
        return masks.pack_mask(masks.Mask(pixels[..., 0] > 7, RECORD))
    if chosen == "HEIF":
        codecs._enable_heic()
    return codecs.encode(shown, chosen, RECORD)


FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF", "gif", "webp", "safetensors", "mask")


@pytest.mark.parametrize(
    ("chosen", "deep"), [*((one, False) for one in FORMATS), ("PNG", True), ("TIFF", True)], ids=str
)
def test_a_file_of_any_format_bears_a_seal_that_any_other_byte_breaks(tmp_path: Path, chosen: str, deep: bool) -> None:
    plain = encoded(chosen, deep)
    data = seals.seal(plain)
    assert len(data) == len(plain)
    assert seals.is_whole(data)
    path = tmp_path / {"safetensors": "x.safetensors", "mask": "x.png"}.get(chosen, f"x.{chosen.lower()}")
    path.write_bytes(data)
    assert provenance.read_record(path) == RECORD if chosen != "mask" else provenance.has_record(path)
    if chosen != "safetensors":
        codecs.load(path)  # which refuses a PNG whose sums are wrong
    start = data.index(seals.PREFIX) + len(seals.PREFIX)
    own = range(start, start + seals.DIGITS)
    for at in {*range(0, len(data), 1 + len(data) // 40), len(data) - 1} - set(own):
        assert not seals.is_whole(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]), at
    assert not seals.is_whole(data + b"more")
    assert not seals.is_whole(data[:-1])


def test_a_retouched_result_that_keeps_its_record_is_no_longer_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(seals.seal(encoded("PNG")))
    with Image.open(path) as image:
        image.load()
        image.putpixel((0, 0), (255, 0, 0))
        record = metadata.record_in(image, *metadata.peek(image))
        assert record is not None
        info = PngImagePlugin.PngInfo()
        info.add(*metadata.png_record(record))
        image.save(path, pnginfo=info)
    assert provenance.has_record(path)
    assert not seals.is_whole(path.read_bytes())
    with pytest.raises(OutputError, match="was changed since diffedit made it"):
        check(path)


def test_a_file_without_a_seal_has_none() -> None:
    assert seals.seal(b"no room") == b"no room"
    assert seals.is_whole(b"no room") is None
    assert seals.is_whole(seals.BLANK * 1000) is False


# What may be written


def test_a_new_name_and_our_own_file_may_be_written(tmp_path: Path) -> None:
    check(tmp_path / "new.png")
    sealed_file(tmp_path / "old.png")
    check(tmp_path / "old.png")


def test_what_bears_no_seal_is_ours_by_a_digest_that_is_kept(tmp_path: Path) -> None:
    (tmp_path / "old.bmp").write_bytes(b"written")
    check(tmp_path / "old.bmp", kept=hashlib.sha256(b"written").hexdigest())
    with pytest.raises(OutputError, match="was changed since"):
        check(tmp_path / "old.bmp", kept=hashlib.sha256(b"other").hexdigest())


def test_a_foreign_file_needs_force(tmp_path: Path) -> None:
    for name, text in (("old.png", b""), ("older.png", seals.text_with_room(RECORD).encode())):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(OutputError, match="--force"):
            check(tmp_path / name)
        check(tmp_path / name, force=True)


@pytest.mark.parametrize(
    "link", ["same name", "other spelling", "symbolic link", "hard link", "the link it is read by"]
)
def test_an_input_is_never_written_over(tmp_path: Path, link: str) -> None:
    source = tmp_path / "source.png"
    sealed_file(source)
    target, read = tmp_path / "target.png", source
    if link == "same name":
        target = source
    elif link == "other spelling":
        (tmp_path / "inner").mkdir()
        target = tmp_path / "inner" / ".." / "source.png"
    elif link == "symbolic link":
        target.symlink_to(source)
    elif link == "hard link":
        target.hardlink_to(source)
    else:
        target.symlink_to(source)
        read = target
    with pytest.raises(OutputError, match="also an input"):
        check(target, inputs=[tmp_path / "none", read], force=True)
    owner = Ownership(force=True)
    owner.reads([read])
    with pytest.raises(OutputError, match="also an input"):
        owner.claim(Target(target), "cat.png", "choose another")
    with pytest.raises(OutputError, match="also an input"):
        owner.publish({Target(target): b"other"})


def test_a_folder_a_missing_folder_and_a_device_are_no_targets(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    places = (tmp_path, tmp_path / "missing" / "x.png", tmp_path / "file" / "x.png", Path("/dev/null"))
    for path in (*places, tmp_path / "pipe"):
        with pytest.raises(OutputError):
            check(path, force=True)


def test_a_link_needs_force_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    for name in ("there", "missing"):
        link = tmp_path / f"{name}.png"
        link.symlink_to(tmp_path / name)
        (tmp_path / "there").write_bytes(b"mine")
        with pytest.raises(OutputError, match="is a link"):
            Ownership().publish({Target(link): b"ours"})
        assert link.is_symlink()
        Ownership(force=True).publish({Target(link): b"ours"})
        assert (link.is_symlink(), link.read_bytes(), (tmp_path / "there").read_bytes()) == (False, b"ours", b"mine")
    assert not (tmp_path / "missing").exists()


def test_two_of_one_name_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "same").symlink_to(tmp_path)
    owner = Ownership()
    owner.claim(Target(tmp_path / "x.png"), "a.png", "choose another")
    owner.claim(Target(tmp_path / "y.png"), "a prompt", "choose another", shared=True)
    owner.claim(Target(tmp_path / "y.png"), "a prompt", "choose another", shared=True)
    for path, shared in (("x.png", False), ("same/x.png", True), ("y.png", True)):
        with pytest.raises(UsageError, match="would both write"):
            owner.claim(Target(tmp_path / path), "b.png", "choose another", shared=shared)
    with pytest.raises(UsageError, match=r"^a\.png is named twice, and would write .*x\.png both times; name it once"):
        owner.claim(Target(tmp_path / "x.png"), "a.png", "choose another")
    owner.book = Told("")
    owner.publish({Target(tmp_path / "x.png"): b"first"})
    assert owner.book.digest == hashlib.sha256(b"first").hexdigest()
    with pytest.raises(OutputError, match="for another picture"):
        owner.publish({Target(tmp_path / "x.png"): b"second"})
    assert (tmp_path / "x.png").read_bytes() == b"first"


def test_of_several_none_is_written_where_one_may_not_be(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"mine")
    with pytest.raises(OutputError):
        Ownership().publish({Target(tmp_path / "a.png"): b"ours", Target(tmp_path / "b.png"): b"ours"})
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("came", ["foreign", "ours", "the same", "input", "folder", "link"])
def test_what_comes_between_the_check_and_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: str, force: bool, links: bool
) -> None:
    """Whoever comes just before the file gets its name is treated as if it had been there."""
    target, source, link = tmp_path / "x.png", tmp_path / "source.png", os.link
    source.write_bytes(b"picture")
    ours = sealed_file(tmp_path / "ours")
    new = seals.seal(b"new" + seals.text_with_room(RECORD).encode())

    def late(old: Path, new_name: Path) -> None:
        if came in ("folder", "link", "input"):
            {"folder": target.mkdir, "link": lambda: target.symlink_to(source), "input": lambda: link(source, target)}[
                came
            ]()
        else:
            target.write_bytes({"foreign": b"mine", "ours": ours, "the same": new}[came])
        if not links:
            raise PermissionError(1, "no links here")
        link(old, new_name)

    monkeypatch.setattr(os, "link", late)
    owner, may = Ownership(force=force, inputs=[source]), came in ("ours", "the same") or (force and came == "foreign")
    if may:
        owner.publish({Target(target): new})
        assert target.read_bytes() == new
    else:
        with pytest.raises(OutputError):
            owner.publish({Target(target): new})
        assert source.read_bytes() == b"picture"
        assert came != "foreign" or target.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*"))


# Results are no sources


def run(*words: object) -> Ran:
    return diffedit("run", *words, "--json")


@pytest.mark.thorough
@pytest.mark.parametrize("extra", [(), ("--no-metadata",), ("--strip-metadata",)], ids=" ".join)
@pytest.mark.parametrize("out", ["photos/edited", "photos"])
def test_results_are_not_edited_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...], out: str
) -> None:
    (here / "photos").mkdir()
    for name in ("a.png", "b.bmp", "c.jpg"):
        picture(here / "photos" / name)
    words = ("photos", "-r", *WORDS, "--out", out, "--name", "{stem}-{to}{ext}", *extra)
    assert [json.loads(line)["status"] for line in run(*words).out.splitlines()] == ["done"] * 3
    for place, line in ((".", words), (".", words), ("photos", ("." if word == "photos" else word for word in words))):
        monkeypatch.chdir(here / place)
        line = ["edited" if word == "photos/edited" and place == "photos" else word for word in line]
        statuses = [json.loads(one)["status"] for one in run(*line).out.splitlines()]
        assert statuses == ["skipped"] * 3
    assert {path.name for path in (here / out).glob("?-dog*")} == {
        *("a-dog.png", "a-dog.mask.png", "b-dog.bmp", "b-dog.bmp.mask.png", "c-dog.jpg", "c-dog.jpg.mask.png")
    }


def test_pictures_of_one_stem_get_results_and_masks_of_their_own(here: Path) -> None:
    (here / "in").mkdir()
    for name in ("a.jpg", "a.png", "a.webp"):
        picture(here / "in" / name)
    ran = run("in", *WORDS, "--out", "out", "--preview", "seen", "--frames", "frames")
    assert ran.code == 0, ran.err
    assert {path.name for path in (here / "out").glob("a*")} == {
        *("a.jpg", "a.jpg.mask.png", "a.png", "a.mask.png", "a.webp", "a.webp.mask.png")
    }
    assert {path.name for path in (here / "seen").iterdir()} == {
        f"{one}.preview.png" for one in ("a", "a.jpg", "a.webp")
    }
    frames = [path.name for path in (here / "frames").iterdir()]
    assert len(frames) == 3 * len([name for name in frames if name.startswith("a-")])


def test_a_name_tells_pictures_apart_that_come_back_in_one_format(here: Path) -> None:
    (here / "in").mkdir()
    for name in ("a.gif", "a.png", "a.ppm"):
        picture(here / "in" / name)
    ran = run("in", *WORDS, "--out", "out")
    assert (ran.code, (here / "out").exists()) == (2, False)
    assert "would both write out/a.png; use --name '{stem}{suffix}{ext}' if only their" in ran.err
    assert run("in", *WORDS, "--out", "out", "--name", "{stem}{suffix}{ext}").code == 0
    assert {path.name for path in (here / "out").glob("a*")} == {
        *("a.gif.png", "a.gif.mask.png", "a.png", "a.mask.png", "a.ppm.png", "a.ppm.mask.png")
    }


@pytest.mark.parametrize("name", ["a.bmp", "a.png"])
def test_a_run_that_was_killed_knows_what_it_had_written(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing in the file tells it: its digest was told before it came."""
    picture(here / name)
    words = (name, *WORDS, "--no-metadata", "--out", "out")
    result, begun = here / "out" / name, here / "out" / f".{results_log.NAME}.begun"

    def ended_before_the_line() -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(
                results_log.ResultsLog, "write", lambda *_: (_ for _ in ()).throw(OutputError("There is no room."))
            )
            assert run(*words, "--force").code == OutputError.code
        assert (here / "out" / results_log.NAME).read_bytes() == b""
        assert begun.is_file()
        return result.read_bytes()

    before = ended_before_the_line()
    ran = run(*words)
    assert ran.code == 0, ran.err
    assert ran.json["status"] == "done"
    assert result.read_bytes() == before
    assert not begun.exists()  # all is recorded
    (here / "out" / results_log.NAME).unlink()
    ended_before_the_line()
    result.write_bytes(before + b"changed")
    ran = run(*words)
    assert ran.code == OutputError.code
    assert "was changed since" in ran.err
    assert result.read_bytes() == before + b"changed"


def test_processes_know_what_each_other_writes(tmp_path: Path) -> None:
    with results_log.ResultsLog(tmp_path) as one, results_log.ResultsLog(tmp_path) as other:
        assert other.digests_of(tmp_path / "a.bmp") == []
        one.announce({str(tmp_path / "a.bmp"): "0" * 64})
        assert other.digests_of(tmp_path / "a.bmp") == ["0" * 64]
        assert one.announcements
        with one.announcements.open("ab") as file:
            file.write(b'{"status": "begun", "digests": {"out/a.bmp"')  # torn
        assert other.digests_of(tmp_path / "b.bmp") == []
        with one.announcements.open("ab") as file:
            file.write(b"\n")
        one.announce({str(tmp_path / "b.bmp"): "1" * 64})
        assert other.digests_of(tmp_path / "b.bmp") == ["1" * 64]
    assert one.announcements.is_file()  # neither is recorded


def test_announcements_are_written_into_no_file_of_somebodys(tmp_path: Path) -> None:
    with results_log.ResultsLog(tmp_path) as told:
        assert told.announcements
        told.announcements.write_text("mine\n")
        with pytest.raises(OutputError, match="was not made by diffedit"):
            told.announce({str(tmp_path / "a.bmp"): "0" * 64})
        assert told.announcements.read_text() == "mine\n"
        told.announcements.unlink()
        told.announcements.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OutputError, match="but a link"):
            told.announce({str(tmp_path / "a.bmp"): "0" * 64})
    assert not (tmp_path / "elsewhere").exists()


def test_what_follows_announcements_that_were_removed_is_read_from_its_begin(tmp_path: Path) -> None:
    with results_log.ResultsLog(tmp_path) as one, results_log.ResultsLog(tmp_path) as other:
        one.announce({str(tmp_path / f"{name}.bmp"): "0" * 64 for name in "abcdef"})
        assert other.digests_of(tmp_path / "a.bmp") == ["0" * 64]
        assert one.announcements
        first = one.announcements.open("rb")  # its number is not given again
        one.announcements.unlink()
        one.announce({str(tmp_path / "b.bmp"): "1" * 64})
        assert other.digests_of(tmp_path / "b.bmp") == ["0" * 64, "1" * 64]
        first.close()
