"""What every stage works with: a loaded model, the cache, and somebody to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.images.pictures import Box, Picture
from diffedit_cli.models.devices import device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline import zoom
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stats import EditStats

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all


@dataclass(frozen=True)
class StageContext:
    """A model session and a cache for all stages of any number of pictures.

    `native_size` is the side in pixels of the pictures that the model which paints was trained on.
    """

    session: ModelSession
    cache: StageCache
    progress: Progress
    native_size: int

    @property
    def folder(self) -> ModelFolder:
        return self.session.folder

    def inputs(self, picture: Picture) -> dict[str, Any]:
        """What all results for a picture depend on: picture, size, model, number format, memory options."""
        record = {"picture": picture.digest, "size": list(picture.size), **self.folder.record()}
        return {**record, "dtype": self.session.dtype, **self.session.memory.record()}

    def latents(self, picture: Picture, stats: EditStats) -> Tensor:
        """x_0 (1, C, h, w), the same for whatever is done with the picture. Raises ModelError for one that does not
        fit the model."""
        if (x_0 := self.session.latents_at_hand(picture)) is not None:
            return x_0
        inputs = self.inputs(picture) | {"dtype": self.session.model(stats).dtype_name}
        if limited := self.folder.fitness:
            inputs["noised"] = limited[0]
        encoded = self.cache.get_or_compute_part("encoded", inputs, stats, lambda: self.session.encode(picture, stats))
        return self.session.take_latents(picture, encoded, stats)

    def check_fits(self, picture: Picture, stats: EditStats) -> None:
        """Raises ModelError for a picture that does not fit, also where all that is asked of it is in the cache.

        A part of one is as fit as the whole.
        """
        if not picture.part and self.folder.fitness is not None and "fitness" not in stats.evaluations:
            with device_errors(self.session.device), torch.inference_mode():
                self.latents(picture, stats)

    def watched(self, stage: str, steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        """The same steps, each told to `progress`."""
        for done, latents in enumerate(steps, start=1):
            self.progress(stage, done, total)
            yield latents

    def boxes(self, M: NDArray[np.bool_], params: Params, specks: bool = True) -> list[Box]:
        """Where to look closer at a masked (H, W) picture."""
        return zoom.boxes(M, params.zoom_factor, self.native_size, specks)
