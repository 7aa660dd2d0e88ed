# SPDX-License-Identifier: Apache-2.0
"""Measures on the official goldens what each fp32 island is for: prints the table of docs/precision.md.

    python scripts/measure_islands.py TENSOR.onnx

TENSOR.onnx is SegNeXt-T with the goldens' weights (`tests/reference_data.py`), fp32, tensor interface.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from freqfusion_export.passes.assign_precision import AssignPrecisionPass, count_casts
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.passes.widen_to_fp32 import WidenToFp32Pass
from freqfusion_export.precision.islands import ISLANDS, find_islands
from freqfusion_export.precision.quantization import group_of
from freqfusion_runtime.agreement.comparison import label_agreement, mean_iou, mean_iou_of_set
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.results.labels import labels_from_scores
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


def more_in_fp32(path: Path) -> Iterator[tuple[str, ir.Model]]:
    """Yields the fp16 network with each stage in fp32 beside the islands, then parts that cut across stages."""
    marked = [node for node in ir.load(path).graph if MODULE_KEY in node.metadata_props]
    stages: dict[str, list[str]] = {}
    for node in marked:
        if (stage := group_of(node)).startswith(("backbone.", "decode_head.")):  # the rest is reshapes
            stages.setdefault(stage, []).append(str(node.name))
    for stage, names in stages.items():
        yield f"with: {stage}", typed(path, ir.DataType.FLOAT16, keep=names)
    for part in ("backbone", "decode_head"):
        names = [str(node.name) for node in marked if group_of(node).startswith(part)]
        yield f"with: all of {part}", typed(path, ir.DataType.FLOAT16, keep=names)
    sums = [node for node in marked if node.op_type == "Add" and all(v.const_value is None for v in node.inputs if v)]
    norms = [node for node in marked if node.op_type == "BatchNormalization"]
    for name, nodes in {"sums": sums, "sums and the norms after them": [*sums, *norms]}.items():
        kept = [str(node.name) for node in nodes if group_of(node).startswith("backbone")]
        yield f"with: the backbone's {name}", typed(path, ir.DataType.FLOAT16, keep=kept)
    pointwise = [str(node.name) for node in marked if node.op_type in ("Add", "Mul", "Div", "Erf", "Sigmoid", "Relu")]
    yield "with: all pointwise nodes", typed(path, ir.DataType.FLOAT16, keep=pointwise)
    yield "rounded weights, nothing else", WidenToFp32Pass(rounding=False)(typed(path, ir.DataType.FLOAT16)).model


def typed(
    path: Path,
    dtype: ir.DataType,
    without: Sequence[str] = (),
    opened: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> ir.Model:
    """Types the network; bodies of ``opened`` operators are laid open and typed like everything else."""
    model = ir.load(path)
    if opened:
        InlinePass(criteria=lambda function: function.domain == DOMAIN and function.name in opened)(model)
        for node in list(model.graph):
            if node.op_type == "CastLike" or (node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType.FLOAT):
                ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
                node.graph.remove(node, safe=True)
    return AssignPrecisionPass(dtype, find_islands(model, dtype, keep, without))(model).model


def logits_of(model: ir.Model, images: np.ndarray) -> np.ndarray:
    """Runs a typed network with every rounding it asks for."""
    emulated = WidenToFp32Pass(rounding=True)(model).model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(emulated).SerializeToString(), options)
    return session.run(None, {"images": images})[0]


def print_table(name: str, networks: Iterator[tuple[str, ir.Model]]) -> None:
    """Prints a line for each network: logits on a golden, label maps on the two that have them."""
    expected = golden("segnext_t_seed0_128x128")["logits"]
    pictures = [golden("e2e_seed0_75x100"), golden("e2e_seed0_120x81")]
    truth = [g["pred"] for g in pictures]
    print("| type | network | casts | logits, rms / std | max / std | label agreement | mIoU of each | of the set |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for variant, model in networks:
        casts, text = count_casts(list(model.graph)), ir.to_proto(model)
        logits = logits_of(ir.from_proto(text), image(128, 128, 0))
        error = (logits.astype(np.float64) - expected) / expected.std()
        found = []
        for g in pictures:
            images = prepare(g["rgb"], Preprocessing())
            found.append(
                labels_from_scores(logits_of(ir.from_proto(text), images)[0], images.shape[2:], g["pred"].shape)
            )
        agreement = min(label_agreement(a, e) for a, e in zip(found, truth, strict=True))
        ious = ", ".join(f"{mean_iou(a, e):.4f}" for a, e in zip(found, truth, strict=True))
        numbers = f"{np.sqrt((error**2).mean()):.5f} | {np.abs(error).max():.4f} | {agreement:.3%}"
        print(
            f"| {name} | {variant} | {casts} | {numbers} | {ious} | {mean_iou_of_set(found, truth):.4f} |", flush=True
        )


def main() -> None:
    """Prints what is lost without each island, then what further stages in fp32 would give."""
    path = Path(sys.argv[1])
    for name, dtype in TYPES.items():
        print_table(name, variants(path, dtype))
    print_table("fp16", more_in_fp32(path))


if __name__ == "__main__":
    main()
