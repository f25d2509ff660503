"""The model session, the cache and the progress callback that all stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.images.pictures import Box, Picture, fitted_size
from diffedit_cli.models.devices import device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline import zoom
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.segmentation import Segmenters
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stats import EditStats

Progress = Callable[[str, int, int], object]  # stage, steps done, steps in all


@dataclass(frozen=True)
class StageContext:
    """A model session, a cache and a progress callback for all stages of any number of pictures.

    `native_size` is the side in pixels of the training pictures of the model that paints.
    """

    session: ModelSession
    cache: StageCache
    progress: Progress
    native_size: int
    segmenters: Segmenters = field(default_factory=Segmenters)

    @property
    def folder(self) -> ModelFolder:
        return self.session.folder

    def inputs(self, picture: Picture) -> dict[str, Any]:
        """Returns the inputs of all results for a picture: picture, size, model, dtype and memory options."""
        record = {**self.inputs_of_any_model(picture), **self.folder.record()}
        return {**record, "dtype": self.session.dtype, **self.session.memory.record()}

    def inputs_of_any_model(self, picture: Picture) -> dict[str, Any]:
        """Returns the inputs of all results for a picture that do not depend on the model."""
        return {"picture": picture.digest, "size": list(picture.size)}

    def latents(self, picture: Picture, stats: EditStats) -> Tensor:
        """Returns the VAE latents x_0 (1, C, h, w) of a picture, which all stages share.

        Raises ModelError if the picture does not fit the model.
        """
        if (x_0 := self.session.latents_at_hand(picture)) is not None:
            return x_0
        inputs = self.inputs(picture) | {"dtype": self.session.model(stats).dtype_name}
        if limited := self.folder.fitness:
            inputs["noised"] = limited[0]
        encoded = self.cache.get_or_compute_part("encoded", inputs, stats, lambda: self.session.encode(picture, stats))
        return self.session.take_latents(picture, encoded, stats)

    def check_fits(self, picture: Picture, stats: EditStats) -> None:
        """Raises ModelError for a picture that does not fit the model, even if all stages are in the cache.

        A crop is not checked: it fits if the whole picture does.
        """
        if not picture.part and self.folder.fitness is not None and "fitness" not in stats.evaluations:
            with device_errors(self.session.device), torch.inference_mode():
                self.latents(picture, stats)

    def with_progress(self, stage: str, steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        """Yields the same latents and reports each step to `progress`."""
        for done, latents in enumerate(steps, start=1):
            self.progress(stage, done, total)
            yield latents

    def boxes(self, M: NDArray[np.bool_], params: Params) -> list[Box]:
        """Returns the boxes to look at more closely in a masked (H, W) picture; see `zoom.boxes`."""
        return zoom.boxes(M, params.zoom_factor, self.native_size)

    def cells(self, picture: Picture) -> int:
        """Returns about how many latent cells the longer side of a picture has, without loading the model."""
        factor = self.folder.factor
        return max(fitted_size(picture.size, self.folder.native_size, factor)) // factor
