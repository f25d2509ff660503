"""Encodes pictures to latents and decodes them with a VAE, in float32 if half precision overflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffedit_cli.engine.networks import components, offload
from diffedit_cli.errors import ModelError


class VaeLatents:
    """A VAE on its device. Latents are (B, C, h, w) float32, pictures (B, 3, H, W) in [-1, 1]."""

    def __init__(self, vae: Any, name: str, factor: int) -> None:
        """Initialises the latents of a VAE with cells of `factor` pixels; `name` is the model's, for messages."""
        self.vae, self.name, self.factor = vae, name, factor
        self.device = vae.device  # that computes, also if offloaded networks wait elsewhere
        self._vae_dtype = vae.dtype

    @property
    def channels(self) -> int:
        """Channels C of the latents."""
        return int(self.vae.config["latent_channels"])

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Returns the latents' shape (C, h, w) for a picture's (width, height) in pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    @property
    def vae_overflowed(self) -> bool:
        return bool(self.vae.dtype != self._vae_dtype)

    def encode(self, picture: Tensor) -> Tensor:
        return self._spared(self._encoded, picture)

    def decode(self, latents: Tensor) -> Tensor:
        return self._spared(self._decoded, latents)

    def _encoded(self, picture: Tensor) -> Tensor:
        return self._scaled(self._posterior_mean(picture.to(self.device, self.vae.dtype)).float())

    def _decoded(self, latents: Tensor) -> Tensor:
        return self._picture(self._unscaled(latents).to(self.vae.dtype)).float().clamp(-1, 1)

    def _posterior_mean(self, picture: Tensor) -> Tensor:
        """Returns the mean of the VAE's posterior (B, C, h, w): a sample would add noise."""
        mean: Tensor = self.vae.encode(picture).latent_dist.mean
        return mean

    def _picture(self, z: Tensor) -> Tensor:
        """Returns the pictures (B, 3, H, W) of the VAE's own latents (B, C, h, w)."""
        picture: Tensor = self.vae.decode(z).sample
        return picture

    def _scaled(self, z: Tensor) -> Tensor:
        """Returns the VAE's own latents scaled to about unit variance, as the network expects them."""
        x_0: Tensor = (z - self._shift) * self.vae.config["scaling_factor"]
        return x_0

    def _unscaled(self, x_0: Tensor) -> Tensor:
        """Returns the VAE's own latents: inverse of `_scaled`."""
        z: Tensor = x_0 / self.vae.config["scaling_factor"] + self._shift
        return z

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def _spared(self, compute: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Returns the result of the VAE. If the VAE overflows, it alone changes to float32: the network stays fast."""
        with components.fit_errors(self.name):
            result = compute(given)
        if self.vae.dtype != torch.float32 and given.isfinite().all() and not result.isfinite().all():
            self.vae.to(torch.float32)
            offload.renew(self.vae)
            result = compute(given)
        return result

    def _check_channels(self, network: Any, what: str, inputs: int | None = None, outputs: int | None = None) -> None:
        """Raises ModelError unless the network's input and output channels are those of the latents.

        Args:
            network: Denoising network.
            what: Name of the network, for the message.
            inputs: Input channels that the network must have. Default: those of the latents.
            outputs: Output channels that it must have. Default: `inputs`.
        """
        config, inputs = network.config, inputs or self.channels
        if config["in_channels"] != inputs or (config.get("out_channels") or inputs) != (outputs or inputs):
            raise ModelError(
                f"The model {self.name} does not fit: its {what} takes {config['in_channels']} channels and its "
                f"VAE gives {inputs}; a model that also reads a mask or a picture "
                f"can only be a --painter."
            )
