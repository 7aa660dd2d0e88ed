# SPDX-License-Identifier: Apache-2.0
"""Times the reassembly kernels beside a copy of the same device and beside what they replace.

Every run starts with a cold L2: a buffer larger than it is written in between. That also keeps the device busy while
the host queues the next run, so that the time between two events is the device's alone. Bytes are those that must move:
features and taps once in, output once out.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import cases
import torch
import torch.nn.functional as F
from kernels import (
    AUTOMATIC,
    DIRECT,
    LAYOUT_NAMES,
    NCHW,
    NHWC,
    TACTIC_NAMES,
    AdaptiveFilterShape,
    CarafeShape,
    DeformableAttentionShape,
    Library,
    LocalSimilarityShape,
    OffsetResampleShape,
    QueryArgmaxShape,
    ResizeArgmaxShape,
    Stored,
    window_array,
)
from native_build import find_nvcc
from torch import Tensor

WARM_UPS = 50
RUNS = 200
FLUSH_BYTES = 512 << 20  # ten times the L2 of an H100
COPY_BYTES = 1 << 30
WANTED_SHARE = 0.8  # of the copy bandwidth
SIDES = (64, 128)
CHANNELS, KERNEL_SIZE, SCALE = 256, 5, 2


class Clock:
    """Measures device time of one call at a time."""

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, call: Callable[[], Any], runs: int = RUNS, warm_ups: int = WARM_UPS) -> dict[str, float]:
        """p50 and p99 in microseconds."""
        for _ in range(warm_ups):
            call()
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        for start, end in pairs:
            self._flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        times = sorted(1e3 * start.elapsed_time(end) for start, end in pairs)
        return {"p50_us": times[runs // 2], "p99_us": times[min(runs - 1, int(0.99 * runs))], "runs": runs}


def copy_gb_per_s(clock: Clock, total_bytes: int, runs: int = RUNS) -> float:
    """Bandwidth of a copy inside the device that reads and writes half of ``total_bytes`` each."""
    source = torch.ones(max(total_bytes // 2, 1), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return total_bytes / clock(lambda: target.copy_(source), runs)["p50_us"] / 1e3


def unfold_carafe(x: Tensor, mask: Tensor) -> Tensor:
    """``Carafe`` as PyTorch users write it, for one group."""
    n, c, h, w = x.shape
    windows = F.unfold(x, KERNEL_SIZE, padding=KERNEL_SIZE // 2).view(n, c * KERNEL_SIZE**2, h, w)
    windows = F.interpolate(windows, scale_factor=SCALE, mode="nearest").view(n, c, KERNEL_SIZE**2, SCALE * h, -1)
    return (windows * mask.unsqueeze(1)).sum(dim=2)


def unfold_adaptive_filter(x: Tensor, logits: Tensor, window: Tensor) -> Tensor:
    taps = logits.softmax(dim=1) * window
    return unfold_carafe(x, taps / taps.sum(dim=1, keepdim=True))


def rivals(operator: str, x: Tensor, taps: Tensor, window: list[float]) -> dict[str, Callable[[], Tensor]]:
    """What a user has without these kernels."""
    factors = torch.tensor(window, device="cuda", dtype=x.dtype).view(1, -1, 1, 1)
    eager = (
        partial(unfold_carafe, x, taps) if operator == "carafe" else partial(unfold_adaptive_filter, x, taps, factors)
    )
    compiled = torch.compile(eager.func)
    found: dict[str, Callable[[], Tensor]] = {
        "torch_unfold_eager": eager,
        "torch_unfold_compiled": partial(compiled, *eager.args),
    }
    if operator == "carafe":
        try:
            from mmcv.ops import carafe as mmcv_carafe
        except ImportError:
            pass
        else:
            found["mmcv_carafe"] = partial(mmcv_carafe, x, taps, KERNEL_SIZE, 1, SCALE)
    return found


def command_output(command: list[str]) -> str | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def provenance() -> dict[str, Any]:
    """What a result depends on."""
    nvcc = command_output([str(find_nvcc()), "--version"])
    return {
        "gpu": torch.cuda.get_device_name(),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": command_output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "nvcc": nvcc.splitlines()[-1] if nvcc else None,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "git_revision": command_output(["git", "rev-parse", "HEAD"]),
        "git_is_clean": command_output(["git", "status", "--porcelain", "--untracked-files=no"]) == "",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "l2": "cold",
        "warm_ups": WARM_UPS,
    }


def timed(clock: Clock, call: Callable[[], Any], moved_bytes: int, peak_gb_per_s: float) -> dict[str, Any]:
    times = clock(call)
    rate = moved_bytes / times["p50_us"] / 1e3
    return {**times, "moved_bytes": moved_bytes, "gb_per_s": rate, "share_of_copy": rate / peak_gb_per_s}


def bench_reassembly(library: Library, clock: Clock, peak: float, has_time: Callable[[], bool]) -> list[dict[str, Any]]:
    lines = []
    window = cases.window_of(KERNEL_SIZE, is_plain=False)
    window_pointer = window_array(window)
    for operator in ("carafe", "adaptive_filter"):
        for side in SIDES:
            shape = CarafeShape(1, CHANNELS, side, side, KERNEL_SIZE, 1, SCALE)
            for dtype in (torch.float16, torch.float32):
                sizes = [(1, CHANNELS, side, side), (1, KERNEL_SIZE**2, SCALE * side, SCALE * side)]
                sizes.append((1, CHANNELS, SCALE * side, SCALE * side))
                for layout in (NCHW, NHWC):
                    tensors = [Stored(library, size, dtype, layout) for size in sizes]
                    for tensor in tensors[:2]:
                        tensor.view.normal_()
                    moved = sum(t.count * t.flat.element_size() for t in tensors)
                    same_size = copy_gb_per_s(clock, moved)
                    x, taps, out = (t.address for t in tensors)
                    for tactic in range(len(TACTIC_NAMES)):
                        form = library.form(dtype, layout, tactic)
                        if tactic == DIRECT or (tactic != AUTOMATIC and not library.has_tactic(shape, form)):
                            continue
                        if operator == "carafe":
                            call = partial(library.call, operator, shape, form, x, taps, out)
                        else:
                            filter_shape = AdaptiveFilterShape(shape, 0)
                            call = partial(library.call, operator, filter_shape, form, x, taps, window_pointer, out)
                        entry = timed(clock, call, moved, peak)
                        entry |= {"share_of_copy_of_same_size": entry["gb_per_s"] / same_size}
                        entry |= {"operator": operator, "input": f"1x{CHANNELS}x{side}x{side}", "kernel_size": 5}
                        entry |= {"scale": SCALE, "dtype": str(dtype).removeprefix("torch.")}
                        lines.append(entry | {"layout": LAYOUT_NAMES[layout], "kernel": TACTIC_NAMES[tactic]})
                    if layout == NCHW and dtype == torch.float16:
                        lines += bench_rivals(operator, tensors, window, clock, moved, peak, lines[-1], has_time)
    return lines


def bench_rivals(
    operator: str,
    tensors: list[Stored],
    window: list[float],
    clock: Clock,
    moved: int,
    peak: float,
    like: dict[str, Any],
    has_time: Callable[[], bool],
) -> list[dict[str, Any]]:
    lines = []
    for name, rival in rivals(operator, tensors[0].view, tensors[1].view, window).items():
        described = {key: like[key] for key in ("operator", "input", "kernel_size", "scale", "dtype", "layout")}
        described["kernel"] = name
        if not has_time():
            lines.append(described | {"not_run": "no time was left"})
            continue
        try:
            lines.append(described | timed(clock, rival, moved, peak))
        except Exception as error:
            lines.append(described | {"not_run": f"{type(error).__name__}: {error}".splitlines()[0]})
        torch.cuda.empty_cache()
    return lines


def bench_others(library: Library, clock: Clock, peak: float) -> list[dict[str, Any]]:
    """The other operators, at the sizes of SegNeXt-T's second fusion for a 1024 x 1024 picture, and of Mask2Former for
    one of 640 x 640."""
    lines = []
    label_size = (1, 1, 512, 512)
    runs = [
        ("local_similarity", LocalSimilarityShape(1, 120, 128, 128, 3, 2), [(1, 120, 128, 128), (1, 8, 128, 128)]),
        (
            "offset_resample",
            OffsetResampleShape(1, 416, 64, 64, 4),
            [(1, 416, 128, 128), (1, 32, 64, 64), (1, 416, 128, 128)],
        ),
        ("resize_argmax", ResizeArgmaxShape(1, 150, 64, 64, 512, 512, 512, 512, False), [(1, 150, 64, 64), label_size]),
        (
            "deformable_attention",
            DeformableAttentionShape.of(1, 8, 32, 4, 20, 20, 40, 40, 80, 80),
            [(1, 8400, 8, last) for last in (32, 24, 12, 32)],
        ),
        (
            "query_argmax",
            QueryArgmaxShape(1, 100, 150, 160, 160, 640, 640, 640, 640, 512, 512),
            [(1, 100, 160, 160), (1, 100, 151, 1), label_size],
        ),
    ]
    for operator, shape, sizes in runs:
        for layout in (NCHW, NHWC) if operator not in ("deformable_attention", "query_argmax") else (NCHW,):
            tensors = []
            for size in sizes:
                is_labels = size == label_size
                tensors.append(
                    Stored(library, size, torch.int32 if is_labels else torch.float16, NCHW if is_labels else layout)
                )
            for tensor in tensors[:-1]:
                tensor.view.normal_(std=0.25)
            moved = sum(t.count * t.flat.element_size() for t in tensors)
            form = library.form(torch.float16, layout)
            call = partial(library.call, operator, shape, form, *(t.address for t in tensors))
            entry = timed(clock, call, moved, peak)
            entry |= {"operator": operator, "input": "x".join(map(str, sizes[0])), "dtype": "float16"}
            lines.append(entry | {"layout": LAYOUT_NAMES[layout], "kernel": "automatic"})
    return lines


def run_benchmarks(library: Library, has_time: Callable[[], bool]) -> list[dict[str, Any]]:
    """One entry per kernel, rival and size, with its provenance."""
    clock = Clock()
    peak = copy_gb_per_s(clock, COPY_BYTES, runs=30)
    floor = clock(lambda: None)["p50_us"]
    lines = bench_reassembly(library, clock, peak, has_time) + bench_others(library, clock, peak)
    shared = provenance() | {"copy_gb_per_s": peak, "empty_interval_us": floor}
    for line in lines:
        own = [x for x in lines if x["kernel"] == "automatic" and all(x.get(k) == line.get(k) for k in IDENTITY)]
        if own and "p50_us" in line and line["kernel"] not in TACTIC_NAMES:
            line["times_as_long_as_ours"] = line["p50_us"] / own[0]["p50_us"]
    return [shared | line for line in lines]


IDENTITY = ("operator", "input", "dtype", "layout")


def write_lines(lines: list[dict[str, Any]], folder: Path) -> Path:
    """``<gpu>.jsonl`` in ``folder``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in lines[0]["gpu"].lower()).strip("_")
    target = folder / f"{name}.jsonl"
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")
    unfinished.replace(target)
    return target


def print_table(lines: list[dict[str, Any]]) -> None:
    """What is used and what it replaces, in fp16; the file has the rest."""
    print(
        f"copy inside the device: {lines[0]['copy_gb_per_s']:.0f} GB/s; p50 of an empty interval: "
        f"{lines[0]['empty_interval_us']:.1f} us"
    )
    names = f"{'operator':17}{'input':16}{'dtype':9}{'layout':7}{'kernel':22}"
    print(f"{names}{'p50 us':>9}{'p99 us':>9}{'GB/s':>7}{'of copy':>9}")
    for line in lines:
        if line["dtype"] != "float16" or line["kernel"] in TACTIC_NAMES[DIRECT:]:
            continue
        head = f"{line['operator']:17}{line['input']:16}{line['dtype']:9}{line['layout']:7}{line['kernel']:22}"
        if "not_run" in line:
            print(f"{head} not run: {line['not_run'][:60]}")
        else:
            print(
                f"{head}{line['p50_us']:9.1f}{line['p99_us']:9.1f}{line['gb_per_s']:7.0f}{line['share_of_copy']:9.0%}"
            )


def missed_targets(lines: list[dict[str, Any]]) -> list[str]:
    """Which of the wanted figures were not reached."""
    missed = []
    for line in lines:
        if line["kernel"] == "automatic" and line["dtype"] == "float16" and line.get("kernel_size") == KERNEL_SIZE:
            if line["share_of_copy"] < WANTED_SHARE:
                missed.append(
                    f"{line['operator']} {line['input']} {line['layout']}: {line['share_of_copy']:.0%} of the copy "
                    f"bandwidth, expected at least {WANTED_SHARE:.0%}"
                )
        elif line.get("times_as_long_as_ours", 2.0) < 1.0:
            missed.append(f"{line['operator']} {line['input']}: {line['kernel']} is faster")
    return missed
