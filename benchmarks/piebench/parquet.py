"""Rows of parquet files as the hub's data sets have them; pictures are read when they are needed."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from diffedit_cli.errors import InputError, reason


def rows_of_parquet(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yields the rows of the files, and for each a function from the name of a column to its picture.

    Columns with pictures have None in a row; `folder` is the name of the file's folder. Raises InputError.
    """
    import pyarrow

    for file in files:
        try:
            yield from _rows(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{file} cannot be read ({reason(error)}); get it again.") from error


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as opened:
        schema = opened.schema_arrow
        kinds = pyarrow.types
        pictures = [field.name for field in schema if kinds.is_struct(field.type) or kinds.is_binary(field.type)]
        words = [name for name in schema.names if name not in pictures]
        for group in range(opened.num_row_groups):
            for number, row in enumerate(opened.read_row_group(group, words).to_pylist()):
                found = {**row, **dict.fromkeys(pictures), "folder": file.parent.name}
                yield found, partial(_picture, file, group, number)


def _picture(file: Path, group: int, number: int, column: str) -> Image.Image:
    try:
        value = _column(file, group, column)[number].as_py()
        image = Image.open(io.BytesIO(value["bytes"] if isinstance(value, dict) else value))
        image.load()
        return image
    except (OSError, SyntaxError, TypeError, KeyError) as error:
        raise InputError(f"{file} has no picture {column} in row {number} ({reason(error)}); get it again.") from error


@functools.lru_cache(maxsize=2)  # a group holds gigabytes at most; MagicBrush reads two columns of each in turn
def _column(file: Path, group: int, column: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as opened:
        return opened.read_row_group(group, [column]).column(column)
