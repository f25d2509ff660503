"""Encodes pictures to latents and decodes them with a VAE, in float32 if half precision overflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffedit_cli.engine.networks import components
from diffedit_cli.errors import ModelError


class VaeLatents:
    """A VAE on its device. Latents are (B, C, h, w) float32, pictures (B, 3, H, W) in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL, name: str) -> None:
        """Initialises the latents of a VAE; `name` is the model's, for messages."""
        self.vae, self.name = vae, name
        self.device = vae.device  # that computes, also if offloaded networks wait elsewhere
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self._vae_dtype = vae.dtype

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Returns the latents' shape (C, h, w) for a picture's (width, height) in pixels."""
        return int(self.vae.config["latent_channels"]), size[1] // self.factor, size[0] // self.factor

    @property
    def vae_overflowed(self) -> bool:
        return bool(self.vae.dtype != self._vae_dtype)

    def encode(self, picture: Tensor) -> Tensor:
        return self._spared(self._encoded, picture)

    def decode(self, latents: Tensor) -> Tensor:
        return self._spared(self._decoded, latents)

    def _encoded(self, picture: Tensor) -> Tensor:
        posterior = self.vae.encode(picture.to(self.device, self.vae.dtype)).latent_dist
        x_0: Tensor = (posterior.mean.float() - self._shift) * self.vae.config["scaling_factor"]  # mean: no noise
        return x_0

    def _decoded(self, latents: Tensor) -> Tensor:
        scaled = latents / self.vae.config["scaling_factor"] + self._shift
        picture: Tensor = self.vae.decode(scaled.to(self.vae.dtype)).sample.float().clamp(-1, 1)
        return picture

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def _spared(self, compute: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Returns the result of the VAE. If the VAE overflows, it alone changes to float32: the network stays fast."""
        with components.fit_errors(self.name):
            result = compute(given)
        if self.vae.dtype != torch.float32 and given.isfinite().all() and not result.isfinite().all():
            self.vae.to(torch.float32)
            result = compute(given)
        return result

    def _check_channels(self, network: Any, what: str) -> None:
        """Raises ModelError unless the network's input and output channels are those of the latents."""
        config, latents = network.config, self.vae.config["latent_channels"]
        if config["in_channels"] != latents or (config["out_channels"] or config["in_channels"]) != latents:
            raise ModelError(
                f"The model {self.name} does not fit: its {what} takes {config['in_channels']} channels and its "
                f"VAE gives {latents}; inpainting and instruction models cannot be used with DiffEdit."
            )
