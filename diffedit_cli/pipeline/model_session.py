"""One model on one device: loaded when first needed, what it makes of prompts and pictures, and what can fail there."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, Model, ModelInput
from diffedit_cli.engine.networks import domain_check
from diffedit_cli.engine.process import Level
from diffedit_cli.errors import InputError, ModelError
from diffedit_cli.images import pictures
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models.devices import choose_device, device_errors, fit_threads
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.loader import LOADER
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline import cache_keys, embedding_files, prompts
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.prompts import Embeds, Prompt, Sentences
from diffedit_cli.pipeline.stats import LOAD, EditStats
from diffedit_cli.storage.artifacts import Arrays, finite

AT_ONCE = 8  # pictures that are edited together where a GPU has more to give than one asks of it


class ModelSession:
    """Keeps the model, and the latents of the picture at hand."""

    def __init__(self, folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions, any_picture: bool) -> None:
        """With `any_picture` one that is unlike all that the model knows is only warned of.

        Raises DeviceError for a device that is not here.
        """
        self.folder, self.memory, self.any_picture = folder, memory, any_picture
        self.device = choose_device(device)
        fit_threads()
        self.dtype = dtype if dtype != "auto" else ("float16" if self.device.startswith("cuda") else "float32")
        self._open = self._load
        self._model: Model | None = None
        self._x_0: tuple[str, Tensor] | None = None

    @property
    def at_once(self) -> int:
        """How many pictures are best edited together: one where that would change float32's last bits."""
        return 1 if self.dtype == "float32" or self.device == "cpu" else AT_ONCE

    def beside(self, ask: Callable[[ModelInput], Tensor]) -> ModelSession:
        """The same model for one of several pictures at a time, its network asked through `ask`."""
        own = copy.copy(self)
        own._open = lambda stats: self.model(stats).beside(ask)
        own._model = own._x_0 = None
        return own

    def ask_together(self, asked: Sequence[ModelInput]) -> Sequence[Tensor | Exception]:
        """The network's answers to several who got the model already."""
        assert self._model is not None
        with torch.inference_mode():
            return self._model.ask_together(asked)

    def model(self, stats: EditStats) -> Model:
        """The model, loaded at the first call."""
        if self._model is None:
            self._model = self._open(stats)
        return self._model

    def _load(self, stats: EditStats) -> Model:
        started = time.perf_counter()
        model = LOADER.load(self.folder, self.device, self.dtype, self.memory)
        if self.device == "cpu" and self.memory.offload != "none":
            stats.warn(f"--offload {self.memory.offload} saves nothing where the processor computes.")
        stats.seconds[LOAD] = time.perf_counter() - started
        return model

    def embedding(self, prompt: Prompt, params: Params, stats: EditStats) -> Embedding:
        """What the model is told by a prompt: words, sentences to average, or a file."""
        model = self.model(stats)
        if isinstance(prompt, Sentences):
            return embedding_files.average([self.embedding(text, params, stats) for text in prompt.texts])
        if isinstance(prompt, Embeds):
            embedding, warning = embedding_files.load(prompt, model.embed(""), self.folder)
        else:
            embedding, warning = model.embed(prompt, params.clip_skip), model.prompt_warning(prompt)
        if warning:
            stats.warn(warning)
        return embedding

    def pack_embedding(self, prompt: Prompt, params: Params, stats: EditStats, telling: bool) -> bytes:
        """The file of what the model is told by a prompt; `telling` the words or not."""
        with device_errors(self.device), torch.inference_mode():
            embedding = self.embedding(prompt, params, stats)
        record = prompts.record("prompt", prompt) | cache_keys.text(params) if telling else {}
        return embedding_files.pack(embedding, record, self.folder)

    def latents_at_hand(self, picture: Picture) -> Tensor | None:
        """x_0 (1, C, h, w) of the picture that was encoded last, if it is this one."""
        return self._x_0[1] if self._x_0 is not None and self._x_0[0] == picture.digest else None

    def take_latents(self, picture: Picture, encoded: Arrays, stats: EditStats) -> Tensor:
        """x_0 (1, C, h, w) of what `encode` gave, now or earlier. Raises ModelError for a picture that does not fit."""
        _check_fitness(self.folder, self.any_picture, picture, float(encoded["misfit"][0]), stats)
        x_0 = torch.from_numpy(encoded["latents"]).to(self.device)
        self._x_0 = picture.digest, x_0
        return x_0

    def encode(self, picture: Picture, stats: EditStats) -> Arrays:
        """VAE latents x_0 (1, C, h, w) and the misfit (1,), which is 0 for models of any picture, and for crops."""
        model = self.model(stats)
        size = pictures.fitted_size(picture.size, model.native_size, model.multiple)
        x_0 = model.encode(torch.from_numpy(picture.fitted(size))[None])
        misfit = 0.0
        if (limited := self.folder.fitness) and not picture.part:
            strength, _ = limited
            misfit = domain_check.misfit(model, x_0, strength, generator(0, picture, "fitness"))
            stats.spent("fitness", domain_check.DRAWS)
        # in the order that a file has: with another the network's last bits would be others than from the cache
        return {"latents": np.ascontiguousarray(x_0.cpu().numpy()), "misfit": np.array([misfit])}

    def levels(self, params: Params, cells: int, stats: EditStats) -> Sequence[Level]:
        """The levels of an inversion, the clean one first; those below the last one are left out."""
        assert params.strength is not None
        last = params.last_level or 0.0
        every = self.model(stats).levels(params.steps, cells)[: levels_up_to(params.strength, params.steps) + 1]
        return [every[0], *(level for level in every[1:-1] if level.b >= last), *every[-1:]]

    def check_given(self, latents: Latents, picture: Picture, params: Params, stats: EditStats) -> None:
        """Raises InputError for latents of another shape or other levels than this picture's and these parameters',
        whatever they say they were made for."""
        model = self.model(stats)
        shape = model.latent_shape(pictures.fitted_size(picture.size, model.native_size, model.multiple))
        held = latents.trajectory.shape[1:]
        levels = self.levels(params, shape[1] * shape[2], stats)
        if [level.timestep for level in levels] != latents.timesteps.tolist():
            raise InputError(
                f"The latents file {latents.name} holds other levels than it says; make it again with diffedit invert."
            )
        if held != shape:
            raise InputError(
                f"The latents file {latents.name} holds latents of the shape {held}, and those of {picture.name} have "
                f"{shape}; make it again with diffedit invert."
            )

    def run_stage(self, stage: str, stats: EditStats, compute: Callable[[], Arrays]) -> Arrays:
        """What a stage computes on the device. Half precision that overflows is repeated in float32, with a warning.

        Raises ModelError where that overflows too, DeviceError for what the device fails in.
        """
        model = self.model(stats)
        before = model.evaluations - stats.evaluations.get("fitness", 0)
        with device_errors(self.device), torch.inference_mode():
            arrays = compute()
            if not finite(arrays) and model.dtype_name != "float32":
                stats.warn(f"The {stage} stage overflowed in {model.dtype_name}; it was repeated in float32.")
                self._x_0 = None
                with model.in_float32():
                    arrays = compute()
                self._x_0 = None
        if model.vae_overflowed:
            stats.warn(f"The VAE overflowed in {model.dtype_name}; it runs in float32.")
        if not finite(arrays):
            raise ModelError(
                f"The model {self.folder.name} gives values that are not finite; its files may be damaged."
            )
        stats.spent(stage, model.evaluations - stats.evaluations.get("fitness", 0) - before)
        return arrays


def generator(seed: int, picture: Picture, purpose: str) -> torch.Generator:
    """One for each seed, picture and purpose, so that a result is the same alone, in a batch and on any device."""
    entropy = hashlib.sha256(f"{seed} {picture.digest} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(entropy[:8], "big") // 2)


def _check_fitness(folder: ModelFolder, any_picture: bool, picture: Picture, misfit: float, stats: EditStats) -> None:
    """Raises ModelError, or warns, if the picture is unlike all that a model of a small world knows."""
    _, limit = folder.fitness or (0.0, math.inf)
    if misfit > limit:
        unlike = f"{picture.name} is unlike the drawn scenes that the small model {folder.name} knows"
        if not any_picture:
            raise ModelError(
                f"{unlike}; get a model of photographs with: diffedit models pull sd15, and name it: --model sd15 "
                f"(or try this one nevertheless: --model {folder.name})."
            )
        stats.warn(f"{unlike}; expect little.")
