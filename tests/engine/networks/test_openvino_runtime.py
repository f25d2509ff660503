"""A denoiser that OpenVINO evaluates gives what torch gives, and gives way to torch where hooks change it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import WRITERS
from torch import Tensor

from diffedit_cli.engine.networks import families, openvino_runtime
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.openvino_runtime import OpenVinoForward
from diffedit_cli.errors import ModelError

ROWWISE = [name for name, family in FAMILIES.items() if family.rowwise]


class Folder:
    """Keeps compiled networks in a folder, and lists what it was asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, []

    def find(self, made_for: str) -> tuple[Path, object] | None:
        self.asked.append(made_for)
        return next(((path, None) for path in [self._file(made_for)] if path.exists()), None)

    def keep(self, made_for: str, compiled: memoryview) -> None:
        self._file(made_for).write_bytes(compiled)

    def _file(self, made_for: str) -> Path:
        return self.path / f"{abs(hash(made_for))}.blob"


def load(folder: Path, store: Folder | None = None, dtype: torch.dtype = torch.float32) -> Any:
    return families.load(folder, "cpu", dtype, "tiny", runtime="openvino", compiled=store)


def predicted(model: Any, rows: int) -> Tensor:
    noise = torch.randn(
        rows, *model.latent_shape((model.native_size,) * 2), generator=torch.Generator().manual_seed(rows)
    )
    with torch.inference_mode():
        eps: Tensor = model.predict(noise, model.levels(4)[3], model.embed("a cat")).eps
    return eps


def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shapes of the networks that are converted from now on."""
    made: list[str] = []
    convert = openvino_runtime._converted

    def counted(looking: Any, call: Any) -> Any:
        made.append(str([tuple(one.shape) for one in call.tensors]))
        return convert(looking, call)

    monkeypatch.setattr(openvino_runtime, "_converted", counted)
    return made


@pytest.mark.thorough
@pytest.mark.parametrize("family", ROWWISE)
def test_it_predicts_what_torch_predicts(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = WRITERS[family](tmp_path / "model"), conversions(monkeypatch)
    ours, theirs = load(folder), families.load(folder, "cpu", torch.float32, "tiny")
    for rows in (1, 2, 3, 8):
        torch.testing.assert_close(predicted(ours, rows), predicted(theirs, rows), atol=1e-5, rtol=1e-4)
    assert len(made) == 3  # for one, two and four rows: three are two and one, eight are twice four
    torch.testing.assert_close(predicted(ours, 8)[:4], predicted(theirs, 8)[:4], atol=1e-5, rtol=1e-4)


@pytest.mark.thorough
def test_a_large_network_is_compiled_for_one_row(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "SMALL_NETWORK", 0)
    model, made = load(tiny_epsilon), conversions(monkeypatch)
    whole = predicted(model, 3)
    assert len(made) == 1
    torch.testing.assert_close(
        whole, predicted(families.load(tiny_epsilon, "cpu", torch.float32), 3), atol=1e-5, rtol=1e-4
    )


@pytest.mark.thorough
def test_bfloat16_is_near_torch_in_bfloat16(tiny_sdxl: Path) -> None:
    ours, theirs = load(tiny_sdxl, dtype=torch.bfloat16), families.load(tiny_sdxl, "cpu", torch.bfloat16, "tiny")
    assert predicted(ours, 2).dtype == torch.float32
    exact = predicted(families.load(tiny_sdxl, "cpu", torch.float32, "tiny"), 2)
    wrong = [float((predicted(model, 2) - exact).abs().mean()) for model in (ours, theirs)]
    assert 0 < wrong[0] < 4 * wrong[1] < 0.1 * exact.abs().mean()


@pytest.mark.thorough
def test_attention_is_watched_from_what_the_layers_get(tiny_epsilon: Path) -> None:
    maps = []
    for model in (load(tiny_epsilon), families.load(tiny_epsilon, "cpu", torch.float32, "tiny")):
        shape = model.latent_shape((model.native_size,) * 2)
        noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode(), model.watching("a cat", ["cat"]) as watcher:
            for _ in range(2):  # the call that compiles counts no more than the next
                model.predict(noise, model.levels(4)[2], model.embed("a cat"))
            model.predict(noise, model.levels(4)[2], model.embed("a dog"))  # not watched
            maps.append(watcher.map(shape[1:]))
            assert sum(map(len, watcher.looks)) % 2 == 0
    torch.testing.assert_close(*maps, atol=1e-6, rtol=1e-4)


@pytest.mark.thorough
def test_torch_computes_where_layers_are_changed(tiny_epsilon: Path) -> None:
    ours, theirs = load(tiny_epsilon), families.load(tiny_epsilon, "cpu", torch.float32, "tiny")
    found = []
    for model in (ours, theirs):
        noise = torch.randn(
            1, *model.latent_shape((model.native_size,) * 2), generator=torch.Generator().manual_seed(1)
        )
        with torch.inference_mode():
            at, text = model.levels(4)[2], model.embed("a cat")
            values = model.source_values(noise, at, text)
            with model.keeping(values):
                found.append(model.predict(noise.flip(2), at, text).eps)
    assert torch.equal(*found)


@pytest.mark.thorough
def test_a_stored_network_is_used_until_it_is_damaged(
    tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made = Folder(tmp_path), conversions(monkeypatch)
    first = predicted(load(tiny_epsilon, store), 2)
    assert torch.equal(predicted(load(tiny_epsilon, store), 2), first)
    assert len(made) == 1
    (file,) = tmp_path.glob("*.blob")
    whole = file.read_bytes()
    for damaged in (b"", b"not a network", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert torch.equal(predicted(load(tiny_epsilon, store), 2), first)
    assert len(made) == 4
    assert torch.equal(predicted(load(tiny_epsilon, store), 2), first)
    assert len(made) == 4
    assert len(set(store.asked)) == 1


@pytest.mark.thorough
def test_a_network_that_differs_from_torch_is_refused(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "_converted", lambda looking, call: wrong(convert(looking, call)))
    with pytest.raises(ModelError, match="otherwise than torch; use --runtime torch"):
        predicted(load(tiny_epsilon), 1)
    monkeypatch.setattr(openvino_runtime, "_converted", lambda *_: None)
    with pytest.raises(ModelError, match=r"OpenVINO cannot compute this network .* use --runtime torch"):
        predicted(load(tiny_epsilon), 1)


@pytest.mark.parametrize(
    "broken", [ImportError("libopenvino.so: no such file"), RuntimeError("no device"), OSError(5, "")]
)
def test_a_broken_library_is_told_of(tiny_epsilon: Path, broken: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise broken

    model = load(tiny_epsilon, Folder(tiny_epsilon))
    openvino_runtime.library.cache_clear()
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ModelError, match=r"OpenVINO cannot be imported \(.+\); use --runtime torch"):
        predicted(model, 1)
    monkeypatch.undo()
    monkeypatch.setattr(openvino_runtime.library(), "Core", fail)
    with pytest.raises(ModelError, match=r"OpenVINO cannot describe this processor \(.+\); use --runtime torch"):
        predicted(model, 1)


convert = openvino_runtime._converted


def wrong(network: Any) -> Any:
    """The network with its output doubled."""
    import openvino.opset13 as ops

    output = network.get_results()[0]
    output.input(0).replace_source_output(ops.add(output.input_value(0), output.input_value(0)).output(0))
    return network


def test_arguments_are_told_apart_by_shape_format_and_other_values() -> None:
    x, tokens = torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 5)
    calls = [
        openvino_runtime._Call.of([x], {"tokens": tokens}),
        openvino_runtime._Call.of([x], {"tokens": tokens, "scale": 1.0}),
        openvino_runtime._Call.of([x], {"tokens": tokens, "scale": 2.0}),
        openvino_runtime._Call.of([x], {"told": tokens}),
        openvino_runtime._Call.of([x], {"tokens": tokens.bfloat16()}),
        openvino_runtime._Call.of([x[:1]], {"tokens": tokens[:1]}),
        openvino_runtime._Call.of([x], {"tokens": {"inner": tokens}}),
    ]
    assert len({call.shapes for call in calls}) == len(calls)
    given, named = calls[2].rows(1, 1).filled([x[:1], tokens[:1]])
    assert (given[0].shape, named["tokens"].shape, named["scale"]) == ((1, 4, 8, 8), (1, 3, 5), 2.0)


IMPORTS = """
import sys
from diffedit_cli.engine.networks import openvino_runtime

sent = []
doubtful = ("socket.", "subprocess.", "os.fork")
sys.addaudithook(lambda event, values: sent.append(event) if event.startswith(doubtful) else None)
library = openvino_runtime.library()
print(library.__name__, "openvino_telemetry" in sys.modules, sent)
"""


def test_the_library_reports_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert ran.stdout == "openvino False []\n"


def test_it_is_in_the_place_of_forward(tiny_epsilon: Path) -> None:
    assert isinstance(load(tiny_epsilon).network.forward, OpenVinoForward)
