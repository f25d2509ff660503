"""Imports the libraries faster: without garbage collection and without packages that no edit uses.

A cold edit with the built-in model takes 3.0 s of one processor, 1.3 of them `import torch`, in place of 4.5 without
what a process of diffedit's own does beside UNUSED (medians of three, November 2026). Limits: what a library imports by
name from a package of UNUSED or SCANNING must be in STAND_INS, or the real package is imported and the saving lost, as
with another version of a library; tests/cli/test_startup.py notices both.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import logging
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

EAGER = (
    *("diffusers.hooks", "diffusers.models.autoencoders", "diffusers.models.transformers", "diffusers.models.unets"),
    *("numpy.f2py", "numpy.polynomial", "numpy.testing"),
)
"""Packages whose `__init__` imports all of their modules, about five hundred."""
UNUSED = ("torch._dynamo", "scipy.integrate", "scipy.optimize", "scipy.stats")
"""Torch's compiler, and what unused losses and schedulers import: a third of all imported modules."""
several = False
"""Whether several threads load models and import libraries, so that one would meet what another hides."""
alone = False
"""Whether the process is diffedit's own, so that nothing else in it uses what follows here."""
HIDDEN = ("torchao", "bitsandbytes", "peft", "trio")
"""Optional libraries that others would import in full wherever they are installed."""
SCANNING = ("transformers", "transformers.models")
"""Packages whose `__init__` reads the source of every model, and puts another object in the package's place."""
RESCANNING = ("transformers.processing_utils",)
"""Modules that run the `__init__` of SCANNING once more."""


class _Bare(ModuleType):
    """Package whose `__init__` runs only when a name of it is used; its modules are imported without that."""

    def __getattr__(self, name: str) -> Any:
        now = sys.modules.get(self.__name__, self)
        if now is not self:
            return getattr(now, name)
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        _run(self)
        return getattr(sys.modules[self.__name__], name)


def _run(package: ModuleType) -> None:
    """Runs the `__init__` of a bare package as an import does: after that of the package that it is in.

    Bare packages in it are forgotten before, so that it imports them, and not only their names, where it has to.
    """
    name = package.__name__
    outer = sys.modules.get(name.rpartition(".")[0])
    if isinstance(outer, _Bare):
        _run(outer)
    if sys.modules.get(name) is not package or not isinstance(package, _Bare):
        importlib.import_module(name)
        return
    for one in [one for one, inner in sys.modules.items() if one.startswith(f"{name}.") and isinstance(inner, _Bare)]:
        del sys.modules[one]
        vars(package).pop(one.removeprefix(f"{name}."), None)
    kind, package.__class__ = type(package), ModuleType  # type: ignore[assignment]  # an ordinary package from now on
    assert package.__spec__ is not None
    assert package.__spec__.loader is not None
    try:
        package.__spec__.loader.exec_module(package)
    except BaseException:
        sys.modules.pop(name, None)  # as after any import that fails, so that the next one begins anew
        raise
    now = sys.modules[name]
    if now is not package:
        package.__class__ = kind  # goes on answering those that hold it


class _Unused(_Bare):
    """Package that libraries import, or import names from, but that nothing here uses: names may be stand-ins."""

    def __getattr__(self, name: str) -> Any:
        return STAND_INS.get(name) or super().__getattr__(name)


class _Scanning(_Bare):
    """Package of SCANNING: imports a module that is asked for, and runs its `__init__` only for any other name."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__, self) is not self:
            return super().__getattr__(name)
        if name == "__version__":
            from importlib import metadata  # slow to import, and not needed for --help

            return metadata.version(self.__name__)
        if not name.startswith("__") and importlib.util.find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        return super().__getattr__(name)


class _ScanningUnused(_Unused, _Scanning):
    """Package of SCANNING of which libraries import names that nothing here uses."""


class _Later(type):
    """Class of a stand-in for a class of another module, which is imported when it is used."""

    def _real(cls) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._real(), name)

    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, cls._real())


class _NoDocumentation:
    """Stand-in for a parsed docstring that scipy adds notes to."""

    def __init__(self, _function: Any) -> None: ...

    def __getitem__(self, section: str) -> list[str]:
        return []

    def __str__(self) -> str:
        return "\n"


class _Distributions(Mapping[str, list[str]]):
    """The installed distributions by the names of their packages, which are searched for when they are asked for."""

    def __init__(self, find: Callable[[], Mapping[str, list[str]]]) -> None:
        self._found = functools.cache(find)

    def __getitem__(self, package: str) -> list[str]:
        return self._found()[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Stand-in for decorators that only mark what may be compiled, or document: returns the function unchanged."""
    return function or (lambda inner: inner)


def _linear_sum_assignment(*given: Any, **named: Any) -> Any:
    from scipy import optimize

    return optimize.linear_sum_assignment(*given, **named)


STAND_INS = {
    **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unmarked),
    "linear_sum_assignment": _linear_sum_assignment,
    "AutoImageProcessor": _Later(
        "AutoImageProcessor", (), {"__module__": "transformers.models.auto.image_processing_auto"}
    ),
    "PreTrainedModel": _Later("PreTrainedModel", (), {"__module__": "transformers.modeling_utils"}),
}
if sys.version_info >= (3, 11):
    STAND_INS["Unpack"] = typing.Unpack


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


def keep_libraries() -> None:
    """Spares the garbage collector the objects that are there now, which stay. Not for objects that may go again."""
    if alone:
        gc.freeze()


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """Context in which libraries do not import the packages of UNUSED. Imports torch and scipy themselves."""
    packages = [_bare(name, _Unused) for name in (*UNUSED, *(RESCANNING if alone else ()))]
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
def without_scans() -> Iterator[None]:
    """Context in which libraries do not read the sources of all models, nor the records of all distributions.

    Imports torch itself. From here on it says that it cannot compute in several processes together, for which libraries
    would import another two hundred modules of it.
    """
    from importlib import metadata

    import torch

    torch.distributed.is_available = lambda: False
    find = metadata.packages_distributions
    metadata.packages_distributions = lambda: _Distributions(find)
    packages = [_bare(name, _ScanningUnused) for name in SCANNING]
    try:
        yield
    finally:
        metadata.packages_distributions = find
        for package in packages:
            if isinstance(package, _ScanningUnused):
                package.__class__ = _Scanning  # type: ignore[assignment]  # from now on any use is a real one


@contextlib.contextmanager
def without_documentation() -> Iterator[None]:
    """Context in which transformers does not write docstrings; scipy does no longer after it. Imports both."""
    with contextlib.suppress(ImportError):  # a module of scipy's own, which may go
        from scipy._lib import _array_api

        _array_api.FunctionDoc = _NoDocumentation
    from transformers import utils

    document, utils.auto_docstring = utils.auto_docstring, _unmarked
    try:
        yield
    finally:
        utils.auto_docstring = document


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

    Where several threads load models it does nothing. In a process that is not diffedit's own nothing is hidden.
    Torchao, which is imported there, needs torch's whole compiler, and tells of what it lacks.
    """
    with contextlib.ExitStack() as savings:
        if several:
            yield
            return
        savings.enter_context(without_garbage())
        savings.enter_context(hiding() if alone else _without_warnings())
        if alone:
            savings.enter_context(without_scans())
        if alone or not is_installed("torchao"):
            savings.enter_context(without_unused())
        defer_package_imports()
        if alone:
            savings.enter_context(without_documentation())
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
    if parent:
        setattr(sys.modules[parent], own, package)  # as an import does
    return package
