"""Step 3 of the paper for several pictures: their trajectories, masks and texts, and the finished pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffedit_cli.diffusers import arguments
from diffedit_cli.diffusers.arguments import LOGGER
from diffedit_cli.diffusers.outputs import Source, compose
from diffedit_cli.engine import diffedit
from diffedit_cli.engine.diffedit import Trajectory
from diffedit_cli.engine.interfaces import Text
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.process import Level, step
from diffedit_cli.engine.solvers import DDIM
from diffedit_cli.pipeline.params import Params


@dataclass(frozen=True)
class Edits:
    """Edits of B pictures with one model; each can have several results.

    Attributes:
        model: The model.
        levels: The T + 1 noise levels of the trajectories.
        texts: Returns the prompt of each picture.
        M: (B, h, w) masks, 0 or 1.
        latents: (B, T, C, h, w) inverted latents, the noisiest first.
        source: The pictures with their clean latents.
    """

    model: LatentDiffusion
    levels: Sequence[Level]
    texts: Callable[[], Sequence[Text]]
    M: Tensor
    latents: Tensor
    source: Source

    @classmethod
    def of(
        cls,
        model: LatentDiffusion,
        steps: int,
        count: int,
        texts: Callable[[], Sequence[Text]],
        M: Tensor,
        image_latents: Any,
    ) -> Edits:
        """Returns the edits of a call's arguments.

        Args:
            model: The model.
            steps: Number of noise levels.
            count: How many of them the edit walks.
            texts: Returns the prompt of each picture.
            M: (B, h, w) masks, 0 or 1.
            image_latents: Inverted latents, as `arguments.inversions` takes them.

        Raises:
            InvalidArgument: If they do not fit each other.
        """
        levels = model.levels(steps, M[0].numel())[: count + 1]
        latents, source = arguments.inversions(image_latents, (len(M), count, model.channels, *M.shape[1:]))
        latents = latents.to(model.device)
        if source is None:
            LOGGER.warning(
                "image_latents lack the picture that invert() gives them, so that the background comes from the VAE; "
                "pass them as invert() returned them."
            )
            walked = (model.predict(x_1, levels[1], model.embed("")) for x_1 in torch.split(latents[:, -1], 1))
            source = Source(torch.cat([step(prediction, levels[0]) for prediction in walked]))
        return cls(model, levels, texts, M, latents, source)

    def begin(
        self, several: int, solver: type[DDIM], eta: float, generators: Sequence[torch.Generator]
    ) -> list[Iterator[Tensor]]:
        """Begins all edits, which yield the latents (1, C, h, w) after each step.

        Args:
            several: Results for each picture.
            solver: Solver of each edit.
            eta: Fresh noise in each step, 0 to 1.
            generators: Generator of this noise for each result.

        Raises:
            InvalidArgument: If the texts are no prompts.
        """
        walks, texts = [], self.texts()
        for number, drawn in enumerate(generators):
            row = number // several
            x_0 = self.source.x_0[row : row + 1].to(self.latents)
            trajectory = Trajectory(torch.cat([x_0, self.latents[row].flip(0)]), self.levels)
            M = self.M[row].to(self.model.device)
            walks.append(diffedit.edit(self.model, trajectory, M, texts[row], solver(eta, drawn)))
        return walks

    def finish(self, y_0: Tensor) -> Tensor:
        """Returns the finished pictures (N, 3, H, W) in [0, 1]: outside of the mask they are their own, bit for bit.

        Args:
            y_0: (N, C, h, w) edited latents, as many for each picture.
        """
        several, finished = len(y_0) // len(self.M), []
        for number, one in enumerate(torch.split(y_0, 1)):
            painted, row = self.model.decode(one)[0].cpu() / 2 + 0.5, number // several
            pixels = None if self.source.pixels is None else self.source.pixels[row]
            finished.append(painted if pixels is None else compose(pixels, painted, self.M[row], Params.feather))
        return torch.stack(finished)
