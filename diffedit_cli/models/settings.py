"""What the settings of a model's parts state: sizes, prediction type, guidance, and whether it is distilled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli.engine.networks import gguf_header
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.model_formats import only_paints
from diffedit_cli.engine.networks.painters import Painter
from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs, profiles
from diffedit_cli.models.adapters import Lora
from diffedit_cli.models.formats import format_of
from diffedit_cli.models.profiles import Profile
from diffedit_cli.models.small_world import SmallWorld
from diffedit_cli.storage import paths

if TYPE_CHECKING:
    from typing_extensions import Self


class ModelSettings(SmallWorld):
    """Properties of a model, read from the settings in its folder."""

    path: Path
    family: str
    loras: tuple[Lora, ...]
    source: str | None
    elsewhere: Mapping[str, Path]
    distilled: str

    @cached_property
    def pipeline(self) -> str:
        """Name of the diffusers pipeline that the folder was saved from."""
        return str(self._index.get("_class_name"))

    @cached_property
    def format(self) -> Family:
        """The format of the model's family, or the one that its own files tell."""
        return format_of(self.path, self.family)

    @property
    def painter(self) -> Painter | None:
        """The pipeline that repaints under a mask with this model; None if diffusers has none for it."""
        return self.format.painter(self.pipeline)

    def uses(self) -> tuple[str, ...]:
        """Returns the options that the model is of use for: --model, --painter and --instruction."""
        family, painter = self.format, self.painter
        channels = self.settings(family.denoiser).get("in_channels")
        vae = self.settings("vae")
        plain = painter is None or channels in painter.inputs(family.channels(vae), self.factor)[:1]
        alone = () if family.only_paints(self.pipeline) or not plain else ("--model",)
        return alone + (() if painter is None else ("--painter",) + ("--instruction",) * painter.instructed)

    def as_model(self) -> Self:
        """Returns the folder. Raises ModelError if the model can only paint."""
        if self.format.only_paints(self.pipeline):
            raise only_paints(self.pipeline, self.name)
        return self

    def as_painter(self) -> Self:
        """Returns the folder. Raises ModelError if the model cannot repaint under a mask."""
        if self.painter is None:
            raise ModelError(
                f"{self.name} is a {self.pipeline}, which cannot repaint under a mask; use another --painter."
            )
        return self

    @property
    def attends(self) -> bool:
        """Whether the network has cross-attention from the picture to the words, as UNets have."""
        return self.format.attends

    @property
    def prediction_type(self) -> str:
        """The prediction type of the network in its scheduler's words, or `flow`."""
        if self.format.follows_flow:
            return "flow"
        return str(self._settings("scheduler", "scheduler_config.json").get("prediction_type", "epsilon"))

    @property
    def has_zero_terminal_snr(self) -> bool:
        return bool(self._settings("scheduler", "scheduler_config.json").get("rescale_betas_zero_snr"))

    @property
    def native_size(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""
        family = self.format
        return family.native_size(self.settings(family.denoiser), self.settings("vae"))

    @property
    def factor(self) -> int:
        """The side in pixels of a latent cell."""
        return self.format.factor(self.settings("vae"))

    @cached_property
    def profile(self) -> Profile | None:
        """The profile of a model that is distilled to few steps; None for any other. Raises ModelError, UsageError."""
        family, index = self.format, self._index
        named = [self.source, Path(self.name).name, str(index.get("_name_or_path") or "").rpartition("/")[2]]
        names = filter(None, [*named, *(lora.file.stem for lora in self.loras)])
        denoiser, scheduler = (
            self._settings(part, f"{file}.json")
            for part, file in ((family.denoiser, "config"), ("scheduler", "scheduler_config"))
        )
        return profiles.profile(family, self.distilled, names, index, denoiser, scheduler)

    @property
    def spacing(self) -> str | None:
        """Spacing of the timesteps in place of the scheduler's own; None for that, and in flows, which have none."""
        if self.profile is None or self.format.follows_flow:
            return None
        own = self._settings("scheduler", "scheduler_config.json").get("timestep_spacing")
        return None if own == profiles.TRAILING else profiles.TRAILING

    @property
    def guidance(self) -> str:
        """How the model is guided: "classifier-free", "embedded" or "none"."""
        family = self.format
        return family.guidance_by(self._index, self.settings(family.denoiser))

    @property
    def defaults(self) -> dict[str, Any]:
        guidance = self.format.guidance
        usual = {} if guidance is None else {"guidance": guidance}
        return usual | (self.profile.defaults if self.profile else {}) | super().defaults

    @property
    def is_quantised(self) -> bool:
        """Whether the weights of a network are stored quantised."""
        family = self.format
        return any(self.stores_quantised(part) for part in family.networks + family.optional)

    def stores_quantised(self, part: str) -> bool:
        """Whether the weights of a component are stored quantised, in a folder or in a .gguf file."""
        other = self.elsewhere.get(part)
        if other and not paths.is_folder(other):
            return gguf_header.is_gguf(other)
        has_settings = paths.is_file(self._folder(part) / "config.json")
        return has_settings and configs.QUANTISATION in self.settings(part)

    def settings(self, part: str) -> dict[str, Any]:
        """Returns the settings of a network. Raises ModelError if they cannot be read."""
        return self._settings(part, "config.json")

    @property
    def _index(self) -> dict[str, Any]:
        return configs.read(self.name, self.path / "model_index.json")

    def _settings(self, part: str, name: str) -> dict[str, Any]:
        return configs.read(self.name, self._folder(part) / name)

    def _folder(self, part: str) -> Path:
        """Returns the folder with the settings of a component."""
        other = self.elsewhere.get(part)
        return other if other and paths.is_folder(other) else self.path / part
