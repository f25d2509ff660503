"""Where the networks of a pipeline lie and compute, in which number format, and how they save memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffedit_cli.diffusers.arguments import LOGGER, InvalidArgument
from diffedit_cli.diffusers.loading import Loading
from diffedit_cli.engine.networks import offload, precision
from diffedit_cli.models.devices import choose_device, device_errors

if TYPE_CHECKING:
    from typing_extensions import Self


class Placement(Loading):
    """Moves the networks between devices and number formats."""

    @property
    def device(self) -> torch.device:
        """Device on which the networks lie."""
        return torch.device(self.vae.device)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the denoising network."""
        dtype: torch.dtype = getattr(self, self._family.denoiser).dtype
        return dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the networks, and returns the pipeline.

        Args:
            args: Device, number format, or both.
            kwargs: `device` and `dtype`.

        Raises:
            DeviceError: The device is not available.
        """
        told = {**{"dtype" if isinstance(one, torch.dtype) else "device": one for one in args}, **kwargs}
        device, dtype = told.pop("device", None), told.pop("dtype", None)
        if told:
            raise InvalidArgument(f"to() has no argument {min(told)}; give a device and a number format.")
        self.remove_all_hooks()
        if device is not None:
            device = choose_device(str(device))
        for network in self._networks().values():
            if dtype is not None and not getattr(network, "is_quantized", False):
                precision.convert(network, dtype)
            with device_errors(str(device)):
                network.to(device)
        if device is not None and self.safety_checker is not None:  # it stays in float32
            self.safety_checker.to(device)
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keeps one network at a time on the device, the others in main memory.

        Args:
            gpu_id: Number of the GPU. Default: that of this process.
            device: Device. Default: the best one; on the CPU there is nothing to do.

        Raises:
            DeviceError: The device is not available.
        """
        self._offload(offload.by_model, _accelerator(gpu_id, device))

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keeps one layer at a time on the device: the slowest way, with the least memory.

        Args:
            gpu_id: As for `enable_model_cpu_offload`.
            device: As for `enable_model_cpu_offload`.

        Raises:
            DeviceError: The device is not available.
        """
        self._offload(offload.by_layer, _accelerator(gpu_id, device))

    def _offload(self, by: Callable[[list[nn.Module], str], None], device: str | None) -> None:
        if device is not None:
            self.to("cpu")
            by(list(self._networks().values()), device)
            self._computes_on = device

    def remove_all_hooks(self) -> None:
        """Ends offloading; the networks stay where they wait."""
        if self._computes_on is not None:
            from accelerate.hooks import remove_hook_from_module  # slow to import

            for network in self._networks().values():
                remove_hook_from_module(network, recurse=True)
            self._computes_on = None

    def enable_vae_slicing(self) -> None:
        """Lets the VAE take the pictures of a batch one by one."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Undoes `enable_vae_slicing`."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Lets the VAE take large pictures tile by tile."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Undoes `enable_vae_tiling`."""
        self.vae.disable_tiling()

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Accepts a `slice_size` and does nothing: torch's own attention uses as little memory."""

    def disable_attention_slicing(self) -> None:
        """Does nothing; see `enable_attention_slicing`."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Accepts an `attention_op` and does nothing: torch's own attention uses as little memory."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Does nothing; see `enable_xformers_memory_efficient_attention`."""


def _accelerator(gpu_id: int | None, device: torch.device | str | None) -> str | None:
    """Returns the device to offload from, None for the CPU. Raises DeviceError if it is not available."""
    chosen = choose_device("auto" if device is None else str(device))
    if chosen == "cpu":
        LOGGER.warning("Offloading saves no memory on the CPU; the pipeline stays as it is.")
        return None
    return chosen if gpu_id is None else choose_device(f"{chosen.partition(':')[0]}:{gpu_id}")
