# SPDX-License-Identifier: Apache-2.0
"""The forms of Mask2Former, Swin-B + FreqFusion, that are timed, and what they are held to."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from freqfusion import create_model, native
from freqfusion.mask2former import Mask2Former
from freqfusion_runtime.model_files.plain.inlining import inlined
from freqfusion_runtime.sessions.kernel_library import usable_library

from freqfusion_export.bench.timing import Entry, has_openvino
from freqfusion_export.exporter import export
from freqfusion_export.networks.trace import trace_network

SIZE = (640, 640)
MODEL, TWIN_MODEL = "mask2former_swin_b", "mask2former_swin_b_bilinear"
BASELINE = "PyTorch eager, official formulation"
LEANER = "PyTorch eager, unfold and grid_sample"
PEER = "peer: transformers, bilinear, fixed size"
KERNELS, TWIN, LABELS = "ours, kernels", "bilinear twin, kernels", "ours, picture to labels"
PAIRS = {
    "kernels_to_peer": (KERNELS, PEER),
    "kernels_to_eager": (KERNELS, BASELINE),
    "kernels_to_leaner_eager": (KERNELS, LEANER),
    "kernels_to_twin": (KERNELS, TWIN),
    "picture_to_labels_to_network": (LABELS, KERNELS),
    "bodies_to_peer": ("ours, function bodies", PEER),
}
"""The figures this project holds itself to: see ``timing.ratios``."""


def make_files(folder: Path) -> dict[str, str]:
    """Exports the network in both interfaces, its twin and its inlined form, but for those that ``folder`` has.

    Weights are made up, the same in all of them.
    """
    paths = {name: folder / f"{name}.onnx" for name in ("ours", "picture", "twin", "inlined")}
    if not (paths["ours"].is_file() and paths["picture"].is_file()):
        network = _network(MODEL)
        traced = trace_network(network, Mask2Former.size_divisor)
        export(network, paths["ours"], name=MODEL, interface="tensor", traced=traced)
        export(network, paths["picture"], name=MODEL, interface="image", traced=traced)
    if not paths["twin"].is_file():
        export(_network(TWIN_MODEL), paths["twin"], name=TWIN_MODEL, interface="tensor")
    if has_openvino() and not paths["inlined"].is_file():
        inline(paths["ours"], paths["inlined"])
    return {name: str(path) for name, path in paths.items()}


def make_entries(folder: Path, height: int, width: int) -> list[Entry]:
    """Exports everything that is compared into ``folder``; forms whose package or library is missing are left out."""
    shape, paths = (1, 3, height, width), make_files(folder)
    entries = [
        Entry(BASELINE, "eager-official", None, shape, model=MODEL),
        Entry(LEANER, "eager", None, shape, model=MODEL),
        Entry("ours, function bodies", "onnx", paths["ours"], shape),
    ]
    if has_openvino():
        entries.append(Entry("OpenVINO, inlined", "openvino", paths["inlined"], shape))
    if native.is_available():
        entries.append(Entry("PyTorch eager, kernels", "eager-kernels", None, shape, model=MODEL))
    if usable_library() is not None:
        entries += [
            Entry(KERNELS, "onnx-kernels", paths["ours"], shape),
            Entry(TWIN, "onnx-kernels", paths["twin"], shape),
            Entry(LABELS, "onnx-kernels", paths["picture"], (1, height, width, 3), is_picture=True),
        ]
    return entries


def _network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name)


def inline(path: Path, to: Path) -> None:
    """Writes a file without functions, for a reader that knows none."""
    onnx.save(inlined(onnx.load(path), str(path)), to)
