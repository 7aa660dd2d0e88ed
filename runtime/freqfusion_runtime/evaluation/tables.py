# SPDX-License-Identifier: Apache-2.0
"""Pictures with label maps in the rows of Parquet files, as data sets are shared on hubs."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.errors import PictureError
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.evaluation.samples import Sample, read_labels, sample_of, usual_part
from freqfusion_runtime.pictures.reading import read_picture_bytes
from freqfusion_runtime.pictures.tables import SUFFIXES, holds_files, open_table, read_cell

# What columns of pictures and of label maps are usually called.
_PICTURES = ("image", "pixel_values", "picture")
_LABELS = ("annotation", "label", "labels", "mask", "segmentation_mask", "semantic_segmentation")


@dataclass(frozen=True, eq=False)
class TableDataset:
    """Rows of Parquet files, in the files' order.

    Attributes:
        rows: Table, when it was last changed, and row.
        columns: Of pictures and of label maps.
        classes, reading, other_readings: See ``Dataset``.
    """

    rows: tuple[tuple[Path, int, int], ...]
    columns: tuple[str, str]
    classes: tuple[str, ...] | None
    reading: str
    other_readings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Table and row."""
        table, _, row = self.rows[index]
        return f"{table}[{row}]"

    def __getitem__(self, index: int) -> Sample:
        """Reads one row.

        Raises:
            DatasetError: If the label map is no 8-bit map or of another size than the picture.
            PictureError: If a cell or the picture cannot be read.
        """
        table, changed, row = self.rows[index]
        places = [f"{table}#{column}[{row}]" for column in self.columns]
        picture, labels = (
            read_cell(str(table), changed, row, column, place)
            for column, place in zip(self.columns, places, strict=True)
        )
        return sample_of(
            self.name(index),
            read_picture_bytes(picture, places[0]),
            read_labels(io.BytesIO(labels), places[1]),
            self.reading,
            (places[0], places[1]),
        )


def find_tables(root: Path) -> list[Path]:
    """The Parquet files at or below a place, sorted; none in hidden folders, which hold programs and their caches."""
    found = [root]
    if root.is_dir():
        found = []
        for place, folders, files in os.walk(root):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            found += [Path(place, file) for file in files if not file.startswith(".")]
    return [path for path in sorted(found) if path.suffix.lower() in SUFFIXES and path.is_file()]


def open_tables(
    root: Path,
    split: str | None,
    classes: tuple[str, ...] | None,
    readings: tuple[str, tuple[str, ...]],
    columns: tuple[str | None, str | None] = (None, None),
) -> TableDataset:
    """Opens a folder of tables, or one; only their ends are read.

    Args:
        root: Where.
        split: A folder's or file's name, or its beginning up to a hyphen, as in ``validation-00000-of-00002.parquet``;
            ``validation`` by default where there is one, else everything.
        classes: See ``Dataset``.
        readings: How the label maps are read, and how else they might be.
        columns: Of pictures and of label maps, found by their names where None.

    Raises:
        DatasetError: If there is no such part or column, or only what a model is trained on and nobody named that.
    """
    tables = find_tables(root)
    part = usual_part(root, lambda name: any(_is_of(table, root, name) for table in tables)) if split is None else split
    chosen = [table for table in tables if not part or _is_of(table, root, part)]
    if not chosen:
        there = ", ".join(str(table.relative_to(root)) if table != root else table.name for table in tables[:5])
        raise DatasetError(f"{root} holds no table of {part!r}, only {there}. Name another part with --split.")
    rows: list[tuple[Path, int, int]] = []
    names: dict[tuple[str, str], Path] = {}
    for table in chosen:
        try:
            file = open_table(table)
        except PictureError as e:
            raise DatasetError(str(e)) from e
        kinds = {field.name: field.type for field in file.schema_arrow}
        own = _column(table, kinds, columns[0], _PICTURES), _column(table, kinds, columns[1], _LABELS)
        names.setdefault(own, table)
        changed = table.stat().st_mtime_ns
        rows += [(table, changed, row) for row in range(file.metadata.num_rows)]
    if not rows:
        raise DatasetError(f"{root}: {len(chosen)} tables have no rows. Get whole copies of them.")
    if len(names) > 1:
        told = " and ".join(f"{', '.join(own)} in {table.name}" for own, table in names.items())
        raise DatasetError(f"{root}: columns are called otherwise in each table: {told}. Score them one by one.")
    return TableDataset(tuple(rows), next(iter(names)), classes, *readings)


def _is_of(table: Path, root: Path, part: str) -> bool:
    """Whether a table belongs to a part of the data set, by its name or a folder's."""
    inside = table.relative_to(root) if table != root else Path(table.name)
    words = (*inside.parts[:-1], inside.stem)
    return any(word == part or word.startswith(f"{part}-") for word in words)


def _column(table: Path, kinds: dict[str, object], asked: str | None, usual: tuple[str, ...]) -> str:
    with_files = [name for name, kind in kinds.items() if holds_files(kind)]
    name = asked or next((name for name in usual if name in with_files), None)
    if name is None or name not in with_files:
        wanted = repr(asked) if asked else " or ".join(usual)
        there = ", ".join(f"{name} ({kind!s:.20})" for name, kind in kinds.items())
        raise DatasetError(
            f"{table} has no column {wanted} with files in it, only {there}. "
            "Name the columns of pictures and label maps with --columns PICTURES,LABELS."
        )
    return name
