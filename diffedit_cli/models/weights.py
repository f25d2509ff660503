"""Weights files: what their names say, and what they contain according to their first bytes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks import gguf_header
from diffedit_cli.engine.networks.gguf_header import GgufTensor
from diffedit_cli.errors import ModelError, reason
from diffedit_cli.storage import paths

# diffusion_pytorch_model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
_NAME = re.compile(
    r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<late>\w+))?\.safetensors"
)
_LONGEST_HEADER = 16_000_000  # bytes; real headers have some hundred thousand, mostly a trainer's notes
MOST_SETTINGS = 32_000_000  # bytes of a JSON file; Qwen's vocabularies have 16 million
MOST_LISTS = 2**20  # lists and objects in a JSON file: a vocabulary has one for each token
MOST_SIDES = 16  # of a tensor
MOST_TENSORS = 2**14  # in a file; checkpoints have a few thousand
_UNREAD = 4000  # tensors, assumed for damaged weights
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch's zip files and bare pickles


def is_weights(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def variant_of(name: str) -> str | None:
    """Returns `fp16` for `model.fp16.safetensors`, None for `model.safetensors`."""
    found = _NAME.fullmatch(name)
    return found and (found["variant"] or found["late"])


@contextmanager
def writing() -> Iterator[None]:
    """Raises OSError in place of safetensors' own error if the system reported one."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def read_json(path: Path) -> Any:
    """Returns the content of a model's settings. Raises OSError or ValueError, also for devices and absurd nesting."""
    if path.stat().st_size > MOST_SETTINGS:
        raise ValueError(f"it has more than {MOST_SETTINGS} bytes")
    try:
        return _parsed(paths.read(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parsed(content: bytes) -> Any:
    """Parses JSON. Raises ValueError for too many lists and objects, which take far more memory than their bytes."""
    if content.count(b"[") + content.count(b"{") > MOST_LISTS:
        raise ValueError(f"it holds more than {MOST_LISTS} lists and objects")
    return json.loads(content.decode("utf-8-sig"))


def refuse_pickle(path: Path) -> None:
    """Raises ModelError for a pickled file, whatever it is called."""
    try:
        if paths.is_there(path) and not paths.is_file(path):  # opening a pipe may block forever
            raise ModelError(
                f"{path} is not a file of weights but a folder, a pipe or a device; name a .safetensors file."
            )
        with paths.open_to_read(path) as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
    # A safetensors file starts with its header's length, any eight bytes, and then a brace.
    if start.startswith(_PICKLED) and start[8:] != b"{":
        raise ModelError(f"{path} is a pickled file, which can run code and is never read; get it as .safetensors.")


def header(
    path: Path, what: str = "checkpoint", instead: str = "a diffusers folder or a .safetensors file"
) -> dict[str, dict[str, Any]]:
    """Returns tensor names -> dtype and shape, without reading any tensor. Raises ModelError for any other file."""
    tensors = _first_part(path, what, instead)
    tensors.pop("__metadata__", None)
    if not all(_is_sound(tensor) for tensor in tensors.values()):
        raise ModelError(f"{path} is cut off or damaged; get it again.")
    return tensors


def _is_sound(tensor: dict[str, Any]) -> bool:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) > MOST_SIDES or not isinstance(tensor.get("dtype"), str):
        return False
    return all(type(side) is int and 0 <= side < 2**63 for side in shape)


def metadata(
    path: Path, what: str = "checkpoint", instead: str = "a diffusers folder or a .safetensors file"
) -> dict[str, str]:
    """Returns the metadata that the writer of a file put into it. Raises ModelError for any other file."""
    said = _first_part(path, what, instead).get("__metadata__") or {}
    return {str(key): str(value) for key, value in said.items()}


def _first_part(path: Path, what: str, instead: str) -> dict[str, dict[str, Any]]:
    """Returns the header of a file, which is all that precedes the tensor data. Raises ModelError."""
    refuse_pickle(path)
    wrong = ModelError(f"{path} is not a .safetensors {what}; name {instead}.")
    try:
        size = path.stat().st_size
        with paths.open_to_read(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise wrong
            said = _parsed(file.read(length))
        notes = said.get("__metadata__")
        if notes is not None and (not isinstance(notes, dict) or len(notes) > MOST_TENSORS):
            raise wrong
        ends = [tensor["data_offsets"][1] for name, tensor in said.items() if name != "__metadata__"]
        end = 8 + length + max(ends, default=0)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
        raise wrong from None
    if len(ends) > MOST_TENSORS:
        raise ModelError(f"{path} holds more than {MOST_TENSORS} tensors, as no {what} does; name {instead}.")
    if end != size:
        raise ModelError(f"{path} is cut off or damaged; get it again.")
    return dict(said)


def shapes(path: Path, what: str = "checkpoint") -> dict[str, tuple[int, ...]]:
    """Returns tensor names -> shapes of a .safetensors or .gguf file, without reading any tensor. Raises ModelError."""
    if not gguf_header.is_gguf(path):
        return {name: tuple(tensor["shape"]) for name, tensor in header(path, what).items()}
    return {name: tensor.shape for name, tensor in gguf_tensors(path).items()}


def gguf_tensors(path: Path) -> dict[str, GgufTensor]:
    """Returns the tensors of a .gguf file by name, without reading any of them. Raises ModelError."""
    try:
        return gguf_header.tensors(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no .gguf file that can be used ({reason(error)}); get it again.") from error


def stored_size(folder: Path, variant: str | None) -> tuple[int, int]:
    """Returns the number of tensors and of bytes in the weights of this variant in a folder.

    Damaged weights count as a few thousand tensors; loading them reports the damage.
    """
    own = [path for path in folder.iterdir() if is_weights(path.name) and variant_of(path.name) == variant]
    size = sum(path.stat().st_size for path in own)
    try:
        return sum(len(header(path)) for path in own), size
    except ModelError:
        return _UNREAD, size
