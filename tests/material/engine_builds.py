# SPDX-License-Identifier: Apache-2.0
"""Engines of small models, built by TensorRT-RTX as users build them, in a cache of the test's own."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.engines.record import EngineRecord, read_plan_manifest

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'freqfusion-deploy[rtx]'"
)
SIZES = ("--min", "1x32x32", "--opt", "1x64x64", "--max", "2x128x96")


def build(model: Path, *options: str, sizes: Sequence[str] = SIZES) -> tuple[int, dict[str, Any]]:
    """Runs `freqfusion build` and returns its status and its JSON, empty where it wrote none."""
    facts = model.with_suffix(".facts.json")
    facts.unlink(missing_ok=True)
    status = main(["build", str(model), "--flavour", "tensorrt-rtx", *sizes, *options, "--json", str(facts)])
    return status, json.loads(facts.read_text()) if facts.is_file() else {}


def record_of(plan: Path) -> EngineRecord:
    """What the manifest beside a plan says of the engine."""
    record = read_plan_manifest(plan).engine
    assert record is not None
    return record
