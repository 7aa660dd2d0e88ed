# SPDX-License-Identifier: Apache-2.0
"""Measures on the official goldens what each fp32 island is for: prints the table of docs/precision.md.

    python scripts/measure_islands.py TENSOR.onnx

TENSOR.onnx is SegNeXt-T with the goldens' weights (`tests/reference_data.py`), fp32, tensor interface.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from freqfusion_export.passes.assign_precision import AssignPrecisionPass, count_casts
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.passes.widen_to_fp32 import WidenToFp32Pass
from freqfusion_export.precision.islands import ISLANDS, find_islands
from freqfusion_runtime.comparison import label_agreement, mean_iou
from freqfusion_runtime.labels import labels_from_scores
from freqfusion_runtime.manifest import Preprocessing
from freqfusion_runtime.preprocess import prepare
from onnx_ir.passes.common import InlinePass

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference_data import golden
from weights_spec import image

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
INSIDE = {
    "similarity, inside LocalSimilarity": "LocalSimilarity",
    "softmax and taps, inside AdaptiveFilter": "AdaptiveFilter",
    "coordinates, inside OffsetResample": "OffsetResample",
}


def variants(path: Path, dtype: ir.DataType) -> Iterator[tuple[str, ir.Model]]:
    """Yields the network typed as it is exported, then once without each island."""
    yield "as exported", typed(path, dtype)
    for island in ISLANDS:
        yield f"without: {island.name}", typed(path, dtype, without=[island.name])
    for name, operator in INSIDE.items():
        yield f"without: {name}", typed(path, dtype, opened=[operator])
    names = [island.name for island in ISLANDS]
    yield "without any", typed(path, dtype, without=names, opened=list(INSIDE.values()))


def typed(path: Path, dtype: ir.DataType, without: list[str] = [], opened: list[str] = []) -> ir.Model:  # noqa: B006
    """Types the network; bodies of ``opened`` operators are laid open and typed like everything else."""
    model = ir.load(path)
    if opened:
        InlinePass(criteria=lambda function: function.domain == DOMAIN and function.name in opened)(model)
        for node in list(model.graph):
            if node.op_type == "CastLike" or (node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType.FLOAT):
                ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
                node.graph.remove(node, safe=True)
    return AssignPrecisionPass(dtype, find_islands(model, dtype, without=without))(model).model


def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
    """Runs a typed network with every rounding it asks for."""
    emulated = WidenToFp32Pass(rounding=True)(model).model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(emulated).SerializeToString(), options)
    return session.run(None, {"images": images})[0]


def main() -> None:
    """Prints the table."""
    path = Path(sys.argv[1])
    expected = golden("segnext_t_seed0_128x128")["logits"]
    pictures = [golden("e2e_seed0_75x100"), golden("e2e_seed0_120x81")]
    print("| type | network | casts | logits, rms / std | max / std | label agreement | mIoU |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, dtype in TYPES.items():
        for variant, model in variants(path, dtype):
            casts = count_casts(list(model.graph))
            text = ir.to_proto(model)
            logits = run(ir.from_proto(text), image(128, 128, 0))
            error = (logits.astype(np.float64) - expected) / expected.std()
            agreements, ious = [], []
            for g in pictures:
                images = prepare(g["rgb"], Preprocessing())
                scores = run(ir.from_proto(text), images)[0]
                labels = labels_from_scores(scores, images.shape[2:], g["pred"].shape)
                agreements.append(label_agreement(labels, g["pred"]))
                ious.append(mean_iou(labels, g["pred"]))
            numbers = f"{np.sqrt((error**2).mean()):.5f} | {np.abs(error).max():.4f}"
            print(f"| {name} | {variant} | {casts} | {numbers} | {min(agreements):.4%} | {min(ious):.4f} |", flush=True)


if __name__ == "__main__":
    main()
