"""docs/from-diffusers.md: its lines run as they stand, and it names every parameter of diffusers' pipeline."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from checkout import PROJECT
from command import diffedit
from diffusers import StableDiffusionDiffEditPipeline
from safetensors.torch import save_file
from tiny_writers import write_blip

from diffedit_cli.engine.networks.sd import StableDiffusion

PAGE = (PROJECT / "docs" / "from-diffusers.md").read_text(encoding="utf-8")
OWN = ("style.safetensors", "toy.safetensors", "blip")
"""What the page says has to be the reader's."""
LINES = re.findall(r"(?:^\$ |\| `)(diffedit [^`\n]+)", PAGE, re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, builtin: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page takes for granted: a picture, a LoRA, a textual inversion, a captioning model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEDIT_STEPS", "4")
    monkeypatch.setenv("DIFFEDIT_MAPS", "1")
    shutil.copy(PROJECT / "sample_images" / "cat.png", "cat.png")
    layer, network = next(one for one in builtin.unet.named_modules() if one[0].endswith("attn2.to_q"))
    outputs, inputs = network.weight.shape
    factors = {"A": torch.full((1, inputs), 0.1), "B": torch.full((outputs, 1), 0.1)}
    save_file({f"unet.{layer}.lora_{name}.weight": factor for name, factor in factors.items()}, "style.safetensors")
    save_file({"<toy>": builtin.text_encoder.get_input_embeddings().weight[:1].clone()}, "toy.safetensors")
    write_blip(tmp_path / "blip")
    return tmp_path


@pytest.mark.thorough
def test_every_line_works(here: Path) -> None:
    """Without files of one's own those that name none of them, then the others."""
    for name in OWN:
        assert f"`{name}` (a" in " ".join(PAGE.split("## ")[0].split())
        (here / name).rename(here / f"hidden {name}")
    others = [line for line in LINES if any(name in line for name in OWN)]
    for line in (line for line in LINES if line not in others):
        ran = diffedit(*shlex.split(line)[1:])
        assert ran.code == 0, f"{line}\n{ran.err}"
    for line in others:
        assert diffedit(*shlex.split(line)[1:]).code in (2, 3, 4), line
    for name in OWN:
        (here / f"hidden {name}").rename(here / name)
    for line in others:
        ran = diffedit(*shlex.split(line)[1:])
        assert ran.code == 0, f"{line}\n{ran.err}"
    assert {"dog.png", "mask.png", "dog.webp", "latents.safetensors"} <= {path.name for path in here.iterdir()}
    assert len(LINES) > 40


@pytest.mark.parametrize("method", ["generate_mask", "invert", "__call__"])
def test_every_parameter_of_theirs_is_in_its_table(method: str) -> None:
    table = PAGE.split(f"## `{method}`")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    theirs = set(re.findall(r"`(\w+)[`=]", " ".join(cells)))
    parameters = inspect.signature(getattr(StableDiffusionDiffEditPipeline, method)).parameters
    assert set(parameters) - {"self"} <= theirs


def test_their_mask_without_guidance_fails(tiny_epsilon: Path) -> None:
    """The other half of what the page says of their mixed-up prompts; the first is in test_oracle.py."""
    pipe = StableDiffusionDiffEditPipeline.from_pretrained(tiny_epsilon, inverse_scheduler=None, local_files_only=True)
    prompts = {"source_prompt": "a cat", "target_prompt": "a dog"}
    with pytest.raises(TypeError):
        pipe.generate_mask(image=torch.zeros(1, 3, 64, 64), guidance_scale=1.0, num_inference_steps=4, **prompts)
