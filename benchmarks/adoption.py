# SPDX-License-Identifier: Apache-2.0
"""Times a U-Net of 5 M parameters with FreqFusion before and after ``freqfusion.adopt``, interleaved, and its memory.

    python benchmarks/adoption.py [--results benchmarks/results/adoption.jsonl]

Before, its FreqFusions compute as the author's fallback does, by unfolded windows in PyTorch with reflect padding. A
training step is a forward and a backward. Peaks are how far a process's resident memory rises in a process of its own,
after the network was made. Unfolded windows take 4 GB at 512 x 512 and 14 GB in a training step of four pictures.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from freqfusion import adopt, native
from freqfusion_export.bench.timing import machine
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / place) for place in ("", "material")]

from embedding_networks import UNet, filled  # noqa: E402

UNFOLD, ADOPTED = "unfold", "adopted"
WANTED = {"infer": 1 / 4, "infer_peak": 0.4, "train": 0.5, "train_peak": 0.5}  # adopted to unfold, issue 15


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="side of the picture that is inferred")
    parser.add_argument("--train-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4, help="pictures of a training step")
    parser.add_argument("--only", choices=["infer", "train"], help="one of the two")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tasks = {"infer": (1, 3, args.size, args.size), "train": (args.batch, 3, args.train_size, args.train_size)}
    facts: dict[str, Any] = {"kernels": native.is_available(), **machine(args.threads)}
    ratios: dict[str, float] = {}
    for task, shape in tasks.items():
        if args.only not in (None, task):
            continue
        rounds = args.rounds if task == "infer" else args.train_rounds
        networks, facts["adopt_s"] = make_networks()
        times = time_interleaved({name: step_of(network, task, shape) for name, network in networks.items()}, rounds)
        peaks = {name: peak_mb(name, task, shape, args.threads) for name in networks}
        p50 = {name: statistics.median(values) for name, values in times.items()}
        ratios |= {task: p50[ADOPTED] / p50[UNFOLD], f"{task}_peak": peaks[ADOPTED] / peaks[UNFOLD]}
        facts[task] = {"shape": shape, "p50_ms": p50, "peak_mb": peaks, "rounds": rounds}
        print(task, shape, {name: f"{p50[name]:.0f} ms, {peaks[name]:.0f} MB" for name in p50})
    print(f"adopt: {facts['adopt_s']:.1f} s")
    for name, ratio in ratios.items():
        print(f"{name:<12} {ratio:6.3f}  wanted: {WANTED[name]}")
    if args.results:
        with args.results.open("a") as file:
            file.write(json.dumps({**facts, "ratios": ratios}) + "\n")


def make_networks() -> tuple[dict[str, nn.Module], float]:
    """Both, and the seconds that adopting took."""
    original = filled(UNet())
    ours = copy.deepcopy(original)
    start = time.perf_counter()
    report = adopt(ours, torch.randn(1, 3, 64, 64))
    seconds = time.perf_counter() - start
    assert {module.padding for module in report.adopted} == {"reflect"}
    return {UNFOLD: original, ADOPTED: ours}, seconds


def step_of(network: nn.Module, task: str, shape: tuple[int, ...]) -> Callable[[], None]:
    """One inference, or one forward and backward."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def infer() -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    def train() -> None:
        network.train().zero_grad()
        result: Tensor = network(images)
        result.square().mean().backward()

    return infer if task == "infer" else train


def time_interleaved(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step in turn, after one run of each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peak_mb(name: str, task: str, shape: tuple[int, ...], threads: int) -> float:
    """How far resident memory rises in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (name, task, shape, threads))


def _peak_of(name: str, task: str, shape: tuple[int, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    step = step_of(make_networks()[0][name], task, shape)
    before = _memory_mb("VmRSS")
    step()
    return _memory_mb("VmHWM") - before


def _memory_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    main()
