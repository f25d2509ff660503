"""LoRA and textual-inversion files named on the command line, checked and identified, but not loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit_cli.engine.networks import gguf_header
from diffedit_cli.engine.networks.model_formats import SETTINGS_KEY, adapter_settings
from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.models import weights
from diffedit_cli.storage import hashing, paths

if TYPE_CHECKING:
    from diffedit_cli.models.folder import ModelFolder


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength; 1 is the strength that it was trained with."""

    file: Path
    scale: float
    digest: str

    @property
    def identity(self) -> str:
        """What results depend on: content and strength, not the path of the file."""
        return f"lora {self.digest} {self.scale!r}"

    @property
    def words(self) -> str:
        """The spelling on the command line."""
        return str(self.file) if self.scale == 1 else f"{self.file}:{self.scale:g}"


@dataclass(frozen=True)
class TextualInversion:
    """A file of vectors for a token of prompts; if `token` is None, the file's content or name provides it."""

    file: Path
    token: str | None
    digest: str

    @property
    def identity(self) -> str:
        """What results depend on: content and token; the file's name counts if it may be the token."""
        return f"embedding {self.digest} {self.token or self.file.stem}"

    @property
    def words(self) -> str:
        """The spelling on the command line."""
        return str(self.file) if self.token is None else f"{self.file}:{self.token}"


Addition = Lora | TextualInversion
LARGEST = 10**6  # bytes of a LoRA's settings; PEFT writes a few thousand


def attach(model: ModelFolder, lora: Iterable[str], embedding: Iterable[str], memo: Path) -> ModelFolder:
    """Returns the model with its LoRAs and textual inversions, named as `loras` and `embeddings` take them.

    `memo` is the folder where digests of large files are remembered. Raises UsageError or ModelError.
    """
    lora, quantised = list(lora), [path for path in model.elsewhere.values() if gguf_header.is_gguf(path)]
    if lora and quantised:
        raise ModelError(
            f"--lora {lora[0]} cannot change the quantised weights of {quantised[0]}; use the model as .safetensors."
        )
    return replace(model, loras=loras(lora, memo), embeddings=embeddings(embedding, memo))


def loras(given: Iterable[str], memo: Path) -> tuple[Lora, ...]:
    """Returns the LoRAs named as FILE or FILE:SCALE. Raises UsageError or ModelError."""
    found = []
    for words in given:
        path, _, tail = words.rpartition(":")
        scale = _number(tail) if path and not paths.is_there(words) else None
        file = _file(words if scale is None else path)
        if scale is not None and not math.isfinite(scale):
            raise UsageError(f"--lora {words} has no scale; give a number, such as {path}:0.8.")
        _check(file, "LoRA")
        if not any("lora" in key for key in weights.header(file, "LoRA", _FILE)):
            raise ModelError(f"{file} is not a LoRA: no tensor has lora in its name; use --model for other weights.")
        if (beside := adapter_settings(file)) and beside.stat().st_size > LARGEST:
            raise ModelError(f"{beside} is too large for the settings of a LoRA; fetch {file.name} anew, with its own.")
        if len(weights.metadata(file, "LoRA", _FILE).get(SETTINGS_KEY, "")) > LARGEST:
            raise ModelError(f"{SETTINGS_KEY} in {file} is too large for the settings of a LoRA; fetch it anew.")
        digest = hashing.of_file(file, memo) + (f" {hashing.of_content(beside)}" if beside else "")
        found.append(Lora(file, 1.0 if scale is None else scale, digest))
    return tuple(found)


def embeddings(given: Iterable[str], memo: Path) -> tuple[TextualInversion, ...]:
    """Returns the textual inversions named as FILE or FILE:TOKEN. Raises UsageError or ModelError."""
    found = []
    for words in given:
        path, _, tail = words.rpartition(":")
        named = bool(path) and not paths.is_there(words)
        file, token = _file(path if named else words), tail if named else None
        if token is not None and (not token or token.split() != [token]):
            raise UsageError(f"--embedding {words} has no token; give one word, such as {path}:<style>.")
        _check(file, "embedding")
        weights.header(file, "embedding", _FILE)
        found.append(TextualInversion(file, token, hashing.of_file(file, memo)))
    return tuple(found)


_FILE = "a .safetensors file"


def _file(words: str) -> Path:
    return Path(os.path.expanduser(words))  # noqa: PTH111  # Path's own raises for users that are not there


def _check(file: Path, what: str) -> None:
    if not paths.is_file(file):
        raise ModelError(f"There is no {what} file {file}; check the name.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
