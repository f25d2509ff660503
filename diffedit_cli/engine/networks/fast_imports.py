"""Imports the libraries faster: without garbage collection and without packages that no edit uses.

A cold edit with the built-in model takes 6.5 s of processor time in place of 8.1 (medians of five, November 2026): no
garbage collection saves 0.6, EAGER 0.25, UNUSED 0.8 s. Limits: what a library imports by name from a package of UNUSED
must be in STAND_INS, or the real package is imported and the saving lost; tests/cli/test_startup.py notices both.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

EAGER = ("diffusers.models.autoencoders", "diffusers.models.transformers", "diffusers.models.unets")
"""Packages whose `__init__` imports every model of diffusers, about a hundred modules."""
UNUSED = ("torch._dynamo", "scipy.integrate", "scipy.optimize", "scipy.stats")
"""Torch's compiler, and what unused losses and schedulers import: a third of all imported modules."""
alone = False
"""Whether the process is diffedit's own, so that nothing else in it looks for the libraries of HIDDEN."""
HIDDEN = ("torchao", "bitsandbytes")
"""Libraries of quantisation, which transformers and diffusers would import in full wherever they are installed."""


class _Bare(ModuleType):
    """Package whose `__init__` runs only when a name of it is used; its modules are imported without that."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary package from now on
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _Unused(_Bare):
    """Package that libraries import, or import names from, but that nothing here uses: names may be stand-ins."""

    def __getattr__(self, name: str) -> Any:
        return STAND_INS.get(name) or super().__getattr__(name)


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Stand-in for decorators that only mark what may be compiled: returns the function unchanged."""
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
    """Context without garbage collection, which would scan the objects of imported modules again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """Context in which libraries do not import the packages of UNUSED. Imports torch and scipy themselves."""
    packages = [_bare(name, _Unused) for name in UNUSED]
    try:
        yield
    finally:
        for package in packages:
            if isinstance(package, _Unused):
                package.__class__ = _Bare  # type: ignore[assignment]  # from now on any use is a real one


@contextlib.contextmanager
def hiding() -> Iterator[None]:
    """Context in which the libraries of HIDDEN seem not to be installed, which other libraries remember."""
    absent = [name for name in HIDDEN if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is Python's mark for a module to refuse
    try:
        yield
    finally:
        _reveal(absent)


@contextlib.contextmanager
def with_quantisers() -> Iterator[None]:
    """Context in which the libraries of HIDDEN can be imported, and say nothing of the extensions that they lack."""
    import torch._dynamo

    torch._dynamo.reset  # noqa: B018  # a name that is no stand-in: torchao needs the whole compiler
    _reveal(HIDDEN)
    with _without_warnings():
        yield


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def is_installed(library: str) -> bool:
    """Whether a library of HIDDEN is installed."""
    _reveal([library])
    return importlib.util.find_spec(library) is not None


def _reveal(names: Iterable[str]) -> None:
    for name in names:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Context with all of these savings, for importing the libraries and for loading a model.

    In a process that is not diffedit's own nothing is hidden. Torchao, which is imported there, needs torch's whole
    compiler, and tells of what it lacks.
    """
    with contextlib.ExitStack() as savings:
        savings.enter_context(without_garbage())
        savings.enter_context(hiding() if alone else _without_warnings())
        if alone or not is_installed("torchao"):
            savings.enter_context(without_unused())
        defer_package_imports()
        yield


def defer_package_imports() -> None:
    """Replaces the packages of EAGER that are not imported yet by bare ones. Imports diffusers itself, and torch."""
    for name in EAGER:
        _bare(name, _Bare)


def _bare(name: str, kind: type[_Bare]) -> ModuleType | None:
    """Returns the package as a bare one, or None if it is imported already or does not exist."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        return None
    package = importlib.util.module_from_spec(spec)
    package.__class__ = kind
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, package)  # as an import does
    return package
