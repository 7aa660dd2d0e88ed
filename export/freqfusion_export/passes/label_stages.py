# SPDX-License-Identifier: Apache-2.0
"""Marks which node computes which module's result, and drops all else the exporter noted."""

from __future__ import annotations

import ast
from collections import defaultdict

import onnx_ir as ir
from freqfusion_runtime.model_files.onnx_probe import STAGE_KEY as STAGE_KEY

MODULE_KEY = "freqfusion.module"  # on every node: the innermost module it was traced in
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
# FreqFusion returns three maps; the operator tells which one a node computes.
_RESULTS = {"AdaptiveFilter": "hr_out", "OffsetResample": "lr_out"}


class LabelStagesPass(ir.passes.InPlacePass):
    """Writes the name of a module on the node whose output is that module's result, for `freqfusion parity --layers`.

    Every node also keeps the innermost module it was traced in, by which precision is assigned. The exporter's own
    notes are removed: stack traces of a megabyte, with paths of the exporting machine.

        Before: o = Add(a, b)   pkg.torch.onnx.name_scopes="['', 'backbone', 'backbone.block1.0', 'add_7']"
        After:  o = Add(a, b)   freqfusion.stage="backbone.block1.0" freqfusion.module="backbone.block1.0"
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        scopes = {node: _scopes(node) for node in model.graph}
        modified = any(_SCOPES_KEY in node.metadata_props for node in model.graph)
        if not modified:
            return ir.passes.PassResult(model, modified=False)
        leaving: dict[str, list[ir.Node]] = defaultdict(list)
        for node in model.graph:
            left = [scope for scope in scopes[node] if _leaves(node, scope, scopes)]
            if left:
                leaving[left[0]].append(node)  # the outermost: a block, rather than the addition it ends with
        for node in model.graph:
            node.metadata_props.clear()
            node.doc_string = None
            for output in node.outputs:
                output.metadata_props.clear()
            if scopes[node]:
                node.metadata_props[MODULE_KEY] = scopes[node][-1]
        for scope, nodes in leaving.items():
            for node in nodes:
                if len(nodes) == 1:
                    node.metadata_props[STAGE_KEY] = scope
                elif node.op_type in _RESULTS:
                    node.metadata_props[STAGE_KEY] = f"{scope}.{_RESULTS[node.op_type]}"
        return ir.passes.PassResult(model, modified=True)


def _scopes(node: ir.Node) -> list[str]:
    """Names of the modules a node lies in, outermost first, without the network itself."""
    text = node.metadata_props.get(_SCOPES_KEY)
    return [] if text is None else [scope for scope in ast.literal_eval(text)[:-1] if scope]


def _leaves(node: ir.Node, scope: str, scopes: dict[ir.Node, list[str]]) -> bool:
    output = node.outputs[0]
    return output.is_graph_output() or any(scope not in scopes[use.node] for use in output.uses())
