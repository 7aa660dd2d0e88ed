# SPDX-License-Identifier: Apache-2.0
"""From a model with operators of ours to one of standard operators alone, in the form that most readers know."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper, shape_inference

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

_SHORT_FORMS = {  # of Constant, and what they are as tensors
    "value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32,
    "value_string": np.object_, "value_strings": np.object_,
}  # fmt: skip
_SMALL_BYTES = 1024  # of an initializer whose values are looked at as types are inferred; shapes are that small


def inlined(model: ModelProto, source: str) -> ModelProto:
    """Puts the bodies of functions in place of their calls, and writes the graph plainly; see :func:`simplified`.

    Args:
        model: Left as it is.
        source: What to call it in an error.

    Raises:
        ModelFileError: If it has an operator of ours without a body.
    """
    plain = inliner.inline_local_functions(model, convert_version=False)
    nodes = [node for graph in graphs_of(plain.graph) for node in graph.node]
    if bare := sorted({node.op_type for node in nodes if node.domain == DOMAIN}):
        raise ModelFileError(
            f"{source} has {', '.join(bare)} of the domain {DOMAIN!r} without a body of standard operators. "
            "Write it again with `freqfusion export`."
        )
    return simplified(plain)


def simplified(model: ModelProto) -> ModelProto:
    """Writes a graph without functions in the form that most readers know, in place.

    * Constants are initializers, and in the bodies of ``If`` and ``Loop`` tensors.
    * ``CastLike`` is ``Cast``, or nothing where the types are equal.
    * ``Reshape`` has no ``allowzero``: all sides are positive, and a zero can only mean "as before".
    * No domain is named without nodes of it, no inner tensor has a shape, whose sides would have the writer's names,
      and no node has notes.
    """
    for graph in graphs_of(model.graph):
        del graph.value_info[:]  # first: sides whose names contradict each other would stop the inference of types
    _replace_cast_like(model)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            _write_constant_as_tensor(node)
            if node.op_type == "Reshape" and node.domain in STANDARD:
                drop_attribute(node, "allowzero")
            del node.metadata_props[:]
            node.ClearField("doc_string")
    _make_initializers(model.graph)
    used = {node.domain for graph in graphs_of(model.graph) for node in graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in (*used, *STANDARD)]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.functions[:]
    return model


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """Yields a graph and all inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)
            for inner in attribute.graphs:
                yield from graphs_of(inner)


def attribute_of(node: NodeProto, name: str) -> AttributeProto | None:
    """A node's attribute, None if it has none of that name."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def drop_attribute(node: NodeProto, name: str) -> None:
    """Removes a node's attribute where it has it."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _write_constant_as_tensor(node: NodeProto) -> None:
    if node.op_type != "Constant" or node.domain not in STANDARD:
        return
    (attribute,) = node.attribute
    dtype = _SHORT_FORMS.get(attribute.name)
    if dtype is None:
        return
    value = {
        AttributeProto.INT: attribute.i,
        AttributeProto.INTS: list(attribute.ints),
        AttributeProto.FLOAT: attribute.f,
        AttributeProto.FLOATS: list(attribute.floats),
        AttributeProto.STRING: attribute.s,
        AttributeProto.STRINGS: list(attribute.strings),
    }[attribute.type]
    tensor = numpy_helper.from_array(np.array(value, dtype))
    attribute.CopyFrom(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))


def _make_initializers(graph: GraphProto) -> None:
    kept: list[NodeProto] = []
    for node in graph.node:
        value = attribute_of(node, "value") if node.op_type == "Constant" and node.domain in STANDARD else None
        if value is None or value.type != AttributeProto.TENSOR:
            kept.append(node)
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(value.t)
        tensor.name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _replace_cast_like(model: ModelProto) -> None:
    if not any(node.op_type == "CastLike" for graph in graphs_of(model.graph) for node in graph.node):
        return
    types = _types(model)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type != "CastLike" or node.domain not in STANDARD:
                continue
            source, target = (types[name] for name in node.input)
            del node.input[1:]
            del node.attribute[:]
            if source == target:
                node.op_type = "Identity"
            else:
                node.op_type = "Cast"
                node.attribute.add(name="to", type=AttributeProto.INT, i=target)
    for graph in graphs_of(model.graph):
        _skip_identities(graph, {output.name for output in graph.output})


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of all tensors, by name; large weights are left out of the inference, which would copy them."""
    skeleton = ModelProto()
    skeleton.CopyFrom(_without_large_values(model))
    inferred = shape_inference.infer_shapes(skeleton)
    types: dict[str, int] = {}
    for graph in graphs_of(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = value.type.tensor_type.elem_type
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return types


def _without_large_values(model: ModelProto) -> ModelProto:
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        is_small = tensor.ByteSize() <= _SMALL_BYTES
        graph.initializer.append(
            tensor if is_small else TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )
    return light


def _skip_identities(graph: GraphProto, outputs: set[str]) -> None:
    """Lets the users of each copy that is no output of the graph take what is copied."""
    same: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in STANDARD and node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    if not same:
        return
    del graph.node[:]
    graph.node.extend(kept)
    for inner in graphs_of(graph):
        for node in inner.node:
            for place, name in enumerate(node.input):
                node.input[place] = same.get(name, name)
        for output in inner.output if inner is not graph else ():
            output.name = same.get(output.name, output.name)
