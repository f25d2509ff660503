"""A ComfyUI node that edits pictures by words with diffedit. Copy this folder into ComfyUI's `custom_nodes`.

Install diffedit into ComfyUI's environment first: pip install diffedit-cli. Outside of the returned mask every pixel of
the returned picture is that of the given one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from diffedit_cli import DiffEdit

TOTAL = 100  # steps of ComfyUI's progress bar: the stages have different numbers of steps
BEGINS = {"mask": 0.0, "invert": 0.35, "edit": 0.65}  # where each stage begins, as a share of the whole
SHARES = {"mask": 0.35, "invert": 0.3, "edit": 0.35}


class DiffEditNode:
    """The node; the model stays loaded between runs, as long as its name does not change."""

    CATEGORY = "image/diffedit"
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")

    _loaded: ClassVar[tuple[str, _Editor] | None] = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:  # noqa: N802  # ComfyUI's name
        """Returns the node's inputs, as ComfyUI declares them."""
        return {
            "required": {
                "image": ("IMAGE",),
                "source": ("STRING", {"default": "cat", "tooltip": "What is in the picture now."}),
                "target": ("STRING", {"default": "dog", "tooltip": "What it should become."}),
                "model": ("STRING", {"default": "builtin", "tooltip": "A name, a hub id, a folder or a checkpoint."}),
                "threshold": ("FLOAT", {"default": 0.5, "min": 0.01, "max": 0.99, "step": 0.01}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
            },
            "optional": {"mask": ("MASK", {"tooltip": "Repaint here, instead of where the prompts differ."})},
        }

    def edit(
        self,
        image: torch.Tensor,
        source: str,
        target: str,
        model: str,
        threshold: float,
        seed: int,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the edited pictures (B, H, W, C) and their masks (B, H, W), both from 0 to 1.

        `image` is (B, H, W, C) from 0 to 1, `mask` (1 or B, H, W). Raises DiffEditError, whose sentence ComfyUI shows.
        """
        if mask is not None and len(mask) not in (1, len(image)):
            raise ValueError(f"There are {len(mask)} masks for {len(image)} pictures; give one, or one for each.")
        editor, count = self._editor(model), len(image)
        pictures, masks = [], []
        for number, one in enumerate(image):
            editor.on_step = _progress(number, count)
            given = {} if mask is None else {"mask": mask[number if len(mask) > 1 else 0].cpu().numpy() >= 0.5}
            before = np.clip(one.cpu().numpy() * 255 + 0.5, 0, 255).astype(np.uint8)
            edited = editor.editor.edit(before, from_=source, to=target, threshold=threshold, seed=seed, **given)
            pictures.append(torch.from_numpy(np.asarray(edited.image)).float() / 255)
            masks.append(torch.from_numpy(edited.mask.pixels).float())
        return torch.stack(pictures), torch.stack(masks)

    @classmethod
    def _editor(cls, model: str) -> _Editor:
        if cls._loaded is None or cls._loaded[0] != model:
            cls._loaded = (model, _Editor(model))
        return cls._loaded[1]


class _Editor:
    """An editor whose progress goes wherever the present run wants it."""

    def __init__(self, model: str) -> None:
        self.on_step: Any = lambda *_: None
        self.editor = DiffEdit(None if model == "builtin" else model, on_step=lambda *said: self.on_step(*said))


def _progress(number: int, count: int) -> Any:
    """Returns a function that shows progress in ComfyUI, and ends the run when a person cancels it there."""
    try:
        import comfy.model_management
        import comfy.utils
    except ImportError:  # outside of ComfyUI, as in a test
        return lambda *_: None
    bar = comfy.utils.ProgressBar(TOTAL)

    def on_step(stage: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        share = BEGINS.get(stage, 0) + SHARES.get(stage, 0) * done / total
        bar.update_absolute(round(TOTAL * (number + share) / count))

    return on_step


NODE_CLASS_MAPPINGS = {"DiffEdit": DiffEditNode}
NODE_DISPLAY_NAME_MAPPINGS = {"DiffEdit": "DiffEdit (edit by words)"}
