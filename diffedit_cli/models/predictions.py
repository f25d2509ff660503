"""Reads the prediction type of a checkpoint from its tensors, its header, or the .yaml file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError, reason
from diffedit_cli.models import weights
from diffedit_cli.storage import paths

HEADER = ("modelspec.prediction_type", "modelspec.predict_key")  # keys of Stability's standard and of ComfyUI
WORDS = {
    **dict.fromkeys(("epsilon", "eps", "EpsScaling"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "VScaling"), "v_prediction"),
    **dict.fromkeys(("x0", "sample"), "sample"),
}
"""Maps the values in headers and in both kinds of .yaml files to the prediction types of schedulers."""
_LARGEST = 2**16  # bytes; the longest published .yaml file has 5,000


def of(file: Path) -> str | None:
    """Returns `epsilon`, `v_prediction` or `sample`; None if nothing states it.

    The .yaml file beside takes precedence, because somebody wrote it about this file. Then comes a mark among the
    tensors, then the header, which tools fill in by themselves. Raises ModelError for any other value.
    """
    for source, said in _sayings(file):
        if said not in WORDS:
            raise ModelError(
                f"{file} has a noise process that diffedit does not support ({source} says {said[:60]}); use a model "
                "that predicts noise or v, or correct that value."
            )
        return WORDS[said]
    return None


def refuse_edm(file: Path) -> None:
    """Raises ModelError for a model of EDM's noise process, such as CosXL or Playground 2.5, known by its tensors."""
    if edm := [name for name in weights.header(file) if name.startswith("edm_")]:
        raise ModelError(
            f"{file} has EDM's noise process, which diffedit does not support (it holds {edm[0]}); use a model that "
            "predicts noise or v."
        )


def digest_of_beside(file: Path) -> str:
    """Returns the sha256 (hex) of the .yaml file beside; empty if there is none. Raises ModelError."""
    text = _beside(file)
    return "" if text is None else hashlib.sha256(text).hexdigest()


def _sayings(file: Path) -> Iterator[tuple[str, str]]:
    text = _beside(file)
    if text is not None and (said := _said_in_yaml(text, file)):
        yield str(yaml_of(file)), said
    if "v_pred" in weights.header(file):
        yield "its tensor v_pred", "v"
    header = weights.metadata(file)
    yield from (("its header", header[name]) for name in HEADER if header.get(name))


def yaml_of(file: Path) -> Path:
    """Returns the path of the settings that some tools write beside a checkpoint, whether they exist or not."""
    return file.with_suffix(".yaml")


def _beside(file: Path) -> bytes | None:
    path = yaml_of(file)
    if path == file or not paths.is_file(path):
        return None
    try:
        with path.open("rb") as opened:
            text = opened.read(_LARGEST + 1)
    except OSError as error:
        raise _unreadable(path, file, str(error.strerror)) from error
    if len(text) > _LARGEST:
        raise _unreadable(path, file, "it is too large")
    return text


def _said_in_yaml(text: bytes, file: Path) -> str | None:
    """Returns the parameterization in a latent-diffusion configuration, or the scaling in a generative-models one."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(yaml_of(file), file, reason(error)) from error
    model = _at(content, "model")
    if parameterization := _at(model, "params", "parameterization"):
        return str(parameterization)
    if scaling := _at(model, "params", "denoiser_config", "params", "scaling_config", "target"):
        return str(scaling).rpartition(".")[2]
    return "eps" if str(_at(model, "target")).startswith("ldm.") else None  # latent-diffusion's own default


def _at(content: Any, *path: str) -> Any:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _unreadable(path: Path, file: Path, reason: str) -> ModelError:
    return ModelError(f"The configuration {path} beside {file} cannot be read ({reason}); correct or remove it.")
