"""`diffedit serve`: the same results, words and codes as without it, and never an edit that fails for its sake."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import INSTALLED, WORDS, Ran, diffedit, finished, installed, settled
from safetensors.torch import load_file, save_file
from servers import Servers, handed, until

from diffedit_cli.cli import server_client

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")

LONG = ("--steps", "900", "--no-cache")
ENDED = "The server ended before the command was done"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(tmp_path_factory.mktemp("run"))
        servers.folder.chmod(0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(servers.folder))
        yield servers
        servers.end()


@pytest.fixture(scope="module")
def server(runtime: Servers) -> subprocess.Popen[bytes]:
    """One for all tests that leave it alive."""
    return runtime.start()


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """For tests that end their server."""
    servers = Servers(tmp_path_factory.mktemp("own"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(servers.folder))
    yield servers
    servers.end()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def without_times(ran: Ran) -> tuple[int, object, list[str]]:
    """What does not change from one time to the next."""
    out: object = ran.out
    if ran.out.startswith(b"{"):
        timed = {"seconds": None, "ended": None, "progress": None}
        out = [{**json.loads(line), **timed} for line in ran.out.splitlines()]
    return ran.code, out, [line for line in ran.lines if " s · " not in line]


LINES: tuple[tuple[str, ...], ...] = (
    ("edit", "cat.png", *WORDS),
    ("edit", "cat.png", *WORDS, "--json", "--no-cache"),
    ("edit", "cat.png", *WORDS, "--json", "--no-cache"),  # the picture of before, which is new to it
    ("edit", "cat.png", *WORDS, "--json", "--threshold", "0.5", "--preview", "shown.png", "--offload", "model"),
    ("mask", "cat.png", *WORDS, "-o", "out.png", "--json"),
    ("invert", "cat.png", "--depfile", "rule.d"),
    ("edit", "-", *WORDS),
    ("edit", "cat.png", "none.png", *WORDS, "--json"),
    ("edit", "none.png", *WORDS),
    ("edit", "cat.png", *WORDS, "--steps", "many"),
    ("edit", "cat.png", "--from", "cat", "--to", "(cat)1", "--json"),  # no difference
    ("edit", "cat.png", "--from", "cat", "--to", "cat", "--json"),
    ("edit", "cat.png", *WORDS, "--model", "nowhere"),
    ("edit", "cat.png", *WORDS, "-o", "no/folder.png"),
    ("edit", "cat.png", *WORDS, "-q", "--seed", "3"),
)


@pytest.mark.thorough
@pytest.mark.usefixtures("server")
def test_files_words_and_codes_are_those_without_it(
    tmp_path: Path, tiny_epsilon: Path, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name, run in (("alone", diffedit), ("handed", handed)):
        (tmp_path / name).mkdir()
        here = settled(tmp_path / name, tiny_epsilon, monkeypatch)
        monkeypatch.setenv("DIFFEDIT_CACHE_DIR", str(here / "cache"))
        monkeypatch.setenv("COLUMNS", "100")
        data = (here / "cat.png").read_bytes()
        seen.append([(without_times(run(*line, given=data)), contents(here)) for line in LINES])
        if run is handed:
            assert told.read_text() == ""
    for line, alone, served in zip(LINES, *seen, strict=True):
        assert served == alone, line
    assert [code for (code, *_), _ in seen[0]] == [0, 0, 0, 0, 0, 0, 0, 8, 3, 2, 5, 2, 4, 6, 0]


@pytest.mark.thorough
@pytest.mark.usefixtures("server")
def test_what_a_client_imports_is_next_to_nothing(here: Path, told: Path) -> None:
    assert handed("mask", "cat.png", *WORDS).code == 0
    assert told.read_text() == ""
    assert (here / "cat.mask.png").is_file()


@pytest.mark.usefixtures("server", "here")
@pytest.mark.parametrize(
    ("variable", "value"),
    [("DIFFEDIT_SERVE", "off"), ("TOKENIZERS_PARALLELISM", "false"), ("PYTHONWARNINGS", "ignore")],
)
def test_it_is_not_used_when_told_so_or_started_otherwise(
    told: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert handed("edit", "none.png", *WORDS).code == 3
    assert "numpy" in told.read_text()


@pytest.mark.usefixtures("here")
def test_other_package_files_are_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(
        Path(server_client.__file__).parent.parent, tmp_path / "diffedit_cli", ignore=lambda *_: ["builtin"]
    )
    monkeypatch.setattr(server_client, "__file__", str(copy / "cli" / "server_client.py"))
    before = server_client.address()
    assert server_client.address() == before
    (copy / "engine" / "networks" / "sd.py").write_text("changed")
    assert server_client.address() != before


@pytest.mark.usefixtures("server")
def test_it_notices_that_the_model_has_changed(here: Path, copy: Path, told: Path) -> None:
    words = ("edit", "cat.png", *WORDS, "--model", str(copy), "--no-cache", "--force")
    written = []
    for factor in (1.0, 0.5):
        weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({name: tensor * factor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        assert handed(*words).code == 0
        assert told.read_text() == ""
        served = (here / "cat.edited.png").read_bytes()
        assert diffedit(*words).code == 0
        assert (here / "cat.edited.png").read_bytes() == served
        written.append(served)
    assert written[0] != written[1]


@pytest.mark.usefixtures("server", "told")
def test_files_have_the_rights_that_the_client_would_give(here: Path) -> None:
    umask = os.umask(0o077)
    try:
        assert handed("mask", "cat.png", *WORDS).code == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE((here / "cat.mask.png").stat().st_mode) == 0o600


@pytest.mark.usefixtures("server", "here")
def test_bars_are_drawn_on_the_terminal_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    with subprocess.Popen([INSTALLED, "edit", "cat.png", *WORDS], stderr=theirs) as client:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    assert client.returncode == 0
    assert b"repainting" in shown
    assert b"\x1b[" in shown


def working() -> subprocess.Popen[bytes]:
    """A client whose work has begun, and that heeds Ctrl-C even where the tests run in the background."""
    line, pipe = [INSTALLED, "edit", "cat.png", *WORDS, *LONG], subprocess.PIPE
    client = subprocess.Popen(
        line, stdout=pipe, stderr=pipe, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    assert client.stderr is not None
    assert client.stderr.readline().startswith(b"finding the mask")
    return client


def test_ctrl_c_interrupts_the_work_and_the_server_lives_on(
    here: Path, server: subprocess.Popen[bytes], told: Path
) -> None:
    before = contents(here)
    client = working()
    client.send_signal(signal.SIGINT)
    ran = finished(client)
    assert ran.code == 130
    assert ran.lines[-1] == "diffedit: Interrupted; finished results are kept."
    assert contents(here) == before
    assert server.poll() is None
    assert handed("edit", "cat.png", *WORDS).code == 0
    assert told.read_text() == ""


def test_a_client_that_is_killed_ends_its_work(here: Path, server: subprocess.Popen[bytes], told: Path) -> None:
    before = contents(here)
    client = working()
    client.kill()
    client.communicate()
    until(lambda: b": idle" in diffedit("serve", "--status").out)
    assert contents(here) == before
    assert server.poll() is None
    assert handed("mask", "cat.png", *WORDS).code == 0
    assert told.read_text() == ""


@pytest.mark.thorough
@pytest.mark.usefixtures("server", "here")
def test_whoever_waits_too_long_does_the_work_itself(told: Path) -> None:
    client = working()
    assert b": busy" in diffedit("serve", "--status").out
    assert handed("edit", "none.png", *WORDS).code == 3
    assert "numpy" in told.read_text()
    client.kill()
    client.communicate()


@pytest.mark.usefixtures("server")
def test_one_is_enough() -> None:
    ran = installed("serve", "--idle", "1")
    assert ran.code == 2
    assert "running already" in ran.err


def test_its_socket_is_its_users_alone(server: subprocess.Popen[bytes], runtime: Servers) -> None:
    [address] = runtime.sockets
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    sockets = Path(f"/proc/{server.pid}/net")
    if sockets.exists():  # nothing of it listens on a network
        opened = {str(path.readlink()) for path in Path(f"/proc/{server.pid}/fd").iterdir()}
        lines = [line for kind in ("tcp", "tcp6") for line in (sockets / kind).read_text().splitlines()[1:]]
        assert not {f"socket:[{line.split()[9]}]" for line in lines} & opened


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_a_server_that_dies_at_work_is_told_of(own: Servers) -> None:
    server = own.start()
    client = working()
    server.kill()
    ran = finished(client)
    assert ran.code == 7
    assert ENDED in ran.err
    assert "Traceback" not in ran.err
    assert diffedit("serve", "--status").out == b"No server is running.\n"
    assert installed("edit", "none.png", *WORDS).code == 3
    own.start()  # what the killed one has left is no hindrance


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_a_server_that_hangs_holds_nobody_up(own: Servers, told: Path) -> None:
    own.start().send_signal(signal.SIGSTOP)
    assert handed("edit", "none.png", *WORDS).code == 3
    assert "numpy" in told.read_text()


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_a_folder_that_others_can_enter_is_not_used(own: Servers, told: Path) -> None:
    own.start()
    (own.folder / "diffedit").chmod(0o755)
    assert handed("edit", "none.png", *WORDS).code == 3
    assert "numpy" in told.read_text()
    ran = installed("serve", "--idle", "1")
    assert ran.code == 6
    assert "not a folder of this user alone" in ran.err


@pytest.mark.thorough
def test_it_ends_when_nobody_asks_or_when_told_to(own: Servers) -> None:
    server = own.start("--idle", "0.2")
    assert server.wait(60) == 0
    assert own.sockets == []
    server = own.start()
    assert diffedit("serve", "--stop").out == b"Stopped 1.\n"
    assert server.wait(60) == 0
    assert own.sockets == []
    assert diffedit("serve", "--stop").out == b"No server is running.\n"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("idle", ["0", "-3", "long"])
def test_a_time_that_is_none_is_wrong_usage(idle: str) -> None:
    ran = diffedit("serve", "--idle", idle)
    assert ran.code == 2
    assert "idle" in ran.err


def test_a_client_that_talks_nonsense_changes_nothing(
    runtime: Servers, server: subprocess.Popen[bytes], here: Path, told: Path
) -> None:
    for said in (b"", b"?", b"g", b"g" + bytes(8)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(runtime.sockets[0]))
            client.sendall(said)
    assert handed("mask", "cat.png", *WORDS).code == 0
    assert not told.exists() or told.read_text() == ""  # nothing is imported but what was before
    assert (here / "cat.mask.png").is_file()
    assert server.poll() is None
