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


def only_what_is_named() -> None:
    """Makes bare packages of the eager ones that are not imported yet. Imports diffusers itself, and torch."""
    for name in EAGER:
        spec = importlib.util.find_spec(name) if name not in sys.modules else None
        if spec is not None:
            package = importlib.util.module_from_spec(spec)
            package.__class__ = _Bare
            sys.modules[name] = package
            parent, _, own = name.rpartition(".")
            setattr(sys.modules[parent], own, package)  # as importing it would
