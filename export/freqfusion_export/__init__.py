# SPDX-License-Identifier: Apache-2.0
"""From checkpoints to checked, portable ONNX files.

Rooms, from the ground up:

    operators/     FreqFusion operators as ONNX: nodes, and their bodies of standard operators.
    passes/        Graph passes, one per file; each does one thing, and a second run changes nothing.
    networks/      Kinds of network: what each looks like from outside, and its traced graph.
    precision/     Types written into the file: what computes in fewer bits, what stays fp32, and how that is judged.
    verification/  Checks a file that was just written, before it is kept.
    parity/        Compares exported files with PyTorch.
    evaluation/    The tasks of `freqfusion evaluate`.
    bench/         Times a network beside its rivals.
    commands/      The commands that need PyTorch or onnx, one module each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_export.exporter import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:  # torch takes seconds to import; commands that need none of this should not wait
    if name == "export":
        from freqfusion_export.exporter import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
