"""The parts of a model as attributes of the pipeline, and the engine's model made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from diffedit_cli.diffusers.schedules import SOLVERS, noise_schedule, settings
from diffedit_cli.engine.networks import components, families
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError

OWN_PIPELINE = "StableDiffusionDiffEditPipeline"  # name in the index of saved folders of Stable Diffusion 1.x and 2.x


class Components:
    """The parts of a model by the names that diffusers gives them; each can be read and assigned."""

    vae: Any
    scheduler: Any
    inverse_scheduler: Any
    safety_checker: Any
    feature_extractor: Any

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        inverse_scheduler: Any = None,
        requires_safety_checker: bool = True,  # noqa: ARG002
    ) -> None:
        """Initialises a pipeline of Stable Diffusion 1.x or 2.x; `from_pipe` takes the parts of any family.

        Args:
            vae: AutoencoderKL.
            text_encoder: CLIPTextModel.
            tokenizer: CLIPTokenizer.
            unet: UNet2DConditionModel.
            scheduler: Any scheduler of diffusers; one that cannot be run backwards is replaced with DDIM.
            safety_checker: StableDiffusionSafetyChecker. Default: none.
            feature_extractor: CLIPImageProcessor of the safety checker. Default: none.
            inverse_scheduler: Scheduler of `invert`. Default: the one that belongs to `scheduler`.
            requires_safety_checker: Accepted, and without effect.
        """
        parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet}
        index = {"_class_name": OWN_PIPELINE}
        checker = {"safety_checker": safety_checker, "feature_extractor": feature_extractor}
        self._hold("sd", {**parts, **checker, "scheduler": scheduler, "inverse_scheduler": inverse_scheduler}, index)

    def _hold(self, family: str, parts: Mapping[str, Any], index: Mapping[str, Any], name: str = "model") -> None:
        self._family, self._index, self._name = FAMILIES[family], index, name
        self._kind = families.implementation(family)
        self._computes_on: str | None = None  # device, while networks wait elsewhere
        for part in part_names(self._family):
            setattr(self, part, parts.get(part))
        reader, given = self._kind.READERS["scheduler"], self.scheduler
        assert isinstance(reader, components.SchedulerReader)
        self._own_scheduler = given if isinstance(given, reader.kind) else reader.kind.from_config(settings(given))
        if type(given).__name__ not in SOLVERS:
            self.scheduler = self._own_scheduler

    @property
    def components(self) -> dict[str, Any]:
        """Parts by name, as a constructor takes them."""
        return {part: getattr(self, part) for part in part_names(self._family)}

    @property
    def vae_scale_factor(self) -> int:
        """Side in pixels of a latent cell."""
        return self._family.factor(self.vae.config)

    def _networks(self) -> dict[str, nn.Module]:
        """Returns the networks by part, without the safety checker."""
        parts = {part: getattr(self, part) for part in self._family.all_parts if part not in self._family.beside}
        return {part: network for part, network in parts.items() if isinstance(network, nn.Module)}

    def _model(self) -> LatentDiffusion:
        """Returns the engine's model of the parts as they are now. Raises ModelError if they do not fit each other."""
        parts = {part: getattr(self, part) for part in self._kind.READERS}
        parts["scheduler"] = noise_schedule(self.scheduler, self._own_scheduler)
        present = {part: one for part, one in parts.items() if one is not None}
        if missing := sorted(parts.keys() - present.keys() - set(self._kind.OPTIONAL)):
            raise ModelError(f"The pipeline has no {missing[0]}; assign one.")
        with components.fit_errors(self._name):
            model = self._kind(**present, **self._kind.settings_in(self._index), name=self._name)
        if self._computes_on is not None:
            model.compute_on(self._computes_on)
        return model


def part_names(family: Family) -> tuple[str, ...]:
    """Returns the names of all parts that a pipeline of a family has."""
    return (*family.all_parts, "inverse_scheduler")
