"""Trains the UNet and the text encoder together on encoded scenes: run ``python -m training.unet``.

The main run keeps a constant learning rate and has no end: stop it at any time, it resumes from its checkpoint.
``--decay-steps N`` continues from a copy of the checkpoint, lowers the learning rate to 0 over N steps and writes
``decayed.pt``, which ``training.export`` takes; it resumes after an interruption, too. ``--minutes M``, for a GPU, does
both in one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from training.latents import ANYTHING, Batch, Scenes, Wanted
from training.loss import Gradients
from training.optimizer import optimizer_for, scale_learning_rate
from training.scenes import PRESENT, WIDER
from training.settings import UnetTraining
from training.stream import Drawing, Stream
from training.vae import finished_vae, vae_digest
from training.words import CAPACITY, END, MAX_LENGTH, START
from training.workspace import (
    Curve,
    add_settings,
    device,
    random_state,
    read_settings,
    restore_random_state,
    save_atomically,
    workspace,
)


def build_text_encoder(settings: UnetTraining) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=CAPACITY,
            hidden_size=settings.text_width,
            intermediate_size=3 * settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=settings.text_width,
            pad_token_id=END,
            bos_token_id=START,
            eos_token_id=END,
        )
    )


def build_unet(settings: UnetTraining, latent_channels: int) -> UNet2DConditionModel:
    """Builds a UNet that is narrow at 32x32, with cross-attention and most of its weights at 16x16 and 8x8."""
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=settings.channels,
        layers_per_block=1,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,  # number of heads: the name is an old mistake of diffusers
        norm_num_groups=8,
    )
    if device().type == "cpu":  # unfused attention: the backward pass of the fused one is slower on processors
        unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Denoiser(nn.Module):
    """Text encoder and UNet as one module."""

    def __init__(self, settings: UnetTraining, latent_channels: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(settings)
        self.unet = build_unet(settings, latent_channels)

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens).last_hidden_state
        velocity: Tensor = self.unet(x_t, t, text).sample
        return velocity


def scenes_of(vae: AutoencoderKL, latents: Path, settings: UnetTraining) -> tuple[Scenes | Stream, Scenes | Stream]:
    """Returns the scenes of the present and of the wider world: from shards, or on a GPU drawn during training."""
    if device().type == "cpu":
        return Scenes(vae, latents), Scenes(vae, latents, WIDER)
    drawing = Drawing()
    present, wider = (Stream(vae, drawing, world, settings.most_shards) for world in (PRESENT, WIDER))
    return present, wider


class Mix:
    """Draws the batches of a training: how many pictures of each world, and what they show."""

    def __init__(self, scenes: Scenes | Stream, wider_scenes: Scenes | Stream, settings: UnetTraining) -> None:
        self._scenes, self._wider_scenes, self._settings = scenes, wider_scenes, settings
        self.rng = random.Random(0)

    @property
    def wider(self) -> int:
        """Number of pictures of the wider world in a batch."""
        return round(self._settings.wider_share * self._settings.batch)

    def batch(self, pictures: int, wider_pictures: int) -> list[Tensor]:
        """Returns latents, latents before the edit and tokens, on the device; the arguments count what was seen."""
        worlds = (
            (self._scenes, self._settings.batch - self.wider, pictures - wider_pictures),
            (self._wider_scenes, self.wider, wider_pictures),
        )
        parts = [self._part(scenes, count, seen) for scenes, count, seen in worlds if count]
        return [torch.cat(both).to(device()) for both in zip(*parts, strict=True)]

    def _part(self, scenes: Scenes | Stream, count: int, seen: int) -> Batch:
        """Returns a batch of one world, of which `seen` pictures were used so far."""
        settings = self._settings
        scenes.grow(min(settings.most_shards, settings.first_shards + seen // settings.pictures_per_shard))
        two_share = settings.two_share if seen >= settings.one_object_pictures else 0.0
        return scenes.batch([self.wanted(two_share) for _ in range(count)], self.rng)

    def wanted(self, two_share: float) -> Wanted:
        """Draws the number of objects of a picture, two at a rate of `two_share`, and an object that it must show."""
        settings, lot = self._settings, self.rng.random()
        if lot < settings.empty_share:
            return "empty", ANYTHING
        weak = settings.often_share and self.rng.random() < settings.often_share
        number = "two" if lot < settings.empty_share + two_share else "one"
        return number, self.rng.choice(settings.often) if weak else ANYTHING


class UnetTrainer:
    """Trains the denoiser, writes checkpoints and resumes from them."""

    def __init__(self, folder: Path, vae: AutoencoderKL, latents: Path, settings: UnetTraining) -> None:
        self.checkpoint = folder / "checkpoint.pt"
        saved = torch.load(self.checkpoint, weights_only=False) if self.checkpoint.exists() else None
        if saved:  # all settings may change between runs except those of the networks
            shape = {name: saved["settings"][name] for name in ("channels", "text_width", "text_layers")}
            settings = dataclasses.replace(settings, **shape)
        self.settings = settings
        channels = vae.config.latent_channels
        self.model = Denoiser(settings, channels).to(device())
        self.average = Denoiser(settings, channels).to(device()).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = optimizer_for(
            [self.model], settings.muon_lr, settings.adam_lr, weight_decay=settings.weight_decay
        )
        self.step = self.pictures = self.wider_pictures = 0
        self.mix = Mix(*scenes_of(vae, latents, settings), settings)
        if saved:
            self._restore(saved)
        levels = build_scheduler().alphas_cumprod.to(device())
        self.gradients = Gradients(self.model, levels, settings)
        self.folder = folder
        self.curve: Curve | None = None

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.step, self.pictures = saved["step"], saved["pictures"]
        self.wider_pictures = saved.get("wider_pictures", 0)
        if "optimizer" in saved:  # absent from checkpoints of training.restart
            self.optimizer.load_state_dict(saved["optimizer"])
            self.mix.rng.setstate(saved["scenes_random"])
            restore_random_state(saved["random"])

    def save(self, path: Path) -> None:
        save_atomically(
            {
                "settings": dataclasses.asdict(self.settings),
                "step": self.step,
                "pictures": self.pictures,
                "wider_pictures": self.wider_pictures,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scenes_random": self.mix.rng.getstate(),
                "random": random_state(),
            },
            path,
        )

    def train_step(self, rate: float = 1.0) -> Tensor:
        """Trains on one batch at `rate` times the learning rate; returns loss and error (2,), still on the device."""
        settings = self.settings
        x_0, before, tokens = self.mix.batch(self.pictures, self.wider_pictures)
        scale_learning_rate(self.optimizer, rate * min(1.0, (self.step + 1) / settings.warmup))
        result = self.gradients((x_0, before, tokens))
        self.optimizer.step()
        self.step += 1
        self.pictures += settings.batch
        self.wider_pictures += self.mix.wider
        share = 1 - min(settings.average, self.step / (self.step + 500))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), share)
        return result

    def train(self, until: int | None = None, report_every: int = 50, save_seconds: float = 300) -> None:
        """Runs the main training until step `until`, or without end."""
        self.curve = self._curve("loss.csv")
        saved_at = started = time.monotonic()
        log: list[Tensor] = []
        while until is None or self.step < until:
            log.append(self.train_step())
            if self.step % report_every == 0:
                self._report(log, started)
                log, started = [], time.monotonic()
            if time.monotonic() - saved_at > save_seconds:
                self.save(self.checkpoint)
                self.curve.draw()
                saved_at = time.monotonic()
        self.save(self.checkpoint)
        self.curve.draw()

    def _report(self, log: list[Tensor], started: float) -> None:
        loss, error = torch.stack(log).mean(0).tolist()
        rate = len(log) * self.settings.batch / (time.monotonic() - started)
        if self.curve:
            self.curve.add(self.step, pictures=self.pictures, loss=loss, error=error)
        print(
            f"step {self.step} loss {loss:.4f} error {error:.4f}, {self.pictures:,} pictures, {rate:.1f}/s", flush=True
        )

    def _curve(self, name: str) -> Curve:
        return Curve(self.folder / name, ("pictures", "loss", "error"), self.step)

    def decay(self, steps: int, path: Path, save_seconds: float = 300) -> None:
        """Lowers the learning rate to 0 over `steps` and writes `path`; the main run's checkpoint is unchanged.

        Progress is saved in a file named after the number of pictures at the start, so that only a decay of this very
        checkpoint resumes. Does nothing if `path` is already the result.
        """
        begun = self.step
        end = self.pictures + steps * self.settings.batch
        if path.exists() and torch.load(path, weights_only=False)["pictures"] == end:
            return
        unfinished = self.folder / f"decaying-from-{self.pictures}.pt"
        if unfinished.exists():
            self._restore(torch.load(unfinished, weights_only=False))
        self.curve = self._curve("decay.csv")
        rates = (1 - done / steps for done in range(self.step - begun, steps))
        self._follow(rates, unfinished, save_seconds)
        self.curve.draw()
        unfinished.replace(path)

    def train_for(self, minutes: float, path: Path, decay: float = 0.5) -> None:
        """Trains for `minutes`, the learning rate falling over the last part `decay`; writes the result to `path`."""
        self.curve = self._curve("loss.csv")
        begun = time.monotonic()

        def rates() -> Iterator[float]:
            while (left := 1 - (time.monotonic() - begun) / (60 * minutes)) > 0:
                yield min(1.0, left / decay)

        self._follow(rates(), path, 60)  # a borrowed GPU may be withdrawn at any moment
        self.curve.draw()

    def _follow(self, rates: Iterable[float], path: Path, save_seconds: float) -> None:
        """Trains one step at each share of the learning rate, and saves the result in `path`."""
        log: list[Tensor] = []
        started = saved_at = time.monotonic()
        for rate in rates:
            log.append(self.train_step(rate))
            if self.step % 50 == 0:
                self._report(log, started)
                log, started = [], time.monotonic()
            if time.monotonic() - saved_at > save_seconds:
                self.save(path)
                saved_at = time.monotonic()
        self.save(path)


def unet_folder() -> Path:
    return workspace() / "unet"


def main() -> None:
    torch.backends.cudnn.benchmark = True
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=unet_folder(), help="folder of checkpoint and loss curve")
    parser.add_argument("--until", type=int, help="stop at this step")
    parser.add_argument("--decay-steps", type=int, help="instead: decay a copy of the checkpoint over N steps")
    parser.add_argument("--minutes", type=float, help="instead: train this long, decaying over the second half")
    add_settings(parser, UnetTraining)
    options = parser.parse_args()
    torch.manual_seed(0)
    latents = workspace() / "latents" / vae_digest()
    trainer = UnetTrainer(options.folder, finished_vae(), latents, read_settings(options, UnetTraining))
    if options.minutes:
        trainer.train_for(options.minutes, options.folder / "decayed.pt")
    elif options.decay_steps:
        trainer.decay(options.decay_steps, options.folder / "decayed.pt")
    else:
        trainer.train(options.until)


if __name__ == "__main__":
    main()
