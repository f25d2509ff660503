"""Importing the libraries in half the time: without what a model does not need, and without pauses for garbage."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

EAGER = ("diffusers.models.autoencoders", "diffusers.models.transformers", "diffusers.models.unets")
"""Packages whose `__init__` imports every model that there is, some hundred modules."""
UNUSED = ("torch._dynamo", "scipy.integrate", "scipy.optimize", "scipy.stats")
"""Torch's compiler, and what losses and schedulers that are not used here ask for: a third of all that is there."""


class _Bare(ModuleType):
    """A package whose own code runs only if someone asks it for a name; its modules are imported without that."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]  # a plain package from now on
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _Unused(_Bare):
    """A package that libraries take when they are imported, or some names of it, for what is not done here."""

    def __getattr__(self, name: str) -> Any:
        return STAND_INS.get(name) or super().__getattr__(name)


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """For what only marks what may be compiled and what must not."""
    return function or (lambda inner: inner)


def _linear_sum_assignment(*given: Any, **named: Any) -> Any:
    from scipy import optimize

    return optimize.linear_sum_assignment(*given, **named)


STAND_INS = {
    **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unmarked),
    "linear_sum_assignment": _linear_sum_assignment,
}


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """For a while without the garbage collector: imports make objects that stay, which it would look through again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """For a while without what libraries import and nothing here uses. Imports torch and scipy themselves."""
    packages = [_bare(name, _Unused) for name in UNUSED]
    try:
        yield
    finally:
        for package in packages:
            if isinstance(package, _Unused):
                package.__class__ = _Bare  # type: ignore[assignment]  # whoever asks it for anything now means it


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """All of this, around whatever imports the libraries or loads a model."""
    with without_garbage(), without_unused():
        only_what_is_named()
        yield


def only_what_is_named() -> None:
    """Makes bare packages of the eager ones that are not imported yet. Imports diffusers itself, and torch."""
    for name in EAGER:
        _bare(name, _Bare)


def _bare(name: str, kind: type[_Bare]) -> ModuleType | None:
    """The package, bare, unless it is imported already."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        return None
    package = importlib.util.module_from_spec(spec)
    package.__class__ = kind
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, package)  # as importing it would
    return package
