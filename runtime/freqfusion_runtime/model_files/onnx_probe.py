# SPDX-License-Identifier: Apache-2.0
"""Values inside an ONNX file as further outputs of it, without the onnx package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.external_data import copy_external_files
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN, mapped_message, message_fields
from freqfusion_runtime.model_files.onnx_writing import field

STAGE_KEY = "freqfusion.stage"  # in a node's metadata: the module whose result it computes

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN, _NODE_METADATA = 1, 2, 3, 4, 7, 9
# Operators whose results have a fixed order. What is computed for each proposal of a detector has the proposals' order,
# which changes where two of them have equal scores but for rounding.
_MAPS = ("AdaptiveFilter", "Carafe", "DeformableAttention", "LocalSimilarity", "OffsetResample")

UNPADDED = "unpadded_"
"""How the names of values begin that are a network's input or logits but for the padding, and compare with neither."""
Level = Literal["preprocessing", "layer", "module", "network"]


@dataclass(frozen=True)
class InnerValue:
    """A value that tells how far an error has grown.

    Attributes:
        level: ``preprocessing``: the network's input made of a picture; ``module``: a result of a FreqFusion module;
            ``layer``: of another node that computes a map; ``network``: the class scores that labels are made of.
        name: For people.
        tensor: Its name in the graph.
    """

    level: Level
    name: str
    tensor: str


def inner_values(path: str | os.PathLike[str]) -> list[InnerValue]:
    """Lists what FreqFusion nodes compute inside a model, in the graph's order; outputs of the model are left out.

    Raises:
        ModelFileError: If the file is no ONNX model.
    """
    found: list[InnerValue] = []
    outputs: set[str] = set()
    try:
        with mapped_message(path) as whole:
            for number, graph in message_fields(whole):
                if number != _MODEL_GRAPH or not isinstance(graph, memoryview):
                    continue
                for kind, part in message_fields(graph):
                    if kind == _GRAPH_NODE and isinstance(part, memoryview):
                        found += _values_of(part)
                    elif kind == _GRAPH_OUTPUT and isinstance(part, memoryview):
                        outputs |= set(_texts(part, 1))
    except (OSError, ValueError) as e:
        raise ModelFileError(f"{os.fspath(path)} is no ONNX model ({e}). Write it with `freqfusion export`.") from e
    return [value for value in found if value.tensor not in outputs]


def write_with_outputs(path: Path, tensors: Sequence[str], probed: Path) -> None:
    """Writes a copy of a model that has these values as outputs, too.

    Of a message that comes twice in protobuf, the second is merged into the first: so a graph with nothing but outputs
    is appended, and the weights are not touched. Weights in other files are copied beside it.
    """
    entries = b"".join(field(_GRAPH_OUTPUT, field(1, name.encode())) for name in tensors)
    probed.write_bytes(path.read_bytes() + (field(_MODEL_GRAPH, entries) if entries else b""))
    copy_external_files(path, probed.parent)


def _values_of(node: memoryview) -> list[InnerValue]:
    if _texts(node, _NODE_DOMAIN) != [DOMAIN]:
        return []
    operator, name, output = _texts(node, _NODE_OP_TYPE)[0], _texts(node, _NODE_NAME), _texts(node, _NODE_OUTPUT)[0]
    if operator == "PrepareImage":
        return [] if output.startswith(UNPADDED) else [InnerValue("preprocessing", output, output)]
    if operator == "ResizeArgmax":
        scores = _texts(node, _NODE_INPUT)[0]
        return [] if scores.startswith(UNPADDED) else [InnerValue("network", scores, scores)]
    if operator not in _MAPS:
        return []
    stage = next(
        (
            _texts(entry, 2)[0]
            for number, entry in message_fields(node)
            if number == _NODE_METADATA and isinstance(entry, memoryview) and _texts(entry, 1) == [STAGE_KEY]
        ),
        None,
    )
    if stage is not None and stage.endswith((".hr_out", ".lr_out")):
        return [InnerValue("module", stage, output)]
    return [InnerValue("layer", f"{operator} {name[0] if name else output}", output)]


def _texts(message: memoryview, wanted: int) -> list[str]:
    return [
        bytes(value).decode("utf-8")
        for number, value in message_fields(message)
        if number == wanted and isinstance(value, memoryview)
    ]
