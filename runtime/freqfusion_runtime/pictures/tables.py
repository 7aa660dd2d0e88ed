# SPDX-License-Identifier: Apache-2.0
"""Picture files in the rows of Parquet files: a column of bytes, or of records of ``bytes`` and ``path``."""

from __future__ import annotations

import functools
import os
from typing import Any

from freqfusion_runtime.errors import PictureError

SUFFIXES = (".parquet", ".pq")


def open_table(path: str | os.PathLike[str]) -> Any:
    """Opens a table as a ``pyarrow.parquet.ParquetFile``; only its end is read.

    Raises:
        PictureError: If it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise PictureError(f"{os.fspath(path)} is not a Parquet file: {e}. Write it again.") from e


def holds_files(kind: Any) -> bool:
    """Whether a column of this Arrow type may hold bytes of files."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind))


def read_cell(path: str, mtime_ns: int, row: int, column: str, name: str) -> bytes:
    """Reads the bytes of one file; rows that are asked for in order are read together.

    Args:
        path: The table.
        mtime_ns: When it was last changed.
        row: Counted from 0.
        column: One of :func:`holds_files`.
        name: What error messages call the cell.

    Raises:
        PictureError: If the cell cannot be read, or holds no bytes.
    """
    import pyarrow as pa

    try:
        starts = _row_groups(path, mtime_ns)
        group = max(i for i, start in enumerate(starts) if start <= row)
        value: Any = _group(path, mtime_ns, group, column)[row - starts[group]].as_py()
    except (pa.ArrowException, IndexError) as e:
        raise PictureError(f"{name} cannot be read: {e}. Write the table again.") from e
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise PictureError(f"{name} holds no bytes but {type(data).__name__}. Give paths in a column of text.")
    return data


# Rows come in order, so a worker needs the same group again and again: of pictures, and perhaps of labels.
@functools.lru_cache(maxsize=2)
def _group(path: str, mtime_ns: int, group: int, column: str) -> Any:
    return open_table(path).read_row_group(group, columns=[column]).column(0)


@functools.lru_cache(maxsize=4)
def _row_groups(path: str, mtime_ns: int) -> list[int]:
    metadata = open_table(path).metadata
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts[:-1]
