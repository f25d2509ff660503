"""The methods that edit the cases: diffedit with any options, DiffEdit as in its paper, and diffusers' pipelines."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods import Outcome, Where, build
from benchmarks.piebench.cases import Case, Mask
from benchmarks.piebench.figures import Pixels
from diffedit_cli import DiffEdit
from diffedit_cli._version import __version__
from diffedit_cli.errors import DiffEditError, InputError, UsageError, reason
from diffedit_cli.models import registry, transformers_folder
from diffedit_cli.models.names import hub_id
from diffedit_cli.pipeline import extra_models
from diffedit_cli.pipeline.params import PROMPTS, WORDS, Params
from diffedit_cli.pipeline.stats import LOAD
from diffedit_cli.storage import hashing
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.cache_folder import DIGESTS

METHODS = {
    "ours": "diffedit, with what --set says",
    "given": "the same within the data set's mask",
    "diffedit": "DiffEdit as in its paper, by diffedit's engine",
    "diffusers": "diffusers' deprecated DiffEdit pipeline",
    "sdedit": "SDEdit, image to image",
    "unchanged": "the picture itself: with --jpeg, what the format costs",
}
PAPER: Mapping[str, Any] = {
    "region": "object", "anyway": True, "mask_method": "noise", "maps": 10, "mask_strength": 0.5, "edges": 0.0,
    "grow": 0.0, "reach_down": 0.0, "zoom": 1.0, "steps": 50, "scheduler": "ddim", "caption": "", "strength": 0.8,
    "invert_from": 0.0, "last_level": 0.0, "guidance": 7.5, "guidance_end": 1.0, "guidance_every": 1, "negative": "",
    "room": 0.0, "feather": 0.0,
}  # fmt: skip
"""Settings of Couairon et al., arXiv:2210.11427, for Stable Diffusion: 50 steps of DDIM, guidance 7.5, ten draws of
noise at half strength, an unconditional inversion, and a mask that nothing refines."""
SEED = 0  # of every picture, as diffedit has it


@dataclass(frozen=True)
class Asked:
    """A case with its pictures in memory; the first four fields are what `benchmarks.methods` reads."""

    picture: Pixels
    source: str
    target: str
    number: int
    instruction: str
    mask: Mask | None

    @classmethod
    def of(cls, case: Case) -> Asked:
        picture = np.asarray(case.read_picture().convert("RGB"))
        return cls(picture, case.source, case.target, SEED, case.instruction, case.read_mask(picture.shape[:2]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of picture and mask; every method's results ask for it."""
        return hashing.of_bytes(self.picture.tobytes() + (b"" if self.mask is None else self.mask.tobytes()))

    def filled(self, value: Any) -> Any:
        """Returns a setting with {from}, {to} and {instruction} as the case words them."""
        if not isinstance(value, str):
            return value
        for name, words in (("from", self.source), ("to", self.target), ("instruction", self.instruction)):
            value = value.replace(f"{{{name}}}", words)
        return value


class Ours:
    """diffedit's Python interface; `settings` are its arguments and parameters by name."""

    def __init__(self, model: str, settings: Mapping[str, Any], where: Where, in_mask: bool = False) -> None:
        options = {name: value for name, value in settings.items() if name in OPTIONS}
        for name in ("lora", "embedding", "text_encoder"):
            if isinstance(options.get(name), str):
                options[name] = [options[name]]
        self.editor = DiffEdit(model, device=where.device, dtype=where.dtype, **options)
        self.params = {name: value for name, value in settings.items() if name not in OPTIONS}
        self.in_mask = in_mask

    def __call__(self, asked: Asked) -> Outcome:
        said = {"from_": asked.source, "to": asked.target, **self.params}
        mask = asked.mask if self.in_mask else None
        started = time.perf_counter()
        result = self.editor.edit(asked.picture, mask=mask, **{name: asked.filled(said[name]) for name in said})
        seconds = time.perf_counter() - started - result.stats.seconds.get(LOAD, 0.0)
        made = np.asarray(result.image.convert("RGB"))
        return Outcome(made, made, result.mask.pixels, sum(result.stats.evaluations.values()), seconds)


def unchanged(asked: Asked) -> Outcome:
    """Returns the picture as it is."""
    return Outcome(asked.picture, asked.picture, None, 0, 0.0)


OPTIONS = set(inspect.signature(DiffEdit).parameters) - {"model", "device", "dtype", "cache", "on_step"}


def identity(name: str, model: str, settings: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """Returns all that a method's results depend on besides the case."""
    own = {"ours": settings, "given": settings, "diffedit": PAPER}.get(name, {})
    weights = registry.find(model).digest
    return {
        "method": name, "model": model, "weights": weights, "settings": dict(own), "device": where.device,
        "dtype": where.dtype, "version": __version__, **({"named": named} if (named := digests(own)) else {}),
    }  # fmt: skip


def digests(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the digests of the files and models that settings name or use, besides the model itself, by setting."""
    memo, found = default_root() / DIGESTS, dict[str, Any]()
    for name, value in settings.items():
        words = [] if name in (*PROMPTS, *WORDS) else value if isinstance(value, list | tuple) else [value]
        if here := [path for word in words if isinstance(word, str) for path in _named(word)]:
            found[name] = [_digest(path, memo) for path in here]
    fields = Params.__dataclass_fields__
    with contextlib.suppress(DiffEditError):  # the edit fails with it
        params = Params(**{name: value for name, value in settings.items() if name in fields})
        for option, model in extra_models.used(params).items():
            found[option] = extra_models.digest(option, model, memo)
    return found


def _named(word: str) -> Iterator[Path]:
    """Yields the files and folders that the value of a setting names, as FILE:SCALE, MODEL+MODEL or a hub id too."""
    for name in dict.fromkeys((word, word.rpartition(":")[0], *transformers_folder.joined(word))):
        if name and (path := transformers_folder.locate(name) or registry.in_hub_cache(hub_id(name))):
            yield path


def _digest(path: Path, memo: Path) -> str:
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    try:
        return hashing.of_record({str(one.relative_to(path)): hashing.of_file(one, memo) for one in files})
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error


def method(name: str, model: str, settings: Mapping[str, Any], where: Where) -> Callable[[Asked], Outcome]:
    """Returns one of METHODS, ready to run. Raises UsageError for a model that it cannot have, ModelError."""
    if name in ("ours", "given"):
        return Ours(model, settings, where, in_mask=name == "given")
    if name == "diffedit":
        return Ours(model, PAPER, where)
    if name == "unchanged":
        return unchanged
    folder = registry.find(model)
    if folder.family != "sd":
        raise UsageError(
            f"The method {name} needs a model of Stable Diffusion 1 or 2, and {model} is not; leave it out."
        )
    return build(name, folder, Params(), where)
