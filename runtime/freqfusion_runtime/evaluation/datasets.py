# SPDX-License-Identifier: Apache-2.0
"""Pictures with known label maps: emoji scenes, and folders laid out as ADE20K and Cityscapes are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from freqfusion_runtime.evaluation import emoji_scenes
from freqfusion_runtime.evaluation.counts import IGNORED
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.pictures.reading import SUFFIXES, read_picture

CITYSCAPES_CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
# labelIds of the 19 evaluated classes, in the order of their trainIds; all others are ignored.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture ``(H, W, 3)`` uint8 and its truth ``(H, W)``, where 255 is ignored."""

    name: str
    picture: NDArray[np.uint8]
    truth: NDArray[np.uint8]


class Dataset(Protocol):
    """Samples by number."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None where only the model knows how many there are."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int) -> Sample:
        """Reads or draws one sample."""


class EmojiValidation:
    """The 500 validation scenes of ``freqfusion_runtime.evaluation.emoji_scenes``."""

    classes: tuple[str, ...] | None = emoji_scenes.CLASSES

    def __init__(self) -> None:
        self._scenes = emoji_scenes.EmojiScenes("validation")

    def __len__(self) -> int:
        return emoji_scenes.VALIDATION_SCENES

    def __getitem__(self, index: int) -> Sample:
        scene = self._scenes[index]
        return Sample(f"scene {index}", scene.picture, scene.labels)


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """Picture files and label files in pairs.

    Attributes:
        pairs: Picture and label file of each sample.
        classes: See ``Dataset``.
        table: ``(256,)``: what becomes of each value in a label file.
    """

    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[str, ...] | None
    table: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Reads one pair.

        Raises:
            DatasetError: If the label file is no 8-bit map or of another size than the picture.
            PictureError: If the picture cannot be read.
        """
        picture_path, label_path = self.pairs[index]
        picture, labels = read_picture(picture_path), read_labels(label_path)
        if labels.shape != picture.shape[:2]:
            raise DatasetError(
                f"{label_path} is {labels.shape[1]} x {labels.shape[0]}, its picture {picture_path} "
                f"{picture.shape[1]} x {picture.shape[0]}. Pictures and labels must be of one size."
            )
        return Sample(str(picture_path), picture, self.table[labels])


def ade20k_folder(root: Path) -> FolderDataset:
    """``images/`` and ``annotations/`` with equal names and subfolders; label 0 is ignored, 1 is the first class."""
    table = (np.arange(256) - 1).astype(np.uint8)  # 0 becomes 255
    pairs = _pairs(root, root / "images", root / "annotations", lambda path: path.with_suffix(".png"))
    return FolderDataset(pairs, None, table)


def cityscapes_folder(root: Path) -> FolderDataset:
    """``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.

    The split ``val`` where there is one (labels of the test split are not public), else everything.
    """
    table = np.full(256, IGNORED, np.uint8)
    table[list(CITYSCAPES_LABEL_IDS)] = np.arange(len(CITYSCAPES_LABEL_IDS))
    images, labels = root / "leftImg8bit", root / "gtFine"
    if (images / "val").is_dir():
        images, labels = images / "val", labels / "val"

    def label_name(path: Path) -> Path:
        return path.with_name(path.stem.removesuffix("_leftImg8bit") + "_gtFine_labelIds.png")

    return FolderDataset(_pairs(root, images, labels, label_name), CITYSCAPES_CLASSES, table)


def class_names(dataset: Dataset, num_classes: int) -> tuple[str, ...]:
    """Names the classes of a data set for a model of ``num_classes``."""
    if dataset.classes is not None:
        return dataset.classes
    is_ade20k = num_classes == len(ade20k.CLASSES)
    return ade20k.CLASSES if is_ade20k else tuple(f"class {label}" for label in range(num_classes))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Reads a label file: one byte a pixel, palette or grey.

    Raises:
        DatasetError: If it is anything else.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P"):
                raise DatasetError(
                    f"{path} has mode {image.mode}; a label file holds one byte a pixel (mode L or P). Convert it."
                )
            return np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as e:
        raise DatasetError(f"{path} cannot be read as a PNG of labels: {e}. Get a whole copy of it.") from e


def _pairs(root: Path, images: Path, labels: Path, rename: Callable[[Path], Path]) -> tuple[tuple[Path, Path], ...]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} does not exist; the data set's root, {root}, must hold {images.relative_to(root)} and "
                f"{labels.relative_to(root)}. Name the root with --data."
            )
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DatasetError(f"{images} holds no pictures. Name the data set's root with --data.")
    pairs = [(path, rename(labels / path.relative_to(images))) for path in found]
    missing = [pair for pair in pairs if not pair[1].is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(pairs)} pictures have no label file; the first is {missing[0][0]}, which needs "
            f"{missing[0][1]}. Complete the data set, or take those pictures away."
        )
    return tuple(pairs)


DATASETS: dict[str, Callable[[Any], Dataset]] = {
    "emoji-scenes": lambda root: EmojiValidation(),
    "ade20k": ade20k_folder,
    "cityscapes": cityscapes_folder,
}


def open_dataset(name: str, root: Path | None) -> Dataset:
    """Opens a data set by name.

    Raises:
        DatasetError: If it needs a folder and has none, or the folder is not laid out as it should be.
        EmojiFontError: See ``EmojiScenes``.
    """
    if name != "emoji-scenes" and root is None:
        raise DatasetError(f"the data set {name!r} lies in a folder of yours; name it with --data.")
    return DATASETS[name](root)
