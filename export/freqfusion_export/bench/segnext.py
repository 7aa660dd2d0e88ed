# SPDX-License-Identifier: Apache-2.0
"""The forms of SegNeXt-T + FreqFusion that are timed, and what they are held to."""

from __future__ import annotations

from pathlib import Path

import torch
from freqfusion import create_model, native
from freqfusion_runtime.sessions.kernel_library import usable_library

from freqfusion_export.bench.naive import export_naively, naive_operators
from freqfusion_export.bench.timing import Entry, has_openvino
from freqfusion_export.exporter import export
from freqfusion_export.parity import mmcv_peer

SIZE = (512, 512)
BASELINE = "naive export, dynamo"
EAGER = "PyTorch eager, unfold"
_NAIVE_SCRIPT = "naive export, TorchScript"
_OPENVINO = "OpenVINO, naive export"
_BODIES, _KERNELS, _LABELS = "ours, function bodies", "ours, kernels", "ours, picture to labels"
_TWIN = "bilinear twin"
PAIRS = {
    "bodies_to_naive": (_BODIES, BASELINE, _NAIVE_SCRIPT),
    "kernels_to_naive": (_KERNELS, BASELINE, _NAIVE_SCRIPT),
    "kernels_to_openvino": (_KERNELS, _OPENVINO),
    "kernels_to_twin": (_KERNELS, _TWIN),
    "bodies_to_twin": (_BODIES, _TWIN),
    "picture_to_labels_to_network": (_LABELS, _KERNELS),
}
"""The figures this project holds itself to: see ``timing.ratios``."""


def make_entries(folder: Path, height: int, width: int) -> list[Entry]:
    """Exports everything that is compared into ``folder``; forms whose package or library is missing are left out."""
    shape = (1, 3, height, width)
    network = create_model("segnext_t")
    paths = {name: str(folder / f"{name}.onnx") for name in ("naive_dynamo", "naive_script", "ours", "picture", "twin")}
    with naive_operators():
        for name, dynamo in (("naive_dynamo", True), ("naive_script", False)):
            export_naively(network, paths[name], (torch.zeros(shape),), {"images": torch.zeros(shape)}, dynamo)
    export(network, paths["ours"], interface="tensor")
    export(network, paths["picture"], interface="image")
    export(create_model("segnext_t_bilinear"), paths["twin"], name="segnext_t_bilinear", interface="tensor")
    entries = [
        Entry(EAGER, "eager", None, shape),
        Entry(BASELINE, "onnx", paths["naive_dynamo"], shape),
        Entry(_NAIVE_SCRIPT, "onnx", paths["naive_script"], shape),
        Entry(_BODIES, "onnx", paths["ours"], shape),
        Entry(_TWIN, "onnx", paths["twin"], shape),
        Entry("ours, picture to labels, bodies", "onnx", paths["picture"], (1, height, width, 3), is_picture=True),
    ]
    if has_openvino():
        entries.append(Entry(_OPENVINO, "openvino", paths["naive_dynamo"], shape))
    if native.is_available():
        entries.append(Entry("PyTorch eager, kernels", "eager-kernels", None, shape))
    if mmcv_peer.is_available():
        entries.append(Entry("PyTorch eager on CUDA, mmcv", "eager-mmcv", None, shape))
    if usable_library() is not None:
        entries.append(Entry(_KERNELS, "onnx-kernels", paths["ours"], shape))
        entries.append(Entry(_LABELS, "onnx-kernels", paths["picture"], (1, height, width, 3), is_picture=True))
    return entries
