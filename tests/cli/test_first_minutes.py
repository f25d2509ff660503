"""What a new user meets first: mistyped lines, a folder, words without options, a device that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import WORDS, declared, diffedit, picture

from diffedit_cli.cli.help import FIRST_OPTIONS, LATER
from diffedit_cli.cli.progress import costs
from diffedit_cli.results.result import Result


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("edit", "diffedit edit needs IMAGES; see diffedit edit --help."),
        ("info", "diffedit info needs FILE; see diffedit info --help."),
        ("nosuch", "No such command 'nosuch'; see diffedit --help."),
        ("edti", "No such command 'edti'. Did you mean 'edit'?"),
        ("models nosuch", "No such command 'nosuch'; see diffedit models --help."),
        ("edit --stepz 3 x.png", "diffedit edit has no option --stepz; did you mean --steps"),
        ("edit --zzzzzz x.png", "diffedit edit has no option --zzzzzz; see diffedit edit --help."),
        ("edit x.png --steps abc", "--steps cannot be read: "),
        ("edit x.png --threshold abc", "--threshold cannot be read: 'abc' is neither a number nor auto; see"),
        ("edit --from", "Option '--from' requires an argument; see"),
        ("edit x.png --quiet=3", "Option '--quiet' does not take a value; see"),
        ("info a b", "Got unexpected extra argument(s) (b); see diffedit info --help."),
    ],
)
def test_a_mistyped_line_is_one_sentence_like_any_other(line: str, said: str) -> None:
    ran = diffedit(*line.split())
    assert (ran.code, ran.out, len(ran.lines)) == (2, b"", 1)
    assert ran.err.startswith(f"diffedit: {said}")


def test_diffedit_alone_shows_the_first_steps() -> None:
    ran = diffedit()
    assert (ran.code, ran.out) == (2, b"")
    shown = [line.split()[1] for line in ran.err.splitlines() if line.startswith("  diffedit")]
    assert shown == ["edit", "run", "models"]
    assert "diffedit --help lists all commands" in ran.err


@pytest.mark.parametrize("line", ["models", "cache"])
def test_a_command_without_anything_to_do_shows_its_help(line: str) -> None:
    ran = diffedit(*line.split())
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.startswith("Usage: diffedit")
    assert "Commands:" in ran.err


def test_words_without_their_options_are_put_where_they_belong(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat.png")
    ran = diffedit("edit", file, "cat", "a big dog")
    assert ran.code == 2
    assert ran.lines == [f"diffedit: Give the prompts as options: diffedit edit {file} --from cat --to 'a big dog'"]
    assert "--from is missing or empty" in diffedit("edit", file, file).err  # which are pictures


def test_a_folder_is_edited_by_run(tmp_path: Path) -> None:
    ran = diffedit("edit", tmp_path, *WORDS)
    assert ran.code == 3
    assert ran.lines[-1] == (
        f"diffedit: {tmp_path} is a folder, not a picture; name a file in it, or edit all of it with diffedit run."
    )
    assert "diffedit run" not in diffedit("info", tmp_path).err


@pytest.mark.parametrize("names", [["nosuch"], ["nosuch.png", "neither.png"]])
def test_a_run_of_pictures_none_of_which_is_there_makes_nothing(tmp_path: Path, names: list[str]) -> None:
    ran = diffedit("run", *(tmp_path / name for name in names), *WORDS, "--out", tmp_path / "out")
    assert ran.code == 3
    assert ran.lines == [f"diffedit: There is no picture {tmp_path / names[0]}; check the name."]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["edit", "mask", "run"])
def test_a_device_that_is_not_there_is_said_before_any_result_is_looked_at(tmp_path: Path, command: str) -> None:
    file, where = picture(tmp_path / "cat.png"), "--out" if command == "run" else "-o"
    line = (command, file, *WORDS, where, tmp_path / ("out" if command == "run" else "out.png"))
    ran = diffedit(*line, "--device", "cuda:99")
    assert ran.code == 7
    assert "The device cuda:99 is not available here; use --device" in ran.err
    assert not list(tmp_path.glob("out*"))


def test_verbose_says_what_each_stage_took() -> None:
    result = Result(
        status="done",
        input="cat.png",
        seed=4,
        evidence=0.25,
        evaluations={"mask": 6, "edit": 16, "invert": 0},
        seconds={"load": 2.0, "mask": 1.25, "edit": 0.5},
        cache={"invert": "hit"},
    )
    assert costs(result) == [
        "load: 2.00 s",
        "finding the mask: 1.25 s, 6 network evaluations",
        "repainting: 0.50 s, 16 network evaluations",
        "inverting: from the cache",
        "seed 4",
        "evidence of --from: +0.250",
    ]
    assert costs(Result(status="failed", input="cat.png")) == []


FIRST = {
    "edit": ["--from", "--to", "--mask", "--threshold", "--guidance", "--seed", "--model", "--output", "--force"],
    "run": ["--from", "--to", "--out", "--name", "--recursive", "--dry-run", "--mask", "--model", "--json"],
    "mask": ["--from", "--to", "--threshold", "--output", "--overlay", "--box"],
    "invert": ["--caption", "--strength", "--output", "--frames", "--seed"],
}


def flags_of(*commands: str) -> set[str]:
    """The long options of these commands, of all by default."""
    return {
        flag.partition("/")[0]
        for command, _, _, said in declared()
        for one in said
        for flag in (str(one.default), *(one.param_decls or ()))
        if flag.startswith("--") and command in (commands or (command,))
    }


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", FIRST)
def test_help_shows_what_one_starts_with(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    ran = diffedit(command, "--help")
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", ran.out.decode(), re.MULTILINE)
    assert ran.code == 0
    assert len(ran.out.decode().splitlines()) <= 60
    assert len(shown) <= 25
    assert set(FIRST[command]) < set(shown)
    assert {flag for group in FIRST_OPTIONS.values() for flag in group} >= set(shown) - {"--help-all"}


@pytest.mark.parametrize("command", FIRST)
def test_help_all_shows_every_option(command: str) -> None:
    ran = diffedit(command, "cat.png", "--help-all")
    assert ran.code == 0
    flags = flags_of(command)
    assert len(flags) > 25
    for flag in flags:
        assert flag in ran.out.decode()
    said = re.search(r"Show all (\d+) options", diffedit(command, "--help").out.decode())
    assert said is not None
    assert int(said[1]) >= len(flags)


@pytest.mark.parametrize("group", ["", "models", "cache"])
def test_help_all_of_a_group_is_its_help(group: str) -> None:
    ran = diffedit(*group.split(), "--help-all")
    assert (ran.code, ran.out) == (0, diffedit(*group.split(), "--help").out)


def test_a_picture_may_be_called_help_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert diffedit("edit", "--from", "cat", "--to", "dog", "--", "--help-all").code == 3


def test_every_first_option_is_one() -> None:
    flags = flags_of() | {"--help"}
    assert {flag for group in FIRST_OPTIONS.values() for flag in group} <= flags
    assert {flag for later in LATER.values() for flag in later} <= flags


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_name_that_is_empty_or_a_folder_is_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("edit", "mask"):
        ran = diffedit(command, name, *WORDS)
        assert ran.code == 3, ran.err
        assert "is a folder, not a picture" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_in_a_run_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(Path("cat.png"))
    Path("jobs.jsonl").write_text('{"input": " ", "to": "dog"}\n')
    assert diffedit("run", "", *WORDS, "--out", "out").code == 2
    ran = diffedit("run", "jobs.jsonl", *WORDS, "--out", "out", "--json")
    assert ran.code in (2, 8)
    assert not Path("out", "cat.png").exists()


def test_strangers_notes_by_the_name_of_announcements_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(Path("cat.png"))
    notes = Path("out", ".results.jsonl.begun")
    notes.parent.mkdir()
    notes.write_text("my own notes\nmore\n")
    ran = diffedit("run", "cat.png", *WORDS, "--out", "out")
    assert (ran.code, notes.read_text()) == (6, "my own notes\nmore\n")
    assert "was not made by diffedit" in ran.err
