# SPDX-License-Identifier: Apache-2.0
"""COCO's annotation files, checked before a model has run for an hour."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.results.coco_format import Identity

_NAMED = 5  # of a list in an error
_FLAGS = {0: False, 1: True, "0": False, "1": True}  # texts as some tools write numbers; "0" is true in Python


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture of a data set."""

    id: Identity
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
        annotations: As in the file, but for what was dropped.
        dropped: Annotations, or parts of them, that cannot be used.
        warnings: What else was done otherwise than the file says.
    """

    path: Path
    images: tuple[AnnotatedImage, ...]
    categories: dict[Identity, dict[str, Any]]
    annotations: list[dict[str, Any]]
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()

    def names(self) -> dict[Identity, str]:
        """Each category's name by id."""
        return {identity: str(record["name"]) for identity, record in self.categories.items()}

    def without(self, images: Collection[Identity]) -> AnnotationFile:
        """The same without some pictures and what is annotated in them."""
        return replace(
            self,
            images=tuple(image for image in self.images if image.id not in images),
            annotations=[entry for entry in self.annotations if entry["image_id"] not in images],
        )

    def category_ids(self, classes: Sequence[str]) -> tuple[Identity | None, ...]:
        """Finds the id of each of a model's classes by name; None for one that the file does not have.

        Blanks around a name do not matter. A model whose classes have no names takes the categories in the file's
        order. :meth:`name_warnings` says where names are not equal.

        Raises:
            DatasetError: If the file has categories that the model does not know, or several of one name.
        """
        if self._are_numbered(classes):
            return tuple(self.categories)
        of_name = defaultdict(list)
        for identity, name in self.names().items():
            of_name[name.strip()].append(identity)
        for name, same in of_name.items():
            if len(same) > 1:
                raise DatasetError(
                    f"{self.path}: the categories {listed(same)} are all called {name!r}, so a model's class of that "
                    "name could be any of them. Give them different names, or one id."
                )
        ids = {name: same[0] for name, same in of_name.items()}
        unknown = [name for name in ids if name not in {own.strip() for own in classes}]
        if unknown:
            raise DatasetError(
                f"{self.path}: {len(unknown)} of {len(ids)} categories are unknown to the model: {listed(unknown)}. "
                f"It knows {listed(classes)}; use the annotations it was trained for."
            )
        return tuple(ids.get(name.strip()) for name in classes)

    def name_warnings(self, classes: Sequence[str]) -> list[str]:
        """Words where classes and categories were matched by anything else than equal names."""
        if self._are_numbered(classes):
            return [
                f"the model's classes have no names: they were matched with the {len(classes)} categories by their "
                f"order in the file, from {listed(self.names().values())}"
            ]
        own = {name.strip(): name for name in classes}
        pairs = [(name, own.get(name.strip(), name)) for name in self.names().values()]
        other = [f"{name!r} with {mine!r}" for name, mine in pairs if name != mine]
        return [f"names were matched without the blanks around them: {listed(other)}"] if other else []

    def _are_numbered(self, classes: Sequence[str]) -> bool:
        names = [f"class {label}" for label in range(len(classes))]
        return list(classes) == names and len(classes) == len(self.categories)


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
    dropped = []
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
        identity = _identity(path, "a category", entry)
        categories[identity] = {**entry, "name": _field(path, f"category {identity}", entry, "name", str)}
    _check_unique(path, "category", [entry["id"] for entry in content["categories"]])
    if not categories:
        raise DatasetError(f"{path} lists no categories. Name a file with at least one.")
    asked, kept = {image.id for image in images}, []
    for place, entry in enumerate(content["annotations"]):
        image_id = entry.get("image_id")
        if not isinstance(image_id, int | float | str) or image_id not in listed_ids:
            reason = f"it belongs to picture {image_id!r:.40}, which the file does not list"
            dropped.append(Dropped("object", annotation_name(entry, place), reason))
        elif image_id in asked:
            kept.append(entry)
    return AnnotationFile(path, images, categories, kept, tuple(dropped))


def annotation_name(entry: Mapping[str, Any], place: int) -> str:
    """What to call an annotation: by its id, or its place in the file."""
    return f"annotation {entry.get('id', f'number {place}')}"


def read_flag(record: Mapping[str, Any], key: str, default: int) -> bool | None:
    """Reads ``iscrowd`` or ``isthing``: 0 or 1, as a number, a truth value or a text; None for anything else.

    Args:
        record: Of an annotation, a segment or a category.
        key: Which of them.
        default: What a missing one, or null, means.
    """
    value = default if record.get(key) is None else record[key]
    return _FLAGS.get(value) if isinstance(value, int | float | str) else None


def category_fault(identity: Any, categories: Mapping[Identity, Any]) -> str | None:
    """Why something annotated has no category of the file's; None if it has one."""
    if isinstance(identity, int | float | str) and identity in categories:
        return None
    return f"it has the category {identity!r:.40}, which the file does not list ({listed(categories)})"


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
    identity = _identity(path, "a picture", entry)
    name = _field(path, f"picture {identity}", entry, "file_name", str)
    whole = {key: int(value) for key, value in entry.items() if isinstance(value, float) and value.is_integer()}
    sizes = {**entry, **whole}  # 480.0 is a size, too
    height, width = (_field(path, f"picture {identity}", sizes, side, int) for side in ("height", "width"))
    return AnnotatedImage(identity, folder / name, height, width)


def _identity(path: Path, what: str, entry: dict[str, Any]) -> Identity:
    value = entry.get("id")
    if isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise DatasetError(
        f"{path}: {what} must have an id, a number or a text, got {value!r:.40}. Get a whole copy of it."
    )


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
