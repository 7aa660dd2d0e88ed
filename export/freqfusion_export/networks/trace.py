# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch network to an ONNX graph that works at every size."""

from __future__ import annotations

import logging
import warnings

import onnx_ir as ir
import torch
from freqfusion.predicted_filters import PredictedFilters
from torch import nn

from freqfusion_export.networks.forms import form_of
from freqfusion_export.operators.translation import translation_table

OPSET = 18  # the last but one at which TensorRT reads GridSample rightly, should a graph come to have one


def trace_network(network: nn.Module, size_divisor: int) -> ir.Model:
    """Exports what the network's form says goes in and comes out, all but the channels dynamic.

    Args:
        network: In evaluation mode.
        size_divisor: Height and width are multiples of this.

    Returns:
        The model, FreqFusion operators as bare nodes without bodies.

    Raises:
        ExportError: If the network is of no known form.
    """
    form = form_of(network)
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    free = {
        "batch": torch.export.Dim("batch", min=1),
        "height": size_divisor * rows,
        "width": size_divisor * columns,
    }
    # Sizes unlike each other and unlike 1, so that no dimension is mistaken for another or taken as fixed.
    for module in network.modules():
        if isinstance(module, PredictedFilters):
            module.read_windows()
    examples = form.examples(2, 3 * size_divisor, 4 * size_divisor)
    shapes = tuple(
        {axis: free[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in form.inputs
    )
    with warnings.catch_warnings(), _quiet_logger("torch.onnx"), translation_table() as table:
        warnings.simplefilter("ignore")  # deprecations inside torch, nothing a user can act on
        program = torch.onnx.export(
            network,
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(examples),
            output_names=[spec.name for spec in form.outputs],
            custom_translation_table=table,
            verbose=False,
        )
    assert program is not None
    # Through serialisation, to hold onnx-ir's own values instead of the exporter's.
    model = ir.serde.deserialize_model(ir.serde.serialize_model(program.model))
    # What torch notes of its own program, among it the sizes' ranges in the order of their hashes: the same weights are
    # to give the same file.
    model.graph.metadata_props.clear()
    return model


class _quiet_logger:
    """Silences the exporter's notes on torchvision, which is not needed."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
