"""Shell completion: installed for bash, zsh and fish, answered without anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETED = {
    "bash": {"COMP_WORDS": "diffedit edit --thr", "COMP_CWORD": "2"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "diffedit edit --thr"},
    "fish": {"_TYPER_COMPLETE_ARGS": "diffedit edit --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}
ASK = """
import sys
from diffedit_cli.__main__ import main
try:
    main()
finally:
    print([name for name in ("torch", "numpy", "diffusers") if name in sys.modules], file=sys.stderr)
"""


def program(
    *words: str, code: str = "from diffedit_cli.__main__ import main; main()", **more: str
) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_")} | more
    line = f'"$0" -c "$1" {" ".join(words)}; exit $?'
    ran = subprocess.run(
        ["bash", "-c", line, sys.executable, code], capture_output=True, text=True, env=environment, timeout=60
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("shell", COMPLETED)
def test_options_are_completed_without_anything_heavy(shell: str) -> None:
    instruction = {"_DIFFEDIT_COMPLETE": f"complete_{shell}"}
    code, out, err = program(code=f"import sys; sys.argv[0] = 'diffedit'\n{ASK}", **COMPLETED[shell], **instruction)
    assert code == 0, err
    assert "--threshold" in out
    assert err.endswith("[]\n")


def test_it_is_installed_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("mine\n")
    code, out, err = program("--install-completion", HOME=str(tmp_path))
    assert (code, err) == (0, "")
    assert "installed in" in out
    assert (tmp_path / ".bashrc").read_text().startswith("mine\n")
    code, script, _ = program("--show-completion")
    assert code == 0
    assert "complete" in script


def test_what_cannot_be_done_is_a_sentence(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.touch()
    code, _, err = program("--install-completion", HOME=str(home))
    assert (code, len(err.splitlines())) == (6, 1)
    assert err.startswith("diffedit: The completion cannot be written: ")
    assert program("--show-completion", "> /dev/full")[0] == 6
    assert program(_DIFFEDIT_COMPLETE="nonsense")[0] == 2


def test_a_strangers_file_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / ".bash_completions" / "diffedit.sh"
    mine.parent.mkdir()
    mine.write_text("mine")
    code, _, err = program("--install-completion", HOME=str(tmp_path))
    assert (code, mine.read_text()) == (6, "mine")
    assert "was not made by diffedit" in err
    mine.unlink()
    (tmp_path / ".bashrc").write_bytes(b"export A=\xe9\n")
    code, _, err = program("--install-completion", HOME=str(tmp_path))
    assert (code, (tmp_path / ".bashrc").read_bytes()) == (6, b"export A=\xe9\n")
    assert "not UTF-8" in err


@pytest.mark.parametrize("asked", [{}, {"COMP_WORDS": "diffedit 'x", "COMP_CWORD": "a"}], ids=str)
def test_a_shell_that_asks_for_nothing_gets_a_sentence(asked: dict[str, str]) -> None:
    code, _, err = program(_DIFFEDIT_COMPLETE="complete_bash", **asked)
    assert (code, len(err.splitlines())) == (2, 1)
