# SPDX-License-Identifier: Apache-2.0
"""Average precision of boxes, by COCO's rules, on every data set in COCO's format (--dataset coco)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from typing import TYPE_CHECKING

from freqfusion_export.evaluation.coco_source import (
    Unread,
    add_source_arguments,
    benchmark_of,
    check_names,
    places,
)

if TYPE_CHECKING:
    from freqfusion_runtime.evaluation.coco_ap import Kind


_PLURALS = {"box": "boxes", "mask": "masks"}


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds the options that all tasks on COCO-format data sets share."""
    add_source_arguments(parser)


def evaluate(args: argparse.Namespace) -> int:
    """Scores ``args.models``; returns the exit status."""
    return score(args, ("box",))


def score(args: argparse.Namespace, kinds: tuple[Kind, ...]) -> int:
    """Scores boxes, or boxes and masks."""
    from freqfusion_runtime.evaluation.account import Account, absent_classes
    from freqfusion_runtime.evaluation.annotation_file import read_annotation_file
    from freqfusion_runtime.evaluation.coco_ap import account_of, average_precision, checked_instances, results_of
    from freqfusion_runtime.files import atomic_path, json_text
    from freqfusion_runtime.predictors.detector import Detector, InstanceSegmenter
    from tqdm import tqdm

    from freqfusion_export.evaluation.drop_gate import nothing_to_score
    from freqfusion_export.evaluation.object_finders import open_contestants
    from freqfusion_export.evaluation.score_table import Scored, report

    importlib.import_module("faster_coco_eval")  # said to be missing now, not after an hour
    file, pictures = places(args, "instances")
    annotations = checked_instances(read_annotation_file(file, pictures, args.limit), masks="mask" in kinds)
    if unscored := [f"{kind} AP" for kind in kinds if not account_of(annotations, kind)[0]]:
        raise nothing_to_score(unscored, annotations.dropped)
    finders = (InstanceSegmenter,) if "mask" in kinds else (Detector, InstanceSegmenter)
    contestants, unread, scored = open_contestants(args, finders), Unread(), []
    warnings = [*annotations.warnings, *check_names(annotations, contestants)]
    for number, contestant in enumerate(contestants, 1):
        assert isinstance(contestant.finder, Detector | InstanceSegmenter)
        results = results_of(
            contestant.finder.predict,
            annotations,
            lambda images: tqdm(images, unit="picture", file=sys.stderr, disable=None),
            unread.drop,
        )
        annotations = annotations.without(unread.ids)
        found = [average_precision(results, annotations, kind) for kind in kinds]
        scores = {f"{each.kind} {name}": value for each in found for name, value in each.values.items()}
        scored.append(Scored(contestant, scores, {f"{each.kind} AP %": each.per_class for each in found}))
        if args.output is not None:
            with atomic_path(args.output / f"{number}-{contestant.path.stem}.results.json") as temporary:
                temporary.write_text(json_text(results) + "\n", encoding="utf-8")
    facts = {"annotations": str(file), "pictures": len(annotations.images), "objects": len(annotations.annotations)}
    counts = {kind: account_of(annotations, kind) for kind in kinds}
    objects = Counter(entry["category_id"] for entry in annotations.annotations if not entry["iscrowd"])
    names = annotations.names()
    absent = absent_classes(list(names.values()), [objects[identity] for identity in names], "object")
    account = Account(
        scored={"pictures": len(annotations.images), **{f"{_PLURALS[kind]}": n for kind, (n, _) in counts.items()}},
        ignored={"crowds": counts["box"][1]},
        dropped=(*unread.dropped, *annotations.dropped),
        warnings=(*warnings, *absent),
    )
    return report(args, scored, [f"{kind} AP" for kind in kinds], facts, account, benchmark_of(annotations))
