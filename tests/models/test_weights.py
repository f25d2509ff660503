"""Headers of files of weights, which a stranger may have written."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters, weights

ONE = '"lora.w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
HEADERS = {
    "notes that are none": (f'{{"__metadata__": [], {ONE}}}', "is not a .safetensors"),
    "ends that are none": (ONE.join("{}").replace("[0, 0]", '[0, "a"]'), "is not a .safetensors"),
    "many notes": (
        '{"__metadata__": {' + ",".join(f'"{i}": ""' for i in range(2**14 + 1)) + f"}}, {ONE}}}",
        "is not a .safe",
    ),
    "a million lists": (
        f'{{"__metadata__": {{"a": [{"[]," * weights.MOST_LISTS}[]]}}, {ONE}}}',
        "is not a .safetensors",
    ),
    "sixteen megabytes": (f'{{"__metadata__": {{"a": "{"a" * 16_000_000}"}}, {ONE}}}', "is not a .safetensors"),
    "many tensors": (
        "{" + ",".join(ONE.replace("w", f"w{i}") for i in range(weights.MOST_TENSORS + 1)) + "}",
        "holds more than 16384 tensors",
    ),
}


@pytest.mark.parametrize(("header", "says"), HEADERS.values(), ids=HEADERS)
def test_a_header_takes_neither_gigabytes_nor_minutes(tmp_path: Path, header: str, says: str) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(ModelError, match=says):
        adapters.loras([str(file)], tmp_path / "memo")
    with pytest.raises(ModelError, match=says):
        adapters.embeddings([str(file)], tmp_path / "memo")


def test_a_header_as_trainers_write_it_is_read(tmp_path: Path) -> None:
    """With megabytes of what a trainer noted, among it texts with brackets."""
    noted = "[tag] {of} " * 100_000
    header = f'{{"__metadata__": {{"ss_tag_frequency": "{noted}"}}, {ONE}}}'.encode()
    file = tmp_path / "style.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    assert weights.header(file) == {"lora.w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    assert weights.metadata(file) == {"ss_tag_frequency": noted}
