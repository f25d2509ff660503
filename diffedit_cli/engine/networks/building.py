"""Networks are built by settings that a stranger may have written: never larger than their weights give reason for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook

TIMES = 2  # as much as is stored: what several layers share is stored once
SPARE_NUMBERS, SPARE_TENSORS = 2**26, 1000  # that may be built beyond: 256 MB


@contextlib.contextmanager
def no_larger_than(files: Iterable[Path]) -> Iterator[None]:
    """While a network is read from these files. Raises ValueError as soon as more is built than they can fill.

    Libraries build without memory and then fill in what the files lack: that is what takes it.
    """
    numbers, tensors = _held(files)
    numbers, tensors = TIMES * numbers + SPARE_NUMBERS, TIMES * tensors + SPARE_TENSORS
    own, built = threading.get_ident(), [0, 0]

    def count(_module: Any, _name: str, parameter: Any) -> None:
        if parameter is None or threading.get_ident() != own:
            return
        built[0] += parameter.numel()
        built[1] += 1
        if built[0] > numbers or built[1] > tensors:
            raise ValueError("its settings describe a far larger network than its weights fill")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _held(files: Iterable[Path]) -> tuple[int, int]:
    """How many numbers and tensors the files hold."""
    numbers = tensors = 0
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                count = 1
                for length in opened.get_slice(name).get_shape():
                    count *= length
                numbers, tensors = numbers + count, tensors + 1
    return numbers, tensors
