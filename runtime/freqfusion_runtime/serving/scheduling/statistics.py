# SPDX-License-Identifier: Apache-2.0
"""Counts and times of each model since the server started, as the protocol's statistics extension names them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from freqfusion_runtime.serving.operation.stages import Stages
from freqfusion_runtime.serving.scheduling.registry import LoadedModel, Slot

_STAGES = {
    "success": (),
    "fail": (),
    "queue": ("queue",),
    "compute_input": ("decode", "preprocess"),
    "compute_infer": ("inference",),
    "compute_output": ("postprocess", "encode"),
    "cache_hit": (),
    "cache_miss": (),
}


@dataclass
class _Total:
    count: int = 0
    ns: int = 0

    def add(self, ms: float) -> None:
        self.count += 1
        self.ns += round(ms * 1e6)


@dataclass
class _ModelTotals:
    requests: dict[str, _Total] = field(default_factory=lambda: {name: _Total() for name in _STAGES})
    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    batches: dict[int, _Total] = field(default_factory=dict)


class Statistics:
    """The totals of all models. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, str], _ModelTotals] = {}

    def add_request(self, model: LoadedModel, stages: Stages, total_ms: float, is_success: bool) -> None:
        """Counts a request that reached a model."""
        with self._lock:
            requests = self._of(model.source.name, model.source.version).requests
            if not is_success:
                requests["fail"].add(total_ms)
                return
            requests["success"].add(total_ms)
            for name, parts in _STAGES.items():
                if parts:
                    requests[name].add(sum(stages.ms.get(part, 0.0) for part in parts))

    def add_execution(self, model: LoadedModel, items: int, ms: float) -> None:
        """Counts a run of the network over ``items`` together."""
        with self._lock:
            totals = self._of(model.source.name, model.source.version)
            totals.inferences += items
            totals.executions += 1
            totals.last_ms = time.time_ns() // 1_000_000
            totals.batches.setdefault(items, _Total()).add(ms)

    def of(self, slot: Slot) -> dict[str, Any]:
        """Writes one model's totals."""
        with self._lock:
            totals = self._of(slot.source.name, slot.source.version)
            return {
                "name": slot.source.name,
                "version": slot.source.version,
                "last_inference": totals.last_ms,
                "inference_count": totals.inferences,
                "execution_count": totals.executions,
                "inference_stats": {name: vars(total).copy() for name, total in totals.requests.items()},
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": {"count": 0, "ns": 0},
                        "compute_infer": vars(total).copy(),
                        "compute_output": {"count": 0, "ns": 0},
                    }
                    for size, total in sorted(totals.batches.items())
                ],
            }

    def _of(self, name: str, version: str) -> _ModelTotals:
        return self._totals.setdefault((name, version), _ModelTotals())
