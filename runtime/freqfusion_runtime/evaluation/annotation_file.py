# SPDX-License-Identifier: Apache-2.0
"""COCO's annotation files, checked before a model has run for an hour."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.evaluation.errors import DatasetError

_NAMED = 5  # of a list in an error


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture of a data set."""

    id: int
    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class AnnotationFile:
    """An annotation file and the folder of its pictures.

    Args:
        path: The file.
        images: Its pictures, in the file's order.
        categories: Each category's record by id, in the file's order.
        annotations: As in the file.
    """

    path: Path
    images: tuple[AnnotatedImage, ...]
    categories: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]

    def category_ids(self, classes: Sequence[str]) -> tuple[int | None, ...]:
        """Finds the id of each of a model's classes by name; None for one that the file does not have.

        A model whose classes have no names takes the categories in the file's order.

        Raises:
            DatasetError: If the file has categories that the model does not know.
        """
        ids = {str(record["name"]).strip(): identity for identity, record in self.categories.items()}
        if all(name == f"class {label}" for label, name in enumerate(classes)) and len(classes) == len(ids):
            return tuple(self.categories)
        unknown = [name for name in ids if name not in classes]
        if unknown:
            raise DatasetError(
                f"{self.path}: {len(unknown)} of {len(ids)} categories are unknown to the model: {listed(unknown)}. "
                f"It knows {listed(classes)}; use the annotations it was trained for."
            )
        return tuple(ids.get(name) for name in classes)


def read_annotation_file(
    path: str | os.PathLike[str], pictures: str | os.PathLike[str], limit: int | None = None
) -> AnnotationFile:
    """Reads a COCO annotation file, of instances or panoptic, and looks for its pictures.

    Args:
        path: The JSON file.
        pictures: Folder of the pictures it names.
        limit: Only the first so many pictures and their annotations; the others need not be there.

    Raises:
        DatasetError: If it is no such file, contradicts itself, or pictures are missing.
    """
    path, folder = Path(path), Path(pictures)
    content = _read_json(path)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Name the folder of the pictures that {path.name} annotates.")
    images = tuple(_image(path, entry, folder) for entry in content["images"])
    if not images:
        raise DatasetError(f"{path} lists no pictures. Name a file with at least one.")
    _check_unique(path, "picture", [image.id for image in images])
    listed_ids = {image.id for image in images}
    images = images[:limit]
    missing = [image.path.name for image in images if not image.path.is_file()]
    if missing:
        raise DatasetError(
            f"{folder} lacks {len(missing)} of the {len(images)} pictures that {path.name} lists: {listed(missing)}. "
            "Name the folder that holds them, or evaluate the first N with --limit."
        )
    categories = {}
    for entry in content["categories"]:
        identity = _field(path, "a category", entry, "id", int)
        categories[identity] = {**entry, "name": _field(path, f"category {identity}", entry, "name", str)}
    _check_unique(path, "category", [entry["id"] for entry in content["categories"]])
    if not categories:
        raise DatasetError(f"{path} lists no categories. Name a file with at least one.")
    for entry in content["annotations"]:
        image_id = _field(path, "an annotation", entry, "image_id", int)
        if image_id not in listed_ids:
            raise DatasetError(
                f"{path}: an annotation belongs to picture {image_id}, which the file does not list. Get a whole copy."
            )
    kept = {image.id for image in images}
    return AnnotationFile(path, images, categories, [e for e in content["annotations"] if e["image_id"] in kept])


def check_category(path: Path, what: str, identity: Any, categories: Mapping[int, Any]) -> None:
    """Raises unless an annotation's category is one of the file's."""
    if identity not in categories:
        raise DatasetError(
            f"{path}: {what} has the category {identity!r}, which the file does not list ({listed(categories)}). "
            "Add it to the categories, or remove the annotation."
        )


def check_picture_size(annotations: AnnotationFile, image: AnnotatedImage, found: tuple[int, ...]) -> None:
    """Raises unless a picture has the size that its annotations were made for."""
    if found[:2] != (image.height, image.width):
        raise DatasetError(
            f"{image.path} is {found[1]} x {found[0]} pixels, {annotations.path.name} says "
            f"{image.width} x {image.height}. Use the pictures the annotations were made for."
        )


def listed(names: Collection[Any]) -> str:
    """Words the first few of many."""
    first = ", ".join(str(name) for name in list(names)[:_NAMED])
    return first + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise DatasetError(f"{path} cannot be read: {reason}. Name an annotation file.") from e
    except ValueError as e:
        raise DatasetError(f"{path} is no JSON ({e}). Get a whole copy of it.") from e
    keys = ("images", "categories", "annotations")
    lacking = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise DatasetError(
            f"{path}: a COCO annotation file has the lists {', '.join(keys)}; this one lacks {', '.join(lacking)}. "
            "Name an instances or panoptic annotation file."
        )
    for key in keys:
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DatasetError(f"{path}: {key} must hold objects only. Get a whole copy of it.")
    found: dict[str, Any] = content
    return found


def _image(path: Path, entry: dict[str, Any], folder: Path) -> AnnotatedImage:
    identity = _field(path, "a picture", entry, "id", int)
    name = _field(path, f"picture {identity}", entry, "file_name", str)
    height, width = (_field(path, f"picture {identity}", entry, side, int) for side in ("height", "width"))
    return AnnotatedImage(identity, folder / name, height, width)


def _field(path: Path, what: str, entry: dict[str, Any], key: str, kind: type) -> Any:
    value = entry.get(key)
    if type(value) is not kind:
        raise DatasetError(
            f"{path}: {what} must have {key} of type {kind.__name__}, got {value!r:.40}. Get a whole copy of it."
        )
    return value


def _check_unique(path: Path, what: str, ids: list[Any]) -> None:
    seen: set[Any] = set()
    for identity in ids:
        if identity in seen:
            raise DatasetError(f"{path}: the {what} id {identity} is there twice. Get a whole copy of it.")
        seen.add(identity)
