"""Safety checker that some models ship: compares a picture's CLIP embedding with those of unsafe concepts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from diffedit_cli.engine.networks import components
from diffedit_cli.errors import ModelError


class SafetyChecker:
    """Safety checker of diffusers, in float32, because an overflow in half precision would flag nothing."""

    READERS: ClassVar[Mapping[str, components.Reader]] = {
        "safety_checker": components.TransformersReader(StableDiffusionSafetyChecker),
        "feature_extractor": components.tokenizer(CLIPImageProcessor),
    }

    def __init__(
        self, *, safety_checker: StableDiffusionSafetyChecker, feature_extractor: CLIPImageProcessor, name: str
    ) -> None:
        self.network, self.extractor, self.name = safety_checker, feature_extractor, name

    @classmethod
    def load(cls, folder: Path, device: str, name: str, variant: str | None = None) -> SafetyChecker:
        """Returns the safety checker of a diffusers folder that has one. Raises ModelError if it is unreadable."""
        try:
            return cls(**components.read(folder, cls.READERS, device, torch.float32, name, variant), name=name)
        except ModelError as error:
            raise ModelError(f"{str(error).rstrip('.')}, or leave the checker out with --no-safety.") from error

    def flags(self, picture: Image.Image) -> bool:
        """Returns whether the checker classifies an RGB picture as unsafe."""
        with components.fit_errors(f"{self.name}, its safety checker among them,"):
            seen = self.extractor(picture, return_tensors="pt")["pixel_values"].to(self.network.device)
            _, (flagged,) = self.network(clip_input=seen, images=[torch.zeros(0)])  # it blackens `images`
            return bool(flagged)
