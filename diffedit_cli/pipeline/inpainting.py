"""Repainting by an inpainting model, which replaces inversion and edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from diffedit_cli.engine import registration
from diffedit_cli.engine.registration import Motion
from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.images import pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models.devices import DTYPES, device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import format_on
from diffedit_cli.pipeline.params import GUIDANCE, STRENGTH, Params
from diffedit_cli.pipeline.prompts import Embeds, Prompt

if TYPE_CHECKING:
    from diffedit_cli.engine.networks.inpainter import Inpainter


@dataclass(frozen=True)
class InpaintingOutput:
    """A picture (h, w, 3) in [-1, 1] as an inpainting model painted it, and the cost.

    `grid` is its height and width in latent cells.
    """

    picture: NDArray[np.float32]
    grid: tuple[int, int]
    evaluations: int
    overflowed: bool  # half precision overflowed, and float32 was used instead
    motion: Motion | None  # how the model moved the picture, in its own pixels, which was undone; None if it did not


class InpaintingStage:
    """One inpainting model, loaded once, on first use."""

    def __init__(self, folder: ModelFolder, device: str, dtype: str) -> None:
        assert folder.painter is not None, "ModelFolder.as_painter was not asked"
        self.folder, self.device, self.painter = folder, device, folder.painter
        self.dtype = format_on(device, dtype, folder.format.half)
        self._inpainter: Inpainter | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The default parameters of the model, which give way to those of the kind of edit."""
        return self.folder.defaults

    def with_defaults(self, params: Params) -> Params:
        """Returns the parameters with defaults that hold for any kind of edit in place of None.

        They are those of a model that only paints, and of a distilled model those of its profile.
        """
        profile = self.folder.profile
        return params.with_defaults(dict(self.painter.defaults) | (profile.defaults if profile else {}))

    def check(self, params: Params) -> None:
        """Raises UsageError for parameters that an inpainting model does not support."""
        if params.soft:
            raise UsageError("An inpainting model repaints a latent cell fully or not at all; leave out --soft.")
        if params.keep or params.align:
            option = "--keep" if params.keep else "--align"
            raise UsageError(f"{option} follows an inversion, and an inpainting model makes none; leave it out.")
        if params.best:
            raise UsageError("--best cannot judge the results of an inpainting model; leave it out.")
        if params.negative and "negative_prompt" in self.painter.lacks:
            raise UsageError(f"The model {self.folder.name} reads no negative prompt; leave out --negative.")
        if params.strength is not None and "strength" in self.painter.lacks:
            raise UsageError(f"The model {self.folder.name} starts from noise alone; leave out --strength.")

    def paint(
        self,
        picture: Picture,
        mask: Mask,
        params: Params,
        generator: torch.Generator,
        progress: Callable[[int, int], object],
    ) -> InpaintingOutput:
        """Returns the picture, fitted to the model, repainted in every latent cell with a masked pixel.

        If the model moved the picture, by what is outside of these cells, it is moved back.

        Raises ModelError, and UsageError for prompts that are embeddings files.
        """
        params, prompt = self.with_defaults(params), params.instruction or _words("to", params.to)
        negative = _words("negative", params.negative or "")
        with device_errors(self.device), torch.inference_mode():
            model = self._loaded()
            size = pictures.fitted_size(picture.size, model.native_size, model.multiple)
            grid = size[1] // model.factor, size[0] // model.factor
            M = F.adaptive_max_pool2d(torch.from_numpy(mask.pixels).float()[None], grid)[0]
            fitted = torch.from_numpy(picture.model_input(size))[None]
            state, before = generator.get_state(), model.evaluations

            def painted() -> torch.Tensor:
                return model.paint(
                    fitted,
                    M,
                    prompt,
                    negative=negative,
                    guidance=GUIDANCE if params.guidance is None else params.guidance,
                    strength=STRENGTH if params.strength is None else params.strength,
                    steps=params.step_count,
                    generator=generator.set_state(state),
                    progress=progress,
                )

            result = painted()
            overflowed = self.dtype != "float32" and not bool(result.isfinite().all())
            if overflowed:
                with model.in_float32():
                    result = painted()
        if not result.isfinite().all():
            raise ModelError(
                f"The model {self.folder.name} gives values that are not finite; its files may be damaged."
            )
        array, motion = _registered(result, fitted, M)
        motion = motion and motion.times(picture.size[0] / size[0])
        return InpaintingOutput(array, grid, model.evaluations - before, overflowed, motion)

    def record(self, params: Params) -> dict[str, Any]:
        """Returns the inputs of the result besides picture and mask, under the names of the options."""
        names = [name for name in ("guidance", "strength", "steps", "seed") if name not in self.painter.lacks]
        said = {"to": _words("to", params.to)} | {name: getattr(params, name) for name in names}
        said |= {"instruction": params.instruction} if params.instruction else {}
        said |= {name: getattr(params, name) for name in ("feather", "zoom") if _is_set(params, name)}
        said |= {"negative": params.negative} if _words("negative", params.negative or "") else {}
        said |= {"model-config": self.folder.config} if self.folder.config else {}
        return said | {"inpainter": self.folder.digest, "inpainter-name": self.folder.name}

    def _loaded(self) -> Inpainter:
        if self._inpainter is None:
            from diffedit_cli.engine.networks.inpainter import Inpainter

            folder = self.folder
            self._inpainter = Inpainter.load(
                folder.path, folder.format, self.painter, self.device, DTYPES[self.dtype], folder.name,
                folder.variant, folder.spacing,
            )  # fmt: skip
        return self._inpainter


def _registered(
    result: torch.Tensor, fitted: torch.Tensor, M: torch.Tensor
) -> tuple[NDArray[np.float32], Motion | None]:
    """Returns a painted picture, (1, 3, H, W), as (H, W, 3), moved back if it was moved, and its motion.

    `fitted` is the original of the same shape, and M (h, w) is 1 in the painted latent cells.
    """
    painted, picture = (one[0].permute(1, 2, 0).cpu().numpy() for one in (result, fitted))
    cells = F.interpolate(M[None, None], size=painted.shape[:2])[0, 0].numpy() > 0
    motion = registration.find_motion(painted, picture, cells)
    return (painted if motion is None else registration.undo(painted, motion)), motion


def _is_set(params: Params, name: str) -> bool:
    return bool(getattr(params, name) != getattr(Params, name))


def _words(name: str, prompt: Prompt) -> str:
    if isinstance(prompt, Embeds):
        raise UsageError(f"--painter reads words only; give --{name} in place of --{name}-embeds.")
    return str(prompt)  # expanded sentences count as their concept
