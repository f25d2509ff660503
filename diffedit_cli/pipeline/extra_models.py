"""The models besides the diffusion model that a result depends on: those that find masks by words or write prompts."""

from __future__ import annotations

from pathlib import Path

from diffedit_cli.errors import DiffEditError
from diffedit_cli.models import transformers_folder
from diffedit_cli.pipeline.mask_expression import SEGMENT
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params

CAPTIONS, SENTENCES = "BlipForConditionalGeneration", "T5ForConditionalGeneration"


def used(params: Params) -> dict[str, str]:
    """Returns the names of the models that the parameters use, by option."""
    segments = any(operand.name == SEGMENT for operand in params.mask_expression.operands())
    found = {"segmenter": params.segmenter} if segments else {}
    found |= (
        {"caption-model": params.caption_model} if isinstance(params.caption, str) and params.caption == AUTO else {}
    )
    return found | ({"expand-model": params.expand_model} if params.expand else {})


def digest(option: str, name: str, memo: Path) -> str | None:
    """Returns the digest (hex) of a model that `used` names, None if it cannot be used; `memo` keeps those of files.

    Whatever needs the model then raises the error.
    """
    try:
        if option == "segmenter":
            from diffedit_cli.pipeline import segmentation  # imports torch

            return segmentation.find(name, memo).digest
        kind = CAPTIONS if option == "caption-model" else SENTENCES
        return transformers_folder.find(name, kind).digest(memo)
    except DiffEditError:
        return None
