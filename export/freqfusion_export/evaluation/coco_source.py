# SPDX-License-Identifier: Apache-2.0
"""Where the pictures and annotations of a COCO-format data set lie, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from freqfusion_runtime.evaluation.errors import EvaluationError


def add_source_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds the options that say where annotations lie; shared by the tasks on COCO-format data sets."""
    parser.add_argument(
        "--split", default="val2017", help="pictures in DIR/SPLIT, annotations in DIR/annotations/*_SPLIT.json"
    )
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
    annotations = args.annotations or args.data / "annotations" / f"{kind}_{args.split}.json"
    return annotations, args.pictures or args.data / args.split
