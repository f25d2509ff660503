"""A block for diffusers' modular pipelines that edits a picture by words, outside of its mask bit for bit.

As a script it edits one: python examples/modular_diffedit.py sample_images/teapot-on-table.png teapot cake cake.png
"""

from __future__ import annotations

import sys
from typing import Any

from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam, PipelineState
from PIL import Image

from diffedit_cli import DiffEdit


class DiffEditBlock(ModularPipelineBlocks):
    """Turns `image` into `edited`, and says in `mask` where it changed.

    Use it alone, `DiffEditBlock().init_pipeline()`, or among other blocks of a SequentialPipelineBlocks. The model is
    loaded at the first use, and stays.
    """

    model_name = "diffedit"

    def __init__(self, model: str | None = None, **how: Any) -> None:
        """`model` is a name, a hub id, a folder or a checkpoint (None: the built-in one); `how` goes to DiffEdit."""
        self.model, self.how = model, how
        super().__init__()

    @property
    def description(self) -> str:
        """What the block does, in a sentence."""
        return "Edits what the source prompt names into what the target prompt names, and leaves all else as it is."

    @property
    def inputs(self) -> list[InputParam]:
        """What the block reads."""
        return [
            InputParam("image", type_hint=Image.Image, required=True, description="The picture, or several in a list."),
            InputParam("source_prompt", type_hint=str, required=True, description="What is in the picture now."),
            InputParam("target_prompt", type_hint=str, required=True, description="What it should become."),
            InputParam("seed", type_hint=int, default=0, description="Seed of all noise."),
            InputParam("options", type_hint=dict, default={}, description="More parameters of DiffEdit.edit."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What the block makes."""
        return [
            OutputParam("edited", type_hint=Image.Image, description="The edited picture, or several in a list."),
            OutputParam("mask", type_hint=Image.Image, description="Its mask, white where it was repainted."),
        ]

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Edits the pictures. Raises DiffEditError, ValueError for a missing input."""
        asked = self.get_block_state(state)
        several = isinstance(asked.image, list)
        results = [
            _editor(self.model, tuple(sorted(self.how.items()))).edit(
                one, from_=asked.source_prompt, to=asked.target_prompt, seed=asked.seed, **asked.options
            )
            for one in (asked.image if several else [asked.image])
        ]
        pictures, masks = [one.image for one in results], [one.mask.image for one in results]
        asked.edited, asked.mask = (pictures, masks) if several else (pictures[0], masks[0])
        self.set_block_state(state, asked)
        return components, state


_LOADED: dict[Any, DiffEdit] = {}


def _editor(model: str | None, how: tuple[tuple[str, Any], ...]) -> DiffEdit:
    """Returns the editor of a model. Blocks are copied when a pipeline is made of them, so it is not kept in one."""
    key = (model, repr(how))
    if key not in _LOADED:
        _LOADED[key] = DiffEdit(model, **dict(how))
    return _LOADED[key]


def main(picture: str, source: str, target: str, output: str) -> None:
    """Edits one picture file."""
    pipeline = DiffEditBlock().init_pipeline()
    asked = {"image": Image.open(picture), "source_prompt": source, "target_prompt": target}
    pipeline(**asked, output="edited").save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
