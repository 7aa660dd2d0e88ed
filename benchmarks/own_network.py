# SPDX-License-Identifier: Apache-2.0
"""A network of one's own: how long adopting and exporting take, and its file beside torch's plain export of it.

    python benchmarks/own_network.py --results benchmarks/results/own_network.jsonl

A UNet of 5 million parameters with a copy of the author's FreqFusion at every step up, CARAFE by ``unfold`` with
reflect padding, at 512 x 512, adopted on an image of half that. Plain export: of that module as it is. All forms run in
turn in one process: trust the ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import freqfusion
import numpy as np
import torch
from freqfusion_export import export
from freqfusion_export.bench.own_network import KERNELS, PLAIN, example_tensors, runs_of_file, runs_of_module
from freqfusion_export.bench.timing import machine, time_in_turn
from freqfusion_runtime.files import scratch_folder

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "material"), str(TESTS)]
from embedding_networks import UNet, filled  # noqa: E402

GOAL_SECONDS, GOAL_RATIO = 40, 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="height and width")
    parser.add_argument("--adopt-size", type=int, default=256, help="of the images that adopt proves itself on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--results", type=Path, help="append a line there")
    args = parser.parse_args()
    original = filled(UNet())
    parameters = sum(p.numel() for p in original.parameters())
    images = torch.randn(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    with scratch_folder("own-network") as folder:
        path = folder / "net.onnx"
        network = copy.deepcopy(original)
        start = time.perf_counter()
        print(freqfusion.adopt(network, images[:, :, : args.adopt_size, : args.adopt_size]))
        adopted = time.perf_counter() - start
        manifest = export(
            network, path, inputs={"image": images}, dynamic={"image": {0: "batch", 2: "height: 32", 3: "width: 32"}}
        )
        seconds = time.perf_counter() - start
        print(
            f"{parameters / 1e6:.1f} million parameters, adopted in {adopted:.1f} s, exported after {seconds:.1f} s",
            flush=True,
        )
        tensors = example_tensors(manifest)
        runs = {
            **runs_of_file(path, tensors, args.threads),
            **runs_of_module(original, tensors, folder, args.threads),
        }
        times = time_in_turn(runs, args.rounds)
    p50 = {name: float(np.percentile(values, 50)) for name, values in times.items()}
    ratios = {name: value / p50[PLAIN] for name, value in p50.items()}
    for name, value in p50.items():
        print(f"{name:<34} {value:9.1f} ms {ratios[name]:7.2f}x")
    met = seconds < GOAL_SECONDS and ratios.get(KERNELS, 1.0) <= GOAL_RATIO
    record = {
        "network": "UNet",
        "parameters": parameters,
        "size": args.size,
        "adopt_size": args.adopt_size,
        "adopt_s": adopted,
        "adopt_and_export_s": seconds,
        "p50_ms": p50,
        "to_plain_export": ratios,
        "goals": {"adopt_and_export_s": GOAL_SECONDS, "to_plain_export": GOAL_RATIO, "met": met},
        **machine(args.threads),
    }
    if args.results is not None:
        with args.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
