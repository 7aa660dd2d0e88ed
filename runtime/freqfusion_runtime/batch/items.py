# SPDX-License-Identifier: Apache-2.0
"""What a batch is made of: pictures in a folder, named in a list, or in the rows of Parquet files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.errors import FreqFusionError, InputError, NoPicturesError, PictureError
from freqfusion_runtime.files import kind_of
from freqfusion_runtime.pictures.reading import MAX_PIXELS, SUFFIXES, is_picture, read_encoded, warn_of_left_out
from freqfusion_runtime.pictures.tables import SUFFIXES as TABLES
from freqfusion_runtime.pictures.tables import holds_files, open_table, read_cell

LISTS = (".txt", ".list")
LABELS_SUFFIX = ".labels.png"
OVERLAY_SUFFIX = ".overlay.jpg"
_OUTSIDE = "outside"


@dataclass(frozen=True)
class Item:
    """One picture to be labelled.

    Args:
        path: The picture's file, or the table it is a row of; absolute.
        name: Of its results, relative to the output folder, without their suffixes.
        size: Of the file in bytes; -1 where it cannot be read, which is then found out when its turn comes.
        mtime_ns: When the file was last changed.
        row: Of the table, -1 for a file.
        column: Of the table.
    """

    path: str
    name: str
    size: int
    mtime_ns: int
    row: int = -1
    column: str = ""

    @property
    def key(self) -> str:
        """Tells one picture from any other; a changed file has the same key."""
        return self.path if self.row < 0 else f"{self.path}#{self.column}[{self.row}]"


@dataclass(frozen=True)
class Items:
    """What was found; ``duplicates`` counts pictures that were named more than once and are done once."""

    items: list[Item]
    duplicates: int


def find_items(source: Path, column: str | None = None, skip: Path | None = None) -> Items:
    """Lists the pictures of a folder with all folders in it, of a list with a path in each line, or of a table.

    Args:
        source: The folder; a ``.txt`` list, whose relative paths start at its folder; or a ``.parquet`` file.
        column: Of the table: paths, bytes, or records of ``bytes`` and ``path``. Found by its name where None.
        skip: A folder inside ``source`` that holds no input, such as the output.

    Raises:
        PictureError: If ``source`` does not exist or is none of these.
        NoPicturesError: If nothing is found.
        InputError: If two different pictures would be written under one name, or a table has no such column.
    """
    if source.is_dir():
        found = list(_in_folder(source, skip))
    elif not source.is_file():
        reason = f"is {kind_of(source.stat().st_mode)}" if source.exists() else "does not exist"
        raise PictureError(f"{source} {reason}. Name a folder, a .txt list of paths, or a .parquet file.")
    elif source.suffix.lower() in LISTS:
        found = list(_in_list(source))
    elif source.suffix.lower() in TABLES:
        found = list(_in_table(source, column))
    else:
        raise PictureError(
            f"{source} is neither a folder nor a {', '.join((*LISTS, *TABLES))} file. For single pictures there is "
            "`freqfusion run`."
        )
    if not found:
        raise NoPicturesError([source], SUFFIXES)
    unique = {item.key: item for item in reversed(found)}
    items = sorted(unique.values(), key=lambda item: item.name)
    for one, other in itertools.pairwise(items):
        if one.name == other.name:
            raise InputError(
                f"{one.key} and {other.key} would both be written as {one.name}. Run them into different folders."
            )
    return Items(items, len(found) - len(items))


def check_items_stay(items: Sequence[Item], source: Path, output: Path) -> None:
    """Makes sure that no result takes the place of a picture, and that none is taken for a picture the next time.

    Raises:
        InputError: If ``output`` is ``source``, or a result would have the name of a picture in it.
    """
    target = os.path.abspath(output)
    if os.path.realpath(source) == os.path.realpath(target):
        raise InputError(
            f"{output} is the folder of the pictures, too: results would replace pictures of their names, and be taken "
            "for pictures the next time. Name another folder for the results."
        )
    paths = {item.path for item in items if item.row < 0}
    for item in items:
        for suffix in (LABELS_SUFFIX, OVERLAY_SUFFIX):
            result = os.path.join(target, item.name + suffix)
            if result in paths:
                raise InputError(
                    f"{result} is a picture, and the results of {item.key} would replace it. "
                    "Name another folder for the results."
                )


def content(item: Item, max_pixels: int = MAX_PIXELS) -> bytes:
    """Reads a picture's bytes.

    Raises:
        PictureError: If they cannot be read, are empty, or more than a picture of ``max_pixels`` can have.
    """
    try:
        if item.row < 0:
            data = read_encoded(item.path, max_pixels)
        else:
            data = read_cell(item.path, item.mtime_ns, item.row, item.column, item.key)
    except OSError as e:
        raise PictureError(f"{item.key} cannot be read: {(e.strerror or str(e)).lower()}. Check it.") from e
    if not data:
        raise PictureError(f"{item.key} is empty (0 bytes). Get a whole copy of it.")
    return data


def _in_folder(folder: Path, skip: Path | None) -> Iterator[Item]:
    top = os.path.abspath(folder)
    left_out = os.path.abspath(skip) if skip is not None else None

    def on_error(error: OSError) -> None:
        raise PictureError(f"{error.filename} cannot be read: {(error.strerror or '').lower()}. Check its rights.")

    others = list[Path]()
    for place, folders, files in os.walk(top, onerror=on_error):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.join(place, f) != left_out)
        for file in files:
            path = os.path.join(place, file)
            if file.startswith("."):
                continue
            if is_picture(Path(path)):
                yield _file_item(path, os.path.relpath(path, top))
            else:
                others.append(Path(path))
    warn_of_left_out(Path(top), others)


def _in_list(source: Path) -> Iterator[Item]:
    try:
        lines = source.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as e:
        raise PictureError(f"{source} cannot be read: {(e.strerror or str(e)).lower()}. Check its rights.") from e
    for line in lines:
        if line.strip():
            yield _listed(line.strip(), source)


def _listed(text: str, source: Path) -> Item:
    base = os.path.dirname(os.path.abspath(source))
    path = os.path.normpath(os.path.join(base, text))
    inside = os.path.commonpath([base, path]) == base
    name = os.path.relpath(path, base) if inside else os.path.join(_OUTSIDE, path.lstrip(os.sep).replace(":", ""))
    return _file_item(path, name)


def _file_item(path: str, name: str) -> Item:
    try:
        status = os.stat(path)
    except OSError:
        return Item(path, name, -1, 0)
    return Item(path, name, status.st_size, status.st_mtime_ns)


def _in_table(source: Path, column: str | None) -> Iterator[Item]:
    import pyarrow as pa

    path = os.path.abspath(source)
    file = open_table(path)
    schema = file.schema_arrow
    name = column or next((n for n in ("image", "path", "file", "filename", "bytes") if n in schema.names), None)
    if name is None or name not in schema.names:
        raise InputError(
            f"{source} has no column {column or 'image, path, file, filename or bytes'!r}, only "
            f"{', '.join(schema.names)}. Name one of them with --column."
        )
    kind = schema.field(name).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        for batch in file.iter_batches(columns=[name]):
            yield from (_listed(text, source) for text in batch.column(0).to_pylist() if text)
        return
    if not holds_files(kind):
        raise InputError(f"column {name!r} of {source} is {kind}, expected paths or bytes. Choose one with --column.")
    status = os.stat(path)
    for row in range(file.metadata.num_rows):
        yield Item(path, f"{source.stem}/{row:09d}", status.st_size, status.st_mtime_ns, row, name)


class BatchError(FreqFusionError):
    """A batch cannot be started or has to stop; what was written by then is whole and is not done again."""
