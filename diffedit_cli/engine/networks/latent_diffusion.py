"""Base class of the families: loading, VAE, cache of prompt embeddings, network calls and float32 fallback."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, precision, source_values
from diffedit_cli.engine.networks import offload as offloading
from diffedit_cli.engine.networks.batched_calls import Calls
from diffedit_cli.engine.networks.cuda_graphs import CudaGraphs, Recorder
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.original_layout import Layout
from diffedit_cli.engine.networks.prompt_encoding import PromptEncoding
from diffedit_cli.engine.networks.quantisation import Quantisation
from diffedit_cli.engine.networks.source_values import ValueKeeping, ValueLayer
from diffedit_cli.engine.networks.text_encoders import TextEncoder
from diffedit_cli.engine.networks.vae_latents import VaeLatents
from diffedit_cli.engine.process import Level, Prediction, PredictionType, interpret
from diffedit_cli.errors import ModelError

if TYPE_CHECKING:
    from typing_extensions import Self


class LatentDiffusion(VaeLatents, PromptEncoding, ValueKeeping):
    """VAE, network on its latents, and text encoders. Latents are float32, the networks run in their own dtype."""

    READERS: ClassVar[Mapping[str, components.Reader]]  # by component, as its folder and its class argument are named
    OPTIONAL: ClassVar[Sequence[str]] = ()  # components that model_index.json may leave out
    LAYOUTS: ClassVar[Mapping[str, Layout]] = {}  # of the original checkpoints, whose names LoRAs use, by component
    FORMAT: ClassVar[Family]  # row of model_formats.FAMILIES
    CAPTURABLE: ClassVar[bool] = True  # whether the network computes on its device alone, as a CUDA graph has to

    prediction_type: PredictionType
    scheduler: Any

    def __init__(self, *, vae: Any, network: Any, encoders: Sequence[TextEncoder], name: str) -> None:
        """Raises ModelError when the parts do not fit each other."""
        VaeLatents.__init__(self, vae, name, self.FORMAT.factor(vae.config))
        PromptEncoding.__init__(self, network, encoders)
        self._check_fit()
        self.native_size = self.FORMAT.native_size(network.config, vae.config)
        self.multiple = self.FORMAT.multiple(network.config, vae.config)
        if self.native_size < 1:
            raise ModelError(f"The model {name} has a native size of {self.native_size} pixels; get it again.")
        self.evaluations = 0
        self.graphs: CudaGraphs | None = None
        self._evaluate: Callable[[ModelInput], Tensor] = self._output
        self._calls = Calls(self._answer)
        self._ask: Callable[[ModelInput], Tensor] = self._calls.ask

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str,
        dtype: torch.dtype,
        name: str | None = None,
        variant: str | None = None,
        change: Callable[[components.Parts], None] | None = None,
        elsewhere: Mapping[str, Path] | None = None,
        quantise: Quantisation | None = None,
    ) -> Self:
        """Returns the model of a diffusers folder, from `.safetensors` weights only, of `variant` if given.

        `change` changes the parts in place before they are quantised and used. `elsewhere` has the files or folders of
        parts that are not in the folder. Raises ModelError with the part that cannot be used.
        """
        name, index, adapted = name or str(folder), components.index(folder), cls.FORMAT.adapted
        readers = cls.readers_for(index)
        found = components.read(folder, readers, device, dtype, name, variant, change, adapted, elsewhere, quantise)
        with components.fit_errors(name):
            return cls(**found, **cls.settings_in(index), name=name)

    @classmethod
    def readers_for(cls, index: Mapping[str, Any]) -> dict[str, components.Reader]:
        """Returns the readers of the parts that a model has by its `model_index.json`."""
        absent = [part for part in cls.OPTIONAL if not any(index.get(part) or ())]
        return {part: reader for part, reader in cls.READERS.items() if part not in absent}

    @classmethod
    def settings_in(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings in `model_index.json` that the family's results depend on."""
        return {setting: index[setting] for setting in cls.FORMAT.settings if setting in index}

    def levels(self, steps: int, cells: int | None = None) -> Sequence[Level]:
        with components.fit_errors(self.name), np.errstate(all="ignore"):
            levels = self._levels(steps, cells)
            if not all(
                isinstance(share, float) and 0 <= share <= 1 for level in levels for share in (level.a, level.b)
            ):
                raise ValueError("its scheduler gives noise levels outside of 0 to 1")
        return levels

    @abstractmethod
    def _levels(self, steps: int, cells: int | None) -> Sequence[Level]: ...

    @abstractmethod
    def _output(self, rows: ModelInput) -> Tensor: ...

    def watched_layers(self) -> Sequence[nn.Module]:
        """Returns the cross-attention layers that a mask watches; none if it watches outputs of joint attention."""
        return ()

    @abstractmethod
    def _value_layers(self, rows: ModelInput) -> Sequence[ValueLayer]: ...

    @abstractmethod
    def _check_fit(self) -> None: ...

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        count = len(x_t)
        self.evaluations += count
        labels = torch.full((count,), at.timestep, device=x_t.device)
        output = self._ask(ModelInput(x_t, labels, text.rows(count), [self._watch] * count))
        return interpret(output.float(), x_t, at, self.prediction_type)

    def _answer(self, rows: ModelInput) -> Tensor:
        with components.fit_errors(self.name), source_values.exchange(lambda: self._value_layers(rows), rows):
            return self._evaluate(rows)

    def beside(self, ask: Callable[[ModelInput], Tensor]) -> Self:
        view = copy.copy(self)
        view.evaluations, view._ask = 0, ask
        return view

    def ask_together(self, asked: Sequence[ModelInput], as_one: bool = False) -> Sequence[Tensor | Exception]:
        return self._calls.ask_together(asked, as_one)

    def capture(self, recorder: Recorder) -> None:
        """Evaluates the network by graphs from now on, while its weights stay where and what they are."""
        self.graphs = self._evaluate = CudaGraphs(self._output, recorder)

    def compute_on(self, device: str | torch.device) -> None:
        """Computes on `device` from now on, wherever the networks wait."""
        self.device = torch.device(device)
        for encoder in self.encoders:
            encoder.device = self.device

    def offload_to(self, device: str, offload: str) -> None:
        """Computes on `device` from now on, while networks that are not in use wait in main memory.

        `offload` is the unit that moves to the device: whole networks ("model"), or their layers, the next one ahead
        of time ("group") or each by itself ("sequential").
        """
        self.compute_on(device)
        units = {"model": offloading.by_model, "group": offloading.by_group, "sequential": offloading.by_layer}
        units[offload](self._networks(), device)

    @property
    def dtype_name(self) -> str:
        return str(self.network.dtype).removeprefix("torch.")

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        self._embeddings.clear()
        ask, self._ask = self._ask, self._calls.ask  # not joined: other pictures wait, as they share the networks
        try:
            with nullcontext() if self.graphs is None else self.graphs.paused(), precision.in_float32(self._networks()):
                yield
        finally:
            self._ask = ask
            self._embeddings.clear()

    def _networks(self) -> list[nn.Module]:
        return [self.vae, self.network, *(encoder.network for encoder in self.encoders)]

    def _check_width(self, what: str, expected: int, given: int) -> None:
        """Raises ModelError unless the width of the text encoders is the one that the network expects."""
        if expected != given:
            raise ModelError(
                f"The model {self.name} does not fit: its {what} of width {expected} and its text "
                f"{'encoders give' if len(self.encoders) > 1 else 'encoder gives'} {given}."
            )
