"""Trains the VAE, between 256 px pictures and 32x32 latents: run ``python -m training.vae``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from training.data import CropSampler, held_out_pictures, picture_pool, to_tensor
from training.optimizer import optimizer_for, scale_learning_rate
from training.scenes import WIDER
from training.workspace import (
    Curve,
    add_settings,
    autocast,
    device,
    random_state,
    read_settings,
    restore_random_state,
    save_atomically,
    workspace,
)

READY = Path(__file__).parent.parent / "diffedit_cli" / "builtin" / "vae"


@dataclass(frozen=True, kw_only=True)
class VaeTraining:
    """Hyperparameters that determine the trained VAE; stored in every checkpoint."""

    channels: tuple[int, ...] = (16, 48, 96, 128)
    latent_channels: int = 8
    crop: int = 128
    batch: int = 2
    steps: int = 6000
    warmup: int = 100
    decay: int = 1500
    muon_lr: float = 0.01
    adam_lr: float = 1e-3
    kl: float = 5e-4
    coarse: float = 0.25
    """Weight of the loss of half-size latents decoded to half-size pictures: it makes the latents easier to diffuse."""


def build_vae(settings: VaeTraining) -> AutoencoderKL:
    levels = len(settings.channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=2,
        sample_size=256,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # start with little posterior noise
        vae.quant_conv.bias[settings.latent_channels :] = -7.0
        vae.quant_conv.weight[settings.latent_channels :] *= 0.1
    return vae.to(device()).to(memory_format=torch.channels_last)


def gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def picture_loss(made: Tensor, true: Tensor) -> Tensor:
    """Returns the L1 and squared error plus the L1 error of the gradients at three scales."""
    error = made - true
    loss = error.abs().mean() + 0.5 * error.square().mean()
    for _ in range(3):
        for gradient in gradients(error):
            loss = loss + gradient.abs().mean()
        error = F.avg_pool2d(error, 2)
    return loss


def psnr(squared_error: float) -> float:
    """Returns the PSNR in dB for the mean squared error of pictures in [-1, 1]."""
    return 10 * math.log10(4 / squared_error)


def loss_of(vae: AutoencoderKL, images: Tensor, settings: VaeTraining) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss, the squared error, and the KL divergence of the latents from a unit Gaussian."""
    with autocast():
        posterior = vae.encode(images).latent_dist
        latents = posterior.sample()
        made = vae.decode(latents).sample
        coarse = vae.decode(F.avg_pool2d(latents, 2)).sample if settings.coarse else None
    divergence = posterior.kl().mean() / latents[0].numel()
    loss = picture_loss(made.float(), images) + settings.kl * divergence
    if coarse is not None:
        loss = loss + settings.coarse * (coarse.float() - F.avg_pool2d(images, 2)).abs().mean()
    return loss, (made.detach() - images).square().mean(), divergence.detach()


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Returns the mean of each picture's PSNR in dB; latents are the posterior means."""
    total = 0.0
    for image in torch.split(images, 1):
        with autocast():
            made = vae.decode(vae.encode(image).latent_dist.mode()).sample
        total += psnr((made.float().clamp(-1, 1) - image).square().mean().item())
    return total / len(images)


def learning_rate(step: int, left: float, settings: VaeTraining) -> float:
    """Returns the factor of the learning rate: warm-up, constant, then linear to 0; `left` is the remaining share."""
    return min(1.0, (step + 1) / settings.warmup, left * settings.steps / settings.decay)


class VaeTrainer:
    """Trains the VAE, writes checkpoints and resumes from them."""

    def __init__(self, folder: Path, settings: VaeTraining, compiled: bool = False, start: Path | None = None) -> None:
        self.checkpoint = folder / "checkpoint.pt"
        saved = torch.load(self.checkpoint, weights_only=False) if self.checkpoint.exists() else None
        if saved:  # all settings may change between runs except those of the network
            shape = {name: saved["settings"][name] for name in ("channels", "latent_channels")}
            settings = dataclasses.replace(settings, **shape)
        self.settings = settings
        self.vae = build_vae(settings)
        if start and not saved:
            self.vae.load_state_dict(AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32).state_dict())
        self.average = build_vae(settings).requires_grad_(False)
        self.average.load_state_dict(self.vae.state_dict())
        self.optimizer = optimizer_for([self.vae], settings.muon_lr, settings.adam_lr)
        self.step = 0
        if saved:
            self._restore(saved)
        if compiled:
            self.vae.encoder.compile(dynamic=False)
            self.vae.decoder.compile(dynamic=False)
        self.curve = Curve(folder / "loss.csv", ("loss", "psnr", "kl", "held_out_psnr"), self.step)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.vae.load_state_dict(saved["vae"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        restore_random_state(saved["random"])

    def save(self) -> None:
        save_atomically(
            {
                "settings": dataclasses.asdict(self.settings),
                "step": self.step,
                "vae": self.vae.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": random_state(),
            },
            self.checkpoint,
        )

    def train_step(self, images: Tensor, left: float) -> Tensor:
        """Trains on one batch; returns loss, squared error and divergence (3,), still on the device."""
        scale_learning_rate(self.optimizer, learning_rate(self.step, left, self.settings))
        self.optimizer.zero_grad()
        loss, error, divergence = loss_of(self.vae, images, self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        share = 1 - min(0.998, self.step / (self.step + 100))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.vae.parameters()), share)
        return torch.stack([loss.detach(), error, divergence])

    def train(self, minutes: float | None = None, report_every: int = 100, save_seconds: float = 300) -> None:
        """Trains for `minutes`, or for the number of steps in the settings."""
        crops = CropSampler(picture_pool(), self.settings.crop)
        whole = to_tensor(np.concatenate([held_out_pictures(8), held_out_pictures(8, WIDER)])).to(device())
        begun = saved_at = started = time.monotonic()
        log: list[Tensor] = []
        while True:
            spent = (time.monotonic() - begun) / (60 * minutes) if minutes else self.step / self.settings.steps
            if spent >= 1:
                break
            log.append(self.train_step(crops.batch(self.settings.batch).to(device()), 1 - spent))
            if self.step % report_every == 0:
                loss, error, divergence = torch.stack(log).mean(0).tolist()
                held_out = held_out_psnr(self.average, whole)
                self.curve.add(self.step, loss=loss, psnr=psnr(error), kl=divergence, held_out_psnr=held_out)
                rate = len(log) / (time.monotonic() - started)
                print(
                    f"step {self.step} loss {loss:.4f} crops {psnr(error):.2f} dB, held out {held_out:.2f} dB, "
                    f"kl {divergence:.2f}, {rate:.2f} steps/s",
                    flush=True,
                )
                log, started = [], time.monotonic()
            if time.monotonic() - saved_at > save_seconds:
                self.save()
                self.curve.draw()
                saved_at = time.monotonic()
        self.save()
        self.curve.draw()


def vae_folder() -> Path:
    return workspace() / "vae"


@torch.no_grad()
def centre(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Makes each channel's mean of the latents 0, and sets the scaling factor that makes their deviation 1.

    The mean is absorbed by the two 1x1 convolutions around the latents, since pipelines only apply a scale.
    """
    latents = torch.cat([vae.encode(picture).latent_dist.mode() for picture in torch.split(pictures, 4)])
    mean = latents.mean((0, 2, 3))
    vae.quant_conv.bias[: len(mean)] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight.flatten(1) @ mean
    vae.register_to_config(scaling_factor=float(1 / (latents - mean.view(1, -1, 1, 1)).std()))


def finish(folder: Path) -> None:
    """Writes the checkpoint's averaged weights as the finished VAE, a diffusers folder."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=False)
    vae = build_vae(VaeTraining(**saved["settings"])).eval()
    vae.load_state_dict(saved["average"])
    pool = picture_pool()
    centre(vae, to_tensor(pool[:: len(pool) // 256]).to(device()))
    beside = folder / "finished.tmp"
    vae.save_pretrained(beside)
    beside.rename(folder / "finished")


def take_ready(folder: Path) -> None:
    """Copies the VAE of the built-in model, itself a result of this recipe, to the place of the finished VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(READY, folder / "finished.tmp", dirs_exist_ok=True)
    (folder / "finished.tmp").rename(folder / "finished")


def finished_vae() -> AutoencoderKL:
    """Returns the VAE that the UNet is trained on; its encoder must not change afterwards."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(vae_folder() / "finished", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False).to(device()).to(memory_format=torch.channels_last)


def vae_digest() -> str:
    """Returns a digest of the finished VAE, since latents of another VAE cannot be used."""
    weights = vae_folder() / "finished" / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def main() -> None:
    torch.backends.cudnn.benchmark = True
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, then faster")
    parser.add_argument("--folder", type=Path, default=vae_folder(), help="folder of checkpoint and loss curve")
    parser.add_argument("--minutes", type=float, help="train for this many minutes instead of --steps")
    parser.add_argument("--start", type=Path, help="a finished VAE to begin with, such as diffedit_cli/builtin/vae")
    parser.add_argument("--ready", action="store_true", help="train nothing, take the built-in model's VAE")
    add_settings(parser, VaeTraining)
    options = parser.parse_args()
    if (options.folder / "finished").exists():
        raise SystemExit(f"{options.folder / 'finished'} exists already; move it away to train again")
    if options.ready:
        take_ready(options.folder)
        return
    torch.manual_seed(0)
    np.random.seed(0)
    VaeTrainer(options.folder, read_settings(options, VaeTraining), options.compile, options.start).train(
        options.minutes
    )
    finish(options.folder)


if __name__ == "__main__":
    main()
