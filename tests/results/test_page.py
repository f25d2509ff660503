"""The report page as a file: what it is made from, what it says, and what is escaped. See also test_page_in_browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import page_folder
import pytest
from checkout import PROJECT
from command import diffedit
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from page_folder import entries, failed, line
from PIL import Image

from diffedit_cli.results import page

SCRIPT = "<script>document.title='taken'</script>"
MEMORY_OF_THE_PAGE = """
# in a process of its own: the threads that other tests leave would be counted too
import tracemalloc
from pathlib import Path
from diffedit_cli.results import page
page.write(Path("out"))  # what is loaded once is loaded
tracemalloc.start()
page.write(Path("out"))
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*lines: dict[str, object]) -> list[dict[str, object]]:
    """The entries of the page of these lines."""
    return entries(page.write(page_folder.write(Path(), *lines)))


def append(text: str) -> None:
    with Path("out", "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(text)


# Its lines


def test_an_entry_says_what_its_line_does() -> None:
    (entry,) = made(line("cat.png"))
    assert {name: entry[name] for name in ("name", "status", "from", "to", "area", "model", "device", "seed")} == {
        "name": "cat.png",
        "status": "done",
        "from": "cat",
        "to": "dog",
        "area": 0.25,
        "model": "builtin",
        "device": "cpu",
        "seed": 0,
    }
    assert (entry["evaluations"], entry["cached"]) == (74, ["mask"])
    assert entry["before"]["full"] == "../cat.png"
    assert entry["after"][0]["full"] == "cat.png"
    assert entry["mask"]["full"] == "cat.mask.png"


def test_the_last_line_of_an_output_counts() -> None:
    first, second = line("cat.png", mask_area=0.1), line("cat.png", mask_area=0.2, seed=7)
    (entry,) = made(first, second)
    assert entry["area"] == 0.2


def test_a_success_replaces_the_failure_before_it_and_the_other_way_round() -> None:
    assert [entry["status"] for entry in made(failed("cat.png"), line("cat.png"))] == ["done"]
    assert [entry["status"] for entry in made(line("cat.png"), failed("cat.png", seed=0))] == ["failed"]


def test_two_edits_of_one_picture_stay_apart() -> None:
    rabbit = line("cat.png", output="out/rabbit.png", outputs=["out/rabbit.png"], to="rabbit")
    assert [entry["to"] for entry in made(line("cat.png"), rabbit, failed("cat.png", to="fox"))] == [
        "dog",
        "rabbit",
        "fox",
    ]


def test_what_was_skipped_keeps_what_is_known_of_it() -> None:
    skipped = line("cat.png", status="skipped", mask_area=None, seconds={}, model=None)
    (entry,) = made(line("cat.png"), skipped)
    assert (entry["status"], entry["area"], entry["model"]) == ("skipped", 0.25, "builtin")


def test_a_torn_last_line_is_left_out_and_said() -> None:
    page_folder.write(Path(), line("cat.png"))
    append(json.dumps(line("dog.png"))[:100])
    written = page.write(Path("out"))
    assert [entry["name"] for entry in entries(written)] == ["cat.png"]
    assert "1 line of results.jsonl cannot be read" in written.read_text()


def test_lines_of_any_shape_do_no_harm() -> None:
    page_folder.write(Path(), line("cat.png"))
    odd = {"status": "done", "input": "\0", "mask_area": float("nan"), "seconds": [1], "outputs": [1, "\ud800.png"]}
    odd |= {"error": 3, "warnings": "x", "evaluations": {"mask": "y"}, "seed": {}, "from": 3, "mask": "a" * 5000}
    for text in ("[]", "null", '{"status": "odd"}', "[" * 100_000, "\xff", json.dumps(odd)):
        append(text + "\n")
    shown = entries(page.write(Path("out")))
    assert [entry["status"] for entry in shown] == ["done", "done"]
    assert "area" not in shown[1]


def test_small_masks_are_marked() -> None:
    small, large = made(line("cat.png", mask_area=0.0049), line("dog.png", mask_area=0.005))
    assert small["small"] is True
    assert "small" not in large


# Where its sliders begin


def masked(*boxes: tuple[int, int, int, int]) -> dict[str, object]:
    """The entry of a picture whose mask is white in these boxes."""
    page_folder.write(Path(), line("cat.png"))
    grey = Image.new("L", (1200, 800))
    for box in boxes:
        grey.paste(255, box)
    grey.save("out/cat.mask.png")
    return entries(page.write(Path("out")))[0]


@pytest.mark.parametrize(
    ("boxes", "cut"),
    [
        ([(900, 100, 1100, 300)], 83.3),
        ([(0, 0, 120, 800)], 5),
        ([(100, 0, 200, 100), (1000, 0, 1100, 100)], 50),  # half of it on each side
        ([(900, 100, 1100, 300), (0, 790, 8, 798)], 83.3),  # a speck does not count for much
        ([(0, 0, 1200, 800)], 50),
    ],
)
def test_a_slider_begins_where_the_edit_is(boxes: list[tuple[int, int, int, int]], cut: float) -> None:
    assert masked(*boxes)["cut"] == pytest.approx(cut, abs=0.4)
    Path("out/cat.mask.png").unlink()
    assert entries(page.write(Path("out")))[0]["cut"] == pytest.approx(cut, abs=0.4)  # from the small picture


def test_without_a_mask_it_begins_where_the_pictures_differ() -> None:
    Image.effect_noise((400, 200), 40).convert("RGB").save("cat.png")
    Path("out").mkdir()
    with Image.open("cat.png") as image:
        image.paste("red", (40, 50, 120, 100))
        image.save("out/cat.png")
    assert made(line("cat.png", mask=None))[0]["cut"] == pytest.approx(20, abs=1)


def test_where_nothing_tells_it_begins_in_the_middle() -> None:
    page_folder.write(Path(), line("cat.png", mask=None), failed("dog.png"))
    Path("out/cat.png").write_bytes(Path("cat.png").read_bytes())
    assert all("cut" not in entry for entry in entries(page.write(Path("out"))))
    text = Path("out", "index.html").read_text()
    assert "entry.cut ?? 50" in text
    assert "cut" not in masked()


def test_a_small_picture_that_is_damaged_tells_nothing() -> None:
    (entry,) = made(line("cat.png"))
    Path("out", entry["mask"]["small"]).write_bytes(b"RIFF")
    os.utime("out/cat.mask.png", ns=(0, 0))
    assert "cut" not in entries(page.write(Path("out")))[0]


# Its files


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize(
    "name", ["a b", 'it\'s "so"', "50% #1?", "Käse 猫", "two\nlines", "a:b", b"\xff".decode("utf-8", "surrogateescape")]
)
def test_links_reach_files_of_any_name(name: str) -> None:
    (entry,) = made(line(f"{name}.png"))
    for picture, path in ((entry["before"], Path(f"{name}.png")), (entry["after"][0], Path("out", f"{name}.png"))):
        link = picture["full"]
        assert not set(link) & set(" \"'#?\n:")
        assert Path("out", unquote(link, errors="surrogateescape")).samefile(path)


def test_a_folder_can_move_with_its_pictures(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "photos").mkdir(parents=True)
    page_folder.write(project, line("photos/cat.png"))
    moved = project.rename(tmp_path / "elsewhere") / "out"
    (entry,) = entries(page.write(moved))
    assert entry["before"]["full"] == "../photos/cat.png"
    assert entry["after"][0]["full"] == "cat.png"


def test_a_folder_that_moved_alone_shows_its_thumbnails(tmp_path: Path) -> None:
    made(line("cat.png"))
    Path("cat.png").unlink()
    moved = Path("out").rename(tmp_path / "moved")
    (entry,) = entries(page.write(moved))
    assert "full" not in entry["before"]
    assert (moved / entry["before"]["small"]).is_file()


def test_the_page_links_to_where_it_is_told_outputs_are(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    away = line("cat.png", output=str(tmp_path / "x" / "cat.png"), outputs=[str(tmp_path / "x" / "cat.png")])
    assert made(away)[0]["after"][0]["full"] == "../x/cat.png"


# Its text


class Elements(HTMLParser):
    """How often each element stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.names.append(tag)


def test_script_tags_in_names_prompts_and_messages_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    name = SCRIPT.replace("/", "\N{FRACTION SLASH}") + ".png"
    said = {"from": SCRIPT, "to": "</script><b>dog</b>", "model": SCRIPT, "warnings": [SCRIPT]}
    page_folder.write(folder, line(name, **said), failed("b.png", SCRIPT))
    text = page.write(folder / "out").read_text()
    plain = page.write(page_folder.write(tmp_path / "plain", line("a.png"), failed("b.png"))).read_text()
    assert Elements(text).names == Elements(plain).names
    assert "<script>document" not in text
    assert "<img" not in page.write((folder / "out").rename(tmp_path / "<img>")).read_text()
    shown = entries(tmp_path / "<img>" / "index.html")
    assert (shown[0]["from"], shown[0]["warnings"], shown[1]["error"]) == (SCRIPT, [SCRIPT], SCRIPT)


def test_the_page_names_nothing_outside_itself() -> None:
    made(line("cat.png"))
    text = Path("out", "index.html").read_text()
    assert "default-src 'none'" in text
    assert "http:" not in text
    assert "https:" not in text
    assert " src=" not in text


def test_the_head_counts_and_adds_up() -> None:
    made(line("a.png"), line("b.png", seconds={"edit": 120.4}), failed("c.png"), failed("d.png", status="withheld"))
    text = Path("out", "index.html").read_text()
    for said in ("4 pictures", "2 done", "1 failed", "1 withheld", "2 min 2 s", "builtin on cpu"):
        assert f">{said}</span>" in text


def test_thousands_of_pictures_make_a_page_of_reasonable_size() -> None:
    lines = [line(f"{number}.png") for number in range(3000)]
    Path("out").mkdir()
    Path("out", "results.jsonl").write_text("".join(json.dumps(about) + "\n" for about in lines))
    written = page.write(Path("out"))
    assert len(entries(written)) == 3000
    assert written.stat().st_size < 3_000_000


@pytest.mark.thorough
def test_memory_hardly_grows_with_the_number_of_pictures() -> None:
    Path("out").mkdir()
    needed = []
    for count in (1000, 5000):
        lines = (json.dumps(line(f"{number}.png")) for number in range(count))
        Path("out", "results.jsonl").write_text("\n".join(lines))
        ran = subprocess.run([sys.executable, "-c", MEMORY_OF_THE_PAGE], capture_output=True, text=True, check=True)
        needed.append(int(ran.stdout))
    size = Path("out", "index.html").stat().st_size
    assert needed[1] - needed[0] < 6 * size  # 2.9; with all lines and entries in memory at once it was 17
    assert len(entries(Path("out", "index.html"))) == 5000


# The command


def test_the_command_says_where_the_page_is() -> None:
    page_folder.write(Path(), line("cat.png"))
    ran = diffedit("report", "out")
    assert (ran.code, ran.out.decode(), ran.err) == (0, f"{Path('out', 'index.html')}\n", "")
    assert diffedit("report", "out", "--quiet").out == b""


def test_a_folder_without_results_is_an_input_that_cannot_be_used() -> None:
    Path("empty").mkdir()
    page_folder.write(Path(), line("cat.png"))
    for folder, said in (("missing", "There is no folder missing"), ("empty", "holds no results.jsonl")):
        ran = diffedit("report", folder)
        assert (ran.code, ran.out, len(ran.lines)) == (3, b"", 1)
        assert said in ran.err
    Path("empty", "results.jsonl").write_text("not ours\n")
    assert diffedit("report", "empty").code == 3


def test_a_page_that_diffedit_did_not_make_is_not_replaced() -> None:
    page_folder.write(Path(), line("cat.png"))
    Path("out", "index.html").write_text("<p>Mine</p>")
    ran = diffedit("report", "out")
    assert ran.code == 6
    assert "--force" in ran.err
    assert Path("out", "index.html").read_text() == "<p>Mine</p>"
    assert diffedit("report", "out", "--force").code == 0
    assert diffedit("report", "out").code == 0


@pytest.mark.parametrize("blocked", ["index.html", "thumbnails"])
def test_a_page_that_cannot_be_written_is_said(blocked: str) -> None:
    page_folder.write(Path(), line("cat.png"))
    if blocked == "thumbnails":
        Path("out", blocked).write_text("in the way")
    else:
        Path("out", blocked).mkdir()
    ran = diffedit("report", "out", "--force")
    assert (ran.code, len(ran.lines)) == (6, 1)
    assert blocked in ran.err


def test_making_the_page_needs_no_torch() -> None:
    page_folder.write(Path(), line("cat.png"))
    code = "import sys; from diffedit_cli.results import page; from pathlib import Path; page.write(Path('out'))"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_packages_hold_the_templates(kind: str, tmp_path: Path) -> None:
    builder = {"wheel": WheelBuilder, "sdist": SdistBuilder}[kind]
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "diffedit_cli", project / "diffedit_cli", ignore=shutil.ignore_patterns("*.safetensors"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, project / name)
    (built,) = builder(str(project)).build(directory=str(tmp_path), versions=["standard"])
    shutil.unpack_archive(built, tmp_path / "unpacked", "zip" if kind == "wheel" else "gztar")
    names = {path.name for path in (tmp_path / "unpacked").rglob("diffedit_cli/results/templates/*")}
    assert names == {"page.html.jinja", "page.css", "page.js"}
