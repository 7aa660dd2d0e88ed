# SPDX-License-Identifier: Apache-2.0
"""Lets `freqfusion build --verify` go to its end without a GPU: plans are built for real, and not run.

A session over ONNX Runtime takes the place of the one that would run a plan. It computes what the plan was built from:
the same ONNX file, and as outputs those that the plan's manifest names. Everything else is the real thing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from freqfusion_runtime.engines import cuda, tensorrt_session
from freqfusion_runtime.engines.plan_header import read_plan_header
from freqfusion_runtime.engines.record import read_plan_manifest
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.onnx_probe import write_with_outputs
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Spoil = Callable[[onnx.ModelProto], None]


class OnnxRuntimeInsteadOfAGpu(OnnxRuntimeSession):
    """Takes a plan as `TensorRTSession` does and runs the ONNX file that it was built from."""

    models: tuple[Path, ...] = ()  # where to look for that file, beside the plan's own folder
    spoil: Spoil | None = None  # changes the network, to be an engine that computes something else
    opened: list[str]

    def __init__(self, path: Path, plugin: Path | None = None, **_: Any) -> None:
        read_plan_header(path)
        told = read_plan_manifest(path)  # refuses a plan that its manifest does not vouch for, as the real one does
        assert told.engine is not None
        type(self).opened.append(path.name)
        beside = sorted(path.parent.glob("*.onnx"))
        model = next(m for m in (*beside, *self.models) if sha256_of(m) == told.engine.onnx_sha256)
        known = {output.name for output in onnx.load(model).graph.output}
        played = path.with_suffix(".played.onnx")
        write_with_outputs(model, [o.name for o in told.manifest.outputs if o.name not in known], played)
        if self.spoil is not None:
            proto = onnx.load(played)
            self.spoil(proto)
            onnx.save(proto, played)
        super().__init__(played)

    def __enter__(self) -> OnnxRuntimeInsteadOfAGpu:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def play_plans(monkeypatch: pytest.MonkeyPatch, *models: Path, spoil: Spoil | None = None) -> list[str]:
    """Replaces the session that runs plans; returns the list of plans opened, which grows."""
    opened: list[str] = []
    attributes = {"models": models, "spoil": staticmethod(spoil) if spoil else None, "opened": opened}
    played = type("OnnxRuntimeInsteadOfAGpu", (OnnxRuntimeInsteadOfAGpu,), attributes)
    monkeypatch.setattr(tensorrt_session, "TensorRTSession", played)
    monkeypatch.setattr(cuda, "require_gpu", lambda purpose: None)
    return opened
