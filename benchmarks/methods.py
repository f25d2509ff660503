"""Editing methods that SceneBench compares: diffedit, diffusers' DiffEdit, SDEdit, DDIM inversion without a mask."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.cases import Case
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.images import codecs
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture, pixels
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.params import GUIDANCE, Params
from diffedit_cli.pipeline.stats import EditStats


@dataclass(frozen=True)
class Outcome:
    """The result of a method on a case; `decoded` is the model's picture before the original is pasted back."""

    final: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    evaluations: int
    seconds: float
    networks: float | None = None  # seconds spent in UNet, VAE and text encoders, on a processor only


@dataclass(frozen=True)
class Where:
    """Device and dtype of the networks, the same for every method; the runtime is diffedit's, diffusers has torch."""

    device: str = "cpu"
    dtype: str = "float32"
    runtime: str = "torch"

    def done(self) -> None:
        """Waits for the GPU, whose calls return before they are complete."""
        if self.device != "cpu":
            torch.cuda.synchronize()


ON_CPU = Where()
THE_SOURCE = "{from}"  # as a negative prompt: stands for the case's source prompt
Method = Callable[[Case], Outcome]


def picture_of(case: Case) -> Picture:
    return codecs.from_array(case.picture, f"case {case.number}")


def at_canvas(image: Image.Image, case: Case) -> NDArray[np.uint8]:
    height, width = case.picture.shape[:2]
    return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


class Ours:
    """diffedit's own stages without a cache.

    If not `masked`, the mask is the whole picture: with the DDIM scheduler this is plain inversion and decoding.
    """

    def __init__(self, folder: ModelFolder, params: Params, *, masked: bool = True, where: Where = ON_CPU) -> None:
        self.pipeline = EditPipeline(
            folder, None, device=where.device, dtype=where.dtype, memory=OffloadOptions(runtime=where.runtime)
        )
        self.params, self.masked = params, masked
        model = self.pipeline.session.model(EditStats())
        assert isinstance(model, LatentDiffusion)
        networks = (model.network, model.vae.encoder, model.vae.decoder, *(one.network for one in model.encoders))
        for network in networks if where.device == "cpu" else ():  # to wait for each call would slow a GPU
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave)
        self._inside = self._entered = 0.0

    def _enter(self, *_: object) -> None:
        self._entered = time.perf_counter()

    def _leave(self, *_: object) -> None:
        self._inside += time.perf_counter() - self._entered

    def __call__(self, case: Case) -> Outcome:
        params = replace(self.params, from_=case.source, to=case.target, seed=case.number)
        if params.negative == THE_SOURCE:
            params = replace(params, negative=case.source)
        whole = None if self.masked else Mask(np.ones(case.picture.shape[:2], dtype=bool))
        stats, self._inside, started = EditStats(), 0.0, time.perf_counter()
        (edited,) = self.pipeline.edit(picture_of(case), params, stats, whole, None)
        seconds = time.perf_counter() - started
        return Outcome(
            final=np.asarray(edited.image),
            decoded=at_canvas(Image.fromarray(pixels(edited.painted[0].picture)), case),
            mask=edited.mask.pixels if self.masked else None,
            evaluations=sum(stats.evaluations.values()),
            seconds=seconds,
            networks=self._inside or None,
        )


class Pipeline:
    """Base of diffusers' pipelines: the same weights and guidance, pictures at the model's size, evaluation counts."""

    guidance = GUIDANCE  # for a model that sets none

    def __init__(self, name: str, folder: Path, where: Where = ON_CPU) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers

            kind = getattr(diffusers, name)
            self.pipe: Any = kind.from_pretrained(folder, torch_dtype=getattr(torch, where.dtype), safety_checker=None)
        self.pipe.to(where.device)
        self.where = where
        self.pipe.set_progress_bar_config(disable=True)
        self.size = int(self.pipe.unet.config.sample_size) * self.pipe.vae_scale_factor
        self.evaluations = 0
        self.pipe.unet.register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.evaluations += len(inputs[0])

    def edit(self, case: Case, image: Image.Image, generator: torch.Generator) -> tuple[Image.Image, Any]:
        """Returns the result, and the mask (h, w) or None."""
        raise NotImplementedError

    def __call__(self, case: Case) -> Outcome:
        self.evaluations, started = 0, time.perf_counter()
        image = Image.fromarray(case.picture).resize((self.size, self.size), Image.Resampling.LANCZOS)
        made, mask = self.edit(case, image, torch.Generator().manual_seed(case.number))
        self.where.done()
        seconds = time.perf_counter() - started
        final = at_canvas(made, case)
        if mask is not None:
            whole = Image.fromarray(np.uint8(mask) * 255).resize(case.picture.shape[1::-1], Image.Resampling.NEAREST)
            mask = np.asarray(whole) > 127
        return Outcome(final, final, mask, self.evaluations, seconds)


class DiffusersDiffEdit(Pipeline):
    """The deprecated pipeline with its defaults, and the source prompt as negative prompt, as in its guide."""

    def __init__(self, folder: Path, where: Where = ON_CPU, steps: int = 50, maps: int = 10) -> None:
        self.steps, self.maps = steps, maps
        super().__init__("StableDiffusionDiffEditPipeline", folder, where)
        from diffusers import DDIMInverseScheduler, DDIMScheduler

        # PNDM would take one more step in one direction.
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.inverse_scheduler = DDIMInverseScheduler.from_config(self.pipe.scheduler.config)

    def edit(self, case: Case, image: Image.Image, generator: torch.Generator) -> tuple[Image.Image, Any]:
        told = {"num_inference_steps": self.steps, "generator": generator}
        mask = self.pipe.generate_mask(
            image, source_prompt=case.source, target_prompt=case.target, output_type="np", num_maps_per_mask=self.maps,
            **told,
        )  # fmt: skip
        latents = self.pipe.invert(image=image, prompt=case.source, **told).latents
        made = self.pipe(
            case.target, mask_image=mask, image_latents=latents, negative_prompt=case.source,
            guidance_scale=self.guidance, **told,
        )  # fmt: skip
        return made.images[0], mask[0]


class SDEdit(Pipeline):
    """Image to image: adds noise, then denoises towards the target prompt (arXiv:2108.01073)."""

    def __init__(self, folder: Path, where: Where = ON_CPU) -> None:
        super().__init__("StableDiffusionImg2ImgPipeline", folder, where)

    def edit(self, case: Case, image: Image.Image, generator: torch.Generator) -> tuple[Image.Image, Any]:
        told = {"negative_prompt": case.source, "guidance_scale": self.guidance, "generator": generator}
        made = self.pipe(case.target, image=image, strength=0.8, **told)
        return made.images[0], None


class RoundTrip:
    """No edit: the true result encoded and decoded by the VAE, the best that its decoder allows."""

    def __init__(self, folder: ModelFolder) -> None:
        self.model = families.load(folder.path, "cpu", torch.float32, folder.name)

    def __call__(self, case: Case) -> Outcome:
        size, picture = (self.model.native_size,) * 2, codecs.from_array(case.result, f"truth {case.number}")
        with torch.inference_mode():
            made = self.model.decode(self.model.encode(torch.from_numpy(picture.model_input(size))[None]))[0]
        final = at_canvas(Image.fromarray(pixels(made.permute(1, 2, 0).numpy())), case)
        return Outcome(final, final, None, 0, 0.0)


def build(name: str, folder: ModelFolder, params: Params, where: Where = ON_CPU) -> Method:
    """Returns one of METHODS, or CEILING, ready to run."""
    if name == CEILING:
        return RoundTrip(folder)
    if name == "ours":
        return Ours(folder, params, where=where)
    if name == "inversion":
        plain = replace(params, scheduler="ddim", invert_from=0, guidance_end=1.0, guidance_every=1)
        return Ours(folder, plain, masked=False, where=where)
    pipeline = {"diffusers": DiffusersDiffEdit, "sdedit": SDEdit}[name](folder.path, where)
    pipeline.guidance = folder.defaults.get("guidance", GUIDANCE)
    return pipeline


METHODS = {
    "ours": "diffedit",
    "diffusers": "diffusers' DiffEdit",
    "sdedit": "SDEdit (image to image)",
    "inversion": "DDIM inversion, no mask",
}
CEILING = "ceiling"
