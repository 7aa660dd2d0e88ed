# SPDX-License-Identifier: Apache-2.0
"""Writes an mm-style checkpoint with random weights, so that the whole pipeline can be seen without a download.

usage: make_demo_checkpoint.py OUTPUT.pth
"""

from __future__ import annotations

import sys
from pathlib import Path

import freqfusion
import torch
from freqfusion_runtime.ade20k import CLASSES, PALETTE
from freqfusion_runtime.files import atomic_path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data" / "segnext"))
from weights_spec import fill_state_dict  # the public generator behind the reference data


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_demo_checkpoint.py OUTPUT.pth")
    model = freqfusion.create_model("segnext_t")
    meta = {"CLASSES": CLASSES, "PALETTE": [list(color) for color in PALETTE], "weights": "random"}
    with atomic_path(sys.argv[1]) as temporary:
        torch.save({"meta": meta, "state_dict": fill_state_dict(model.state_dict(), seed=0)}, temporary)


if __name__ == "__main__":
    main()
