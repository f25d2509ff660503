"""The options that show what was edited, and what the commands do with them."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, Ran, diffedit
from PIL import Image
from rich.segment import Segment

from diffedit_cli import DiffEdit, OutputError, UsageError
from diffedit_cli.cli import progress, terminal_preview
from diffedit_cli.images import codecs, previews, provenance
from diffedit_cli.jobs import sources
from diffedit_cli.results.result import Result

GAP, CAPTION = previews.GAP, previews.CAPTION


# the commands


def drawn(path: Path) -> None:
    """A mask of rows 10 to 29 and columns 20 to 39."""
    mask = Image.new("1", (60, 40))
    mask.paste(1, (20, 10, 40, 30))
    mask.save(path)


def shown(path: Path) -> tuple[int, int]:
    """The size of a picture that can be read whole."""
    with Image.open(path) as image:
        image.load()
        return image.size


def strip_size(path: Path, tiles: int) -> bool:
    """Whether a preview of the 60 x 40 picture has so many tiles."""
    width, height = shown(path)
    return height == 40 + 3 * GAP + CAPTION and (width - GAP) % tiles == 0 and 60 < (width - GAP) // tiles < 120


def test_mask_shows_three_tiles_and_the_mask_over_the_picture(here: Path) -> None:
    ran = diffedit("mask", "cat.png", *WORDS, "--preview", "p.png", "--overlay", "o.png", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["preview"] == "p.png"
    assert ran.json["output"] == "cat.mask.png"
    assert strip_size(here / "p.png", 3)
    assert shown(here / "o.png") == (60, 40)
    covered = np.asarray(Image.open(here / "cat.mask.png")) > 0
    changed = (np.asarray(Image.open(here / "o.png")) != np.asarray(Image.open(here / "cat.png"))).any(axis=2)
    assert not (changed & ~covered & ~previews.border(covered, 2)).any()


def test_edit_shows_four_tiles_and_an_animation(here: Path) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--preview", "p.png", "--compare", "c.gif")
    assert ran.code == 0, ran.err
    assert strip_size(here / "p.png", 4)
    assert Image.open(here / "c.gif").n_frames == 2 + 2 * previews.FADES  # type: ignore[attr-defined]
    assert diffedit("edit", "cat.png", *WORDS, "--compare", "c.webp").code == 0
    assert Image.open(here / "c.webp").n_frames == 2 + 2 * previews.FADES  # type: ignore[attr-defined]


def test_with_a_mask_from_a_file_there_is_no_contrast_to_show(here: Path) -> None:
    drawn(here / "drawn.png")
    ran = diffedit("edit", "cat.png", *WORDS, "--mask", "drawn.png", "--preview", "p.png")
    assert ran.code == 0, ran.err
    assert strip_size(here / "p.png", 3)


def test_a_mask_within_limits_keeps_its_contrast(here: Path) -> None:
    drawn(here / "inside.png")
    assert diffedit("mask", "cat.png", *WORDS, "--within", "inside.png", "--preview", "p.png").code == 0
    assert strip_size(here / "p.png", 3)


def test_a_sheet_shows_the_variants_and_needs_two(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 3, "--sheet", "s.png").code == 0
    width, height = shown(here / "s.png")
    assert (width - GAP) % 3 == 0
    assert height == 40 + 3 * GAP + CAPTION
    ran = diffedit("edit", "cat.png", *WORDS, "--sheet", "t.png")
    assert ran.code == 2
    assert "--variants" in ran.lines[-1]
    assert not (here / "t.png").exists()


def test_run_puts_a_preview_of_each_into_a_folder(here: Path) -> None:
    Image.open(here / "cat.png").rotate(180).save(here / "dog.png")
    ran = diffedit("run", ".", *WORDS, "--out", "out", "--preview", "out")
    assert ran.code == 0, ran.err
    written = {path.name for path in (here / "out").glob("*.png")}
    assert written == {"cat.png", "cat.mask.png", "cat.preview.png", "dog.png", "dog.mask.png", "dog.preview.png"}
    assert strip_size(here / "out" / "cat.preview.png", 4)
    listed = sources.list_rows([str(here)], recursive=False, skip=provenance.has_record)
    assert [row.input for row in listed] == [here / "cat.png", here / "dog.png"]
    assert "holds no pictures" in diffedit("run", "out", *WORDS, "--out", "again").lines[-1]


def test_several_pictures_share_a_folder_that_is_made_but_no_file(here: Path) -> None:
    Image.open(here / "cat.png").rotate(180).save(here / "dog.png")
    words = ("edit", "cat.png", "dog.png", *WORDS)
    assert diffedit(*words, "--preview", Path("new") / "previews").code == 0
    assert {path.name for path in (here / "new" / "previews").iterdir()} == {"cat.preview.png", "dog.preview.png"}
    for option, file in (("--preview", "p.png"), ("--compare", "c.gif")):
        ran = diffedit(*words, option, file)
        assert ran.code == 2
        assert f"cat.png and dog.png would both write {file}" in ran.lines[-1]


def test_a_preview_goes_to_standard_output_alone(here: Path) -> None:
    ran = diffedit("mask", "cat.png", *WORDS, "--preview", "-")
    assert ran.code == 0, ran.err
    assert Image.open(io.BytesIO(ran.out)).format == "PNG"
    for more in (("-o", "-"), ("--overlay", "-"), ("--json",)):
        assert diffedit("mask", "cat.png", *WORDS, "--preview", "-", *more).code == 2
    given = (here / "cat.png").read_bytes()
    assert diffedit("mask", "-", *WORDS, "--preview", "previews", given=given).code == 0
    assert (here / "previews" / "picture.preview.png").is_file()


FILES = ("--preview", "p.png", "--compare", "c.gif", "--variants", 2, "--sheet", "s.png")


def edited(*more: object) -> Ran:
    return diffedit("edit", "cat.png", *WORDS, *more)


@pytest.mark.thorough
@pytest.mark.parametrize("extra", [(), ("--no-metadata", "-o", "new.png")], ids=["", "no metadata"])
def test_its_own_files_are_replaced_and_others_are_not(here: Path, extra: tuple[str, ...]) -> None:
    assert edited(*FILES, *extra).code == 0
    first = {name: (here / name).read_bytes() for name in ("p.png", "c.gif", "s.png")}
    for output in here.glob("new*"):
        output.unlink()
    assert edited(*FILES, *extra).code == 0
    assert {name: (here / name).read_bytes() for name in first} == first
    assert (b"diffedit edit" in diffedit("info", "c.gif").out) == (not extra)
    for name in first:
        for output in here.glob("new*"):
            output.unlink()
        Image.new("RGB", (5, 5)).save(here / name)
        foreign = (here / name).read_bytes()
        ran = edited(*FILES, *extra)
        assert ran.code == 6
        assert f"{name} exists, and nothing shows that diffedit made it" in ran.lines[-1]
        assert (here / name).read_bytes() == foreign
        assert edited(*FILES, *extra, "--force").code == 0
        assert (here / name).read_bytes() == first[name]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("mask cat.png --preview cat.png", 6, "cat.png is also an input"),
        ("mask cat.png --overlay cat.png --force", 6, "is also an input"),
        ("mask cat.png --overlay cat.mask.png", 2, "--overlay and another output would both write cat.mask.png"),
        ("mask cat.png --overlay x.png --preview x.png", 2, "would both write x.png"),
        ("mask cat.png --preview x.jpg", 2, "name a .png file, or a folder"),
        ("mask cat.png --overlay x", 2, "name a .png file."),
        ("mask cat.png --overlay nowhere/x.png", 6, "choose another with --overlay"),
        ("mask cat.png --preview cat.png/x", 6, "--preview"),
        ("edit cat.png --compare x.png", 2, "name a .gif or .webp file"),
        ("edit cat.png --compare -", 2, "name a .gif or .webp file"),
        ("edit cat.png --compare nowhere/x.gif", 6, "nowhere"),
        ("edit cat.png --variants 2 --sheet x.gif", 2, "name a .png file"),
        ("edit cat.png other.png --preview x.png", 2, "name a folder with --preview"),
        ("edit cat.png cat.preview.png --preview .", 6, "cat.preview.png is also an input"),
        ("edit - --preview -", 2, "would both write -"),
        ("run cat.png cat.preview.png --out out --preview out", 2, "would both write out"),
    ],
)
def test_what_cannot_be_shown_is_said_before_any_work(here: Path, words: str, code: int, says: str) -> None:
    for name in ("other.png", "cat.preview.png", "cat.jpg"):
        Image.new("RGB", (60, 40)).save(here / name)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    ran = diffedit(*shlex.split(words), *WORDS, given=(here / "cat.png").read_bytes())
    assert (ran.code, says in ran.lines[-1]) == (code, True), ran.err
    assert "finding the mask" not in ran.err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_withheld_or_failed_edit_shows_nothing(here: Path) -> None:
    Image.new("L", (60, 40)).save("black.png")
    words = (*WORDS, "--within", "black.png")
    ran = diffedit("mask", "cat.png", *words, "--preview", "p.png", "--overlay", "o.png")
    assert ran.code == 5
    assert sorted(path.name for path in here.iterdir()) == ["black.png", "cat.png"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["p.png", "c.gif", "c.webp", "s.png", "o.png"])
def test_info_tells_the_command_that_makes_it_again(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    option = {"p": "--preview", "c": "--compare", "s": "--sheet", "o": "--overlay"}[name[0]]
    command = "mask" if name == "o.png" else "edit"
    more = ("--variants", 2) if name == "s.png" else ()
    assert diffedit(command, "cat.png", *WORDS, option, name, *more).code == 0
    first = (here / name).read_bytes()
    line = diffedit("info", name).out.decode().splitlines()[-1]
    (here / name).unlink()
    for variable in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{variable}")
    ran = diffedit(*["cat.png" if word == "PICTURE" else word for word in shlex.split(line)[1:]])
    assert ran.code == 0, ran.err
    assert (here / name).read_bytes() == first


def test_a_comment_of_others_is_no_record(here: Path) -> None:
    Image.new("RGB", (5, 5)).save(here / "x.gif", comment=b"made by hand \xff")
    assert codecs.read_record(here / "x.gif") is None
    assert diffedit("info", "x.gif").code == 3


# on a terminal


def test_a_terminal_gets_the_tiles_two_pixels_to_a_letter(tmp_path: Path) -> None:
    strip = Image.new("RGB", (120, 40 + CAPTION + GAP), "red")
    strip.paste("blue", (0, 0, 120, 20))
    strip.save(tmp_path / "p.png")
    segments = list(terminal_preview.strip(str(tmp_path / "p.png"), 60).segments)
    lines = [segments[start : start + 61] for start in range(0, len(segments), 61)]
    assert len(lines) == 10  # 40 pixels high at 120 wide is 20 at 60, without the labels
    assert all(line[60] == Segment.line() for line in lines)
    colours = {
        (line, cell.style.color.triplet.hex, cell.style.bgcolor.triplet.hex)
        for line in (0, 9)
        for cell in lines[line][:60]
    }  # type: ignore[union-attr]
    assert colours == {(0, "#0000ff", "#0000ff"), (9, "#ff0000", "#ff0000")}


@pytest.mark.parametrize(("colours", "seen"), [("truecolor", True), (None, False)])
def test_the_preview_of_a_result_is_shown_where_there_are_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: str | None, seen: bool
) -> None:
    Image.new("RGB", (120, 80), "red").save(tmp_path / "p.png")
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    console = progress.Console(file=written, force_terminal=True, color_system=colours, width=80)  # type: ignore[arg-type]
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    for quiet in (True, False):
        with progress.Reporter(quiet=quiet) as reporter:
            reporter.result(Result(status="done", input="cat.png", output="x.png", preview=str(tmp_path / "p.png")))
        assert (terminal_preview.UPPER_HALF.encode() in written.buffer.getvalue()) == (seen and not quiet)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("here")
def test_elsewhere_nothing_is_drawn() -> None:
    ran = diffedit("mask", "cat.png", *WORDS, "--preview", "p.png")
    assert terminal_preview.UPPER_HALF not in ran.err
    assert "\x1b" not in ran.err


# hints


def test_the_hint_is_among_the_warnings_of_what_was_found_and_not_of_what_was_drawn(here: Path) -> None:
    found = {
        threshold: diffedit("mask", "cat.png", *WORDS, "--threshold", threshold, "--json").json
        for threshold in (0.05, 0.35)
    }
    assert found[0.05]["mask_area"] > 0.6
    assert ["raise --threshold (0.05 now)" in warning for warning in found[0.05]["warnings"]] == [True]
    assert 0.005 < found[0.35]["mask_area"] < 0.6
    assert found[0.35]["warnings"] == []
    white = Image.new("L", (60, 40), 255)
    white.save(here / "white.png")
    assert diffedit("edit", "cat.png", *WORDS, "--mask", "white.png", "--json").json["warnings"] == []
    dot = Image.new("L", (60, 40))
    dot.paste(255, (0, 0, 5, 2))
    dot.save(here / "dot.png")
    ran = diffedit("mask", "cat.png", *WORDS, "--threshold", 0.01, "--within", "dot.png")
    assert (
        "warning: The mask covers 0.42 % of cat.png; if that is too little, lower --threshold (0.01 now)." in ran.lines
    )


# from Python


def test_the_same_from_python(here: Path, tiny_epsilon: Path) -> None:
    words = {"from_": "cat", "to": "dog", "steps": 5, "maps": 2, "threshold": 0.3}
    editor = DiffEdit(tiny_epsilon, device="cpu")
    shows = ("--preview", "p.png", "--sheet", "s.png", "--compare", "c.gif")
    ran = diffedit("edit", "cat.png", *WORDS, "--room", 0, "--variants", 2, *shows)
    assert ran.code == 0, ran.err
    result = editor.edit("cat.png", **words, room=0.0, variants=2)  # type: ignore[arg-type]
    assert result.preview().tobytes() == Image.open(here / "p.png").tobytes()
    assert result.sheet().tobytes() == Image.open(here / "s.png").tobytes()
    result.compare("again.gif")
    assert (here / "again.gif").read_bytes() == (here / "c.gif").read_bytes()
    assert [one.seed for one in result.variants] == [0, 1]
    with pytest.raises(UsageError, match=r"\.gif or \.webp"):
        result.compare("again.png")
    with pytest.raises(OutputError):
        result.compare(Path("nowhere") / "again.gif")
    assert diffedit("mask", "cat.png", *WORDS, "--preview", "p.png", "--overlay", "o.png").code == 0
    mask = editor.mask("cat.png", **words)  # type: ignore[arg-type]
    assert mask.preview().tobytes() == result.mask.preview().tobytes() == Image.open(here / "p.png").tobytes()
    assert mask.overlay().tobytes() == Image.open(here / "o.png").tobytes()
