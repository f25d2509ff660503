"""Stable-Diffusion-format models: diffusers' AutoencoderKL and UNet2DConditionModel, transformers' CLIP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from diffedit_cli.engine.process import Level, Prediction, interpret
from diffedit_cli.errors import ModelError, UsageError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class StableDiffusion:
    """SD 1.x and 2.x, epsilon and v-prediction; latents stay float32, the network runs in its own dtype."""

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        name: str = "model",
    ) -> None:
        """Raises ModelError when the parts do not fit each other."""
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.scheduler, self.name = scheduler, name
        self.prediction_type = scheduler.config["prediction_type"]
        self._check_fit()
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.native_size = int(unet.config["sample_size"]) * self.factor
        self.multiple = self.factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
        self.evaluations = 0
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, device: str, dtype: torch.dtype, name: str | None = None) -> StableDiffusion:
        """Reads a diffusers folder. Only `.safetensors` weights are read. Raises ModelError, naming what is amiss."""
        name = name or str(folder)
        options: dict[str, Any] = {
            "local_files_only": True,
            "use_safetensors": True,
            "output_loading_info": True,
        }
        read: dict[str, Callable[[Path], Any]] = {
            "vae": lambda at: _whole(AutoencoderKL.from_pretrained(at, torch_dtype=dtype, **options)),
            "unet": lambda at: _whole(UNet2DConditionModel.from_pretrained(at, torch_dtype=dtype, **options)),
            "text_encoder": lambda at: _whole(CLIPTextModel.from_pretrained(at, dtype=dtype, **options)),
            "tokenizer": lambda at: CLIPTokenizer.from_pretrained(at, local_files_only=True),
            "scheduler": lambda at: DDIMScheduler.from_config(json.loads((at / "scheduler_config.json").read_text())),
        }
        parts: dict[str, Any] = {}
        for part in read:
            if not (folder / part).is_dir():
                raise ModelError(
                    f"The model {name} has no {part}: {folder} is no complete Stable-Diffusion-format folder."
                )
            try:
                parts[part] = read[part](folder / part)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the readers raise all kinds, tokenizers even plain Exception
                reason = " ".join(str(error).split())[:300].rstrip(".")
                raise ModelError(
                    f"The model {name} cannot be loaded, its {part} is unreadable ({reason}); check that "
                    f"{folder} is a complete Stable-Diffusion-format folder with .safetensors weights."
                ) from error
        for part in ("vae", "unet", "text_encoder"):
            parts[part].to(device).eval().requires_grad_(False)
        for part in ("vae", "unet"):
            parts[part].to(memory_format=torch.channels_last)  # what convolutions are fastest with
        return cls(**parts, name=name)

    @property
    def dtype_name(self) -> str:
        return str(self.unet.dtype).removeprefix("torch.")

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        dtype = self.unet.dtype
        self._convert(torch.float32)
        try:
            yield
        finally:
            self._convert(dtype)  # nothing is lost on the way back: every half is a float32

    def _convert(self, dtype: torch.dtype) -> None:
        for part in (self.vae, self.unet, self.text_encoder):
            part.to(dtype)
        self._embeddings.clear()

    def levels(self, steps: int) -> Sequence[Level]:
        """The scheduler's own DDIM timesteps, reversed, after the clean level that it steps to at the end."""
        limit = self.scheduler.config["num_train_timesteps"]
        if steps <= limit:
            self.scheduler.set_timesteps(steps)
        if steps > limit or max(self.scheduler.timesteps) >= limit:
            raise UsageError(f"--steps {steps} is more than the model {self.name} has; use at most {limit - 1}.")
        cumulative = self.scheduler.alphas_cumprod
        clean = [(0, float(self.scheduler.final_alpha_cumprod))]
        noisy = [(int(t), float(cumulative[t])) for t in reversed(self.scheduler.timesteps)]
        return [Level(t, alpha**0.5, (1 - alpha) ** 0.5) for t, alpha in clean + noisy]

    def embed(self, prompt: str) -> Tensor:
        if prompt not in self._embeddings:
            self._embeddings[prompt] = self._encode_text(prompt)
        return self._embeddings[prompt]

    def prompt_warning(self, prompt: str) -> str | None:
        places = self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        limit = self.tokenizer.model_max_length
        if len(places) <= limit:
            return None
        unseen = prompt[places[limit - 1][0] :].strip()
        return f'The prompt is longer than the {limit - 2} tokens that the model reads; it does not see "{unseen}".'

    def predict(self, x_t: Tensor, at: Level, text: Tensor) -> Prediction:
        self.evaluations += len(x_t)
        text = text.expand(len(x_t), -1, -1)
        output = self.unet(x_t.to(self.unet.dtype), at.timestep, encoder_hidden_states=text).sample
        return interpret(output.float(), x_t, at, self.prediction_type)

    def encode(self, picture: Tensor) -> Tensor:
        posterior = self.vae.encode(picture.to(self.vae.device, self.vae.dtype)).latent_dist
        x_0: Tensor = posterior.mean.float() * self.vae.config["scaling_factor"]  # the mean: no noise comes in
        return x_0

    def decode(self, latents: Tensor) -> Tensor:
        scaled = latents / self.vae.config["scaling_factor"]
        picture: Tensor = self.vae.decode(scaled.to(self.vae.dtype)).sample.float().clamp(-1, 1)
        return picture

    def _encode_text(self, prompt: str) -> Tensor:
        batch = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        self._check_words(prompt, batch["input_ids"][0].tolist())
        device = self.text_encoder.device
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        attention_mask = batch["attention_mask"].to(device) if masked else None
        embeddings: Tensor = self.text_encoder(batch["input_ids"].to(device), attention_mask=attention_mask)[0]
        return embeddings.to(self.unet.dtype)

    def _check_words(self, prompt: str, ids: Sequence[int]) -> None:
        """CLIP's own vocabulary spells anything; a small closed one has a token of its own for what it lacks."""
        unknown_id = self.tokenizer.unk_token_id
        if unknown_id == self.tokenizer.eos_token_id or unknown_id not in ids:
            return
        unknown = [word for word in prompt.split() if unknown_id in self.tokenizer(word)["input_ids"]]
        known = sorted(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens))
        raise ModelError(
            f'The model {self.name} does not know "{" ".join(unknown)}"; it knows only these words: '
            f"{', '.join(known)}. For other words use --model with a Stable Diffusion model."
        )

    def _check_fit(self) -> None:
        unet, latents = self.unet.config, self.vae.config["latent_channels"]
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"The model {self.name} predicts {self.prediction_type}; diffedit knows {', '.join(PREDICTION_TYPES)}."
            )
        if unet["in_channels"] != latents or unet["out_channels"] != latents:
            raise ModelError(
                f"The model {self.name} does not fit: its UNet takes {unet['in_channels']} channels and its VAE gives "
                f"{latents}; inpainting and instruction models are no DiffEdit models."
            )
        width = self.text_encoder.config.hidden_size
        if unet["cross_attention_dim"] != width:
            raise ModelError(
                f"The model {self.name} does not fit: its UNet expects text embeddings of width "
                f"{unet['cross_attention_dim']} and its text encoder gives {width}."
            )


def _whole(loaded: tuple[Any, dict[str, Any]]) -> Any:
    """A network whose file gives all of its weights: missing ones would be random or empty."""
    network, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} weights are missing, {min(info['missing_keys'])} first")
    return network
