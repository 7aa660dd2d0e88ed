# SPDX-License-Identifier: Apache-2.0
"""Label very many pictures, and go on after an interruption where it happened.

SOURCE is a folder, with all folders in it; a .txt list with a path in each line; or a .parquet file with a column of
paths or of pictures. Each picture's label map is written to NAME.labels.png, at the place in DIR that the picture has
in SOURCE. DIR/done.jsonl remembers what is done: a second run skips a picture whose file, model and results are the
same. Pictures that cannot be done are listed in DIR/failures.jsonl and do not stop the others; the exit status is then
1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_runtime.commands.arguments import not_negative, positive
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json
from freqfusion_runtime.commands.terminal import print_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freqfusion_runtime.batch.items import Item
    from freqfusion_runtime.batch.labeller import Outcome, Work

_NAMED_CLASSES = 5
_NAMED_FAILURES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a file written by `freqfusion export`")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder, a .txt list or a .parquet file")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the results; not SOURCE itself")
    parser.add_argument("--overlay", action="store_true", help="also write NAME.overlay.jpg")
    parser.add_argument("--column", help="of a .parquet file: paths, bytes, or records of bytes and path")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="processes, or actors of Ray")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="of a cluster, or auto; else Ray on this machine")
    parser.add_argument(
        "--workers", type=not_negative, default=0, metavar="N", help="0 for one a core, or one on a GPU"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="cores of each worker")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where to run; never another place")
    parser.add_argument("--kernels", choices=("auto", "never", "require"), default="auto", help="native kernels")
    parser.add_argument(
        "--max-pixels", type=positive, default=64_000_000, metavar="N", help="refuse larger pictures undecoded"
    )
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.batch.items import BatchError, check_items_stay, find_items

    if args.ray_address is not None and args.engine != "ray":
        raise BatchError("--ray-address is for --engine ray, got --engine local. Add --engine ray.")
    found = find_items(args.source, args.column, skip=args.output)
    check_items_stay(found.items, args.source, args.output)

    from tqdm import tqdm

    from freqfusion_runtime.batch.labeller import Work
    from freqfusion_runtime.batch.ledger import FAILURES_FILE, open_ledger
    from freqfusion_runtime.batch.summary import Summary
    from freqfusion_runtime.model_files.external_data import model_sha256
    from freqfusion_runtime.predictors.segmenter import load_segmenter

    say = printer(args.json)
    # Opened once here, too: what is wrong with it is better said before any worker has started.
    segmenter = load_segmenter(args.model, provider=args.provider, threads=args.threads, kernels=args.kernels)
    names, manifest = segmenter.classes, segmenter.session.manifest
    del segmenter
    work = Work(
        model=os.path.abspath(args.model),
        model_sha256=model_sha256(args.model),
        output=os.path.abspath(args.output),
        overlay=args.overlay,
        provider=args.provider,
        threads=args.threads,
        kernels=args.kernels,
        max_pixels=args.max_pixels,
    )
    failures: list[str] = []
    with open_ledger(work) as ledger:
        todo, done_before = ledger.split(found.items)
        summary = Summary(len(found.items), found.duplicates, done_before)
        workers = min(_workers(args), max(1, len(todo)))
        say(
            f"{args.source}: {len(found.items)} pictures, {len(done_before)} done before, "
            f"{found.duplicates} named twice; {args.engine} workers: {workers}"
        )
        if manifest.weights == "random":
            say("  weights are random: the labels show that everything is connected, nothing else")
        start = time.perf_counter()
        with tqdm(total=len(todo), unit="picture", file=sys.stderr, disable=None, smoothing=0.05) as progress:
            for outcome in _outcomes(args, work, todo, workers):
                ledger.add(outcome)
                summary.add(outcome)
                if outcome.error and len(failures) < _NAMED_FAILURES:
                    failures.append(outcome.error)
                progress.set_postfix(failed=summary.failed, refresh=False)
                progress.update()
        seconds = max(time.perf_counter() - start, 1e-6)
    facts = summary.facts(seconds)
    classes = summary.classes(names)
    say(
        f"{facts['done']} done, {facts['skipped']} skipped, {facts['failed']} failed in {seconds:.1f} s: "
        f"{facts['pictures_per_s']:.2f} pictures/s"
    )
    if facts["stage_medians_ms"]:
        say("  median " + ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in facts["stage_medians_ms"].items()))
    if classes:
        say("  " + ", ".join(f"{entry['name']} {entry['share']:.1%}" for entry in classes[:_NAMED_CLASSES]))
    for failure in failures:
        print_error(f"freqfusion batch: {failure}")
    if summary.failed:
        print_error(
            f"freqfusion batch: {summary.failed} of {len(todo)} pictures could not be done; "
            f"all are in {args.output / FAILURES_FILE}"
        )
    write_json(
        args.json,
        {
            "model": str(args.model),
            "model_sha256": work.model_sha256,
            "source": str(args.source),
            "output": str(args.output),
            "engine": args.engine,
            "workers": workers,
            "threads": args.threads,
            **facts,
            "classes": classes,
        },
    )
    return 1 if summary.failed else 0


def _outcomes(args: argparse.Namespace, work: Work, todo: list[Item], workers: int) -> Iterator[Outcome]:
    if not todo:
        return iter(())
    if args.engine == "ray":
        from freqfusion_runtime.batch.ray_engine import label_with_ray

        return label_with_ray(work, todo, workers, args.ray_address)
    from freqfusion_runtime.batch.local_engine import label_locally

    return label_locally(work, todo, workers)


def _workers(args: argparse.Namespace) -> int:
    if args.workers:
        return int(args.workers)
    if args.provider == "cuda":
        return 1
    if args.ray_address is not None:
        return 4  # a cluster's cores are not counted before it has been joined
    return max(1, _cores() // int(args.threads))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
