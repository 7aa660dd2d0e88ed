# SPDX-License-Identifier: Apache-2.0
"""Segment pictures with an exported model, without PyTorch.

Writes NAME.labels.png (pixel value = class number, in the classes' colours) and NAME.overlay.png for each picture, says
which FreqFusion operators ran as native kernels and which as function bodies, and how long each stage took. A picture
that cannot be read does not stop the others; it is named at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.arguments import not_negative
from freqfusion_runtime.errors import FreqFusionError, InputError
from freqfusion_runtime.json_output import add_json_argument, printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.segmentation import Segmentation
    from freqfusion_runtime.segmenter import Segmenter

STAGES = ("decode", "preprocess", "network", "postprocess")
_NAMED_CLASSES = 4  # on the line of each picture; the overlay and the JSON name all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a file written by `freqfusion export`")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
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
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from tqdm import tqdm

    from freqfusion_runtime.files import make_folder, sha256_of
    from freqfusion_runtime.pictures import find_pictures
    from freqfusion_runtime.segmenter import load

    say = printer(args.json)
    pictures = find_pictures(args.pictures)
    stems = _stems(pictures)
    make_folder(args.output)
    with warnings.catch_warnings(record=True) as warned:
        segmenter = load(
            args.model, provider=args.provider, threads=args.threads, kernels=args.kernels, max_pixels=args.max_pixels
        )
    for warning in warned:
        print(f"freqfusion run: {warning.message}", file=sys.stderr)
    for line in _describe(segmenter):
        say(line)
    entries: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    with tqdm(pictures, unit="picture", file=sys.stderr, disable=True if len(pictures) < 2 else None) as progress:
        for picture in progress:
            try:
                result = segmenter.predict(picture)
            except FreqFusionError as e:
                failures.append({"picture": str(picture), "error": str(e)})
                continue
            files = result.save(args.output, stems[picture], args.overlay_format)
            entries.append(_entry(picture, result, files))
            with progress.external_write_mode(file=sys.stderr):
                say(f"{picture} -> {files[1]}  {_summary(result)}")
    if entries:
        say(_stage_table(entries))
    for failure in failures:
        print(f"freqfusion run: {failure['error']}", file=sys.stderr)
    if failures:
        print(f"freqfusion run: {len(failures)} of {len(pictures)} pictures could not be done", file=sys.stderr)
    facts = {"model": str(args.model), "model_sha256": sha256_of(args.model), **_engine(segmenter)}
    write_json(args.json, {**facts, "pictures": entries, "failures": failures})
    return 1 if failures else 0


def _stems(pictures: list[Path]) -> dict[Path, str]:
    """Names each picture's results: its stem, with the suffix kept where two pictures share a stem."""
    shared = Counter(picture.stem for picture in pictures)
    names = {p: p.stem if shared[p.stem] == 1 else p.name.replace(".", "_") for p in pictures}
    clashes = [name for name, count in Counter(names.values()).items() if count > 1]
    if clashes:
        same = ", ".join(str(p) for p in pictures if names[p] == clashes[0])
        raise InputError(f"{same} would be written under one name, {clashes[0]}. Run them into different folders.")
    return names


def _describe(segmenter: Segmenter) -> list[str]:
    session = segmenter.session
    manifest = session.manifest
    lines = [
        f"{session.path}: {manifest.model} {manifest.precision}, {manifest.interface} interface, {session.provider}"
    ]
    if manifest.weights == "random":
        lines.append("  weights are random: the labels show that everything is connected, nothing else")
    for (operator, path), count in sorted(_path_counts(segmenter).items()):
        lines.append(f"  {operator}: {count} x {path}")
    return lines


def _path_counts(segmenter: Segmenter) -> Counter[tuple[str, str]]:
    return Counter((entry.operator, entry.path) for entry in segmenter.session.operator_paths)


def _engine(segmenter: Segmenter) -> dict[str, Any]:
    session = segmenter.session
    return {
        "provider": session.provider,
        "precision": session.manifest.precision,
        "weights": session.manifest.weights,
        "operator_paths": [
            {"node": entry.node, "operator": entry.operator, "path": entry.path} for entry in session.operator_paths
        ],
    }


def _entry(picture: Path, result: Segmentation, files: tuple[Path, Path]) -> dict[str, Any]:
    return {
        "picture": str(picture),
        "height": result.labels.shape[0],
        "width": result.labels.shape[1],
        "labels_file": str(files[0]),
        "overlay_file": str(files[1]),
        "timings_ms": {stage: round(ms, 3) for stage, ms in result.timings_ms.items()},
        "classes": [
            {"label": share.label, "name": share.name, "pixels": share.pixels, "share": round(share.share, 6)}
            for share in result.shares()
        ],
    }


def _summary(result: Segmentation) -> str:
    shares = result.shares()
    large = [share for share in shares[:_NAMED_CLASSES] if share.share >= 0.005]
    named = ", ".join(f"{share.name} {share.share:.0%}" for share in large)
    rest = len(shares) - len(large)
    return named + (f" and {rest} more" if rest > 0 else "")


def _stage_table(entries: list[dict[str, Any]]) -> str:
    """Words the median time of each stage; the first picture also pays for warming up, the median does not."""
    from statistics import median

    times = [median(entry["timings_ms"][stage] for entry in entries) for stage in STAGES]
    named = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in zip(STAGES, times, strict=True))
    return f"median of {len(entries)}: {named}" if len(entries) > 1 else named
