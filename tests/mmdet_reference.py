# SPDX-License-Identifier: Apache-2.0
"""The official detectors' reference data: goldens, key lists, and models filled as the references were."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MMDET = Path(__file__).parent / "data" / "mmdet"


def _load_generator() -> Any:
    """Loads weights_spec.py under a name of its own: SegNeXt's generator, with other adaptations, has its name."""
    spec = importlib.util.spec_from_file_location("mmdet_weights_spec", MMDET / "weights_spec.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights_spec = _load_generator()


class Golden(dict[str, NDArray[Any]]):
    """Arrays of ``tests/data/mmdet/<name>.npz``; ``meta`` is its description."""

    def __init__(self, name: str) -> None:
        with np.load(MMDET / f"{name}.npz") as arrays:
            super().__init__({key: arrays[key] for key in arrays.files if key != "meta_json"})
            self.meta: dict[str, Any] = json.loads(str(arrays["meta_json"]))
