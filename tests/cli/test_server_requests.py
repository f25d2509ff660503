"""What a server and its clients make of each other's misbehaviour: nothing said, by whomever, ends or spoils one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import WORDS, diffedit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffedit_cli.cli import server, server_client
from diffedit_cli.errors import INTERRUPTED, DeviceError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")

HANGS = 10.0  # seconds
NOT_BEGUN = (b"", server_client.READY)  # of what nobody has read the system makes an error for both
GOOD: dict[str, Any] = {"words": ["edit", "cat.png"], "umask": 0o22, "environment": {"A": "b"}}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    numbers = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def state() -> tuple[object, ...]:
    """All that a client's command takes for a while."""
    umask = os.umask(0)
    os.umask(umask)
    return (
        Path.cwd(),
        umask,
        dict(os.environ),
        sys.argv,
        sys.stdin,
        sys.stdout,
        sys.stderr,
        len(list(Path("/dev/fd").iterdir())),
    )


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(server_client.LENGTH, "big") + data


def request(**more: Any) -> bytes:
    return framed(json.dumps(GOOD | more).encode())


def server_of(run: Callable[[], int]) -> server.Server:
    answering = server.Server(run)
    answering._heed_signals()
    answering._forget, answering._loads = (lambda: None), state.__code__
    return answering


def answered(
    run: Callable[[], int],
    said: bytes,
    descriptors: tuple[int, ...] | None = None,
    then: bytes = b"",
    when: threading.Event | None = None,
) -> bytes:
    """All that a server answers a client that says this; as ever afterwards."""
    before = state()
    ours, theirs = socket.socketpair()
    told: list[bytes] = []

    def ask() -> None:
        here = os.open(".", os.O_RDONLY)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            socket.send_fds(ours, [said[:1] or b"?"], (null, null, null, here) if descriptors is None else descriptors)
            ours.sendall(said[1:])
            if then:
                assert when is None or when.wait(HANGS)
                ours.sendall(then)
            else:
                ours.shutdown(socket.SHUT_WR)
            while more := ours.recv(100):
                told.append(more)
        except OSError:
            pass
        finally:
            os.close(here)
            os.close(null)

    client = threading.Thread(target=ask)
    started = time.monotonic()
    client.start()
    answering = server_of(run)
    try:
        with theirs:
            answering._answer(theirs)
    except (OSError, ValueError):
        pass
    client.join()
    ours.close()
    assert time.monotonic() - started < HANGS
    assert state() == before
    return b"".join(told)


def test_a_good_request_is_done_and_leaves_nothing() -> None:
    seen: list[tuple[object, ...]] = []

    def run() -> int:
        seen.append((sys.argv[1:], dict(os.environ), os.umask(0)))
        return 5

    assert answered(run, server_client.GO + request()[:-1], then=request()[-1:]) == b"rb\x05"
    assert seen == [(["edit", "cat.png"], {"A": "b"}, 0o22)]


BAD = {
    "no object": framed(b"3"),
    "no JSON": framed(b"{"),
    "nested absurdly": framed(b"[" * 10**5),
    "no UTF-8": framed(b'{"words": "\xff"}'),
    "nothing": framed(b"{}"),
    "another name": request(more=1),
    "words that are none": request(words="edit"),
    "no words": request(words=[]),
    "a command that is not done here": request(words=["serve"]),
    "a word with a zero byte": request(words=["edit", "a\0b"]),
    "half a letter": request(words=["edit", "\ud800"]),
    "a word that is a number": request(words=["edit", 3]),
    "a umask of none": request(umask=None),
    "a umask that is too large": request(umask=2**40),
    "a umask below 0": request(umask=-1),
    "a umask that is true": request(umask=True),
    "an environment in a list": request(environment=[]),
    "an environment of numbers": request(environment={"A": 3}),
    "a variable without a name": request(environment={"": "b"}),
    "a variable with a sign": request(environment={"A=B": "b"}),
    "a variable with a zero byte": request(environment={"A": "b\0"}),
    "too long": (2**40).to_bytes(server_client.LENGTH, "big"),
    "cut off": request()[:-3],
    "nothing at all": b"",
}


@pytest.mark.parametrize("said", BAD.values(), ids=BAD)
def test_a_bad_request_is_not_begun(said: bytes) -> None:
    begun: list[int] = []
    assert answered(lambda: begun.append(1) or 0, server_client.GO + said) in NOT_BEGUN
    assert begun == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_request_without_its_streams_is_not_begun(count: int) -> None:
    assert answered(lambda: 0, server_client.GO + request(), descriptors=(0, 1, 2)[:count] or (0,)) in NOT_BEGUN


def test_a_working_folder_that_is_none_is_not_begun(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert answered(lambda: 0, server_client.GO + request(), descriptors=(0, 1, 2, file.fileno())) in NOT_BEGUN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
SAID = (
    st.binary(max_size=40)
    | st.binary(max_size=40).map(lambda data: server_client.GO + framed(data))
    | JSON.map(lambda said: server_client.GO + framed(json.dumps(said).encode()))
    | st.tuples(st.sampled_from(sorted(GOOD)), JSON).map(lambda pair: server_client.GO + request(**{pair[0]: pair[1]}))
)


def fuzzed(examples: int) -> Callable[[], None]:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(SAID)
    def told(said: bytes) -> None:
        assert answered(lambda: 0, said) in (*NOT_BEGUN, b"rb\0", b"rb\x82", b"rb")

    return told


@pytest.mark.thorough
def test_anything_may_be_said() -> None:
    fuzzed(100)()


@pytest.mark.slow
def test_two_thousand_things_may_be_said() -> None:
    fuzzed(2000)()


def test_ctrl_c_waits_until_what_is_imported_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import sys, time\nsys.begun.set()\ntime.sleep(1)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    begun, codes = threading.Event(), list[object]()
    monkeypatch.setattr(sys, "begun", begun, raising=False)

    def run() -> int:
        try:
            import slow_to_import  # type: ignore[import-not-found]  # noqa: F401

            time.sleep(HANGS)
        except KeyboardInterrupt:
            codes.append(sys.modules["slow_to_import"].whole)
            return INTERRUPTED
        return 0

    assert answered(run, server_client.GO + request(), then=server_client.INTERRUPT, when=begun) == b"rb" + bytes(
        [INTERRUPTED]
    )
    assert codes == [True]


def test_a_client_that_is_gone_is_given_up() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours, theirs = socket.socketpair()  # whose other end somebody still holds
    with ours, theirs:
        theirs.settimeout(0.1)
        assert server._pressed(theirs, gone.pid) is False
        assert server._pressed(theirs, os.getpid()) is None
        ours.sendall(server_client.INTERRUPT)
        assert server._pressed(theirs, os.getpid()) is True
        ours.close()
        assert server._pressed(theirs, os.getpid()) is False


# Clients


def handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], object]) -> int | None:
    """What a client does beside a server that does this."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(server_client, "PATIENCE", 0.3)
    (tmp_path / "diffedit").mkdir(mode=0o700)
    address = tmp_path / "diffedit" / "a.socket"
    monkeypatch.setattr(server_client, "address", lambda: address)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        answering = threading.Thread(target=accept)
        answering.start()
        try:
            return server_client.hand_over(["edit", "cat.png"])
        finally:
            answering.join()


def taken(connection: socket.socket, then: bytes) -> None:
    connection.sendall(server_client.READY)
    _, descriptors, _, _ = socket.recv_fds(connection, 1, server_client.DESCRIPTORS)
    for descriptor in descriptors:
        os.close(descriptor)
    server._received(connection)
    connection.sendall(then)


@pytest.mark.parametrize(
    "serve",
    [
        lambda _: None,
        lambda connection: connection.sendall(b"?"),
        lambda _: time.sleep(1),
        lambda connection: connection.sendall(server_client.READY),
        lambda connection: taken(connection, b""),
        lambda connection: taken(connection, b"?"),
        lambda connection: (taken(connection, b""), time.sleep(1)),
    ],
    ids=["ends", "nonsense", "silent", "ends after ready", "does not take it", "other nonsense", "takes it silently"],
)
def test_beside_a_server_that_misbehaves_the_work_is_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], object]
) -> None:
    assert handed(tmp_path, monkeypatch, serve) is None


@pytest.mark.parametrize(("said", "code"), [(b"b\x05", 5), (b"b\x00", 0), (b"b\x82", 130)])
def test_the_code_is_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, code: int) -> None:
    assert handed(tmp_path, monkeypatch, lambda connection: taken(connection, said)) == code


@pytest.mark.parametrize("said", [b"b", b"b\xff"])
def test_a_server_that_ends_at_work_or_has_no_code_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handed(tmp_path, monkeypatch, lambda connection: taken(connection, said)) == DeviceError.code
    assert "The server ended" in capsys.readouterr().err


# Streams that are closed

OCCUPY = """
import os, sys
from diffedit_cli.storage import streams
streams.prepare()
number = os.open("opened", os.O_CREAT | os.O_WRONLY)
sys.stderr.write("lost")
failed = []
for act in (lambda: sys.stdin.read(), lambda: print("x", flush=True)):
    try:
        act()
    except OSError as error:
        failed.append(error.errno)
failed.append(streams.stdout_error().errno)  # what is printed is lost, and that is said in the end
with open("told", "w") as file:
    print(number, failed, None in (sys.stdin, sys.stdout, sys.stderr), file=file)
os._exit(0)
"""


def test_closed_streams_stay_closed_and_no_file_gets_their_numbers(tmp_path: Path) -> None:
    line = ["sh", "-c", f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-', OCCUPY]
    subprocess.run(line, check=True, cwd=tmp_path)
    assert (tmp_path / "told").read_text() == "3 [9, 9] False\n"
    assert (tmp_path / "opened").read_bytes() == b""


@pytest.mark.usefixtures("here")
def test_a_standard_input_that_is_closed_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffedit_cli.storage import files

    with os.fdopen(os.open(os.devnull, os.O_WRONLY), "rb", buffering=0) as closed:
        monkeypatch.setattr(files.sys, "stdin", SimpleNamespace(buffer=closed, isatty=lambda: False))
        with pytest.raises(files.InputError, match="Standard input cannot be read"):
            files.read(files.STANDARD_STREAM, "picture")
    assert diffedit("edit", "-", *WORDS, given=b"").code == 3
