# SPDX-License-Identifier: Apache-2.0
"""Pictures with known label maps: emoji scenes, folders laid out as ADE20K and Cityscapes are, and tables of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.evaluation import emoji_scenes
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.evaluation.samples import Dataset, Sample, read_labels, sample_of, usual_part
from freqfusion_runtime.evaluation.tables import find_tables, open_tables
from freqfusion_runtime.pictures.reading import is_picture, read_picture, warn_of_left_out

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
# What --labels may be for each data set, the usual one first.
LABEL_READINGS = {"ade20k": ("from-1", "from-0"), "cityscapes": ("label-ids", "train-ids")}
_CITYSCAPES_ENDINGS = {"label-ids": "_gtFine_labelIds.png", "train-ids": "_gtFine_labelTrainIds.png"}


class EmojiValidation:
    """The 500 validation scenes of ``freqfusion_runtime.evaluation.emoji_scenes``."""

    classes: tuple[str, ...] | None = emoji_scenes.CLASSES
    reading = "from-0"
    other_readings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._scenes = emoji_scenes.EmojiScenes("validation")

    def name(self, index: int) -> str:
        """Its number."""
        return f"scene {index}"

    def __len__(self) -> int:
        return emoji_scenes.VALIDATION_SCENES

    def __getitem__(self, index: int) -> Sample:
        scene = self._scenes[index]
        return Sample(self.name(index), scene.picture, scene.labels, scene.labels)


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """Picture files and label files in pairs.

    Attributes:
        pairs: Picture and label file of each sample.
        classes, reading, other_readings: See ``Dataset``.
    """

    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[str, ...] | None
    reading: str
    other_readings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The picture's path."""
        return str(self.pairs[index][0])

    def __getitem__(self, index: int) -> Sample:
        """Reads one pair.

        Raises:
            DatasetError: If the label file is no 8-bit map or of another size than the picture.
            PictureError: If the picture cannot be read.
        """
        picture_path, label_path = self.pairs[index]
        picture, labels = read_picture(picture_path), read_labels(label_path)
        return sample_of(self.name(index), picture, labels, self.reading, self.pairs[index])


def ade20k_folder(root: Path, split: str | None = None, labels: str | None = None) -> FolderDataset:
    """``images/`` and ``annotations/`` with equal names and subfolders, in ADE20K's own tree or flat.

    Args:
        root: Holds both.
        split: A subfolder of both; ``validation`` by default where there is one, else everything.
        labels: ``from-1`` (default): 0 and 255 are ignored, 1 is the first class; ``from-0``: 0 is the first class.

    Raises:
        DatasetError: If the folder is not laid out so, or holds pictures to train on and nobody said which to score.
    """
    images, annotations = root / "images", root / "annotations"
    _check_folders(root, images, annotations)
    part = _part(images, split)
    pairs = _pairs(root, images / part, annotations / part, lambda path: path.with_suffix(".png"))
    return FolderDataset(pairs, None, *_readings("ade20k", labels))


def cityscapes_folder(root: Path, split: str | None = None, labels: str | None = None) -> FolderDataset:
    """``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_label[Train]Ids.png``.

    Args:
        root: Holds both.
        split: ``val`` by default where there is one, else everything.
        labels: ``label-ids``: of whose values 19 count; ``train-ids``: 0 to 18 and 255. By default what the files are
            called, label ids where both are there.

    Raises:
        DatasetError: As :func:`ade20k_folder`.
    """
    images, truth = root / "leftImg8bit", root / "gtFine"
    _check_folders(root, images, truth)
    part = _part(images, split)
    reading, others = _readings("cityscapes", labels)
    endings = [_CITYSCAPES_ENDINGS[reading], *(_CITYSCAPES_ENDINGS[other] for other in others)]

    def label_name(path: Path, ending: str) -> Path:
        return path.with_name(path.stem.removesuffix("_leftImg8bit") + ending)

    # The files may be called one way and hold the other, so a name decides only where nobody said what they hold.
    first = next((path for path in sorted((images / part).rglob("*")) if is_picture(path)), images)
    place = truth / first.relative_to(images)
    ending = next((e for e in endings if label_name(place, e).is_file()), endings[0])
    pairs = _pairs(root, images / part, truth / part, lambda path: label_name(path, ending))
    if labels is None and ending != endings[0]:
        reading, others = _readings("cityscapes", others[0])
    return FolderDataset(pairs, CITYSCAPES_CLASSES, reading, others)


def _part(images: Path, split: str | None) -> str:
    """Which subfolder to score; the empty name for all."""
    if split is not None:
        return split
    return usual_part(images, lambda name: (images / name).is_dir())


def _readings(name: str, labels: str | None) -> tuple[str, tuple[str, ...]]:
    """How label files are read, and how else they might be."""
    known = LABEL_READINGS[name]
    chosen = labels or known[0]
    if chosen not in known:
        raise DatasetError(f"--labels {chosen} is no reading of {name}. Choose one of {', '.join(known)}.")
    return chosen, tuple(other for other in known if other != chosen)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    warn_of_left_out(folder, files)
    return [path for path in files if is_picture(path)]


def _check_folders(root: Path, images: Path, labels: Path) -> None:
    for folder in (images, labels):
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} does not exist; the data set's root, {root}, must hold {images.relative_to(root)} and "
                f"{labels.relative_to(root)}. Name the root with --data."
            )


def _pairs(root: Path, images: Path, labels: Path, rename: Callable[[Path], Path]) -> tuple[tuple[Path, Path], ...]:
    _check_folders(root, images, labels)
    found = _pictures(images)
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


# The folders that a data set has, unless it is in tables; and its classes, if they are known without a model.
_LAYOUTS = {"ade20k": ("images", "annotations"), "cityscapes": ("leftImg8bit", "gtFine")}
_CLASSES = {"ade20k": None, "cityscapes": CITYSCAPES_CLASSES}
DATASETS: dict[str, Callable[[Path, str | None, str | None], Dataset]] = {
    "ade20k": ade20k_folder,
    "cityscapes": cityscapes_folder,
}


def open_dataset(
    name: str,
    root: Path | None,
    split: str | None = None,
    labels: str | None = None,
    columns: tuple[str, str] | None = None,
) -> Dataset:
    """Opens a data set by name.

    Args:
        name: ``emoji-scenes``, or one of ``DATASETS``.
        root: Its folder; or a folder of Parquet files, or one of them, with pictures and label maps in its rows.
        split: Which part of it.
        labels: What the values in its label files mean.
        columns: Of pictures and of label maps in Parquet files.

    Raises:
        DatasetError: If it needs a folder and has none, or the folder is not laid out as it should be.
        EmojiFontError: See ``EmojiScenes``.
    """
    if name == "emoji-scenes":
        if split not in (None, "validation") or labels is not None or columns is not None:
            raise DatasetError(
                "emoji-scenes is drawn, its validation scenes only, and has no label files. "
                "Leave --split, --labels and --columns out."
            )
        return EmojiValidation()
    if root is None:
        raise DatasetError(f"the data set {name!r} lies in a folder of yours; name it with --data.")
    is_in_tables = not any((root / folder).is_dir() for folder in _LAYOUTS[name]) and bool(find_tables(root))
    if is_in_tables:
        return open_tables(root, split, _CLASSES[name], _readings(name, labels), columns or (None, None))
    if columns is not None:
        raise DatasetError(f"--columns is about Parquet files, and {root} holds none. Leave it out, or name others.")
    return DATASETS[name](root, split, labels)
