# SPDX-License-Identifier: Apache-2.0
"""The gate of `freqfusion build --verify` on this machine's GPU: an engine from its operators to its label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDES = (96, 160)  # of the picture; the file's pre-processing scales it to 512 x 864


def climb(builder: Any, built: Any, model: Any, folder: Path) -> list[str]:
    """Records what PyTorch computes, then runs the engine and the two that show its inside.

    Args:
        builder, built: The engine of an exported file, and what built it.
        model: The network in PyTorch, on the CPU.
        folder: For files.

    Returns:
        What is beyond its bound.
    """
    import torch
    from freqfusion_export.parity.reference_writer import save_reference
    from freqfusion_runtime.agreement.reference_data import ReferenceData
    from freqfusion_runtime.building.gate import Gate
    from freqfusion_runtime.building.gate_report import gate_lines
    from freqfusion_runtime.building.verification import verify

    place = folder / f"ladder.{builder.model.stem}.{builder.flavour.name}"
    place.mkdir()
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    picture = place / "waves.png"
    Image.fromarray(np.stack([x, y + x, 255 - 2 * y], axis=2).astype(np.uint8)).save(picture)
    weights = place / "model.pth"
    torch.save({"state_dict": model.state_dict()}, weights)
    save_reference(place / "reference.npz", builder.model, weights, model, builder.manifest, [picture])
    gate = Gate(builder.manifest, [], builder.model, ReferenceData(place / "reference.npz"))
    staged = place / "net.plan"
    staged.write_bytes(built.plan)
    verify(builder, staged, built.record, gate, _silent)
    print("\n".join(gate_lines(gate.results)))
    return [
        f"{rung.level} {rung.name} against {rung.reference}: {rung.measures or rung.note}"
        for result in gate.results
        for rung in result.rungs
        if not rung.agrees
    ]


@contextmanager
def _silent(subject: str) -> Iterator[Callable[[float, str], None]]:
    print(f"ladder: building an engine for {subject}")
    yield lambda fraction, phase: None
