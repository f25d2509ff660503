"""The examples for other programs: each does what the library does, in a file that a person reads at once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import PROJECT, SAMPLES
from diffusers.modular_pipelines import (
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)  # fmt: skip
from PIL import Image

from diffedit_cli import DiffEdit, DiffEditError, InputError

NODE = PROJECT / "examples" / "comfyui_diffedit" / "__init__.py"
BLOCK = PROJECT / "examples" / "modular_diffedit.py"
MOST = 150  # lines of an example
QUICK = {"steps": 4, "maps": 1}


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}_{path.stem}".replace("__", ""), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """ComfyUI's own modules, as far as the node uses them."""
    said: dict[str, list[int]] = {"shown": [], "asked": []}

    class ProgressBar:
        def __init__(self, total: int) -> None:
            assert total == 100

        def update_absolute(self, value: int) -> None:
            said["shown"].append(value)

    comfy = types.ModuleType("comfy")
    utils, management = types.ModuleType("comfy.utils"), types.ModuleType("comfy.model_management")
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = lambda: said["asked"].append(1)  # type: ignore[attr-defined]
    comfy.utils, comfy.model_management = utils, management  # type: ignore[attr-defined]
    for module in (comfy, utils, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return said


def batch(*names: str) -> torch.Tensor:
    pictures = [np.asarray(Image.open(SAMPLES / f"{name}.png").convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(pictures)).float() / 255


@pytest.mark.parametrize("path", [NODE, BLOCK], ids=["node", "block"])
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST


def test_the_node_is_one_for_comfyui() -> None:
    module = imported(NODE)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys() == {"DiffEdit"}
    kind = module.NODE_CLASS_MAPPINGS["DiffEdit"]
    inputs = kind.INPUT_TYPES()
    assert kind.RETURN_TYPES == ("IMAGE", "MASK")
    assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
    names = {*inputs["required"], *inputs["optional"]}
    function = getattr(kind, kind.FUNCTION)
    assert names == {*function.__annotations__} - {"return"}


@pytest.mark.thorough
def test_the_node_edits_as_the_library_does(bars: dict[str, list[int]]) -> None:
    module = imported(NODE)
    images = batch("cat", "cat-and-rose")
    kind = module.DiffEditNode
    edited, masks = kind().edit(images, "cat", "dog", "builtin", 0.5, 3)
    assert (edited.shape, masks.shape) == (images.shape, images.shape[:3])
    kept = masks == 0
    assert torch.equal(edited[kept], images[kept])
    assert not torch.equal(edited, images)
    library = DiffEdit().edit(SAMPLES / "cat.png", from_="cat", to="dog", seed=3)
    assert (np.asarray(library.image) == (edited[0].numpy() * 255).round().astype(np.uint8)).all()
    assert (library.mask.pixels == masks[0].numpy().astype(bool)).all()
    assert bars["shown"] == sorted(bars["shown"])
    assert len(bars["asked"]) == len(bars["shown"]) > 20
    loaded = kind._loaded
    drawn = torch.zeros(1, *images.shape[1:3])
    drawn[0, 60:200, 60:200] = 1
    edited, masks = kind().edit(images[:1], "cat", "dog", "builtin", 0.5, 3, drawn)
    assert kind._loaded is loaded
    outside = drawn[0] == 0
    assert torch.equal(edited[0][outside], images[0][outside])


def test_the_node_says_what_is_wrong() -> None:
    kind = imported(NODE).DiffEditNode
    with pytest.raises(ValueError, match="There are 3 masks for 1 pictures"):
        kind().edit(batch("cat"), "cat", "dog", "builtin", 0.5, 0, torch.zeros(3, 256, 256))
    with pytest.raises(DiffEditError, match="nothing"):
        kind().edit(batch("cat"), "cat", "dog", "./nothing", 0.5, 0)


def test_a_person_can_cancel_in_comfyui(bars: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["comfy.model_management"], "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(KeyboardInterrupt):
        imported(NODE).DiffEditNode().edit(batch("cat"), "cat", "dog", "builtin", 0.5, 0)
    assert bars["shown"] == []


def test_the_block_edits_as_the_library_does() -> None:
    pipeline = imported(BLOCK).DiffEditBlock().init_pipeline()
    picture = Image.open(SAMPLES / "cat.png")
    asked = {"source_prompt": "cat", "target_prompt": "dog", "seed": 3, "options": QUICK}
    state = pipeline(image=picture, **asked)
    library = DiffEdit().edit(picture, from_="cat", to="dog", seed=3, **QUICK)
    assert (np.asarray(state.get("edited")) == np.asarray(library.image)).all()
    assert (np.asarray(state.get("mask")) == np.asarray(library.mask.image)).all()
    several = pipeline(image=[picture, picture], output="edited", **asked)
    assert [(np.asarray(one) == np.asarray(library.image)).all() for one in several] == [True, True]


def test_the_block_works_among_others() -> None:
    class Mirror(ModularPipelineBlocks):  # type: ignore[misc]
        """Mirrors what was edited."""

        @property
        def inputs(self) -> list[InputParam]:
            return [InputParam("edited", required=True)]

        @property
        def intermediate_outputs(self) -> list[OutputParam]:
            return [OutputParam("mirrored")]

        def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
            asked = self.get_block_state(state)
            asked.mirrored = asked.edited.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            self.set_block_state(state, asked)
            return components, state

    blocks = SequentialPipelineBlocks.from_blocks_dict({"edit": imported(BLOCK).DiffEditBlock(), "mirror": Mirror()})
    asked = {"source_prompt": "cat", "target_prompt": "dog", "options": QUICK, "image": Image.open(SAMPLES / "cat.png")}
    state = blocks.init_pipeline()(**asked)
    assert (np.asarray(state.get("mirrored"))[:, ::-1] == np.asarray(state.get("edited"))).all()


def test_the_block_says_what_is_wrong() -> None:
    pipeline = imported(BLOCK).DiffEditBlock().init_pipeline()
    with pytest.raises(ValueError, match="source_prompt"):
        pipeline(image=Image.open(SAMPLES / "cat.png"), target_prompt="dog")
    with pytest.raises(InputError, match=r"There is no picture nothing.png"):
        pipeline(image="nothing.png", source_prompt="cat", target_prompt="dog")


@pytest.mark.thorough
def test_the_block_is_a_script(tmp_path: Path) -> None:
    words = [str(SAMPLES / "teapot-on-table.png"), "teapot", "cake", str(tmp_path / "cake.png")]
    subprocess.run([sys.executable, str(BLOCK), *words], check=True)
    assert Image.open(tmp_path / "cake.png").size == (256, 256)
