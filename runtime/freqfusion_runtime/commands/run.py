# SPDX-License-Identifier: Apache-2.0
"""Segment pictures, or find the objects in them, with an exported model, without PyTorch.

Writes NAME.overlay.png for each picture and, by the kind of model, NAME.labels.png (pixel value = class number, in the
classes' colours), NAME.detections.json (COCO results, masks as run-length codes) or NAME.panoptic.png and
NAME.panoptic.json (COCO's panoptic format). Their image_id is the number that is the picture's name where all names
are numbers, as COCO's are, else the picture's place on the command line. Says which FreqFusion operators ran as native
kernels and which as function bodies, and how long each stage took. A picture that cannot be read does not stop the
others; it is named at the end, and the exit status is 1.

A model of one's own takes arrays: each PHOTO is then a NAME.npz with its inputs by name, and NAME.outputs.npz is
written.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.arguments import names, not_negative, share
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json
from freqfusion_runtime.commands.run_arrays import SUFFIX, check_archives, run_archives
from freqfusion_runtime.commands.terminal import print_error
from freqfusion_runtime.errors import FreqFusionError, InputError

if TYPE_CHECKING:
    from freqfusion_runtime.predictors.loading import Predictor
    from freqfusion_runtime.results.detections import Detections, PanopticSegmentation
    from freqfusion_runtime.results.segmentation import Segmentation

    Result = Segmentation | Detections | PanopticSegmentation

STAGES = ("decode", "preprocess", "network", "postprocess")
# The networks report objects from 0.05 on, for the benchmarks' sake; most of those are wrong.
_SCORE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="an ONNX file of `freqfusion export`, or a plan of `freqfusion build`"
    )
    parser.add_argument(
        "pictures", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them; or .npz"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for the results; not the pictures' own"
    )
    parser.add_argument(
        "--score",
        type=share,
        metavar="S",
        help=f"objects with a higher score only, from 0 to 1; {_SCORE} where the model finds objects",
    )
    parser.add_argument(
        "--classes", type=names, metavar="A,B", help="objects or segments of these classes only, by name"
    )
    parser.add_argument("--overlay-format", choices=("png", "jpg"), default="png", help="file type of the overlays")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where to run; never another place")
    parser.add_argument("--threads", type=not_negative, default=0, metavar="N", help="cores for one picture, 0 for all")
    parser.add_argument(
        "--kernels",
        choices=("auto", "never", "require"),
        default="auto",
        help="native kernels: where the library is found, not at all, or fail without them",
    )
    parser.add_argument(
        "--max-pixels", type=not_negative, default=64_000_000, metavar="N", help="refuse larger pictures undecoded"
    )
    parser.add_argument(
        "--trust", action="store_true", help="load a plan that its manifest does not vouch for; a plan is code"
    )
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from tqdm import tqdm

    from freqfusion_runtime.files import make_folder
    from freqfusion_runtime.model_files.external_data import model_sha256
    from freqfusion_runtime.pictures.reading import find_pictures
    from freqfusion_runtime.predictors.loading import load
    from freqfusion_runtime.results.result_names import check_pictures_stay, result_names
    from freqfusion_runtime.results.segmentation import Segmentation

    say = printer(args.json)
    if all(path.suffix == SUFFIX for path in args.pictures):
        return _run_network(args, say)
    pictures = find_pictures(args.pictures)
    stems, image_ids = result_names(pictures), _image_ids(pictures)
    check_pictures_stay(args.pictures, stems, args.output)
    make_folder(args.output)
    predictor = load(
        args.model,
        provider=args.provider,
        threads=args.threads,
        kernels=args.kernels,
        max_pixels=args.max_pixels,
        trust=args.trust,
    )
    options = _options(predictor, args)
    for line in _describe(predictor):
        say(line)
    entries: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    with tqdm(pictures, unit="picture", file=sys.stderr, disable=True if len(pictures) < 2 else None) as progress:
        for picture in progress:
            try:
                result: Result = predictor.predict(picture, **options)
            except FreqFusionError as e:
                failures.append({"picture": str(picture), "error": str(e)})
                continue
            places = args.output, stems[picture], args.overlay_format
            if isinstance(result, Segmentation):
                files, named = result.save(*places), {}
            else:
                files, named = result.save(*places, image_ids[picture]), {"image_id": image_ids[picture]}
            entries.append({"picture": str(picture), **named, **_entry(result, files)})
            with progress.external_write_mode(file=sys.stderr):
                say(f"{picture} -> {files['overlay']}  {result.summary()}")
    if entries:
        say(_stage_table(entries))
    for failure in failures:
        print_error(f"freqfusion run: {failure['error']}")
    if failures:
        print_error(f"freqfusion run: {len(failures)} of {len(pictures)} pictures could not be done")
    facts = {"model": str(args.model), "model_sha256": model_sha256(args.model), **_engine(predictor), **options}
    write_json(args.json, {**facts, "pictures": entries, "failures": failures})
    return 1 if failures else 0


def _run_network(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    from freqfusion_runtime.files import make_folder
    from freqfusion_runtime.model_files.external_data import model_sha256
    from freqfusion_runtime.predictors.loading import load
    from freqfusion_runtime.predictors.network import Network

    check_archives(args.model, args.pictures)
    network = load(args.model, provider=args.provider, threads=args.threads, kernels=args.kernels, trust=args.trust)
    if not isinstance(network, Network):
        raise InputError(
            f"{args.model} is made for {network.session.manifest.task} and takes pictures, not {args.pictures[0]}. "
            "Name picture files, or folders of them."
        )
    make_folder(args.output)
    for line in _describe(network):
        say(line)
    done, failures = run_archives(network, args, say)
    facts = {"model": str(args.model), "model_sha256": model_sha256(args.model), **_engine(network)}
    write_json(args.json, {**facts, "archives": done, "failures": failures})
    return 1 if failures else 0


def _image_ids(pictures: list[Path]) -> dict[Path, int]:
    """What COCO results call each picture: the number that is its name, as COCO's pictures have, else its place."""
    numbers = [int(picture.stem) for picture in pictures if picture.stem.isascii() and picture.stem.isdigit()]
    is_named_so = len(set(numbers)) == len(pictures)
    return dict(zip(pictures, numbers if is_named_so else range(1, len(pictures) + 1), strict=True))


def _describe(predictor: Predictor) -> list[str]:
    session = predictor.session
    manifest = session.manifest
    lines = [
        f"{session.path}: {manifest.model} {manifest.precision}, {manifest.interface} interface, {session.provider}"
    ]
    if manifest.weights == "random":
        lines.append("  weights are random: the results show that everything is connected, nothing else")
    for (operator, path), count in sorted(_path_counts(predictor).items()):
        lines.append(f"  {operator}: {count} x {path}")
    return lines


def _path_counts(predictor: Predictor) -> Counter[tuple[str, str]]:
    return Counter((entry.operator, entry.path) for entry in predictor.session.operator_paths)


def _engine(predictor: Predictor) -> dict[str, Any]:
    session = predictor.session
    return {
        "provider": session.provider,
        "precision": session.manifest.precision,
        "weights": session.manifest.weights,
        "operator_paths": [
            {"node": entry.node, "operator": entry.operator, "path": entry.path} for entry in session.operator_paths
        ],
    }


def _options(predictor: Predictor, args: argparse.Namespace) -> dict[str, Any]:
    """What ``predict`` is asked for beside the picture; fails before the first picture where it cannot be had."""
    from freqfusion_runtime.predictors.network import Network
    from freqfusion_runtime.predictors.segmenter import Segmenter

    if isinstance(predictor, Network):
        predictor.predict(args.pictures[0])
    if not isinstance(predictor, Segmenter):
        if args.classes is not None:
            predictor.labels_of(args.classes)
        return {"score_threshold": _SCORE if args.score is None else args.score, "classes": args.classes}
    if args.score is not None or args.classes is not None:
        raise InputError(
            f"{args.model} labels every pixel and finds no objects, so --score and --classes say nothing to it. "
            "Leave them out, or use a model that finds objects."
        )
    return {}


def _entry(result: Result, files: dict[str, Path]) -> dict[str, Any]:
    return {
        "height": result.photo.shape[0],
        "width": result.photo.shape[1],
        **{f"{kind}_file": str(file) for kind, file in files.items()},
        "timings_ms": {stage: round(ms, 3) for stage, ms in result.timings_ms.items()},
        **result.facts(),
    }


def _stage_table(entries: list[dict[str, Any]]) -> str:
    """Words the median time of each stage; the first picture also pays for warming up, the median does not."""
    from statistics import median

    times = [median(entry["timings_ms"][stage] for entry in entries) for stage in STAGES]
    named = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in zip(STAGES, times, strict=True))
    return f"median of {len(entries)}: {named}" if len(entries) > 1 else named
