# SPDX-License-Identifier: Apache-2.0
"""A small Mask2Former as exported files, traced and written once; tracing it takes a minute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kept_files import kept
from mask2former_reference import SMALL, filled_mask2former


def small_network() -> Any:
    """The PyTorch model."""
    return filled_mask2former("mask2former", **SMALL)


def small_trace() -> Any:
    """What ``trace_network`` makes of it."""
    import onnx_ir as ir
    from freqfusion_export.networks.trace import trace_network

    def make(folder: Path) -> None:
        ir.save(trace_network(small_network(), 32), folder / "traced.onnx")

    return ir.load(kept("trace of small mask2former", make) / "traced.onnx")


def small_file(interface: str) -> Path:
    """The exported file; pictures are scaled to 128 x 60 at most, in place of 2560 x 640."""
    from freqfusion_export import export
    from freqfusion_export.networks.forms import form_of

    def make(folder: Path) -> None:
        network = small_network()
        plan = replace(form_of(network).preprocessing, long_side=128, short_side=60)
        path = folder / f"{interface}.onnx"
        export(network, path, name="mask2former", interface=interface, traced=small_trace(), preprocessing=plan)

    return kept(f"small mask2former, {interface} interface", make) / f"{interface}.onnx"
