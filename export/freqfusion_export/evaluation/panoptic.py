# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality; data set and options as for --task detection, and the folder of the annotations' PNGs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_export.evaluation.coco_source import Unread, benchmark_of, check_names, places

if TYPE_CHECKING:
    from freqfusion_runtime.evaluation.coco_panoptic import PanopticResult


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds the task's own arguments."""
    parser.add_argument(
        "--maps", type=Path, metavar="FOLDER", help="PNGs of the annotations, if not beside them under the same name"
    )


def evaluate(args: argparse.Namespace) -> int:
    """Scores ``args.models``; returns the exit status."""
    from freqfusion_runtime.evaluation.account import Account, absent_classes
    from freqfusion_runtime.evaluation.coco_panoptic import panoptic_result, read_panoptic_annotations
    from freqfusion_runtime.evaluation.panoptic_results import PanopticResultsFolder
    from freqfusion_runtime.predictors.detector import PanopticSegmenter
    from tqdm import tqdm

    from freqfusion_export.evaluation.object_finders import open_contestants
    from freqfusion_export.evaluation.score_table import Scored, report

    file, pictures = places(args, "panoptic")
    annotations = read_panoptic_annotations(file, pictures, args.maps, args.limit)
    contestants, unread, scored = open_contestants(args, (PanopticSegmenter,)), Unread(), []
    warnings = check_names(annotations.file, contestants)
    for number, contestant in enumerate(contestants, 1):
        assert isinstance(contestant.finder, PanopticSegmenter)
        results = (
            None if args.output is None else PanopticResultsFolder(args.output, f"{number}-{contestant.path.stem}")
        )
        result = panoptic_result(
            contestant.finder.predict,
            annotations,
            lambda images: tqdm(images, unit="picture", file=sys.stderr, disable=None),
            None if results is None else results.add,
            unread.drop,
        )
        annotations = replace(annotations, file=annotations.file.without(unread.ids))
        if results is not None:
            results.finish()
        per_class = {name: quality.pq for name, quality in result.per_class.items()}
        scored.append(Scored(contestant, scores_of(result), {"PQ %": per_class}))
    facts = {"annotations": str(file), "pictures": len(annotations.file.images)}
    names = annotations.file.names()
    absent = absent_classes(list(names.values()), [result.segments.get(i, 0) for i in names], "segment")
    dropped = (*unread.dropped, *annotations.file.dropped, *result.dropped)
    account = Account(result.scored, result.ignored, dropped, (*warnings, *result.warnings, *absent))
    return report(args, scored, ["PQ"], facts, account, benchmark_of(annotations.file))


def scores_of(result: PanopticResult) -> dict[str, float | None]:
    """Names the qualities as the paper does."""
    scores = {"PQ": result.all.pq, "SQ": result.all.sq, "RQ": result.all.rq}
    for kind, quality in (("things", result.things), ("stuff", result.stuff)):
        scores |= {f"PQ {kind}": quality.pq, f"SQ {kind}": quality.sq, f"RQ {kind}": quality.rq}
    return scores
