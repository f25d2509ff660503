"""diffusers' deprecated DiffEdit pipeline, adapted for comparison in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from torch import Tensor


class Oracle(StableDiffusionDiffEditPipeline):
    """The pipeline with x_0 preset: by itself it samples the posterior, and takes four channels only."""

    x_0: Tensor

    def prepare_image_latents(self, image: Tensor, batch_size: int, *_: Any) -> Tensor:
        assert len(image) == batch_size
        return self.x_0.expand(batch_size, -1, -1, -1)


def load_oracle(folder: Path) -> Oracle:
    """Loads the pipeline of a model folder in float32, with DDIM in both directions."""
    pipe = Oracle.from_pretrained(folder, inverse_scheduler=None, local_files_only=True).to(torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe
