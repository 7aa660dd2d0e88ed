# SPDX-License-Identifier: Apache-2.0
"""Checks the CUDA kernels on this machine's GPU, then times them.

    python scripts/gpu_check [--tensorrt-headers DIR] [--results DIR] [--time-budget SECONDS]
    python scripts/gpu_check --self-test

Needs an NVIDIA GPU, nvcc, g++ and PyTorch; fetches nothing. Builds the kernels for this GPU and, where TensorRT's
headers are given, the plugin; compares every kernel with float64 definitions over types, layouts, alignments and sizes,
beyond 2^31 elements too; captures the launchers in CUDA graphs; runs compute-sanitizer and the plugin's enqueue where
they can be; then measures against a copy inside the device and writes a JSON line per result. --self-test needs no GPU:
it checks the definitions against loops and runs the kernels emulated on the host.

Exit status 0 if all is right, 1 if something is wrong, 2 if it cannot be checked here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tensorrt-headers",
        type=Path,
        default=os.environ.get("TENSORRT_INCLUDE") or None,
        metavar="DIR",
        help="folder of NvInferRuntime.h (default: TENSORRT_INCLUDE; without either the plugin is left out)",
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--time-budget", type=float, default=480.0, metavar="SECONDS", help="ends by then (default: %(default)s)"
    )
    parser.add_argument("--no-benchmark", action="store_true", help="check only")
    parser.add_argument("--self-test", action="store_true", help="check this program, without a GPU")
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="of the cases run every Nth (default: 1)")
    parser.add_argument("--watched", type=Path, metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.thin < 1 or arguments.time_budget <= 0:
        parser.error("--thin and --time-budget must be positive")
    return arguments


def report(failures: list[str]) -> int:
    for failure in failures[:40]:
        print(f"FAILED: {failure}", file=sys.stderr)
    if len(failures) > 40:
        print(f"FAILED: and {len(failures) - 40} more", file=sys.stderr)
    return 1 if failures else 0


def check_gpu(arguments: argparse.Namespace, started: float) -> int:
    import torch
    from benchmark import missed_targets, print_table, provenance, run_benchmarks, write_lines
    from correctness import check_all
    from engines import check_engines
    from engines import missing as missing_for_engines
    from graphs import check_graphs
    from kernels import Library
    from large import check_large
    from native_build import build_check_library, build_tensorrt
    from tools import check_sanitizer, check_tensorrt

    end = started + arguments.time_budget

    def left(share: float = 1.0) -> float:
        return max(share * (end - time.monotonic()), 1.0)

    def step(name: str, run: Callable[[], list[str]]) -> None:
        begun = time.monotonic()
        found = run()
        failures.extend(found)
        print(f"{name}: {len(found)} wrong, {time.monotonic() - begun:.0f} s", flush=True)

    failures: list[str] = []
    architecture = "".join(map(str, torch.cuda.get_device_capability()))
    with tempfile.TemporaryDirectory(prefix="freqfusion-gpu-check-") as name:
        folder = Path(name)
        begun = time.monotonic()
        library = Library(build_check_library(folder, architecture), "cuda")
        print(f"{torch.cuda.get_device_name()}, sm_{architecture}: kernels built in {time.monotonic() - begun:.0f} s")

        def check_kernels() -> list[str]:
            tally, found = check_all(library, False, time.monotonic() + left(0.45), arguments.thin)
            print(f"{tally.count} cases; largest error over its allowance: {tally.worst}")
            return found if tally.count else [*found, "no case was run in the time given"]

        step("kernels", check_kernels)
        step("CUDA graphs", lambda: check_graphs(library))
        step("beyond 2^31 elements", lambda: check_large(library))
        plugins: list[Path] = []
        if arguments.tensorrt_headers is not None:

            def check_plugin() -> list[str]:
                plugin, program = build_tensorrt(folder, architecture, arguments.tensorrt_headers)
                plugins.append(plugin)
                return [found] if (found := check_tensorrt(plugin, program, left(0.3))) else []

            step("TensorRT plugin", check_plugin)
        else:
            print("TensorRT plugin: not built, no folder of headers was given")
        engine_lines: list[dict[str, Any]] = []
        if reason := missing_for_engines():
            print(f"engines: not run, {reason}")
        else:
            step("engines", lambda: check_engines(folder, plugins[0] if plugins else None, engine_lines))
        lines = []
        if not arguments.no_benchmark and not failures:  # check, then time
            lines = run_benchmarks(library, has_time=lambda: left() > 0.35 * arguments.time_budget)
        torch.cuda.empty_cache()
        for tool in ("memcheck", "racecheck"):
            step(
                f"compute-sanitizer {tool}",
                lambda tool=tool: [found] if (found := check_sanitizer(library.path, tool, left(0.6))) else [],
            )
    if engine_lines:
        with (arguments.results / "engines.jsonl").open("a") as file:
            file.writelines(json.dumps({**provenance(), **line}) + "\n" for line in engine_lines)
    if lines:
        print(f"wrote {write_lines(lines, arguments.results)}")
        failures += missed_targets(lines)
        print_table(lines)
    return report(failures)


def watch(arguments: argparse.Namespace) -> int:
    """A part of the small cases, in a process that compute-sanitizer watches."""
    from correctness import check_all
    from kernels import Library

    library = Library(arguments.watched, "cuda", guard=0)
    tally, failures = check_all(library, True, time.monotonic() + arguments.time_budget, arguments.thin)
    print(f"{tally.count} cases")
    return report(failures)


def main() -> int:
    arguments = parse_arguments()
    started = time.monotonic()
    try:
        import torch
    except ImportError:
        print(
            "gpu_check: PyTorch is not installed. Install it, with CUDA for anything but --self-test.", file=sys.stderr
        )
        return 2
    from native_build import BuildError, find_nvcc

    try:
        if arguments.self_test:
            from self_test import run_self_test

            return report(run_self_test(arguments.thin, started + arguments.time_budget))
        if not torch.cuda.is_available():
            print(
                "gpu_check: PyTorch finds no CUDA device here, so that nothing was checked. Run it on a machine with "
                "an NVIDIA GPU and a CUDA build of PyTorch; --self-test checks what needs no GPU.",
                file=sys.stderr,
            )
            return 2
        find_nvcc()
        return watch(arguments) if arguments.watched else check_gpu(arguments, started)
    except BuildError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
