"""The library: what its functions take and give, that it gives what the program writes, and that it says nothing."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from checkout import PROJECT
from command import FAST, WORDS, diffedit, picture
from PIL import Image
from tiny import write_safety

import diffedit_cli
from diffedit_cli import (
    DeviceError,
    DiffEdit,
    DiffEditError,
    InputError,
    ModelError,
    NothingToEdit,
    OutputError,
    Params,
    UsageError,
    Withheld,
)
from diffedit_cli.pipeline.keywords import GivenParams
from diffedit_cli.pipeline.params import VARIANTS_ETA

CAT_TO_DOG = {"from_": "cat", "to": "dog", "steps": 5, "maps": 2, "threshold": 0.3}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return picture(tmp_path / "cat.png")


@pytest.fixture(scope="module")
def editor(tiny_epsilon: Path) -> DiffEdit:
    """A tiny model, loaded once, without a cache."""
    return DiffEdit(tiny_epsilon, device="cpu")


# the same as the program


def test_results_are_the_files_of_the_program(editor: DiffEdit, image: Path, tiny_epsilon: Path) -> None:
    shared = ("--model", tiny_epsilon, "--no-cache")
    folder = image.parent
    mask, latents = editor.mask(image, **CAT_TO_DOG), editor.invert(image, caption="cat", steps=5)
    edited = editor.edit(image, **CAT_TO_DOG)
    mask.save(folder / "mask.png")
    latents.save(folder / "latents.safetensors")
    edited.save(folder / "edited.png")
    for words, ours, theirs in (
        (("mask", image, *WORDS, *FAST), "mask.png", "cat.mask.png"),
        (("invert", image, "--caption", "cat", "--steps", 5), "latents.safetensors", "cat.latents.safetensors"),
        (("edit", image, *WORDS, *FAST), "edited.png", "cat.edited.png"),
    ):
        assert diffedit(*words, *shared).code == 0
        assert (folder / ours).read_bytes() == (folder / theirs).read_bytes()
    assert not (mask.pixels & ~edited.mask.pixels).any()
    assert editor.edit(image, **CAT_TO_DOG, room=0.0).mask.pixels.tolist() == mask.pixels.tolist()
    assert edited.stats.evaluations == {"mask": 4, "invert": 2, "edit": 6}


def test_stages_chained_give_the_pixels_of_one_edit(editor: DiffEdit, image: Path) -> None:
    """A mask that is given as pixels is taken as drawn: it gets no room."""
    whole, exact = (editor.edit(image, **CAT_TO_DOG, **room).image.tobytes() for room in ({}, {"room": 0.0}))
    assert whole != exact
    mask, latents = editor.mask(image, **CAT_TO_DOG), editor.invert(image, caption="cat", steps=5)
    mask.save(image.with_name("mask.png"))
    latents.save(image.with_name("latents.safetensors"))
    for given, expected in (
        ({"mask": mask, "latents": latents}, whole),
        ({"mask": image.with_name("mask.png"), "latents": image.with_name("latents.safetensors")}, whole),
        ({"mask": str(image.with_name("mask.png"))}, whole),
        ({"mask": mask.pixels}, exact),
        ({"mask": mask.image}, exact),
        ({"mask": torch.from_numpy(mask.pixels)}, exact),
    ):
        edited = editor.edit(image, from_="cat", to="dog", steps=5, **given)
        assert edited.image.tobytes() == expected
        assert edited.stats.evaluations["mask"] == 0


def test_pictures_come_in_any_form(editor: DiffEdit, image: Path) -> None:
    opened = Image.open(image)
    array = np.asarray(opened)
    channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    given = [
        str(image),
        opened,
        array,
        array / 255,
        (array / 255).astype(np.float32),
        channels_first,
        channels_first[None] / 255,
    ]
    masks = [editor.mask(one, **CAT_TO_DOG).pixels for one in (image, *given)]
    assert all((mask == masks[0]).all() for mask in masks[1:])
    assert editor.edit(array, **CAT_TO_DOG).image.tobytes() == editor.edit(image, **CAT_TO_DOG).image.tobytes()
    grey = editor.edit(array[..., 0], to="dog", mask=np.ones((40, 60), dtype=bool), steps=5).image
    assert (grey.mode, grey.size) == ("L", (60, 40))


def test_limits(editor: DiffEdit, image: Path) -> None:
    left = np.zeros((40, 60), dtype=np.uint8)
    left[:, :30] = 255
    whole = editor.mask(image, **CAT_TO_DOG).pixels
    assert (editor.mask(image, **CAT_TO_DOG, within=left).pixels == whole & (left > 0)).all()
    assert (editor.edit(image, **CAT_TO_DOG, exclude=left).mask.pixels == whole & (left == 0)).all()


def test_results_tell_what_they_hold(editor: DiffEdit, image: Path) -> None:
    mask, inversion = editor.mask(image, **CAT_TO_DOG), editor.invert(image, steps=5)
    assert (mask.pixels.shape, mask.pixels.dtype) == ((40, 60), np.dtype(bool))
    assert (mask.image.size, mask.image.mode) == ((60, 40), "L")
    assert mask.share == mask.pixels.mean() == (np.asarray(mask.image) == 255).mean()
    assert inversion.trajectory.shape[0] == len(inversion.timesteps) == 5
    assert inversion.stats.evaluations == {"invert": 2}


def test_a_cache_is_used_where_one_is_given(image: Path, tiny_epsilon: Path, tmp_path: Path) -> None:
    editor = DiffEdit(tiny_epsilon, device="cpu", cache=tmp_path / "kept")
    assert editor.mask(image, **CAT_TO_DOG).stats.cache == {"mask": "miss"}
    again = DiffEdit(tiny_epsilon, device="cpu", cache=tmp_path / "kept")
    assert again.mask(image, **CAT_TO_DOG).stats.cache == {"mask": "hit"}


def test_variants_and_frames(editor: DiffEdit, image: Path) -> None:
    """One alone paints in the mask that was found for all; without room that of a result is the same."""
    second = {**CAT_TO_DOG, "seed": 1, "eta": VARIANTS_ETA}
    for room, found in ({"room": 0.0}, None), ({}, editor.mask(image, **CAT_TO_DOG)):
        results = editor.edit(image, **CAT_TO_DOG, **room, variants=2).variants
        alone = editor.edit(image, **second, **room, mask=found or results[0].mask)
        assert [result.image.tobytes() for result in results][1] == alone.image.tobytes()
        assert results[0].image.tobytes() != results[1].image.tobytes()
    inversion = editor.invert(image, steps=5)
    frames = editor.frames(inversion)
    assert len(frames) == len(inversion.timesteps)
    assert {frame.mode for frame in frames} == {"RGB"}


# steps


def test_each_step_is_told(image: Path, tiny_epsilon: Path) -> None:
    told: list[tuple[str, int, int]] = []
    DiffEdit(tiny_epsilon, device="cpu", on_step=lambda *step: told.append(step)).edit(image, **CAT_TO_DOG)
    expected = [("mask", done, 2) for done in (1, 2)]
    expected += [(stage, done, 4) for stage in ("invert", "edit") for done in (1, 2, 3, 4)]
    assert told == expected


def test_what_a_callback_raises_stops_the_stage(image: Path, tiny_epsilon: Path) -> None:
    def stop(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("invert", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DiffEdit(tiny_epsilon, device="cpu", on_step=stop).edit(image, **CAT_TO_DOG)


# failures


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"stepps": 3}, UsageError, "no parameter stepps"),
        ({"steps": 0}, UsageError, "--steps must be between 1 and 100000"),
        ({"to": ""}, UsageError, "to is empty"),
        ({"from_": " "}, UsageError, "from_ is empty"),
        ({"to": "cat"}, NothingToEdit, "the model sees no difference"),
        ({"mask": np.zeros((40, 60), dtype=bool)}, NothingToEdit, "nothing in it is white"),
        ({"mask": np.ones((20, 30), dtype=bool)}, InputError, "The mask given is 30 x 20 pixels and"),
        ({"within": np.ones((20, 30), dtype=bool)}, InputError, "The mask given is 30 x 20 pixels and"),
        ({"latents": "missing.safetensors"}, InputError, "missing.safetensors"),
        ({"mask": "missing.png"}, InputError, "missing.png"),
        ({"picture": "missing.png"}, InputError, "missing.png"),
        ({"picture": np.zeros((40, 60, 5), dtype=np.uint8)}, InputError, "shape"),
        ({"picture": np.zeros((0, 60), dtype=np.uint8)}, InputError, "shape"),
        ({"picture": np.full((40, 60, 3), 255.0)}, InputError, "outside of 0 to 1"),
        ({"picture": np.full((40, 60, 3), np.nan)}, InputError, "outside of 0 to 1"),
        ({"picture": np.zeros((40, 60, 3), dtype=np.int64)}, InputError, "int64"),
        ({"picture": Image.new("LAB", (60, 40))}, InputError, "LAB"),
    ],
    ids=lambda value: str(next(iter(value.items())))[:60] if isinstance(value, dict) else "",
)
def test_failures_are_errors_of_ours(
    editor: DiffEdit, image: Path, changes: dict[str, object], kind: type[DiffEditError], says: str
) -> None:
    given = {"picture": image, **CAT_TO_DOG, **changes}
    with pytest.raises(kind, match=says):
        editor.edit(given.pop("picture"), **given)


def test_what_cannot_be_had_is_an_error_of_ours(editor: DiffEdit, image: Path) -> None:
    with pytest.raises(ModelError, match="nonesuch"):
        DiffEdit("nonesuch")
    with pytest.raises(ModelError, match="nonesuch"):
        DiffEdit(painter="nonesuch")
    with pytest.raises(DeviceError):
        DiffEdit(device="cuda:99")
    with pytest.raises(UsageError, match="int8"):
        DiffEdit(dtype="int8")
    with pytest.raises(OutputError):
        editor.mask(image, **CAT_TO_DOG).save(image / "x.png")
    with pytest.raises(UsageError, match="xyz"):
        editor.edit(image, **CAT_TO_DOG).save("x.xyz")
    assert issubclass(Withheld, DiffEditError)


def test_a_flagged_edit_is_withheld(image: Path, tiny_epsilon: Path, tmp_path: Path) -> None:
    model = write_safety(Path(shutil.copytree(tiny_epsilon, tmp_path / "strict")), -1.01)
    with pytest.raises(Withheld):
        DiffEdit(model, device="cpu").edit(image, **CAT_TO_DOG)
    assert DiffEdit(model, device="cpu", safety=False).edit(image, **CAT_TO_DOG).image.size == (60, 40)


# quick, typed, silent, documented


def test_parameters_are_typed_as_they_are() -> None:
    assert get_type_hints(GivenParams) == {field.name: get_type_hints(Params)[field.name] for field in fields(Params)}


def test_import_is_quick_and_nothing_is_printed(image: Path, tiny_epsilon: Path) -> None:
    """In a fresh process, where no library has been silenced."""
    code = f"""
import sys, diffedit_cli
assert not {{"torch", "numpy", "diffusers", "transformers"}} & set(sys.modules)
from diffedit_cli import DiffEdit, ModelError
assert all(getattr(diffedit_cli, name).__name__ == name for name in diffedit_cli.__all__ if name != "PRESETS")
assert diffedit_cli.PRESETS["balanced"] == {{}}
edited = DiffEdit({str(tiny_epsilon)!r}, device="cpu", painter={str(tiny_epsilon)!r}).edit(
    {str(image)!r}, from_="cat", to="dog", steps=5, maps=2, threshold=0.3)
assert edited.image.size == (60, 40)
from transformers.utils import logging
assert logging.is_progress_bar_enabled()
"""
    quiet = ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.thorough
def test_the_document_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `>>>` of docs/python.md, with the built-in model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_images").symlink_to(PROJECT / "sample_images")
    result = doctest.testfile(str(PROJECT / "docs" / "python.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted > 10
    assert (tmp_path / "dog.png").is_file()
    assert diffedit_cli.__version__


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": "8"}, "The parameter steps cannot be '8'"),
        ({"guidance": "high"}, "The parameter guidance cannot be 'high'"),
        ({"seed": 1.5}, "The parameter seed cannot be '1.5'"),
        ({"variants": True}, "The parameter variants cannot be 'True'"),
        ({"fill_holes": 1}, "The parameter fill_holes cannot be '1'"),
        ({"to": 3}, "The parameter to cannot be '3'"),
        ({"to": None}, "The parameter to cannot be 'None'"),
    ],
)
def test_values_of_other_types_are_wrong_usage(tiny_epsilon: Path, given: dict[str, object], says: str) -> None:
    editor = DiffEdit(tiny_epsilon, cache=None)
    shown = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match=re.escape(says)):
        editor.edit(shown, **{"from_": "cat", "to": "dog", **given})  # type: ignore[arg-type]
    assert editor.invert(shown, steps=np.int64(2), strength=np.float32(0.5)).timesteps.size == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [None, 3, b"bytes", ["cat.png"], {}])
def test_what_is_no_picture_is_said_by_its_type(tiny_epsilon: Path, what: object) -> None:
    editor = DiffEdit(tiny_epsilon, cache=None)
    with pytest.raises(InputError, match=rf"^the picture cannot be a {type(what).__name__}; give a path"):
        editor.mask(what, from_="cat", to="dog")  # type: ignore[arg-type]


def test_results_are_short_in_a_notebook(tmp_path: Path, tiny_epsilon: Path) -> None:
    editor, cat = DiffEdit(tiny_epsilon, device="cpu"), picture(tmp_path / "cat.png")
    found = [editor.mask(cat, **CAT_TO_DOG), editor.invert(cat, steps=5), editor.edit(cat, **CAT_TO_DOG)]  # type: ignore[arg-type]
    assert [repr(one).split(":")[0] for one in found] == ["<MaskResult", "<InversionResult", "<EditResult"]
    assert all(len(repr(one)) < 200 for one in found)
