"""Builds the command lines that repeat what the record of a file describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffedit_cli.images import masks
from diffedit_cli.pipeline import prompts
from diffedit_cli.pipeline.edit_plan import plan_of
from diffedit_cli.pipeline.param_fields import SCHEDULERS
from diffedit_cli.pipeline.parameter import AUTO, flag
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Prompt


def options_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the command-line options that repeat a mask, latents or edit record, without those at their default."""
    found: dict[str, Any] = {}
    mask, latents, edit = (record.get(part, {}) for part in ("mask", "latents", "edit"))
    for part in (record, latents, mask, edit):
        for name, value in part.items():
            if not isinstance(value, (dict, list)) or name.endswith(prompts.SENTENCES):
                found.pop(prompts.counterpart(name), None)
                found[name] = value
    if "from-embeds" not in found:
        found.setdefault("from", "")
    found = _before_regions(record) | found
    words = ["--mask", "MASK.png"] if _needs_mask(record) else []
    if any(found.get(name, value) != value for name, value in latents.items()):
        words += ["--latents", "LATENTS.safetensors"]
    for name in ("within", "exclude"):
        words += [f"--{name}", f"{name.upper()}.png"] if name in found else []
    for name in ("box", "point"):
        words += [f"--{name}", str(found[name])] if name in found else []
    usual = {"negative": _usual_negative(found), "invert_every": SCHEDULERS.get(str(found.get("scheduler")))}
    for field in dataclasses.fields(Params):
        name = flag(field.name).removeprefix("--")
        value, file = found.get(name), found.get(prompts.counterpart(name))
        if field.name == "caption" and _said(found, name) == _said(found, "from"):
            continue
        if value not in (None, field.default, usual.get(field.name)):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        if file is not None:
            words += [f"--{prompts.counterpart(name)}", f"{name.upper()}.safetensors"]
    if "inpainter" in edit:
        words += ["--painter", edit["inpainter-name"]]
    if not found.get("safety", True):
        words.append("--no-safety")
    if found.get("model-name", "builtin") != "builtin":
        words += ["--model", found["model-name"]]
    for name in ("model-config", "vae", "distilled"):
        words += [f"--{name}", found[name]] if name in found else []
    for name in ("text-encoder", "lora", "embedding"):
        words += [word for value in record.get(name, ()) for word in (f"--{name}", value)]
    if found.get("vae-tiling"):
        words.append("--vae-tiling")
    for name, default in (("quantize", "none"), ("dtype", "float32"), ("runtime", "torch")):
        words += [f"--{name}", found[name]] if found.get(name, default) != default else []
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise TypeError(f"{wrong[0]!r} is not text")
    return words


def preparations_of(record: Mapping[str, Any]) -> list[list[str]]:
    """Returns the commands that make the files named by `options_of` an edit, except for a drawn mask."""
    words, found = options_of(record), []
    for part, command, file in (("mask", "mask", "MASK.png"), ("latents", "invert", "LATENTS.safetensors")):
        if file in words and part in record and not {"drawn", masks.CHANGED} & {*record[part]}:
            stage = {name: value for name, value in record.items() if not isinstance(value, dict)} | record[part]
            found.append([command, "PICTURE", *options_of(stage), "-o", file])
    return found


def _needs_mask(record: Mapping[str, Any]) -> bool:
    """Whether a mask was drawn by hand, or found for other prompts or another seed than the edit's."""
    mask, edit = (record.get(part, {}) for part in ("mask", "edit"))
    if {"drawn", masks.CHANGED} & {*mask} or {"drawn", "mask-method"} <= record.keys():
        return True
    return any(edit.get(k, v) != v or prompts.counterpart(k) in edit for k, v in mask.items())


def _before_regions(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the implicit values of edits and masks whose records were written before edits had a `region`."""
    parts = [record, *(record.get(part, {}) for part in ("mask", "edit"))]
    if any("region" in part for part in parts) or not ("edit" in record or record.get("kind") == "mask"):
        return {}
    levels = {"invert-from": 0.0, "last-level": 0.0} if record.get("model-name") == "builtin" else {}
    return {"region": "object"} | ({"room": 0.0, **levels} if "edit" in record else {})


def _usual_negative(found: Mapping[str, Any]) -> Prompt | None:
    """Returns the default negative prompt of an edit, derived from its text prompts but not from embeddings files."""
    source, target = (str(found.get(name, "")) for name in ("from", "to"))
    return plan_of(Params(from_=source, to=target, region=found.get("region", AUTO)), {}).given.negative


def _said(found: Mapping[str, Any], name: str) -> list[Any]:
    """Returns what a record holds of a prompt: its text, its embeddings and its sentences."""
    return [found.get(key) for key in (name, prompts.counterpart(name), name + prompts.SENTENCES)]
