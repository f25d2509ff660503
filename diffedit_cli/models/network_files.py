"""Files that hold one network of a model: which part of which family they are, and the model of the other parts."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks import gguf_header, model_formats
from diffedit_cli.engine.networks.family import NetworkFile
from diffedit_cli.engine.networks.model_formats import FAMILIES, network_file
from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs, predictions, weights
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.storage import paths

EMBEDDINGS = ("token_embedding.weight", "embed_tokens.weight", "shared.weight")
"""Ends of the names of the tensor with a vector for each token, whose shape tells text encoders apart."""


def recognised(file: Path) -> tuple[str, NetworkFile] | None:
    """Returns the family and the layout of a file that holds a denoiser alone; None for any other .safetensors file.

    Raises ModelError for a file of another format, a damaged one, and a .gguf file with anything else.
    """
    found = network_file(weights.shapes(file))
    if gguf_header.is_gguf(file):
        if found is None:
            raise ModelError(f"{file} is not the network of a family that diffedit knows; use another model.")
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(
                f"{file} needs the package gguf, which is not installed; get it with: pip install 'diffedit-cli[gguf]'."
            )
    return found


def check_noise_process(file: Path, model: ModelFolder) -> None:
    """Raises ModelError if the file of a denoiser says that it was trained for another noise process than the model's.

    A checkpoint's scheduler is set by the same marks, but here it belongs to the model with the other parts.
    """
    if gguf_header.is_gguf(file) or FAMILIES[model.family].follows_flow:
        return
    predictions.refuse_edm(file)
    said, names = predictions.of(file), model_formats.without_prefix(weights.header(file))
    if said not in (None, model.prediction_type):
        raise ModelError(
            f"{file} predicts {said}, and the scheduler in {model.path} is for {model.prediction_type}; name another "
            "model with --model-config."
        )
    if "ztsnr" in names and not model.has_zero_terminal_snr:
        raise ModelError(
            f"{file} was trained with zero terminal SNR, and the scheduler in {model.path} without it; name another "
            "model with --model-config."
        )


def placed(name: str, folder: Path, family: str, text_encoders: Iterable[str], vae: str | None) -> dict[str, Path]:
    """Returns the files or folders given for text encoders and VAE of a model by part.

    Args:
        name: Name of the model, for messages.
        folder: Folder with the settings of the model.
        family: Family of the model.
        text_encoders: Files or folders; their sizes determine which text encoder each of them is.
        vae: File or folder.

    Raises:
        ModelError: If one is not there, not readable, or no text encoder of that model.
    """
    found: dict[str, Path] = {}
    for words in text_encoders:
        path = _path(words, "--text-encoder")
        if (part := _encoder(name, path, folder, family)) in found:
            raise ModelError(f"{path} and {found[part]} are both the {part} of the model {name}; give one of them.")
        found[part] = path
    return found | ({"vae": _path(vae, "--vae")} if vae else {})


def size(path: Path) -> tuple[int, int]:
    """Returns the number of tensors and of bytes in a file. Raises ModelError."""
    return len(weights.shapes(path, "file of weights")), path.stat().st_size


def _path(words: str, option: str) -> Path:
    path = Path(os.path.expanduser(words))  # noqa: PTH111  # Path's own raises for users that are not there
    if not paths.is_there(path):
        raise ModelError(f"There is no {option} file {path}; check the name.")
    if paths.is_folder(path):
        if not paths.is_file(path / "config.json"):
            raise ModelError(f"The folder {path} of {option} has no config.json; name that of a network, or its file.")
        configs.check_folder(str(path), path)
    elif gguf_header.is_gguf(path):
        raise ModelError(f"{path} is a .gguf file, which only --model takes; give {option} a .safetensors file.")
    else:
        weights.shapes(path, "file of weights")
    return path


def _encoder(name: str, path: Path, folder: Path, family: str) -> str:
    """Returns the part that a text encoder is: the one whose settings state its vocabulary and its width."""
    own = _sizes(configs.read(name, path / "config.json")) if paths.is_folder(path) else _embedding(path)
    wanted = {
        part: _sizes(configs.read(name, folder / part / "config.json"))
        for part in FAMILIES[family].all_parts
        if part.startswith("text_encoder") and paths.is_folder(folder / part)
    }
    if part := next((part for part, sizes in wanted.items() if sizes == own), None):
        return part
    said = ", ".join(f"{part} of width {width} for {count} tokens" for part, (count, width) in wanted.items())
    raise ModelError(
        f"{path} is no text encoder of the model {name}, "
        f"{f'it is of width {own[1]} for {own[0]} tokens' if own else 'it has no vectors of tokens'}; "
        f"that model has {said}."
    )


def _embedding(path: Path) -> tuple[int, ...] | None:
    found = [shape for name, shape in weights.shapes(path).items() if name.endswith(EMBEDDINGS) and len(shape) == 2]
    return found[0] if found else None


def _sizes(said: Mapping[str, Any]) -> tuple[int, int]:
    inner = said.get("text_config") or {}
    width = {**said, **inner}.get("hidden_size", said.get("d_model"))
    return {**said, **inner}.get("vocab_size", 0), width or 0
