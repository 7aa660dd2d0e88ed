# SPDX-License-Identifier: Apache-2.0
"""Detectors with the goldens' weights as exported files, each traced and written once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kept_files import kept
from mmdet_reference import filled_detector


class DetectorFiles:
    """Makes networks, traces and files by name when they are first asked for."""

    def __init__(self) -> None:
        self._networks: dict[str, Any] = {}

    def network(self, name: str) -> Any:
        """The PyTorch model; the last one asked for is kept."""
        if name not in self._networks:
            self._networks = {name: filled_detector(name)}
        return self._networks[name]

    def traced(self, name: str) -> Any:
        """What ``trace_network`` makes of it, kept on disk: each has 200 MB of weights."""
        import onnx_ir as ir
        from freqfusion_export.networks.trace import trace_network

        def make(folder: Path) -> None:
            ir.save(trace_network(self.network(name), 64), folder / "traced.onnx")

        return ir.load(kept(f"trace of {name}", make) / "traced.onnx")

    def path(self, name: str, interface: str = "tensor", **options: str) -> Path:
        """The file exported with such options; pictures are scaled to 160 x 96 at most, to be run in seconds."""
        from freqfusion_export import export
        from freqfusion_export.networks.forms import form_of

        file = f"{'_'.join((name, interface, *options.values()))}.onnx"

        def make(folder: Path) -> None:
            network = self.network(name)
            small = replace(form_of(network).preprocessing, long_side=160, short_side=96)
            traced = self.traced(name)
            export(
                network, folder / file, name=name, interface=interface, traced=traced, preprocessing=small, **options
            )

        return kept(f"{name}, {interface}, {sorted(options.items())}", make) / file
