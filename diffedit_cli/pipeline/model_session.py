"""A model on a device: loads it on first use, computes prompt embeddings and latents, and handles device failures."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, Model, ModelInput
from diffedit_cli.engine.networks import domain_check
from diffedit_cli.engine.process import Level
from diffedit_cli.errors import InputError, ModelError
from diffedit_cli.images import pictures
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import devices, runtimes
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


class ModelSession:
    """Holds the loaded model, and the latents of the last picture."""

    def __init__(self, folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions, any_picture: bool) -> None:
        """Chooses device and dtype without loading the model. Raises DeviceError if the device is not available.

        With `any_picture` a failed domain check of a picture is a warning, not a ModelError.
        """
        self.folder, self.any_picture = folder, any_picture
        self.device = choose_device(device)
        fit_threads()
        self.dtype, self._emulated = devices.format_in_use(folder, self.device, dtype, memory.quantize)
        self.memory = runtimes.chosen(folder, self.device, self.dtype, memory)
        self._open = self._load
        self._model: Model | None = None
        self._x_0: tuple[str, Tensor] | None = None

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    def beside(self, ask: Callable[[ModelInput], Tensor]) -> ModelSession:
        """Returns a view of the same model for concurrent edits; it evaluates the network through `ask`."""
        own = copy.copy(self)
        own._open = lambda stats: self.model(stats).beside(ask)
        own._model = own._x_0 = None
        return own

    def ask_together(self, asked: Sequence[ModelInput], as_one: bool = False) -> Sequence[Tensor | Exception]:
        """Returns the network's output, or its exception, for each of several inputs. The model must be loaded."""
        assert self._model is not None
        with device_errors(self.device), torch.inference_mode():
            return self._model.ask_together(asked, as_one)

    def model(self, stats: EditStats) -> Model:
        """Returns the model, loaded at the first call."""
        if self._model is None:
            self._model = self._open(stats)
        return self._model

    def _load(self, stats: EditStats) -> Model:
        started = time.perf_counter()
        model = LOADER.load(self.folder, self.device, self.dtype, self.memory, stats.warn)
        for note in _notes(self.device, self.memory, self._emulated):
            stats.warn(note)
        stats.seconds[LOAD] = time.perf_counter() - started
        return model

    def embedding(self, prompt: Prompt, params: Params, stats: EditStats) -> Embedding:
        """Returns the prompt embeddings of words, of sentences (averaged) or of an embeddings file."""
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

    def pack_embedding(self, prompt: Prompt, params: Params, stats: EditStats, with_record: bool) -> bytes:
        """Returns the embeddings file of a prompt; `with_record` adds the prompt's words to its metadata."""
        with device_errors(self.device), torch.inference_mode():
            embedding = self.embedding(prompt, params, stats)
        record = prompts.record("prompt", prompt) | cache_keys.text(params) if with_record else {}
        return embedding_files.pack(embedding, record, self.folder)

    def latents_at_hand(self, picture: Picture) -> Tensor | None:
        """Returns x_0 (1, C, h, w) if this picture was the last one encoded, else None."""
        return self._x_0[1] if self._x_0 is not None and self._x_0[0] == picture.digest else None

    def take_latents(self, picture: Picture, encoded: Arrays, stats: EditStats) -> Tensor:
        """Keeps and returns x_0 (1, C, h, w) of an `encode` result. Raises ModelError if the picture does not fit."""
        _check_fitness(self.folder, self.any_picture, picture, float(encoded["misfit"][0]), stats)
        x_0 = torch.from_numpy(encoded["latents"]).to(self.device)
        self._x_0 = picture.digest, x_0
        return x_0

    def encode(self, picture: Picture, stats: EditStats) -> Arrays:
        """Returns VAE latents x_0 (1, C, h, w) and the out-of-domain score (1,).

        The score is 0 for models without a domain check, and for crops.
        """
        model = self.model(stats)
        size = pictures.fitted_size(picture.size, model.native_size, model.multiple)
        x_0 = model.encode(torch.from_numpy(picture.model_input(size))[None])
        misfit = 0.0
        if (limited := self.folder.fitness) and not picture.part:
            strength, _ = limited
            misfit = domain_check.misfit(model, x_0, strength, generator(0, picture, "fitness"))
            stats.spent("fitness", domain_check.DRAWS)
        # C order, as read from a cache entry: another memory layout would change the network's last bits
        return {"latents": np.ascontiguousarray(x_0.cpu().numpy()), "misfit": np.array([misfit])}

    def levels(self, params: Params, cells: int, stats: EditStats) -> Sequence[Level]:
        """Returns the levels of an inversion, the clean one first, without those below `last_level`."""
        assert params.strength is not None
        last = params.last_level or 0.0
        every = self.model(stats).levels(params.step_count, cells)[
            : levels_up_to(params.strength, params.step_count) + 1
        ]
        return [every[0], *(level for level in every[1:-1] if level.b >= last), *every[-1:]]

    def check_given(self, latents: Latents, picture: Picture, params: Params, stats: EditStats) -> None:
        """Raises InputError for latents whose shape or levels are not those of this picture and these parameters.

        Checks the arrays, whatever the record of the file says.
        """
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
        """Returns the arrays that a stage computes on the device; if half precision overflows, float32 repeats it.

        The repetition causes a warning. Raises ModelError if float32 overflows too, DeviceError if the device fails.
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


def _notes(device: str, memory: OffloadOptions, emulated: bool) -> Iterator[str]:
    """Yields warnings of options that do not help on a device."""
    if device == "cpu" and memory.offload != "none":
        yield f"--offload {memory.offload} saves no memory on the CPU; leave it out."
    if emulated:
        yield "This processor has no bfloat16 and would only emulate it; float32 is used, which is faster."


def generator(seed: int, picture: Picture, purpose: str) -> torch.Generator:
    """Returns a generator for a seed, picture and purpose: a result is the same alone, in a batch and on any device."""
    entropy = hashlib.sha256(f"{seed} {picture.digest} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(entropy[:8], "big") // 2)


def _check_fitness(folder: ModelFolder, any_picture: bool, picture: Picture, misfit: float, stats: EditStats) -> None:
    """Raises ModelError, or warns, if the out-of-domain score of a picture exceeds the limit of a small-world model."""
    _, limit = folder.fitness or (0.0, math.inf)
    if misfit > limit:
        unlike = f"{picture.name} is unlike the drawn scenes that the small model {folder.name} knows"
        if not any_picture:
            raise ModelError(
                f"{unlike}; get a model of photographs (see diffedit models list), for instance with: diffedit models "
                f"pull sd15, and name it: --model sd15 (or try this one nevertheless: --model {folder.name})."
            )
        stats.warn(f"{unlike}; expect a poor result.")
