"""Edits of every kind by the command: what they leave alone, what their masks cover, and what repeats them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, picture
from edits_of_each_kind import KINDS, check, done, drawn, pixels, run, told, white
from picture_files import stored, written
from PIL import Image

from diffedit_cli.images import codecs

# what stays as it is


@pytest.fixture
def album(here: Path) -> dict[str, Path]:
    """Pictures of every depth and mode, by the names of their results."""
    album = here / "album"
    album.mkdir()
    found = {"rgb.png": picture(album / "rgb.png"), "jpeg.png": picture(album / "jpeg.jpg", (44, 64))}
    for name, mode, bits in (("deep.png", "RGB", 16), ("alpha.png", "RGBA", 8), ("grey.png", "LA", 16)):
        found[name] = album / name
        large = np.kron(stored(mode, bits), np.ones((2, 2, 1), dtype=f"u{bits // 8}"))
        found[name].write_bytes(written(large, "PNG", mode, 1, None))
    rows = [{"input": f"album/{path.name}", "output": name} for name, path in found.items()]
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_of_every_format_all_that_is_not_masked_stays(here: Path, album: dict[str, Path], kind: str) -> None:
    ran = done("run", "jobs.jsonl", *told(kind), "--threshold", 0.6, "--out", "out", "--json")
    for name, said in zip(album, map(json.loads, ran.out.splitlines()), strict=True):
        M = check(album[name], here / "out" / f"{Path(name).stem}.mask.png", here / "out" / name)
        assert (said["region"], said["mask_area"]) == (kind, M.mean())
        assert M.all() == (kind == "everything") or kind != "everything"
        if name in ("alpha.png", "grey.png"):
            assert (pixels(here / "out" / name)[..., -1] == pixels(album[name])[..., -1]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("here")
def test_with_zoom_all_that_is_not_masked_stays(kind: str) -> None:
    picture(Path("large.png"), (230, 150))
    found = run("large.png", *told(kind), "--zoom", 2, "--threshold", 0.6)
    assert found["region"] == kind


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [("--soft",), ("--variants", 3), ("--feather", 0), ("--room", 1)], ids=str)
@pytest.mark.usefixtures("here")
def test_with_other_options_all_that_is_not_masked_stays(kind: str, words: tuple[object, ...]) -> None:
    run("cat.png", *told(kind), *words, "--threshold", 0.6, count=3 if "--variants" in words else 1)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("words", "open_to"),
    [
        (("--within", "left.png"), (0, 0, 30, 40)),
        (("--box", "20,0,40,30"), (20, 0, 60, 30)),
        (("--exclude", "right.png"), (0, 0, 30, 40)),
    ],
    ids=str,
)
def test_limits_hold_whatever_room_there_is(
    here: Path, kind: str, words: tuple[str, ...], open_to: tuple[int, int, int, int]
) -> None:
    for name, box in (("left.png", (0, 0, 30, 40)), ("right.png", (30, 0, 60, 40))):
        drawn(here / name, *box)
    run("cat.png", *told(kind), *words, "--threshold", 0.3, "--room", 1)
    left, top, right, bottom = open_to
    M = white("out/cat.mask.png")
    M[top:bottom, left:right] = False
    assert not M.any()


@pytest.mark.parametrize("kind", ["object", "attribute", "remove"])
@pytest.mark.usefixtures("here")
def test_of_a_region_that_is_pointed_at_nothing_else_changes(kind: str) -> None:
    done("mask", "cat.png", *told(kind), "--threshold", 0.6, "-o", "found.png")
    y, x = np.argwhere(white("found.png"))[0]
    point = ("--point", f"{x},{y}")
    run("cat.png", *told(kind), *point, "--threshold", 0.6, "--room", 1)
    assert not (white("out/cat.mask.png") & ~white("found.png")).any()


@pytest.mark.usefixtures("here")
def test_what_is_added_is_where_somebody_points_and_nothing_is_asked_for_that() -> None:
    found = done("edit", "cat.png", *told("add"), "--point", "50,20", "--json").json
    assert found["evaluations"]["mask"] == 0
    assert 0 < found["mask_area"] <= 400 / 2400
    done("mask", "cat.png", *told("add"), "--point", "50,20", "-o", "found.png")
    assert not white("found.png")[:, :40].any()
    assert not ((pixels("cat.png") != pixels("cat.edited.png")).any(axis=2) & ~white("found.png")).any()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [(), ("--room", 2), ("--zoom", 2), ("--soft",)], ids=str)
def test_a_drawn_mask_is_never_left(here: Path, kind: str, words: tuple[object, ...]) -> None:
    drawn(here / "drawn.png", 20, 10, 44, 30)
    found = done("edit", "cat.png", *told(kind), "--mask", "drawn.png", *words, "--json").json
    assert (found["mask_area"], found["region"], found["evidence"]) == (white("drawn.png").mean(), kind, None)
    check("cat.png", "drawn.png", "cat.edited.png")


# what the mask says


@pytest.mark.usefixtures("here")
def test_the_mask_of_a_result_is_what_was_found_and_what_changed_around_it() -> None:
    done("mask", "cat.png", *WORDS, "--threshold", 0.6, "-o", "found.png")
    found = white("found.png")
    shares = []
    for above in (0, 30, 255):
        share = run("cat.png", *WORDS, "--threshold", 0.6, "--paste-above", above)["mask_area"]
        assert not (found & ~white("out/cat.mask.png")).any()
        shares.append(share)
    assert shares[0] > shares[1] > shares[2] == found.mean()
    assert run("cat.png", *WORDS, "--threshold", 0.6, "--room", 0)["mask_area"] == found.mean()
    assert "changed: True" in done("info", "out/cat.mask.png").out.decode()
    assert "changed" not in done("info", "found.png").out.decode()


@pytest.mark.usefixtures("here")
def test_a_result_again_in_its_own_mask_gets_no_more_room() -> None:
    words = (*WORDS, "--threshold", 0.6)
    run("cat.png", *words, "--paste-above", 30)
    M = white("out/cat.mask.png")
    for more in ((), ("--room", 2)):
        found = done("edit", "cat.png", *words, *more, "--mask", "out/cat.mask.png", "--json").json
        assert found["mask_area"] == M.mean()
        check("cat.png", "out/cat.mask.png", "cat.edited.png")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [(), ("--soft",), ("--no-cache",)], ids=str)
def test_a_mask_and_an_edit_in_it_give_the_bytes_of_one_edit(here: Path, kind: str, words: tuple[str, ...]) -> None:
    shared = (*told(kind), "--threshold", 0.6, *words)
    done("edit", "cat.png", *shared, "-o", "once.png")
    done("mask", "cat.png", *shared, "-o", "found.png")
    done("edit", "cat.png", *shared, "--mask", "found.png", "-o", "twice.png")
    assert (here / "once.png").read_bytes() == (here / "twice.png").read_bytes()
    untold = (*shared[2:], "--caption", shared[1], "--mask", "found.png", "--negative", "")
    found = done("edit", "cat.png", *untold, "-o", "untold.png", "--json").json
    assert found["region"] == kind  # as the mask says


@pytest.mark.parametrize("kind", ["object", "attribute", "background", "remove"])
@pytest.mark.usefixtures("here")
def test_another_threshold_asks_no_network(kind: str) -> None:
    thresholds = (0.6, 0.5, 0.7) if kind == "background" else (0.3, 0.2, 0.4)
    first, *others = (
        done("mask", "cat.png", *told(kind), "--threshold", threshold, "--json").json for threshold in thresholds
    )
    assert first["evaluations"]["mask"] > 0
    assert len({one["mask_area"] for one in (first, *others)}) == 3
    for one in others:
        assert (one["evaluations"], one["cache"]) == ({"mask": 0}, {"mask": "hit"})


@pytest.mark.parametrize(("kind", "mask", "invert"), [("everything", 0, 2), ("background", 4, 0), ("add", 8, 0)])
@pytest.mark.usefixtures("here")
def test_what_each_kind_asks_the_network(kind: str, mask: int, invert: int) -> None:
    found = done("edit", "cat.png", *told(kind), "--threshold", 0.6, "--json").json
    assert (found["evaluations"]["mask"], found["evaluations"]["invert"]) == (mask, invert)
    assert found["region"] == kind
    assert found["evidence"] is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("here")
def test_the_same_edit_again_loads_no_model(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    words = ("edit", "cat.png", *told(kind), "--threshold", 0.6, "--force", "--json")
    done(*words)
    first = pixels("cat.edited.png").tobytes()
    monkeypatch.setattr("diffedit_cli.models.loader.LOADER.load", lambda *_: pytest.fail("loaded"))
    found = done(*words).json
    assert sum(found["evaluations"].values()) == 0
    assert pixels("cat.edited.png").tobytes() == first


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["object", "background", "remove", "add"])
def test_several_together_are_as_one_by_one(here: Path, kind: str) -> None:
    (here / "album").mkdir()
    for number in range(3):
        path = picture(here / "album" / f"{number}.png")
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 9 * number, axis=1)).save(path)
    for count in (1, 2):
        words = (*told(kind), "--threshold", 0.6, "--no-cache", "--batch", count)
        done("run", "album", *words, "--out", str(count))
    for number in range(3):
        one, two = (check(f"album/{number}.png", f"{n}/{number}.mask.png", f"{n}/{number}.png") for n in (1, 2))
        assert (one != two).mean() < 0.02
        apart = np.abs(pixels(f"1/{number}.png").astype(int) - pixels(f"2/{number}.png")).max(axis=2)
        assert (apart > 1).mean() < 0.04


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("here")
def test_an_inpainting_model_paints_every_kind(inpainter: Path, kind: str) -> None:
    found = run("cat.png", *told(kind), "--threshold", 0.6, "--painter", inpainter)
    assert found["region"] == kind
    assert found["evaluations"]["invert"] == 0


# what repeats it


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["found", "drawn", "changed", "inpainted", "room"])
def test_info_repeats_every_kind(
    here: Path, monkeypatch: pytest.MonkeyPatch, inpainter: Path, kind: str, given: str
) -> None:
    drawn(here / "drawn.png", 20, 10, 44, 30)
    words: dict[str, tuple[object, ...]] = {
        "found": (),
        "drawn": ("--mask", "drawn.png"),
        "changed": ("--mask", "out/cat.mask.png"),
        "inpainted": ("--painter", inpainter),
        "room": ("--room", 0.7, "--paste-above", 20, "--last-level", 0.3, "--guidance", 3),
    }
    if given == "changed":
        run("cat.png", *told(kind), "--threshold", 0.6)
    done("edit", "cat.png", *told(kind), "--threshold", 0.6, *words[given], "-o", "first.png")
    line = done("info", "first.png").out.decode().splitlines()[-1]
    mask = "out/cat.mask.png" if given == "changed" else "drawn.png"
    again = [{"PICTURE": "cat.png", "MASK.png": mask}.get(word, word) for word in shlex.split(line)[1:]]
    for name in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{name}")
    done(*again, "-o", "again.png", "--no-cache")
    assert pixels("first.png").tobytes() == pixels("again.png").tobytes()
    assert (here / "first.png").read_bytes() == (here / "again.png").read_bytes()


@pytest.mark.usefixtures("here")
def test_info_of_a_results_mask_names_the_run_that_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run("cat.png", *WORDS, "--threshold", 0.6, "--guidance", 3)
    first = Path("out/cat.mask.png").read_bytes()
    line = done("info", "out/cat.mask.png").out.decode().splitlines()[-1]
    assert line.startswith("diffedit run PICTURE")
    again = [{"PICTURE": "cat.png", "FOLDER": "again"}.get(word, word) for word in shlex.split(line)[1:]]
    for name in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{name}")
    done(*again, "--no-cache")
    assert Path("again/cat.mask.png").read_bytes() == first


@pytest.mark.usefixtures("here")
def test_what_was_made_before_there_were_kinds_is_repeated_as_it_was_made() -> None:
    """Such records name no region; they are those of an object in exactly its mask."""
    done("edit", "cat.png", *told("background"), "--region", "object", "--room", 0, "-o", "now.png")
    with Image.open("now.png") as image:
        record = json.loads(image.info["diffedit"])
        for part in ("mask", "edit"):
            for name in ("region", "room", "paste-above"):
                record[part].pop(name, None)
    picture_of_old = codecs.load(Path("now.png"))
    Path("then.png").write_bytes(codecs.encode(picture_of_old, "PNG", record))
    line = done("info", "then.png").out.decode().splitlines()[-1]
    again = ["cat.png" if word == "PICTURE" else word for word in shlex.split(line)[1:]]
    done(*again, "-o", "again.png", "--no-cache")
    assert pixels("again.png").tobytes() == pixels("now.png").tobytes()
