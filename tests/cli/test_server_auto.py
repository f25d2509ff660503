"""`--serve auto`: a command leaves a server behind that the next ones use, and nothing else of itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import WORDS, diffedit, finished, installed, started
from filelock import FileLock, Timeout
from servers import Servers, handed, until

from diffedit_cli.cli import config_file, server_client, server_start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")

EDIT = ("edit", "cat.png", *WORDS, "--no-cache", "--force")
READY = "diffedit gets ready for the next commands, and stays so for 5 minutes; end it: diffedit serve --stop"


@pytest.fixture
def left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """The folder in which commands leave servers."""
    servers = Servers(tmp_path_factory.mktemp("left"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(servers.folder))
    monkeypatch.setenv("DIFFEDIT_SERVE", "auto")
    monkeypatch.setenv("DIFFEDIT_IDLE", "300")
    monkeypatch.delenv("CI", raising=False)
    yield servers
    servers.end()
    until(lambda: servers.sockets or not any(map(_held, servers.folder.glob("diffedit/*.lock"))))
    server_client.stop_all()


def _held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def process_of(left: Servers) -> int:
    """Returns the process id of the only server, as soon as it listens."""
    until(lambda: left.sockets)
    [(process, state)] = server_client.state()
    assert state.startswith("idle")
    return process


@pytest.mark.thorough
def test_the_next_command_is_done_by_what_the_first_one_left(
    here: Path, left: Servers, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret of the first command")
    monkeypatch.setenv("PASSWORD", "secret of the first command")
    first = handed(*EDIT)
    assert (first.code, first.lines[-1]) == (0, READY)
    written = (here / "cat.edited.png").read_bytes()
    process = process_of(left)
    monkeypatch.setenv("HF_TOKEN", "another secret")
    second = handed(*EDIT)
    assert (second.code, told.read_text()) == (0, "")
    assert READY not in second.lines
    assert (here / "cat.edited.png").read_bytes() == written
    assert os.getsid(process) == process
    proc = Path(f"/proc/{process}")
    if proc.exists():
        assert b"secret of the first command" not in (proc / "environ").read_bytes()
        assert {str((proc / "fd" / number).readlink()) for number in "012"} == {os.devnull}
        assert (proc / "cwd").readlink() == Path("/")
    assert diffedit("serve", "--stop").out == b"Stopped 1.\n"


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_several_commands_at_once_leave_one(left: Servers) -> None:
    running = [started(*EDIT, "-o", f"{name}.png", "--quiet") for name in "ab"]
    assert [finished(one).err for one in running] == ["", ""]  # nothing is said of it with --quiet
    process_of(left)


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_one_that_was_killed_is_replaced(left: Servers) -> None:
    left.start()
    os.kill(process_of(left), signal.SIGKILL)
    left.running[0].wait()
    ran = installed(*EDIT)  # which does the work itself
    assert (ran.code, ran.lines[-1]) == (0, READY)
    until(lambda: server_client.state())


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_one_that_hangs_is_left_alone(left: Servers) -> None:
    left.start().send_signal(signal.SIGSTOP)
    ran = installed(*EDIT)
    assert ran.code == 0
    assert READY not in ran.lines


@pytest.mark.thorough
def test_one_of_a_former_version_ends(left: Servers) -> None:
    old = left.start()
    [address] = left.sockets
    for path in (address, address.with_suffix(".lock")):
        path.rename(path.with_name(f"{path.name.partition('-')[0]}-000000000000{path.suffix}"))
    left.start()
    assert old.wait(60) == 0


def _no_result_is_new(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words = ["mask", "cat.png", *WORDS]
    monkeypatch.setenv("DIFFEDIT_SERVE", "off")
    assert installed(*words).code == 0
    monkeypatch.setenv("DIFFEDIT_SERVE", "auto")
    return words


def _fails_before_it_loads(_: pytest.MonkeyPatch) -> list[str]:
    return ["edit", "none.png", *WORDS]


def _is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("DIFFEDIT_SERVE")
    return list(EDIT)


def _is_in_an_automated_build(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("DIFFEDIT_SERVE")
    config_file.change("serve", "auto")
    return list(EDIT)


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "prepare", [_no_result_is_new, _fails_before_it_loads, _is_not_asked_for, _is_in_an_automated_build]
)
def test_none_is_left_where_it(
    left: Servers,
    prepare: Callable[[pytest.MonkeyPatch], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    ran = installed(*prepare(monkeypatch))
    assert "gets ready" not in ran.err
    assert not (left.folder / "diffedit").exists()


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_it_ends_when_no_command_comes(left: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_IDLE", "0.5")
    assert "for 0.5 seconds" in installed(*EDIT).lines[-1]
    until(lambda: left.sockets)
    until(lambda: not left.sockets)


@pytest.mark.parametrize(
    ("words", "variable", "setting", "chosen"),
    [
        ([], None, None, "on"),
        ([], None, '"auto"', "auto"),
        ([], None, "false", "off"),
        ([], "auto", '"off"', "auto"),
        (["--serve", "off"], "auto", None, "off"),
        (["--serve=on"], "0", '"auto"', "on"),
        ([], None, "= broken", "on"),
    ],
)
def test_the_command_line_wins_then_the_environment_then_the_users_file(
    words: list[str],
    variable: str | None,
    setting: str | None,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if setting is not None:
        config_file.users_file().parent.mkdir(parents=True)
        config_file.users_file().write_text(f"serve = {setting}")
    if variable is not None:
        monkeypatch.setenv("DIFFEDIT_SERVE", variable)
    assert server_client.chosen(["edit", "cat.png", *words]) == chosen


@pytest.mark.usefixtures("here")
def test_a_value_that_is_none_is_wrong_usage_and_a_foreign_folder_sets_none(left: Servers) -> None:
    ran = diffedit(*EDIT, "--serve", "always")
    assert (ran.code, "'always' is not on, auto or off" in ran.err) == (2, True)
    Path("diffedit.toml").write_text('serve = "auto"')
    ran = diffedit(*EDIT)
    assert (ran.code, "diffedit.toml in this folder sets serve" in ran.err) == (2, True)
    assert left.sockets == []


@pytest.mark.usefixtures("left")
def test_doctor_tells_of_it(here: Path) -> None:
    found = {one["what"]: one["detail"] for one in diffedit("doctor", "--json").json}
    assert found["serve"] == "auto; no server is running"
    assert here.is_dir()


def test_nothing_is_left_by_a_process_that_is_no_command(left: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server itself is none, when it does the work of one."""
    monkeypatch.setattr(server_client, "beginning", None)
    server_start.leave_behind("auto", pytest.fail)
    assert left.sockets == []


@pytest.mark.parametrize("idle", ["0", "-5", "inf", "nan", "long"])
@pytest.mark.usefixtures("here")
def test_a_wrong_time_is_told_before_any_work(idle: str, left: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_IDLE", idle)
    ran = diffedit(*EDIT)
    assert (ran.code, len(ran.lines)) == (2, 1)
    assert f"--idle must be above 0 seconds and at most 100000000, not {idle}." in ran.err
    monkeypatch.setenv("DIFFEDIT_SERVE", "on")
    assert diffedit("info", "cat.png").code == 3  # what starts no server does not ask
    assert left.sockets == []


@pytest.mark.thorough
@pytest.mark.usefixtures("here", "left")
def test_one_that_is_starting_is_seen_and_ends() -> None:
    ran = installed(*EDIT)
    assert (ran.code, ran.lines[-1]) == (0, READY)
    until(lambda: server_client.state())
    assert server_client.state()[0][1] in ("starting", "idle")
    assert diffedit("serve", "--stop").out == b"Stopped 1.\n"
    assert diffedit("serve", "--status").out == b"No server is running.\n"
