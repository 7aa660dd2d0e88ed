# SPDX-License-Identifier: Apache-2.0
"""Names the free sizes of a traced network's outputs by those of its inputs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import sympy
from freqfusion_runtime.model_files.free_sizes import free_sides
from torch.export import ExportedProgram

from freqfusion_export.networks.protocol import Form


def name_free_sizes(graph: ir.Graph, program: ExportedProgram, form: Form) -> None:
    """Writes ``height/4`` where torch wrote ``8*s27``.

    Args:
        graph: Its inputs and outputs get shapes in the names of the form.
        program: What the graph was made of; its symbols say how outputs depend on inputs.
        form: Of the network.
    """
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    taken = [placeholders[name] for name in program.graph_signature.user_inputs]
    inputs = dict(zip((spec.name for spec in form.inputs), taken, strict=True))
    names: dict[Any, Any] = {}
    for tensor, axis, name, divisor in free_sides(form.inputs):
        size = _expression(inputs[tensor].shape[axis])
        for symbol in size.free_symbols:
            # The size is a multiple of one symbol, or the symbol itself.
            names[symbol] = sympy.Symbol(name, positive=True, integer=True) / (divisor * size.coeff(symbol))
    (results,) = (node for node in program.graph.nodes if node.op == "output")
    for value, result in zip(graph.outputs, results.args[0][-len(graph.outputs) :], strict=True):
        sizes = [sympy.simplify(_expression(size).subs(names)) for size in result.meta["val"].shape]
        value.shape = ir.Shape([int(size) if size.is_Integer else str(size).replace(" ", "") for size in sizes])
    for value, spec in zip(graph.inputs, form.inputs, strict=True):
        value.shape = ir.Shape(list(spec.shape))


def _expression(size: Any) -> Any:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr
