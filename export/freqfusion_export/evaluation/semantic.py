# SPDX-License-Identifier: Apache-2.0
"""Mean IoU, IoU of each class, pixel accuracy and boundary F-score of label maps.

--dataset emoji-scenes is drawn, not read; ade20k: DIR holds images/ and annotations/, as ADEChallengeData2016 does, or
pictures of yours laid out so; cityscapes: DIR holds leftImg8bit/ and gtFine/. Of either, DIR may hold Parquet files
instead, with pictures and label maps in their rows.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.json_output import printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.evaluation.account import Account, Dropped
    from freqfusion_runtime.evaluation.label_values import LabelValues
    from freqfusion_runtime.evaluation.published import Benchmark
    from freqfusion_runtime.evaluation.samples import Dataset, Sample
    from freqfusion_runtime.evaluation.scores import Interval, Scores, Tally
    from numpy.typing import NDArray

    from freqfusion_export.evaluation.segmenters import PictureLabeller

DATASETS = ("emoji-scenes", "ade20k", "cityscapes")
READING_NAMES = ("from-1", "from-0", "label-ids", "train-ids")
_DIFFERENT_PICTURES = 6  # how many pictures of disagreement are kept


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds this task's own arguments."""
    parser.add_argument(
        "--labels",
        choices=READING_NAMES,
        help="what the values in label files mean; ade20k: from-1 (0 is ignored, 1 the first class; default) or from-0 "
        "(0 is the first class); cityscapes: label-ids or train-ids (by default what the files are called)",
    )
    parser.add_argument(
        "--columns",
        type=_two_names,
        metavar="PICTURES,LABELS",
        help="of Parquet files, where DIR holds those; by default those with the usual names",
    )


def _two_names(text: str) -> tuple[str, str]:
    pictures, comma, labels = text.partition(",")
    if not (pictures and comma and labels):
        raise argparse.ArgumentTypeError(f"must be two names with a comma between them, got {text!r}")
    return pictures, labels


def evaluate(args: argparse.Namespace) -> int:
    """Scores ``args.models`` on ``args.dataset``; returns the exit status."""
    from freqfusion_runtime.evaluation.datasets import open_dataset
    from freqfusion_runtime.evaluation.errors import EvaluationError
    from freqfusion_runtime.evaluation.scores import miou_difference

    from freqfusion_export.evaluation.drop_gate import too_low
    from freqfusion_export.evaluation.segmenters import open_labeller, sha256_of_model

    say = printer(args.json)
    if args.dataset not in DATASETS:
        raise EvaluationError(
            f"--task semantic knows no data set {args.dataset!r}; choose one of {', '.join(DATASETS)}."
        )
    dataset = open_dataset(args.dataset, args.data, args.split, args.labels, args.columns)
    labellers = [
        open_labeller(
            path, args.model, args.provider, args.threads, args.kernels, args.weights, overrides=args.overrides
        )
        for path in args.models
    ]
    num_classes = len(dataset.classes) if dataset.classes is not None else labellers[0].num_classes
    for path, labeller in zip(args.models, labellers, strict=True):
        if labeller.num_classes != num_classes:
            of = args.dataset if dataset.classes is not None else args.models[0]
            raise EvaluationError(
                f"{path} has {labeller.num_classes} classes, {of} has {num_classes}. Use a model trained on this data."
            )
    names = _class_names(dataset, labellers, num_classes)
    pictures = min(len(dataset), args.limit or len(dataset))
    tallies, values, dropped, differing = _tally(dataset, pictures, labellers, num_classes)
    account = _account(dataset, tallies[0], values, dropped, names)
    account = replace(account, warnings=(*account.warnings, *_name_warnings(args.models, labellers, names)))
    results = [tally.scores() for tally in tallies]
    behind = [miou_difference(tally, tallies[0]) for tally in tallies]

    say(f"{args.dataset}: {num_classes} classes, labels read as {dataset.reading}; 95 % intervals over pictures")
    for line in account.lines():
        say(line)
    benchmark = _benchmark(dataset, account)
    papers = [_paper_miou(labeller, benchmark) for labeller in labellers]
    for line in _table(args, labellers, results, behind, papers):
        say(line)
    for line in _class_table(names, args.models, results):
        say(line)
    files = _draw(args, names, labellers, results, differing) if args.output is not None else []
    for file in files:
        say(f"written: {file}")
    fallen = too_low(args.models, [-difference.value * 100 for difference in behind], args.max_drop, say)
    entries = [
        {
            "model": str(path),
            "sha256": sha256_of_model(path),
            "name": labeller.model,
            "backend": labeller.backend,
            "notes": list(labeller.notes),
            **_facts(scores, names),
            "miou_minus_first": _interval(difference),
            "paper_miou_percent": paper,
        }
        for path, labeller, scores, difference, paper in zip(
            args.models, labellers, results, behind, papers, strict=True
        )
    ]
    facts = {"task": "semantic", "dataset": args.dataset, "labels": dataset.reading, "classes": list(names)}
    facts |= {
        "pictures": account.scored["pictures"],
        "ignored_values": values.ignored(dataset.reading),
        **account.facts(),
    }
    write_json(args.json, {**facts, "too_low": fallen, "models": entries, "files": [str(file) for file in files]})
    return 1 if fallen or dropped else 0


Differing = list[tuple[float, int, "Sample", "list[NDArray[Any]]"]]


def _tally(
    dataset: Dataset, pictures: int, labellers: Sequence[PictureLabeller], num_classes: int
) -> tuple[list[Tally], LabelValues, list[Dropped], Differing]:
    """Labels every picture with every model; keeps those on which the first two differ most.

    A picture that cannot be read, has no sound labels, or for which a model has no answer, is dropped for all models
    and does not stop the others.
    """
    from freqfusion_runtime.errors import NetworkOutputError, PictureError
    from freqfusion_runtime.evaluation.account import Dropped
    from freqfusion_runtime.evaluation.counts import check_truth
    from freqfusion_runtime.evaluation.errors import DatasetError
    from freqfusion_runtime.evaluation.label_values import LabelValues
    from freqfusion_runtime.evaluation.scores import Tally
    from tqdm import tqdm

    tallies, values = [Tally(num_classes) for _ in labellers], LabelValues(num_classes)
    dropped: list[Dropped] = []
    differing: Differing = []
    for index in tqdm(range(pictures), unit="picture", file=sys.stderr, disable=None):
        try:
            sample = dataset[index]
            check_truth(sample.truth, num_classes, sample.name)
            found = [labeller.label(sample.picture) for labeller in labellers]
        except (DatasetError, PictureError, NetworkOutputError) as e:
            dropped.append(Dropped("picture", dataset.name(index), str(e)))
            continue
        for tally, labels in zip(tallies, found, strict=True):
            tally.add(labels, sample.truth, sample.name)
        values.add(sample.values, found[0])
        if len(found) > 1 and (share := float((found[0] != found[1]).mean())) > 0:
            heapq.heappush(differing, (share, index, sample, found[:2]))
            if len(differing) > _DIFFERENT_PICTURES:
                heapq.heappop(differing)
    return tallies, values, dropped, sorted(differing, reverse=True, key=lambda entry: entry[:2])


def _account(
    dataset: Dataset, tally: Tally, values: LabelValues, dropped: Sequence[Dropped], names: Sequence[str]
) -> Account:
    """What was scored, ignored and dropped; raises ``EvaluationError`` if nothing was scored."""
    from freqfusion_runtime.evaluation.account import Account, absent_classes
    from freqfusion_runtime.evaluation.errors import EvaluationError
    from freqfusion_runtime.evaluation.label_values import words

    if not tally.pictures:
        raise EvaluationError(
            f"nothing to score: none of {len(dropped)} pictures could be; the first: {dropped[0].reason}"
        )
    true_pixels = tally.confusion.sum(axis=1).tolist()
    ignored = values.ignored(dataset.reading)
    if not any(true_pixels):
        raise EvaluationError(
            f"nothing to score: every pixel of {tally.pictures} label maps is ignored, {words(ignored)}. "
            "Say with --labels what the values mean, or take more pictures with --limit."
        )
    shifted = values.warnings(dataset.reading, dataset.other_readings)
    return Account(
        scored={"pictures": tally.pictures, "pixels": sum(true_pixels)},
        ignored={"pixels": sum(ignored.values())},
        dropped=tuple(dropped),
        warnings=(*shifted, *absent_classes(names, true_pixels, "pixel")),
    )


def _table(
    args: argparse.Namespace,
    labellers: Sequence[PictureLabeller],
    results: Sequence[Scores],
    behind: Sequence[Interval],
    papers: Sequence[float | None],
) -> list[str]:
    width = max(len(str(path)) for path in args.models)
    titles = ("mIoU %", "pixel accuracy %", "boundary F %", "mIoU - first", "paper")
    lines = [f"{'':<{width}}  " + "  ".join(map(str.rjust, titles, (20, 20, 20, 22, 5)))]
    for path, scores, difference, paper in zip(args.models, results, behind, papers, strict=True):
        columns = "  ".join(f"{_text(s):>20}" for s in (scores.miou, scores.pixel_accuracy, scores.boundary_f))
        last = "" if difference is behind[0] else _text(difference, sign="+")
        lines.append(f"{path!s:<{width}}  {columns}  {last:>22}  {'-' if paper is None else paper:>5}")
    for path, labeller in zip(args.models, labellers, strict=True):
        lines.append(f"{path!s:<{width}}  {labeller.model}, {labeller.backend}")
        lines += [f"{'':<{width}}  {note}" for note in labeller.notes]
    return lines


def _class_table(names: Sequence[str], models: Sequence[Path], results: Sequence[Scores]) -> list[str]:
    width = max(map(len, names))
    lines = ["", f"{'IoU % (boundary F %)':<{width}}  " + "  ".join(f"{path.name[-20:]:>20}" for path in models)]
    for index, name in enumerate(names):
        cells = (f"{_percent(s.class_iou[index])} ({_percent(s.class_boundary_f[index])})" for s in results)
        lines.append(f"{name:<{width}}  " + "  ".join(f"{cell:>20}" for cell in cells))
    return lines


def _class_names(dataset: Dataset, labellers: Sequence[PictureLabeller], num_classes: int) -> tuple[str, ...]:
    """The data set's names, else those of the first model that has any, else numbers."""
    named = (dataset.classes, *(labeller.classes for labeller in labellers))
    return next((names for names in named if names), tuple(f"class {label}" for label in range(num_classes)))


def _name_warnings(models: Sequence[Path], labellers: Sequence[PictureLabeller], names: Sequence[str]) -> list[str]:
    """Classes are matched by their numbers; says where the names do not tell that this is right."""
    found, numbered = [], tuple(f"class {label}" for label in range(len(names)))
    for path, labeller in zip(models, labellers, strict=True):
        if labeller.classes in ((), numbered):
            found.append(f"classes were matched by number: those of {path} have no names")
            continue
        pairs = zip(labeller.classes, names, strict=False)
        other = [(label, own, name) for label, (own, name) in enumerate(pairs) if own != name]
        if other:
            label, own, name = other[0]
            found.append(
                f"classes were matched by number, and {len(other)} of {len(names)} have another name in {path}: "
                f"class {label} is {own!r} there and {name!r} here"
            )
    return found


def _benchmark(dataset: Dataset, account: Account) -> Benchmark | None:
    from freqfusion_runtime.evaluation.datasets import FolderDataset
    from freqfusion_runtime.evaluation.published import is_ade20k_validation

    is_whole = account.scored["pictures"] == len(dataset)
    if not (is_whole and isinstance(dataset, FolderDataset) and dataset.reading == "from-1"):
        return None
    return "ADE20K validation" if is_ade20k_validation([picture.stem for picture, _ in dataset.pairs]) else None


def _paper_miou(labeller: PictureLabeller, benchmark: Benchmark | None) -> float | None:
    from freqfusion_runtime.evaluation.published import published_for

    number = published_for(labeller.model, labeller.weights, labeller.classes, benchmark).get("mIoU")
    return None if number is None else number.paper


def _text(score: Interval, sign: str = "") -> str:
    if math.isnan(score.value):
        return "-"
    return f"{score.value * 100:{sign}.2f} [{score.low * 100:{sign}.2f}, {score.high * 100:{sign}.2f}]"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share * 100:.1f}"


def _interval(score: Interval) -> dict[str, float]:
    return {"value": score.value, "low_95": score.low, "high_95": score.high}


def _facts(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    def by_class(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(names, values, strict=True))

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
