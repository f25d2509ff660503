"""Qwen2.5-VL as a text encoder: what diffusers' pipelines lack to read a picture together with an instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

PICTURE, FILM = "<|image_pad|>", "<|video_pad|>"


class PictureProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Processor of pictures and words alone: that of films would need torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_token, self.video_token = PICTURE, FILM
        self.image_token_id, self.video_token_id = map(tokenizer.convert_tokens_to_ids, (PICTURE, FILM))
        ProcessorMixin.__init__(self, image_processor, tokenizer)


def read_processor(folder: Path) -> PictureProcessor:
    """Returns the processor that a folder holds. Raises ValueError, OSError and others of transformers."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return PictureProcessor(AutoImageProcessor.from_pretrained(folder, **options), tokenizer)


def mark_pictures(pipeline: Any) -> None:
    """Makes a pipeline tell its text encoder which tokens are of a picture.

    Without them transformers 5 counts the positions of a picture's tokens as those of words, and the embedding is
    another one than the model was trained with (huggingface/diffusers#14194).
    """

    def marked(network: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if named.get("image_grid_thw") is None or "mm_token_type_ids" in named:
            return given, named
        return given, named | {"mm_token_type_ids": (named["input_ids"] == network.config.image_token_id).int()}

    pipeline.text_encoder.register_forward_pre_hook(marked, with_kwargs=True)
