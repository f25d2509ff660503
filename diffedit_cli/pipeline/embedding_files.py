"""Reads and writes prompt embeddings as files, to keep them, mix them elsewhere, and use them in place of words."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import safetensors
import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.errors import InputError, reason
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline.prompts import POOLED, TOKENS, Embeds
from diffedit_cli.storage import artifacts, files, records

KIND = "embeds"


def pack(embedding: Embedding, about: Mapping[str, Any], model: ModelFolder) -> bytes:
    """Returns a `.safetensors` file: float32 tokens (B, L, D), pooled (B, P) if present, and the record `about`.

    A prompt with a mask has no token that does not count, so that the mask need not be stored.
    """
    tensors = {TOKENS: embedding.tokens, POOLED: embedding.pooled}
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
    of_model = {"model": model.digest, "model-name": model.name}
    return artifacts.pack(arrays, records.record(KIND, {**of_model, **about}))


def load(file: Embeds, like: Embedding, model: ModelFolder) -> tuple[Embedding, str | None]:
    """Returns the embedding (1, L, D) in a file, several rows averaged, and a warning or None.

    `like` is any embedding of the model; the result has its device and dtype. The warning says that another model made
    the file. Raises InputError for a file that does not fit the model.
    """
    tensors, made = _read(file)
    tokens = _averaged(file, tensors[file.tokens], rank=3)
    if tokens.shape[-1] != like.tokens.shape[-1]:
        raise _unfit(file, model, f"are {tokens.shape[-1]} wide and it reads {like.tokens.shape[-1]}")
    pooled = None
    if like.pooled is not None:
        if file.pooled is None:
            raise _unfit(file, model, f"lack the tensor {POOLED}, which it reads too")
        pooled = _averaged(file, tensors[file.pooled], rank=2)
        if pooled.shape[-1] != like.pooled.shape[-1]:
            widths = f"{pooled.shape[-1]} wide and it reads {like.pooled.shape[-1]}"
            raise _unfit(file, model, f"are, in the tensor {POOLED}, {widths}")
        pooled = pooled.to(like.pooled)
    warning = None
    if made.get("model", model.digest) != model.digest:
        warning = (
            f"The embeddings {file} were made with {made.get('model-name')}, which is another model than {model.name}: "
            "they mean the same only where both have the same text encoder."
        )
    tokens = tokens.to(like.tokens)
    mask = None if like.mask is None else torch.ones(tokens.shape[:2], dtype=torch.bool)
    return replace(like, tokens=tokens, pooled=pooled, mask=mask), warning


def average(embeddings: Sequence[Embedding]) -> Embedding:
    """Returns the mean of the embeddings of several prompts (1, L, D), computed in float32.

    With masks the lengths L may differ: at each position the mean is that of the prompts that have a token there.
    """
    rows = functools.reduce(Embedding.followed_by, embeddings)
    tokens = _mean(rows.tokens)
    if rows.mask is not None:
        weights = rows.mask[..., None].to(rows.tokens.device, torch.float32)
        tokens = (rows.tokens.float() * weights).sum(dim=0, keepdim=True) / weights.sum(dim=0, keepdim=True)
    pooled = None if rows.pooled is None else _mean(rows.pooled)
    mask = None if rows.mask is None else rows.mask.any(dim=0, keepdim=True)
    return replace(rows.part(slice(1)), tokens=tokens, pooled=pooled, mask=mask).to(rows.tokens.dtype)


def _mean(rows: Tensor) -> Tensor:
    return rows.to(torch.float32).mean(dim=0, keepdim=True)


def _read(file: Embeds) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns all tensors of a file, and its record, which is empty unless diffedit wrote the file."""
    path = file.path
    if hashlib.sha256(files.read(path, "embeddings file")).hexdigest() != file.digest:
        raise InputError(f"The embeddings file {path} was changed while it was in use; run the command again.")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            ours = records.KEY in (opened.metadata() or {})
        made = artifacts.unpack(path)[1] if ours else {}
        if ours and made["kind"] != KIND:
            raise ValueError(f"it holds {made['kind']}, not embeddings")
    except artifacts.UNREADABLE as error:
        raise InputError(
            f"The embeddings file {path} cannot be used: {reason(error)}; make one with --save-embeds."
        ) from error
    return tensors, made


def _averaged(file: Embeds, tensor: Tensor, rank: int) -> Tensor:
    """Returns the mean over a batch of prompts as one row; a single prompt is returned bit for bit."""
    tensor = tensor if tensor.ndim == rank else tensor[None]
    if 0 in tensor.shape or not tensor.isfinite().all():
        raise InputError(f"The embeddings file {file} holds no values, or some that are not finite; make it again.")
    return tensor if len(tensor) == 1 else _mean(tensor)


def _unfit(file: Embeds, model: ModelFolder, why: str) -> InputError:
    return InputError(
        f"The embeddings {file} do not fit the model {model.name}: they {why}; make them with --save-embeds "
        "and this model."
    )
