# SPDX-License-Identifier: Apache-2.0
"""Mean IoU, IoU of each class, pixel accuracy and boundary F-score of label maps.

--dataset emoji-scenes is drawn, not read; ade20k: DIR holds images/ and annotations/ (label 0 ignored); cityscapes:
DIR holds leftImg8bit/ and gtFine/ (labelIds; the split val where there is one).
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.json_output import printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.evaluation.datasets import Dataset, Sample
    from freqfusion_runtime.evaluation.scores import Interval, Scores, Tally
    from numpy.typing import NDArray

    from freqfusion_export.evaluation.segmenters import PictureLabeller

DATASETS = ("emoji-scenes", "ade20k", "cityscapes")
_DIFFERENT_PICTURES = 6  # how many pictures of disagreement are kept


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds this task's own arguments: none."""


def evaluate(args: argparse.Namespace) -> int:
    """Scores ``args.models`` on ``args.dataset``; returns the exit status."""
    from freqfusion_runtime.evaluation.datasets import class_names, open_dataset
    from freqfusion_runtime.evaluation.errors import EvaluationError
    from freqfusion_runtime.evaluation.scores import miou_difference
    from freqfusion_runtime.files import sha256_of

    from freqfusion_export.evaluation.segmenters import open_labeller

    say = printer(args.json)
    if args.dataset not in DATASETS:
        raise EvaluationError(
            f"--task semantic knows no data set {args.dataset!r}; choose one of {', '.join(DATASETS)}."
        )
    dataset = open_dataset(args.dataset, args.data)
    labellers = [
        open_labeller(path, args.model, args.provider, args.threads, args.kernels, args.weights) for path in args.models
    ]
    num_classes = len(dataset.classes) if dataset.classes is not None else labellers[0].num_classes
    for path, labeller in zip(args.models, labellers, strict=True):
        if labeller.num_classes != num_classes:
            of = args.dataset if dataset.classes is not None else args.models[0]
            raise EvaluationError(
                f"{path} has {labeller.num_classes} classes, {of} has {num_classes}. Use a model trained on this data."
            )
    names = class_names(dataset, num_classes)
    pictures = min(len(dataset), args.limit or len(dataset))
    tallies, differing = _tally(dataset, pictures, labellers, num_classes)
    results = [tally.scores() for tally in tallies]
    behind = [miou_difference(tally, tallies[0]) for tally in tallies]

    say(f"{args.dataset}: {pictures} pictures, {num_classes} classes; 95 % intervals over pictures")
    for line in _table(args, labellers, results, behind):
        say(line)
    for line in _class_table(names, args.models, results):
        say(line)
    files = _draw(args, names, labellers, results, differing) if args.output is not None else []
    for file in files:
        say(f"written: {file}")
    too_low = []
    if args.max_drop is not None:
        too_low = [str(p) for p, d in zip(args.models, behind, strict=True) if d.value * 100 < -args.max_drop]
        say(f"MORE THAN {args.max_drop} BELOW THE FIRST: {', '.join(too_low)}" if too_low else "NONE TOO FAR BELOW")
    entries = [
        {
            "model": str(path),
            "sha256": sha256_of(path),
            "name": labeller.model,
            "backend": labeller.backend,
            **_facts(scores, names),
            "miou_minus_first": _interval(difference),
            "paper_miou_percent": _paper_miou(labeller.model, args.dataset),
        }
        for path, labeller, scores, difference in zip(args.models, labellers, results, behind, strict=True)
    ]
    facts = {"task": "semantic", "dataset": args.dataset, "pictures": pictures, "classes": list(names)}
    write_json(args.json, {**facts, "too_low": too_low, "models": entries, "files": [str(file) for file in files]})
    return 1 if too_low else 0


Differing = list[tuple[float, int, "Sample", "list[NDArray[Any]]"]]


def _tally(
    dataset: Dataset, pictures: int, labellers: Sequence[PictureLabeller], num_classes: int
) -> tuple[list[Tally], Differing]:
    """Labels every picture with every model; keeps those on which the first two differ most."""
    from freqfusion_runtime.evaluation.scores import Tally
    from tqdm import tqdm

    tallies = [Tally(num_classes) for _ in labellers]
    differing: Differing = []
    for index in tqdm(range(pictures), unit="picture", file=sys.stderr, disable=None):
        sample = dataset[index]
        found = [labeller.label(sample.picture) for labeller in labellers]
        for tally, labels in zip(tallies, found, strict=True):
            tally.add(labels, sample.truth, sample.name)
        if len(found) > 1 and (share := float((found[0] != found[1]).mean())) > 0:
            heapq.heappush(differing, (share, index, sample, found[:2]))
            if len(differing) > _DIFFERENT_PICTURES:
                heapq.heappop(differing)
    return tallies, sorted(differing, reverse=True, key=lambda entry: entry[:2])


def _table(
    args: argparse.Namespace,
    labellers: Sequence[PictureLabeller],
    results: Sequence[Scores],
    behind: Sequence[Interval],
) -> list[str]:
    width = max(len(str(path)) for path in args.models)
    titles = ("mIoU %", "pixel accuracy %", "boundary F %", "mIoU - first", "paper")
    lines = [f"{'':<{width}}  " + "  ".join(map(str.rjust, titles, (20, 20, 20, 22, 5)))]
    for path, labeller, scores, difference in zip(args.models, labellers, results, behind, strict=True):
        columns = "  ".join(f"{_text(s):>20}" for s in (scores.miou, scores.pixel_accuracy, scores.boundary_f))
        last = "" if difference is behind[0] else _text(difference, sign="+")
        paper = _paper_miou(labeller.model, args.dataset)
        lines.append(f"{path!s:<{width}}  {columns}  {last:>22}  {'-' if paper is None else paper:>5}")
    for path, labeller in zip(args.models, labellers, strict=True):
        lines.append(f"{path!s:<{width}}  {labeller.model}, {labeller.backend}")
    return lines


def _class_table(names: Sequence[str], models: Sequence[Path], results: Sequence[Scores]) -> list[str]:
    width = max(map(len, names))
    lines = ["", f"{'IoU % (boundary F %)':<{width}}  " + "  ".join(f"{path.name[-20:]:>20}" for path in models)]
    for index, name in enumerate(names):
        cells = (f"{s.class_iou[index] * 100:.1f} ({s.class_boundary_f[index] * 100:.1f})" for s in results)
        lines.append(f"{name:<{width}}  " + "  ".join(f"{cell:>20}" for cell in cells))
    return lines


def _paper_miou(model: str, dataset: str) -> float | None:
    from freqfusion_runtime.evaluation.published import PUBLISHED

    is_published = dataset == "ade20k" and "mIoU" in PUBLISHED.get(model, {})
    return PUBLISHED[model]["mIoU"].paper if is_published else None


def _text(score: Interval, sign: str = "") -> str:
    return f"{score.value * 100:{sign}.2f} [{score.low * 100:{sign}.2f}, {score.high * 100:{sign}.2f}]"


def _interval(score: Interval) -> dict[str, float]:
    return {"value": score.value, "low_95": score.low, "high_95": score.high}


def _facts(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    def by_class(values: Sequence[float]) -> dict[str, float | None]:
        return {name: None if value != value else value for name, value in zip(names, values, strict=True)}

    return {
        "miou": _interval(scores.miou),
        "pixel_accuracy": _interval(scores.pixel_accuracy),
        "boundary_f": _interval(scores.boundary_f),
        "class_iou": by_class(scores.class_iou),
        "class_boundary_f": by_class(scores.class_boundary_f),
        "confusion_pixels": scores.confusion.tolist(),
    }


def _draw(
    args: argparse.Namespace,
    names: Sequence[str],
    labellers: Sequence[PictureLabeller],
    results: Sequence[Scores],
    differing: Differing,
) -> list[Path]:
    from freqfusion_runtime.evaluation.pictures import draw_confusion, draw_side_by_side
    from freqfusion_runtime.files import atomic_path

    pictures = {
        f"confusion-{index}-{path.stem}.png": draw_confusion(scores.confusion, names)
        for index, (path, scores) in enumerate(zip(args.models, results, strict=True), start=1)
    }
    palette = next((labeller.palette for labeller in labellers if labeller.palette), ())
    for rank, (share, _, sample, found) in enumerate(differing, start=1):
        titles = [f"{path.name} ({share:.3%} differ)" if i else path.name for i, path in enumerate(args.models[:2])]
        pictures[f"difference-{rank}.png"] = draw_side_by_side(sample.picture, sample.truth, found, titles, palette)
    for name, picture in pictures.items():
        with atomic_path(args.output / name) as temporary:
            picture.save(temporary)
    return [args.output / name for name in pictures]
