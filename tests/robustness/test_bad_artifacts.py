"""Files between stages, of the cache, of jobs and settings, spoilt in any way: named, or made again, and never used."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import FAST, WORDS, diffedit
from PIL import Image, PngImagePlugin

from diffedit_cli.storage import artifacts

LATENTS = Path("cat.latents.safetensors")
INVERT = ("invert", "cat.png", "--caption", "cat", *FAST[:2])
TERABYTES = {"trajectory": {"dtype": "F32", "shape": [10**6, 4, 1000, 1000], "data_offsets": [0, 16 * 10**12]}}
Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    pass


def file_of(header: object, data: bytes = bytes(64)) -> bytes:
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + data


def stating(about: object) -> bytes:
    """A file that says so of itself."""
    return file_of({"__metadata__": {"diffedit": json.dumps(about)}}, b"")


FILES = {
    "no bytes": b"",
    "eight bytes": bytes(8),
    "a header of terabytes": struct.pack("<Q", 2**43) + b"{" + bytes(99),
    "the longest header": b"\xff" * 8 + b"{}",
    "tensors of terabytes": file_of(TERABYTES),
    "offsets that run backwards": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}),
    "a shape that wraps around": file_of({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 64]}}),
    "a header that is deep": file_of(b"[" * 10**6),
    "a header of another kind": file_of([1, 2]),
    "a record that is a list": stating([]),
    "a record that is a number": stating(3),
    "a record that is deep": file_of(b'{"__metadata__": {"diffedit": "' + b"[" * 10**5 + b'"}}', b""),
    "a record of another version": stating({"tool": "diffedit", "format": 2, "kind": "latents", "sha256": ""}),
    "a record without a checksum": stating({"tool": "diffedit", "format": 1, "kind": "latents"}),
}


def changed(change: Callable[[Arrays, dict[str, Any]], object]) -> bytes:
    """The latents with something else in them, and the checksum that fits it."""
    arrays, about = artifacts.unpack(LATENTS)
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(arrays, about)
    return artifacts.pack(arrays, about)


def _set(name: str, make: Callable[[Any], Any]) -> Callable[[Arrays, dict[str, Any]], object]:
    return lambda arrays, _: arrays.update({name: make(arrays[name])})


CHANGES: dict[str, Callable[[Arrays, dict[str, Any]], object]] = {
    "NaN": _set("trajectory", lambda x: np.where(x == x.max(), np.nan, x).astype(np.float32)),
    "infinity": _set("trajectory", lambda x: np.where(x == x.max(), -np.inf, x).astype(np.float32)),
    "timesteps that are not finite": _set("timesteps", lambda t: np.full(len(t), np.nan)),
    "no trajectory": lambda arrays, _: arrays.pop("trajectory"),
    "no timesteps": lambda arrays, _: arrays.pop("timesteps"),
    "another rank": _set("trajectory", lambda x: x[0]),
    "nothing": _set("trajectory", lambda x: x[:, :, :0]),
    "no level": _set("trajectory", lambda x: x[:0]),
    "fewer levels": _set("trajectory", lambda x: x[:-1]),
    "fewer timesteps": _set("timesteps", lambda t: t[:-1]),
    "other timesteps": _set("timesteps", lambda t: t[::-1]),
    "timesteps in a table": _set("timesteps", lambda t: t[None]),
    "another channel": _set("trajectory", lambda x: np.concatenate([x, x[:, :1]], axis=1)),
    "a single cell": _set("trajectory", lambda x: x[..., :1, :1]),
    "a grid on its side": _set("trajectory", lambda x: np.ascontiguousarray(x.swapaxes(2, 3))),
    "a grid of another size": _set("trajectory", lambda x: np.repeat(x, 5, axis=3)),
    "whole numbers": _set("trajectory", lambda x: x.astype(np.int32)),
    "half precision": _set("trajectory", lambda x: x.astype(np.float16)),
    "truth values": _set("trajectory", lambda x: x > 0),
    "a record of a mask": lambda _, about: about.update(kind="mask"),
    "a record of nothing": lambda _, about: [about.pop(name) for name in ("picture", "model", "steps")],
    "a record of other types": lambda _, about: about.update({"model-name": 3, "lora": 7, "model": [], "steps": {}}),
}


def refused(*words: object, says: str = "bad.safetensors", code: int = 3) -> None:
    """In one sentence, and with nothing written."""
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, "-o", "out.png", "--no-cache", *words)
    assert ran.code == code, ran.err
    *_, sentence = ran.lines
    assert says in sentence
    assert "should not" not in sentence
    assert not Path("out.png").exists()


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
@pytest.mark.parametrize("option", ["--latents", "--negative-embeds", "--mask"])
def test_a_file_that_is_none_is_named(data: bytes, option: str) -> None:
    Path("bad.safetensors").write_bytes(data)
    refused(option, "bad.safetensors")
    assert diffedit("info", "bad.safetensors").code == 3


@pytest.mark.thorough
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_latents_that_hold_something_else_are_named(change: Callable[[Arrays, dict[str, Any]], object]) -> None:
    assert diffedit(*INVERT).code == 0
    Path("bad.safetensors").write_bytes(changed(change))
    refused("--latents", "bad.safetensors")
    assert diffedit("info", "bad.safetensors").code in (0, 3)


@pytest.mark.parametrize("share", range(0, 100, 10))
def test_latents_that_are_cut_or_altered_are_named(share: int) -> None:
    assert diffedit(*INVERT).code == 0
    data = bytearray(LATENTS.read_bytes())
    Path("bad.safetensors").write_bytes(data[: len(data) * share // 100])
    refused("--latents", "bad.safetensors")
    data[len(data) * share // 100] ^= 4
    Path("bad.safetensors").write_bytes(data)
    refused("--latents", "bad.safetensors")


SPOILT: dict[str, Callable[[Arrays, dict[str, Any]], object]] = {
    "NaN": lambda arrays, _: arrays.update({name: array * np.float32("nan") for name, array in arrays.items()}),
    "another rank": lambda arrays, _: arrays.update({name: array[None] for name, array in arrays.items()}),
    "nothing": lambda arrays, _: arrays.update({name: array[:0] for name, array in arrays.items()}),
    "another name": lambda arrays, _: arrays.update({"other": arrays.pop(next(iter(arrays)))}),
    "another key": lambda _, about: about.update(key="0" * 64),
    "another version": lambda _, about: about.update(format=2),
    "another kind": lambda _, about: about.update(kind="texts"),
    "no key": lambda _, about: about.pop("key"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("how", [*SPOILT, *FILES])
def test_a_spoilt_entry_of_the_cache_is_made_again(how: str) -> None:
    words = ("edit", "cat.png", *WORDS, *FAST, "--zoom", "off", "--cache-dir", "kept", "--json", "--force")
    assert diffedit(*words).code == 0
    good = Path("cat.edited.png").read_bytes()
    entries = [
        entry
        for kind in ("encoded", "watched", "contrast", "attention", "inversion", "edited")
        for entry in Path("kept").glob(f"{kind}/*/*")
    ]
    assert len(entries) >= 3
    for entry in entries:
        if how in FILES:
            entry.write_bytes(FILES[how])
            continue
        arrays, about = artifacts.unpack(entry)
        SPOILT[how](arrays, about)
        entry.write_bytes(artifacts.pack(arrays, about))
    ran = diffedit(*words)
    assert ran.code == 0, ran.err
    assert Path("cat.edited.png").read_bytes() == good
    assert ran.json["cache"] == {"mask": "miss", "invert": "miss", "edit": "miss"}
    assert sum("is damaged; it is computed again" in warning for warning in ran.json["warnings"]) >= len(entries)
    assert diffedit(*words).json["cache"] == {"mask": "hit", "invert": "hit", "edit": "hit"}


RECORDS = {
    "no parts": {"tool": "diffedit"},
    "parts of other types": {"tool": "diffedit", "kind": "edit", "mask": 3, "latents": "x", "edit": []},
    "a list in place of a kind": {"tool": "diffedit", "kind": ["mask"]},
    "words of other types": {
        "tool": "diffedit",
        "kind": "mask",
        "picture": 3,
        "from": {"a": 1},
        "steps": [1],
        "lora": 7,
    },
    "a mask of other types": {"tool": "diffedit", "kind": "mask", "pixels": ["x"], "picture": None, "model": {}},
    "an edit without its model": {"tool": "diffedit", "kind": "edit", "picture": "x", "edit": {"inpainter": "x"}},
    "a script": {"tool": "diffedit", "kind": "mask", "picture": "x", "from": "$(rm -rf ~); `reboot`\x1b[2J", "to": "'"},
}


@pytest.mark.thorough
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_picture_may_say_anything_of_itself(record: dict[str, Any]) -> None:
    """It is a stranger's, too: as picture, as mask, where a result is to go, and to info."""
    info = PngImagePlugin.PngInfo()
    info.add_text("diffedit", json.dumps(record))
    with Image.open("cat.png") as image:
        image.save("bad.png", pnginfo=info)
    for words in (
        ("edit", "bad.png", "-o", "1.png"),
        ("edit", "cat.png", "--mask", "bad.png", "-o", "2.png"),
        ("run", "bad.png", "--out", "o"),
    ):
        ran = diffedit(*words, *WORDS, *FAST)
        assert ran.code in (0, 3), ran.err
        assert "should not" not in ran.err
    ran = diffedit("info", "bad.png")
    assert ran.code in (0, 3), ran.err
    assert b"\x1b" not in ran.out
    assert diffedit("info", "bad.png", "--json").code == ran.code


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("jobs.jsonl", b"\xff\xfe\x00", 3),
        ("jobs.jsonl", b"[" * 10**6, 3),
        ("jobs.jsonl", b'{"input": "cat.png", "steps": 1e999}\n', 3),
        ("jobs.jsonl", b'{"input": "cat.png", "seed": ' + b"9" * 5000 + b"}\n", 3),
        ("jobs.jsonl", b'{"input": "cat.png", "from": "\\ud800"}\n', 3),
        ("jobs.csv", b"input,from\ncat.png,\xff\n", 2),
        ("jobs.csv", b'input\n"cat.png', 2),
        ("jobs.csv", b"input\n" + b"x" * 200_000 + b"\n", 2),
        ("jobs.csv", b"input\ncat\0.png\n", 3),
        ("jobs.toml", b"[[job]\n", 2),
        ("jobs.toml", b"\xff", 2),
        ("jobs.toml", b"a = " + b"[" * 10**5, 2),
        ("jobs.toml", b"job = 3\n", 2),
    ],
    ids=lambda value: ascii(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_a_job_file_may_hold_anything(name: str, data: bytes, code: int) -> None:
    Path(name).write_bytes(data)
    ran = diffedit("run", name, *WORDS, *FAST, "--out", "out")
    assert ran.code in (code, 2), ran.err
    assert "should not" not in ran.err
    assert "jobs." in ran.err


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"steps = ", b"steps = [[1]]", b"a = " + b"[" * 10**5, b"steps = 1\nsteps = 2", b"\0", b"x = {}"],
    ids=lambda data: ascii(data[:20]),
)
def test_settings_may_hold_anything(data: bytes) -> None:
    Path("diffedit.toml").write_bytes(data)
    ran = diffedit("edit", "cat.png", *WORDS)
    assert ran.code == 2, ran.err
    assert "diffedit.toml" in ran.err
    assert "should not" not in ran.err
