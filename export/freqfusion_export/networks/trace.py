# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch network to an ONNX graph that works at every size."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import onnx_ir as ir
import torch
from freqfusion.predicted_filters import PredictedFilters
from freqfusion_runtime.model_files.free_sizes import free_sides
from torch import Tensor, nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.own_network import NetworkForm
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.size_names import name_free_sizes
from freqfusion_export.networks.trace_failures import check_sizes_free, check_sizes_run, explained
from freqfusion_export.operators.translation import translation_table

OPSET = 18  # the last but one at which TensorRT reads GridSample rightly, should a graph come to have one


def trace_network(network: nn.Module, size_divisor: int, form: Form | None = None) -> ir.Model:
    """Exports what the network's form says goes in and comes out, all sizes that it names free.

    Args:
        network: In evaluation mode.
        size_divisor: Height and width of images are multiples of this.
        form: Of the network; one that is registered is recognised.

    Returns:
        The model, FreqFusion operators as bare nodes without bodies.

    Raises:
        ExportError: If the network is of no known form, or one of the user's own cannot be traced.
    """
    form = form or form_of(network)
    for module in network.modules():
        if isinstance(module, PredictedFilters):
            module.read_windows()
    if isinstance(form, NetworkForm):
        return _trace_own(network, form)
    examples = form.trace_examples(size_divisor)
    shapes = tuple(_dynamic_shapes(form, size_divisor).values())
    return _graph_of(_export(network, form, tuple(examples.values()), {}, shapes))


def _trace_own(network: nn.Module, form: NetworkForm) -> ir.Model:
    examples, shapes = form.trace_examples(1), _dynamic_shapes(form, 1)
    level, silence = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)  # torch prints the graph that it came to, by several ways
    try:
        with redirect_stdout(silence), redirect_stderr(silence):
            if form.by_keyword:
                program = _export(network, form, (), examples, shapes)
            else:
                program = _export(network, form, tuple(examples.values()), {}, tuple(shapes.values()))
            check_sizes_free(network, form, program.exported_program, shapes)
    except ExportError:
        raise
    except Exception as e:
        check_sizes_run(network, form)  # which takes seconds, and says more
        raise explained(e, network) from e
    finally:
        logging.disable(level)
    model = _graph_of(program)
    name_free_sizes(model.graph, program.exported_program, form)
    return model


def _export(
    network: nn.Module, form: Form, positional: tuple[Tensor, ...], named: dict[str, Tensor], shapes: Any
) -> Any:
    with warnings.catch_warnings(), _quiet_logger("torch.onnx"), translation_table() as table:
        warnings.simplefilter("ignore")  # deprecations inside torch, nothing a user can act on
        program = torch.onnx.export(
            network,
            positional,
            kwargs=named,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=[spec.name for spec in form.inputs],
            output_names=[spec.name for spec in form.outputs],
            custom_translation_table=table,
            verbose=False,
        )
    assert program is not None
    return program


def _graph_of(program: Any) -> ir.Model:
    # Through serialisation, to hold onnx-ir's own values instead of the exporter's.
    model = ir.serde.deserialize_model(ir.serde.serialize_model(program.model))
    # What torch notes of its own program, among it the sizes' ranges in the order of their hashes: the same weights are
    # to give the same file.
    model.graph.metadata_props.clear()
    return model


def _dynamic_shapes(form: Form, size_divisor: int) -> dict[str, dict[int, Any]]:
    """What torch is told of the free axes of each input."""
    multiples = form.free_sizes(size_divisor)
    steps = {name: torch.export.Dim(f"{name}_steps" if multiples[name] > 1 else name, min=1) for name in multiples}
    shapes: dict[str, dict[int, Any]] = {spec.name: {} for spec in form.inputs}
    for tensor, axis, name, divisor in free_sides(form.inputs):
        factor = multiples[name] // divisor
        shapes[tensor][axis] = steps[name] if factor == 1 else factor * steps[name]
    return shapes


class _quiet_logger:
    """Silences the exporter's notes on torchvision, which is not needed."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
