"""Computes stages: pictures in step, progress, callbacks, and float32 where half precision overflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.utils.logging import tqdm
from torch import Tensor

from diffedit_cli.diffusers.arguments import LOGGER
from diffedit_cli.diffusers.loras import Loras
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.process import Level
from diffedit_cli.errors import ModelError
from diffedit_cli.models.devices import device_errors

Callback = Callable[[int, Any, Tensor], Any]
"""Called with the number of the step, its timestep, and the latents (B, C, h, w) after it."""


class Walks(Loras):
    """Walks along the noise levels with several pictures."""

    _bar: dict[str, Any] = {}  # noqa: RUF012  # replaced, never changed

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Sets what the progress bars of `invert` and of the edit are made with.

        Args:
            kwargs: Arguments of tqdm, such as `disable=True`.
        """
        self._bar = kwargs

    def _computed(
        self, model: LatentDiffusion, compute: Callable[[], Tensor], generators: Sequence[torch.Generator] = ()
    ) -> Tensor:
        """Returns what a stage computes; if half precision overflows, float32 repeats it, and the log says so.

        Args:
            model: Model of the stage.
            compute: Computes the result.
            generators: Generators that it draws from, which start again for a repetition. Default: none.

        Raises:
            ModelError: If float32 overflows too.
            DeviceError: If the device fails.
        """
        states = [one.get_state() for one in generators]
        with device_errors(str(model.device)):
            result = compute()
            if not result.isfinite().all() and model.dtype_name != "float32":
                LOGGER.warning("The model overflowed in %s; the stage is repeated in float32.", model.dtype_name)
                for one, state in zip(generators, states, strict=True):
                    one.set_state(state)
                with model.in_float32():
                    result = compute()
        if not result.isfinite().all():
            raise ModelError(f"The model {self._name} gives values that are not finite; its files may be damaged.")
        return result

    def _walked(
        self,
        model: LatentDiffusion,
        begin: Callable[[], Sequence[Iterator[Tensor]]],
        levels: Sequence[Level],
        generators: Sequence[torch.Generator],
        callback: Callback | None,
        every: int,
    ) -> Tensor:
        """Returns the latents (T, B, C, h, w) after each step of B walks of one picture each, which go in step.

        Args:
            model: Model of the walks.
            begin: Begins the walks; each yields latents (1, C, h, w) after each of T steps.
            levels: T levels, one for each step, whose timesteps the callback gets.
            generators: Generators that the walks draw from.
            callback: Called after each step with its number, its timestep and the latents (B, C, h, w).
            every: Steps from one call to the next.
        """

        def walk() -> Tensor:
            found = []
            with tqdm(total=len(levels), **self._bar) as bar:
                for number, (level, *rows) in enumerate(zip(levels, *begin(), strict=True)):
                    found.append(torch.cat(rows))
                    bar.update()
                    if callback is not None and number % every == 0:
                        callback(number, torch.tensor(level.timestep), found[-1])
            return torch.stack(found)

        return self._computed(model, walk, generators)
