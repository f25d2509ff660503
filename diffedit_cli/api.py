"""The library: DiffEdit for notebooks and programs. It prints nothing; every failure is a DiffEditError."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from diffedit_cli.api_stages import Stages
from diffedit_cli.models import adapters, registry
from diffedit_cli.models.memory import OffloadOptions, number_format
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.storage import files
from diffedit_cli.storage.cache import Cache, default_root
from diffedit_cli.storage.cache_folder import DIGESTS


class DiffEdit(Stages):
    """DiffEdit with one model, loaded on first use; its arguments mean the same as the command line's options.

    Args:
        model: Name or path of the model. Default: the built-in one, which refuses pictures unlike those it knows.
        painter: Name or path of a model that paints in place of inversion and edit. Default: none.
        model_config: For model files, the model of their configuration and other parts. Default: by their content.
        text_encoder: Text encoders, files or folders, in place of the model's.
        vae: VAE, a file or a folder, in place of the model's.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Default `auto`.
        dtype: `auto`, `float32`, `float16`, `bfloat16`. Default `auto`.
        offload: `none`, `model`, `group` or `sequential`: where weights wait while they are not used. Default `none`.
        quantize: `none`, `fp8`, `int8` or `nf4`: how the weights of the large networks are stored. Default `none`.
        runtime: `auto`, `torch` or `openvino`: what evaluates the network on a processor. Default `auto`: the
            faster one.
        cache: Folder for maps, inversions and edits. Default None: only converted or quantised models and digests are.
        vae_slicing: Whether the VAE takes pictures one by one, for less memory. Default false.
        vae_tiling: Whether the VAE takes pictures tile by tile, for less memory. Default false.
        lora: LoRA files, each FILE or FILE:SCALE.
        embedding: Textual inversions, each FILE or FILE:TOKEN.
        distilled: How the model was distilled to few steps: `turbo`, `lightning`, `lcm`, `dmd2`, `hyper`, `schnell`,
            `distilled`, or `no`. Default `auto`: as its files say.
        safety: Whether the model's safety checker is used, if it has one. Default true.
        max_pixels: Largest number of pixels of a picture. Default 200 million.
        on_step: Called with the stage, the steps done and the steps in total.
        inpainter: Former name of `painter`.

    Raises:
        ModelError: The model, a LoRA or a textual inversion is not on this machine or cannot be used.
        DeviceError: The device is not available.
        UsageError: An argument has a value that it cannot have.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        painter: str | Path | None = None,
        model_config: str | None = None,
        text_encoder: Iterable[str | Path] = (),
        vae: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        quantize: str = "none",
        runtime: str = "auto",
        cache: str | Path | None = None,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        lora: Iterable[str] = (),
        embedding: Iterable[str] = (),
        distilled: str = "auto",
        safety: bool = True,
        max_pixels: int = files.MAX_PIXELS,
        on_step: Callable[[str, int, int], object] | None = None,
        inpainter: str | Path | None = None,
    ) -> None:
        painter = inpainter if painter is None else painter
        self._max_pixels = max_pixels
        kept = None if cache is None else Path(cache)
        folder = registry.find(
            str(model or registry.BUILTIN),
            kept=kept,
            config=model_config,
            text_encoders=map(str, text_encoder),
            vae=None if vae is None else str(vae),
        ).as_model()
        self._pipeline = EditPipeline(
            adapters.attach(folder, lora, embedding, (kept or default_root()) / DIGESTS).as_distilled(distilled),
            None if kept is None else Cache(kept),
            device=device,
            dtype=number_format("dtype", dtype),
            memory=OffloadOptions(offload, vae_slicing, vae_tiling, quantize, runtime),
            progress=on_step or (lambda *_: None),
            any_picture=model is not None,
            safety=safety,
            inpainter=None if painter is None else registry.find_painter(str(painter), kept, model_config),
        )
