# SPDX-License-Identifier: Apache-2.0
"""The official Mask2Former's reference data: goldens, key lists, known mistakes, and models filled as these were."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK2FORMER = Path(__file__).parent / "data" / "mask2former"
DECODER = "sem_seg_head.pixel_decoder."

# Suggested by the reference's SPEC in section 9, of the largest value: fp32 differs from fp64 by up to 1e-6. Behind the
# first attention mask it holds only where no bit of any mask differs.
GOLDEN_TOLERANCE = 1e-5


def _load_generator() -> Any:
    """Loads weights_spec.py under a name of its own, as two other generators have its name."""
    spec = importlib.util.spec_from_file_location("mask2former_weights_spec", MASK2FORMER / "weights_spec.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights_spec = _load_generator()


def golden(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of ``tests/data/mask2former/goldens/m2f_<name>.npz``."""
    with np.load(MASK2FORMER / "goldens" / f"m2f_{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def key_list(size: str) -> list[Any]:
    """The official entries of ``swin_b`` or ``swin_l``: name, shape, dtype."""
    found: list[Any] = json.loads((MASK2FORMER / "keys" / f"mask2former_{size}_freqfusion.json").read_text())
    return found


def known_mistakes() -> dict[str, Mapping[str, float]]:
    """What each deliberate mistake in the official code changed, by its name."""
    return {entry["name"]: entry for entry in json.loads((MASK2FORMER / "sensitivity.json").read_text())}


def fill(module: Any, prefix: str = "", seed: int = 0) -> Any:
    """Fills a module with the public generator's weights, whose names are those of the whole model."""
    import torch

    for name, tensor in module.state_dict().items():
        values = weights_spec.fill(prefix + name, tensor.shape, seed)
        if values is not None:
            tensor.copy_(torch.from_numpy(values))
    return module


def filled_mask2former(name: str = "mask2former_swin_b", seed: int = 0, **arguments: Any) -> Any:
    """A model with the public generator's weights."""
    import freqfusion

    return fill(freqfusion.create_model(name, **arguments), seed=seed)


SMALL = {
    "embed_dim": 32,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 4,
    "num_classes": 7,
    "num_queries": 12,
    "channels": 64,
    "encoder_layers": 1,
    "decoder_layers": 4,
}
"""A network of the same kind that is traced, written and run in seconds; its maps have odd counts of windows."""


def error(actual: Any, expected: NDArray[Any]) -> float:
    """The largest error over the largest value."""
    actual = np.asarray(actual, dtype=np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def assert_statistics(actual: Any, expected: Mapping[str, NDArray[Any]], name: str) -> None:
    """Compares a tensor with the golden's samples of it, and with its mean, deviation and largest value."""
    actual = np.asarray(actual)
    assert list(actual.shape) == expected[f"{name}/shape"].tolist(), name
    largest = float(expected[f"{name}/absmax"])
    places = (np.arange(256) * actual.size) // 256
    np.testing.assert_allclose(
        actual.reshape(-1)[places], expected[f"{name}/sample256"], rtol=0, atol=GOLDEN_TOLERANCE * largest, err_msg=name
    )
    found = [actual.mean(dtype=np.float64), actual.std(dtype=np.float64), np.abs(actual).max()]
    wanted = [float(expected[f"{name}/{kind}"]) for kind in ("mean", "std", "absmax")]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=GOLDEN_TOLERANCE * largest, err_msg=name)
