# SPDX-License-Identifier: Apache-2.0
"""Times the CPU kernels of Mask2Former's operators beside what they replace in PyTorch, interleaved.

    python benchmarks/query_operators.py [--bench-kernels build/plugins/bench_kernels]
        [--results benchmarks/results/query_operators.jsonl]

With the program that `plugins/tests` builds, the kernels' shares of the machine's roof are written too, and in any case
how busy the machine was: other work slows the shortest calls most. FREQFUSION_ISA=avx2 holds the kernels, not PyTorch,
to AVX2. Sizes are those of a picture of 640 x 640: 8400 tokens, 8 heads of 32 channels, 4 points on each of three
levels; and 100 queries of 150 classes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from freqfusion import native
from freqfusion.ops import deformable_attention, query_argmax
from freqfusion.ops.deformable_attention import attend, pixel_centres
from freqfusion.ops.query_argmax import sum_and_choose
from freqfusion_export.bench.timing import machine
from torch import Tensor

LEVELS = [20, 20, 40, 40, 80, 80]
HEADS, CHANNELS, POINTS = 8, 32, 4
PADDED = [640, 640]
KERNEL, DEFINITION, SAMPLING = "kernel", "definition", "grid_sample alone"


def attention_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Value, offsets and logits. Point p of head m lies p + 1 pixels away in direction m, as training begins; noise of
    a pixel is added."""
    tokens = sum(h * w for h, w in zip(LEVELS[::2], LEVELS[1::2], strict=True))
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(HEADS) * (2 * math.pi / HEADS)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions /= directions.abs().amax(dim=-1, keepdim=True)
    pattern = directions[:, None, None] * torch.arange(1, POINTS + 1)[:, None]  # (heads, 1, points, xy)
    pattern = pattern.expand(-1, len(LEVELS) // 2, -1, -1).flatten(1)
    value = torch.randn(1, tokens, HEADS, CHANNELS, generator=generator)
    offsets = pattern + torch.randn(1, tokens, *pattern.shape, generator=generator)
    return value, offsets, torch.randn(1, tokens, HEADS, pattern.shape[1] // 2, generator=generator)


def level_maps(value: Tensor) -> list[Tensor]:
    """Every level's value as grid_sample takes it, ``(heads, channels, h, w)``."""
    areas = [h * w for h, w in zip(LEVELS[::2], LEVELS[1::2], strict=True)]
    return [
        level.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (h, w)).contiguous()
        for level, h, w in zip(value.split(areas, dim=1), LEVELS[::2], LEVELS[1::2], strict=True)
    ]


def level_grids(value: Tensor, offsets: Tensor) -> list[Tensor]:
    """Every level's places as grid_sample takes them, ``(heads, tokens, points, xy)``."""
    moves = offsets.unflatten(3, (len(LEVELS) // 2, POINTS, 2))
    centres = pixel_centres(LEVELS, value)[:, None, None]
    return [
        (2 * (centres + moves[:, :, :, i] / moves.new_tensor([w, h])) - 1).transpose(1, 2).flatten(0, 1).contiguous()
        for i, (h, w) in enumerate(zip(LEVELS[::2], LEVELS[1::2], strict=True))
    ]


def sample_levels(maps: list[Tensor], grids: list[Tensor]) -> list[Tensor]:
    """The calls of grid_sample that the official formulation makes."""
    return [
        F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for level, grid in zip(maps, grids, strict=True)
    ]


def calls() -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed, by operator and form."""
    attention = attention_inputs()
    generator = torch.Generator().manual_seed(1)
    maps, grids = level_maps(attention[0]), level_grids(*attention[:2])
    masks = 2 * torch.randn(1, 100, PADDED[0] // 4, PADDED[1] // 4, generator=generator)
    classes = 2 * torch.randn(1, 100, 151, generator=generator)
    sizes = [*PADDED, *PADDED, *PADDED]
    return {
        "DeformableAttention": {
            KERNEL: lambda: deformable_attention(*attention, LEVELS),
            DEFINITION: lambda: attend(*attention, LEVELS),
            SAMPLING: lambda: sample_levels(maps, grids),
        },
        "QueryArgmax": {
            KERNEL: lambda: query_argmax(masks, classes, sizes),
            DEFINITION: lambda: sum_and_choose(masks, classes, sizes),
        },
    }


def host_level() -> str:
    """The instruction set that the kernels use."""
    library = native.load()
    if library is None:
        raise SystemExit("libfreqfusion_c.so is not built; `make plugins` builds it")
    library.freqfusion_host_level.restype = ctypes.c_char_p
    return library.freqfusion_host_level().decode()


def shares_of_roof(program: Path, threads: int) -> list[dict[str, Any]]:
    """What the kernels' own benchmark says of these two."""
    lines = []
    for operator in ("DeformableAttention", "QueryArgmax"):
        command = [str(program), "--json", "--threads", str(threads), "--seconds", "4", "--only", operator]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines += [json.loads(line) for line in done.stdout.splitlines()]
    return lines


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bench-kernels", type=Path)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    level = host_level()
    records = []
    with torch.inference_mode():
        for operator, forms in calls().items():
            times: dict[str, list[float]] = {form: [] for form in forms}
            for turn in range(args.rounds + 3):
                for form, call in forms.items():
                    start = time.perf_counter()
                    call()
                    if turn >= 3:
                        times[form].append(1e3 * (time.perf_counter() - start))
            p50 = {form: statistics.median(values) for form, values in times.items()}
            records += [
                {
                    "operator": operator,
                    "form": form,
                    "p50_ms": p50[form],
                    "best_ms": min(values),
                    "kernel_to_this": p50[KERNEL] / p50[form],
                    "kernel_to_this_at_best": min(times[KERNEL]) / min(values),
                    "rounds": args.rounds,
                    "level": level,
                    "size": [*PADDED],
                }
                for form, values in times.items()
            ]
    facts = {**machine(args.threads), "load_average": os.getloadavg()[0]}
    roofs = shares_of_roof(args.bench_kernels, args.threads) if args.bench_kernels else []
    for roof in roofs:
        share = f"p50 {roof['p50_ms']:8.2f} ms, {roof['roof_share']:.0%} of the roof"
        print(f"{roof['operator']:<28} {roof['level']:<7} {share}")
    for record in records:
        print(
            f"{record['operator']:<20} {record['form']:<18} {level:<7} p50 {record['p50_ms']:8.2f} ms, best "
            f"{record['best_ms']:8.2f} ms, kernel to this {record['kernel_to_this']:.3f}"
        )
    if args.results:
        with args.results.open("a") as file:
            file.writelines(json.dumps({**record, **facts}) + "\n" for record in (*records, *roofs))


if __name__ == "__main__":
    main()
