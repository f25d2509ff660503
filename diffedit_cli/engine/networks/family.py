"""What the table of model formats states of a family. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffedit_cli.engine.networks.painters import Painter


@dataclass(frozen=True)
class NetworkFile:
    """Names of the tensors in files that hold the denoiser alone.

    Attributes:
        usual: Hub id or short name of the model whose other parts such a file takes unless another is named.
        marks: Tensors that every such file holds. A file that holds the marks of several layouts has that with most.
    """

    usual: str
    marks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Format of a family of models.

    Attributes:
        title: Name of the family for people.
        implementation: Module of this package and class in it that compute the family, as "sd.StableDiffusion".
        pipelines: Names of the diffusers pipelines with this format.
        networks: Parts of a folder that are networks.
        others: Other parts that a folder must have.
        optional: Parts that a folder may lack.
        beside: Parts that neither a mask nor latents depend on.
        denoiser: Part that is the denoising network.
        language_models: Text encoders with billions of parameters, which are quantised like the denoising network.
        attends: Whether the mask reads attention to the words unless asked otherwise: measured for UNets only.
        follows_flow: Whether the family uses flow matching in place of a noise schedule.
        native_side: Side in pixels of the training pictures, if the denoiser's settings do not state it (0: they do).
        vae_levels: Entry of the VAE's settings that lists its resolutions.
        vae_maps: Maps of the VAE's first width, of the picture's size, that are alive at once while it decodes.
        upcasts_vae: Whether a VAE whose settings say `force_upcast` computes in float32 beside float16.
        guidance: Default guidance scale of models that are not distilled; None for the usual one.
        embeds_guidance: Whether guidance is an input of the network, if its settings have `guidance_embeds`, and else
            none: there is no classifier-free guidance.
        half: Number format of the networks on a GPU: some overflow in float16.
        settings: Entries of `model_index.json` that results depend on, with their defaults.
        few_steps: Steps of models that are distilled to few steps.
        adapted_encoders: Text encoders that LoRAs may change; the denoiser they always may.
        learns_words: Whether textual inversions can add words to the tokenizers of the adapted text encoders.
        rowwise: Whether every tensor that the denoiser is called with has a row for each row of the batch, of one shape
            for all prompts, so that it can be compiled for that shape.
        vae_channels: Entry of the VAE's settings that is the number of channels of the latents.
        painters: Pipelines that repaint under a mask with models of the family.
        checkpoints: By the name of a model: prefixes of the text encoders in checkpoints with its authors' layout.
        optional_encoders: Prefixes of text encoders that such checkpoints may lack.
        input_layer: Layer of the denoiser that reads the latents, in such checkpoints.
        network_files: Files that hold the denoiser alone, in the authors' layouts and in diffusers' names.
    """

    title: str
    implementation: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("safety_checker", "feature_extractor")
    denoiser: str = "unet"
    language_models: tuple[str, ...] = ()
    attends: bool = True
    follows_flow: bool = False
    native_side: int = 0
    vae_levels: str = "block_out_channels"
    vae_maps: int = 6
    upcasts_vae: bool = False
    guidance: float | None = None
    embeds_guidance: bool = False
    half: str = "float16"
    settings: Mapping[str, Any] = field(default_factory=dict)
    few_steps: int = 4
    adapted_encoders: tuple[str, ...] = ()
    learns_words: bool = False
    rowwise: bool = False
    vae_channels: str = "latent_channels"
    painters: tuple[Painter, ...] = ()
    checkpoints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    optional_encoders: Mapping[str, str] = field(default_factory=dict)
    input_layer: str = "input_blocks.0.0"
    network_files: tuple[NetworkFile, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return self.networks + self.others

    @property
    def adapted(self) -> tuple[str, ...]:
        """Networks that LoRAs may change."""
        return (self.denoiser, *self.adapted_encoders)

    @property
    def changed(self) -> tuple[str, ...]:
        """Parts that LoRAs or textual inversions may change."""
        words = self.adapted_encoders if self.learns_words else ()
        return (*self.adapted, *(part.replace("text_encoder", "tokenizer") for part in words))

    @property
    def all_parts(self) -> tuple[str, ...]:
        return (*self.parts, *self.optional, *self.beside)

    @property
    def quantised(self) -> tuple[str, ...]:
        """Parts that --quantize changes."""
        return (self.denoiser, *self.language_models)

    def guidance_by(self, index: Mapping[str, Any], denoiser: Mapping[str, Any]) -> str:
        """Returns how a model is guided by its settings: "classifier-free", "embedded" (by the network) or "none"."""
        if self.embeds_guidance:
            return "embedded" if denoiser.get("guidance_embeds") else "none"
        return "none" if index.get("is_distilled") else "classifier-free"

    def factor(self, vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of a latent cell by the settings of the VAE."""
        return int(2 ** (len(vae.get(self.vae_levels, [0])) - 1))

    def channels(self, vae: Mapping[str, Any]) -> int:
        """Returns the channels of the latents by the settings of the VAE."""
        return int(vae.get(self.vae_channels, 0))

    def multiple(self, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """Returns the number of pixels that both sides of a picture must be multiples of.

        A UNet halves the latents between its levels, and others read patches of 2 x 2 cells.
        """
        levels = len(denoiser.get("block_out_channels", [0, 0]))
        return int(self.factor(vae) * 2 ** (levels - 1))

    def painter(self, pipeline: str) -> Painter | None:
        """Returns what repaints with the folders of a pipeline of the family; None if diffusers has nothing for it."""
        own = [painter for painter in self.painters if pipeline in painter.folders]
        return next(iter(own + [painter for painter in self.painters if not painter.folders]), None)

    def native_size(self, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of the training pictures by the settings of the denoiser and the VAE."""
        if self.native_side:
            return int(vae.get("sample_size") or self.native_side)
        return int(denoiser.get("sample_size", 0) * self.factor(vae))

    def only_paints(self, pipeline: str) -> bool:
        """Whether the models in the folders of a pipeline can neither find masks nor invert."""
        return any(pipeline in painter.folders for painter in self.painters)
