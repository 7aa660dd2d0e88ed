# SPDX-License-Identifier: Apache-2.0
"""An exported file inside TensorRT: parsing, what became of its FreqFusion nodes, and values of it as outputs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.engines.errors import GateError, UnknownOperatorsError
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.messages import Messages, listening, logger_of
from freqfusion_runtime.model_files.onnx_facts import OnnxFacts
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN
from freqfusion_runtime.sessions.protocol import OperatorPath


@dataclass(frozen=True, eq=False)
class ParsedNetwork:
    """A file inside TensorRT. ``keep`` holds what TensorRT still refers to."""

    network: Any
    builder: Any
    plugin_libraries: tuple[str, ...]
    operator_paths: tuple[OperatorPath, ...]
    parse_s: float
    keep: tuple[Any, ...]


def parse_network(
    flavour: Flavour, model: Path, facts: OnnxFacts, further_outputs: Sequence[str] = ()
) -> ParsedNetwork:
    """Reads a file into TensorRT.

    Args:
        flavour: Whose parser.
        model: The file.
        facts: What is in it.
        further_outputs: Values inside the network that become outputs too, see :func:`mark_outputs`.

    Raises:
        UnknownOperatorsError: With all nodes that TensorRT does not know.
        BuildFailedError: If it cannot be read for another reason.
        GateError: If the network has no such value.
    """
    api, logger = flavour.api, logger_of(flavour)
    with listening() as messages:
        start = time.perf_counter()
        builder = api.Builder(logger)
        network = builder.create_network(flavour.network_flags())
        parser = api.OnnxParser(network, logger)
        if not parser.parse_from_file(str(model)):
            raise _parse_error(parser, model, flavour, messages)
        seconds = time.perf_counter() - start
    paths = find_operator_paths(facts, network, api)
    libraries = tuple(parser.get_used_vc_plugin_libraries())
    if further_outputs:
        mark_outputs(network, api, model, further_outputs)
    return ParsedNetwork(network, builder, libraries, paths, seconds, (parser, logger))


def mark_outputs(network: Any, api: Any, model: Path, names: Sequence[str]) -> None:
    """Makes values inside a network outputs of it, as fp32: numpy has no bf16.

    Raises:
        GateError: If the network has no value of a name.
    """
    tensors = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            tensor = layer.get_output(position)
            tensors[tensor.name] = tensor
    missing = [name for name in names if name not in tensors]
    if missing:
        raise GateError(
            f"{model}: TensorRT's network has no values called {', '.join(missing)}, so the gate cannot look inside. "
            "Export the model again with `freqfusion export`, or report it with the TensorRT version."
        )
    for name in names:
        tensor = tensors[name]
        if tensor.dtype != api.float32:
            tensor.name = f"{name} as computed"
            tensor = network.add_cast(tensor, api.float32).get_output(0)
            tensor.name = name
        network.mark_output(tensor)


def find_operator_paths(facts: OnnxFacts, network: Any, api: Any) -> tuple[OperatorPath, ...]:
    """Tells for each FreqFusion node whether the parser made a plugin layer of it.

    A plugin layer's metadata or name holds the node's name; a layer from a function body is ``body node | node (Op)``.
    """
    plugins = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in (api.LayerType.PLUGIN_V3, api.LayerType.PLUGIN_V2):
            plugins |= {layer.name, *re.findall(r"\[ONNX Layer: ([^|\]]+?)\]", layer.metadata)}
    return tuple(
        OperatorPath(node.name, node.operator, "kernel" if node.name in plugins else "function body")
        for node in facts.main_nodes
        if node.domain == DOMAIN
    )


def _parse_error(parser: Any, model: Path, flavour: Flavour, messages: Messages) -> Exception:
    nodes = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        within = " in " + " in ".join(error.local_function_stack()) if error.local_function_stack() else ""
        reason = re.sub(r'^.*&& "(.*)"$', r"\1", error.desc().strip()).rstrip(".?")
        nodes.append(f"{error.node_name() or f'number {error.node()}'} ({error.node_operator()}){within}: {reason}")
    if nodes:
        return UnknownOperatorsError(model, flavour.label, nodes)
    return messages.failure(f"reading {model} with {flavour.label}")
