"""What results tell of the picture, its maker and the words: no more than the input did, or less if that is asked."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bad_pictures
import icc
import numpy as np
import pytest
from command import FAST, Ran, diffedit, picture
from picture_files import DPI, read_metadata, stored, written
from PIL import ExifTags, Image

from diffedit_cli import DiffEdit
from diffedit_cli.images import codecs, masks, provenance
from diffedit_cli.results import thumbnails
from diffedit_cli.storage import artifacts, files

KINDS = [("PNG", 8), ("PNG", 16), ("JPEG", 8), ("WEBP", 8), ("TIFF", 8), ("TIFF", 16), ("AVIF", 8), ("HEIF", 8)]
TOLD = ("a secret cat", "a hidden dog")
EXIF_TAGS = (271, 34665, 34853, 0x9213)  # maker, exposure, place, and how diffedit made it


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    pass


def edit(*words: object, command: str = "edit") -> Ran:
    return diffedit(command, *words, "--from", TOLD[0], "--to", TOLD[1], "--no-cache", *FAST)


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_strip_metadata_leaves_how_the_picture_looks(kind: str, bits: int) -> None:
    path = Path(f"given{bad_pictures.suffix(kind)}")
    path.write_bytes(written(stored("RGB", bits), kind, "RGB", 6, icc.WIDE))
    assert edit(path, "-o", f"kept{path.suffix}").code == 0
    assert edit(path, "-o", f"stripped{path.suffix}", "--strip-metadata").code == 0
    kept, stripped = (Path(f"{name}{path.suffix}").read_bytes() for name in ("kept", "stripped"))
    was, now = read_metadata(kept, kind), read_metadata(stripped, kind)
    assert all(was.get(tag) for tag in EXIF_TAGS[: 1 if (kind, bits) == ("TIFF", 16) else 3])  # which holds no more
    assert not any(now.get(tag) for tag in EXIF_TAGS)
    assert not now["xmp"]
    assert now["profile"] == icc.WIDE
    assert now["dpi"] == was["dpi"]
    assert not any(word in stripped for word in (b"Maker", b"note=", b"secret", b"hidden", b"GPS"))
    assert provenance.read_record(Path(f"stripped{path.suffix}")) is None
    first, second = (codecs.load(Path(f"{name}{path.suffix}")) for name in ("kept", "stripped"))
    assert np.array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_resolution_in_exif_stays(kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = "Maker", *DPI
    path = Path(f"given{bad_pictures.suffix(kind)}")
    path.write_bytes(bad_pictures.saved(bad_pictures.picture(), kind, exif=exif.tobytes()))
    assert edit(path, "--strip-metadata").code == 0
    with Image.open(f"given.edited{path.suffix}") as image:
        found = image.getexif()
    assert (found[ExifTags.Base.XResolution], found.get(ExifTags.Base.Make)) == (DPI[0], None)


def test_the_place_is_copied_only_where_the_input_had_it() -> None:
    """And not into what is made beside the result."""
    Path("given.jpg").write_bytes(written(stored("RGB", 8), "JPEG", "RGB", 1, None))
    picture(Path("without.jpg"))
    shows = ("--preview", "preview.png", "--compare", "compare.webp")
    assert edit("given.jpg", *shows).code == edit("without.jpg").code == 0
    placed = {}
    for name in ("given.edited.jpg", "without.edited.jpg", "preview.png", "compare.webp"):
        with Image.open(name) as image:
            placed[name] = bool(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    assert [name for name, place in placed.items() if place] == ["given.edited.jpg"]
    buffer = io.BytesIO()
    thumbnails.of_picture(Path("given.jpg")).save(buffer, "WEBP")
    assert b"EXIF" not in buffer.getvalue()


@pytest.mark.parametrize("option", ["--no-metadata", "--strip-metadata"])
def test_without_metadata_no_file_tells_the_words(option: str) -> None:
    """Of a run all but the lists of what it did, which are for whoever started it."""
    Path("in").mkdir()
    shutil.move("cat.png", "in")
    shows = ("--preview", "shows", "--frames", "frames")
    assert edit("in", "--out", "out", *shows, "--zoom", "off", option, command="run").code == 0
    made = [path for folder in ("out", "shows", "frames") for path in Path(folder).rglob("*") if path.is_file()]
    telling = {path.name for path in made if b"secret" in path.read_bytes() or b"hidden" in path.read_bytes()}
    assert telling == {"results.jsonl", "index.html"}
    assert len(made) > 6
    beside = [Path("out/cat.mask.png"), *Path("frames").iterdir(), *Path("shows").iterdir()]
    for path in beside:  # still known as ours, and replaced by the next run
        assert provenance.has_record(path), path
        assert diffedit("info", path).code == 3
    assert masks.load_mask(Path("out/cat.mask.png")).made is None
    assert edit("in", "--out", "out", *shows, "--zoom", "off", option, "--seed", 2, command="run").code == 0


@pytest.mark.parametrize("option", ["--no-metadata", "--strip-metadata"])
def test_nothing_that_is_written_beside_the_result_tells_the_words(option: str) -> None:
    """Of every option that writes a file; nor does any of them tell what the input's own file does."""
    Path("out").mkdir()
    given = Path("given.jpg")
    given.write_bytes(written(stored("RGB", 8), "JPEG", "RGB", 6, icc.WIDE))
    shows = {"--preview": "p.png", "--sheet": "s.png", "--compare": "c.webp"}
    beside = {"--frames": "frames", "--save-embeds": "embeds", "--profile": "profile.json", "--depfile": "d.mk"}
    words = [word for pair in {**shows, **beside}.items() for word in pair]
    assert edit(given, "-o", "out/r.png", "--variants", 2, "--zoom", "off", option, *words).code == 0
    assert edit(given, "-o", "out/r.jpg", "--compare", "c.gif", "--force", option).code == 0
    made = [path for path in Path().rglob("*") if path.is_file() and path.name not in ("given.jpg", "cat.png")]
    assert {path.name for path in made} >= {*shows.values(), "profile.json", "d.mk", "r.png", "r-2.png", "c.gif"}
    assert len([path for path in made if path.parent.name in beside.values()]) > 4
    telling = {path.name for path in made for word in (b"secret", b"hidden") if word in path.read_bytes()}
    assert not telling
    others = [path for path in made if not (option == "--no-metadata" and path.parent.name == "out")]
    assert not [path for path in others if b"Maker" in path.read_bytes() or b"note=" in path.read_bytes()]
    for path in Path("embeds").iterdir():
        assert {"prompt", "negative"}.isdisjoint(artifacts.unpack(path)[1]), path


def test_another_run_that_strips_does_it_again() -> None:
    codes = [edit("cat.png", "--out", "out", *words, command="run") for words in ((), ("--strip-metadata",), ())]
    assert ["is up to date" in ran.err for ran in codes] == [False, False, False]


def test_programs_strip_metadata_too(tiny_epsilon: Path) -> None:
    Path("given.jpg").write_bytes(written(stored("RGB", 8), "JPEG", "RGB", 1, icc.WIDE))
    result = DiffEdit(tiny_epsilon).edit("given.jpg", from_=TOLD[0], to=TOLD[1], steps=5, maps=2, threshold=0.3)
    result.save("kept.jpg")
    result.save("stripped.jpg", strip_metadata=True)
    assert b"Maker" in Path("kept.jpg").read_bytes()
    assert not any(word in Path("stripped.jpg").read_bytes() for word in (b"Maker", b"secret"))
    assert read_metadata(Path("stripped.jpg").read_bytes(), "JPEG")["profile"] == icc.WIDE


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_every_output_has_the_rights_that_the_umask_gives(umask: int) -> None:
    before = os.umask(umask)
    try:
        words = ("--preview", "shows", "--frames", "frames", "--zoom", "off", "--save-embeds", "embeds")
        assert edit("cat.png", "--out", "out", *words, command="run").code == 0
        assert diffedit("invert", "cat.png", "--cache-dir", "cache", *FAST[:2]).code == 0
    finally:
        assert os.umask(before) == umask
    made = [Path("cat.latents.safetensors")]
    made += [path for folder in ("out", "shows", "frames", "embeds", "cache") for path in Path(folder).rglob("*")]
    wrong = [
        path
        for path in made
        if stat.S_IMODE(path.stat().st_mode) & umask
        or (path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o666 & ~umask)
    ]
    assert not wrong
    assert len(made) > 15


def test_threads_that_write_at_once_leave_the_umask_alone(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: files.publish(tmp_path / f"{number}.bin", b"x"), range(400)))
    finally:
        assert os.umask(before) == 0o077
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.bin")} == {0o600}


WATCHED = """
import atexit, sys
from diffedit_cli.__main__ import main

def watch(event, values):
    if event in ("socket.connect", "socket.bind", "socket.sendto") and isinstance(values[1], tuple):
        raise RuntimeError(f"{event} {values[1]}")  # an address of the internet; a socket of this machine has a path

sys.addaudithook(watch)
def tell():
    from huggingface_hub import constants
    print(constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_OFFLINE)

atexit.register(tell)
sys.argv = ["diffedit", *sys.argv[1:]]
main()
"""


@pytest.mark.thorough
def test_an_edit_tells_nobody_and_listens_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    words = [sys.executable, "-c", WATCHED, "edit", "cat.png", "--from", "cat", "--to", "dog"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "True True"), ended.stderr
