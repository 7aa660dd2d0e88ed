# SPDX-License-Identifier: Apache-2.0
"""Where the pictures and annotations of a COCO-format data set lie, from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from freqfusion_runtime.evaluation.annotation_file import AnnotatedImage, AnnotationFile
    from freqfusion_runtime.evaluation.published import Benchmark
    from freqfusion_runtime.results.coco_format import Identity

    from freqfusion_export.evaluation.object_finders import Contestant


def add_source_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds the options that say where annotations lie; shared by the tasks on COCO-format data sets."""
    parser.add_argument("--annotations", type=Path, metavar="FILE.json", help="annotations elsewhere")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures elsewhere")


def places(args: argparse.Namespace, kind: str) -> tuple[Path, Path]:
    """Gives the annotation file and the folder of pictures.

    Args:
        args: Of the command.
        kind: ``instances`` or ``panoptic``: how the file's name begins in COCO's layout.

    Raises:
        EvaluationError: If neither --data nor both others are given, or the data set has another layout.
    """
    if args.dataset != "coco":
        raise EvaluationError(
            f"--task {args.task} knows no data set {args.dataset!r}. Use --dataset coco, for all that have its format."
        )
    if args.data is None and (args.annotations is None or args.pictures is None):
        raise EvaluationError(
            "--dataset coco needs --data DIR with pictures and annotations in COCO's layout, or both --annotations and "
            "--pictures. Name them."
        )
    split = args.split or "val2017"
    annotations = args.annotations or args.data / "annotations" / f"{kind}_{split}.json"
    return annotations, args.pictures or args.data / split


def benchmark_of(annotations: AnnotationFile) -> Benchmark | None:
    """Says if the pictures that were scored are all of a benchmark that the paper has numbers of."""
    from freqfusion_runtime.evaluation.published import is_coco_val2017

    stems = [image.path.stem for image in annotations.images]
    return "COCO val2017" if is_coco_val2017(stems, annotations.names()) else None


class Unread:
    """The pictures that could not be scored, gathered while models run."""

    def __init__(self) -> None:
        self.ids: set[Identity] = set()
        self.dropped: list[Dropped] = []

    def drop(self, image: AnnotatedImage, reason: str) -> None:
        """Notes one."""
        self.ids.add(image.id)
        self.dropped.append(Dropped("picture", image.path.name, reason))


def check_names(annotations: AnnotationFile, contestants: Sequence[Contestant]) -> list[str]:
    """Makes sure that every model knows the categories, before one has run for an hour; words unequal names.

    Raises:
        DatasetError: If one does not.
    """
    found = []
    for contestant in contestants:
        classes = contestant.finder.classes
        annotations.category_ids(classes)
        found += [f"{contestant.path}: {warning}" for warning in annotations.name_warnings(classes)]
    return found
