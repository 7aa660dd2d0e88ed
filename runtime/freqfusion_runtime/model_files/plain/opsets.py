# SPDX-License-Identifier: Apache-2.0
"""Writes a plain graph for readers of older versions of ONNX, as far down as its operators have the same meaning."""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.plain.inlining import STANDARD, attribute_of, drop_attribute, graphs_of

OLDEST = 13
"""The oldest version of the operators that is written: in it axes became inputs, and quantisers got one."""
OLDEST_FORMAT = 4
"""The oldest version of the file's format that is written: before it, weights had to be inputs."""

_NEWER_TYPES: dict[int, int] = {  # the version of the format in which they came
    TensorProto.FLOAT8E4M3FN: 9, TensorProto.FLOAT8E5M2: 9, TensorProto.UINT4: 10, TensorProto.INT4: 10,
}  # fmt: skip
_ANY = object()
# What attributes that came later must say for the operator to mean what it meant before; None: must not be there.
_AS_BEFORE: dict[str, dict[str, Any]] = {
    "BatchNormalization": {"training_mode": 0},
    "Cast": {"saturate": 1},
    "Reshape": {"allowzero": 0},
    "Resize": {"antialias": 0, "axes": None, "keep_aspect_ratio_policy": "stretch"},
    "RoiAlign": {"coordinate_transformation_mode": "output_half_pixel"},
    "ScatterElements": {"reduction": "none"},
    "ScatterND": {"reduction": "none"},
    "Shape": {"start": 0, "end": None},
    "Split": {"num_outputs": _ANY},  # the number of the outputs, in either version
}
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


def lower_opset(model: ModelProto, version: int, source: str) -> None:
    """Writes a plain model in an older version of the standard operators, in place.

    Args:
        model: Without functions.
        version: From ``OLDEST`` to the model's own.
        source: What to call it in an error.

    Raises:
        ModelFileError: If an operator of it means something else in that version, or is not in it; the message names
            the operator, and the oldest version that it is in.
    """
    entry = next(entry for entry in model.opset_import if entry.domain in STANDARD)
    if not OLDEST <= version <= entry.version:
        raise ModelFileError(
            f"{source} has opset {entry.version}; it can be written for {OLDEST} to {entry.version}, not for "
            f"{version}. Choose one of these."
        )
    oldest, reasons = OLDEST, set[str]()
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if (
                node.domain in STANDARD
                and (needed := _oldest_form(node, model.graph, entry.version, version)) > version
            ):
                oldest = max(oldest, needed)
                reasons.add(node.op_type)
    if reasons:
        raise ModelFileError(
            f"{source} cannot be written for opset {version}: {', '.join(sorted(reasons))} came later, or meant "
            f"something else. Choose {oldest} or more."
        )
    entry.version = version


def lower_format(model: ModelProto, version: int, source: str) -> None:
    """Writes a plain model in an older version of the file's format, in place.

    Raises:
        ModelFileError: If it has tensors of types that came later, or there is no such version.
    """
    if not OLDEST_FORMAT <= version <= model.ir_version:
        raise ModelFileError(
            f"{source} has IR version {model.ir_version}; it can be written for {OLDEST_FORMAT} to {model.ir_version}, "
            f"not for {version}. Choose one of these."
        )
    types = {tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    needed = max((_NEWER_TYPES.get(kind, OLDEST_FORMAT) for kind in types), default=OLDEST_FORMAT)
    if needed > version:
        raise ModelFileError(
            f"{source} has weights of a type that came with IR version {needed}, and cannot be written for {version}. "
            f"Choose {needed} or more."
        )
    model.ir_version = version


def _oldest_form(node: NodeProto, graph: GraphProto, now: int, wanted: int) -> int:
    """Rewrites a node for a version, and gives it; or, where that cannot be, the oldest version the node can have."""
    newer = defs.get_schema(node.op_type, now)
    try:
        older = defs.get_schema(node.op_type, wanted)
    except defs.SchemaError:
        first = min(schema.since_version for schema in defs.get_all_schemas_with_history() if _is_of(schema, node))
        return max(int(first), OLDEST)
    if newer.since_version == older.since_version:
        return wanted
    if node.op_type in _REDUCTIONS and len(node.input) > 1 and not _axes_as_attribute(node, graph):
        return int(newer.since_version)
    as_before = _AS_BEFORE.get(node.op_type, {})
    for name in newer.attributes.keys() - older.attributes.keys():
        if name == "noop_with_empty_axes":  # without axes, of which there are some by now
            drop_attribute(node, name)
            continue
        if name not in as_before or not _says(node, newer, name, as_before[name]):
            return int(newer.since_version)
    for name in newer.attributes.keys() - older.attributes.keys():
        drop_attribute(node, name)
    return wanted if len(node.input) <= older.max_input else int(newer.since_version)


def _is_of(schema: defs.OpSchema, node: NodeProto) -> bool:
    return bool(schema.name == node.op_type and schema.domain == "")


def _says(node: NodeProto, schema: defs.OpSchema, name: str, expected: Any) -> bool:
    """Whether an attribute has this value, given or by default."""
    attribute = attribute_of(node, name) or schema.attributes[name].default_value
    if expected is _ANY:
        return True
    value = None if attribute.type == AttributeProto.UNDEFINED else helper.get_attribute_value(attribute)
    return bool((value.decode() if isinstance(value, bytes) else value) == expected)


def _axes_as_attribute(node: NodeProto, graph: GraphProto) -> bool:
    axes = next((tensor for tensor in graph.initializer if tensor.name == node.input[1]), None)
    if axes is None:
        return not node.input[1]
    node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))
    del node.input[1:]
    return True
