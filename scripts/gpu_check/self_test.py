# SPDX-License-Identifier: Apache-2.0
"""What can be checked without a GPU: the fast references, and the kernels through their emulation."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cases
import fast_references
import torch
from correctness import check_all
from kernels import Library
from native_build import build_emulation

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
LIMIT = 1e-12  # float64 sums in another order


def compare_references() -> list[str]:
    """A sentence for each operator whose fast reference differs from the loops of tests/references.py."""
    import references as loops

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    generator = torch.Generator().manual_seed(0)
    failures = []

    def compare(name: str, fast: torch.Tensor, slow: object) -> None:
        error = float((fast - torch.as_tensor(slow)).abs().max()) if fast.numel() else 0.0
        if not error <= LIMIT or tuple(fast.shape) != tuple(slow.shape):  # type: ignore[attr-defined]
            failures.append(f"{name}: the fast reference differs from the loops by {error:.3g}, allowed {LIMIT}")

    for sizes in ((2, 6, 3, 5, 3, 2, 2), (1, 4, 1, 1, 5, 1, 2), (1, 6, 7, 4, 5, 3, 1), (1, 2, 2, 3, 3, 1, 3)):
        n, c, h, w, kernel_size, groups, scale = sizes
        if min(h, w) > kernel_size // 2:
            x, taps = random(n, c, h, w), random(n, groups * kernel_size**2, scale * h, scale * w)
            compare(
                f"carafe {sizes} reflected",
                fast_references.carafe(x, taps, kernel_size, groups, scale, 1),
                loops.carafe(x.numpy(), taps.numpy(), kernel_size, groups, scale, 1),
            )
        x, taps = random(n, c, h, w), random(n, groups * kernel_size**2, scale * h, scale * w)
        attributes = (kernel_size, groups, scale)
        window = cases.window_of(kernel_size, is_plain=False)
        compare(
            f"carafe {sizes}",
            fast_references.carafe(x, taps, *attributes),
            loops.carafe(x.numpy(), taps.numpy(), *attributes),
        )
        for mode in (0, 1, 2) if scale == 1 else (0,):
            compare(
                f"adaptive_filter {sizes} mode {mode}",
                fast_references.adaptive_filter(x, taps, window, *attributes, mode),
                loops.adaptive_filter(x.numpy(), taps.numpy(), window, *attributes, mode),
            )
    for sizes in ((2, 5, 6, 4, 3, 2), (1, 3, 1, 1, 3, 1), (1, 4, 5, 3, 5, 1)):
        x = random(*sizes[:4])
        x[:, :, 0, 0] = 0
        compare(
            f"local_similarity {sizes}",
            fast_references.local_similarity(x, *sizes[4:]),
            loops.local_similarity(x.numpy(), *sizes[4:]),
        )
    for sizes in ((2, 8, 3, 5, 4), (1, 2, 1, 1, 1)):
        n, c, h, w, groups = sizes
        x, offsets = random(n, c, 2 * h, 2 * w), 2 * random(n, 8 * groups, h, w)
        compare(
            f"offset_resample {sizes}",
            fast_references.offset_resample(x, offsets, groups),
            loops.offset_resample(x.numpy(), offsets.numpy(), groups),
        )
    for sizes in ((2, 3, 5, 4, 2, 3, 5, 4, 3, 7), (1, 1, 2, 1, 1, 1), (1, 2, 3, 2, 1, 4, 3, 1)):
        value, offsets, logits = (t.double() for t in cases.attention(sizes, torch.float64, "cpu"))
        compare(
            f"deformable_attention {sizes}",
            fast_references.deformable_attention(value, offsets, logits, sizes[4:]),
            loops.deformable_attention(value.numpy(), offsets.numpy(), logits.numpy(), sizes[4:]),
        )
    for sizes in ((2, 5, 4, 3, 5, 12, 20, 11, 17, 7, 23), (1, 2, 1, 1, 1, 4, 4, 3, 1, 5, 5)):
        masks, classes = random(sizes[0], sizes[1], *sizes[3:5]), random(sizes[0], sizes[1], sizes[2] + 1)
        compare(
            f"query_scores {sizes}",
            fast_references.query_scores(masks, classes, sizes[5:]),
            loops.query_scores(masks.numpy(), classes.numpy(), sizes[5:]),
        )
    for sizes in ((2, 3, 20, 32, 9, 7), (1, 2, 1, 1, 5, 2)):
        maps, boxes = cases.pyramid(sizes, torch.float64, "cpu")
        attributes = (sizes[5], cases.PYRAMID_STRIDE, cases.PYRAMID_SCALE)
        compare(
            f"pyramid_roi_align {sizes}",
            fast_references.pyramid_roi_align(maps, boxes.double(), *attributes),
            loops.pyramid_roi_align([x.numpy() for x in maps], boxes.numpy(), *attributes),
        )
    for sizes in ((2, 3, 4, 5, 8, 9, 7, 21, 0), (1, 2, 6, 3, 2, 12, 5, 4, 1), (1, 1, 1, 1, 3, 3, 1, 1, 1)):
        scores = random(*sizes[:4])
        compare(
            f"resized_scores {sizes}",
            fast_references.resized_scores(scores, sizes[4:8], bool(sizes[8])),
            loops.resized_scores(scores.numpy(), sizes[4:8], bool(sizes[8])),
        )
    return failures


def run_self_test(thin: int, deadline: float) -> list[str]:
    """All of it. Returns a sentence per failure."""
    torch.set_num_threads(1)  # tensors are small: a second thread only waits for the first
    failures = compare_references()
    print(f"fast references: {'agree with the loops' if not failures else 'DIFFER'}")
    with tempfile.TemporaryDirectory(prefix="freqfusion-gpu-check-") as folder:
        started = time.monotonic()
        library = Library(build_emulation(Path(folder), jobs=2), "cpu")
        print(f"emulation of the kernels: built in {time.monotonic() - started:.0f} s")
        tally, found = check_all(library, is_small=True, deadline=deadline, every=thin)
    worst = ", ".join(f"{name} {share:.2f}" for name, share in sorted(tally.worst.items()))
    print(f"emulated: {tally.count} cases, {len(found)} wrong; largest error over its allowance: {worst}")
    return failures + found
