# SPDX-License-Identifier: Apache-2.0
"""Padding in files: reflecting modules are exported with it, and files that pad with zeros are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from freqfusion import FreqFusion
from freqfusion.ops import adaptive_filter, carafe
from freqfusion_export.operators.translation import translation_table
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from one_node_models import one_node_model
from torch import Tensor, nn

MAPS = (torch.randn(1, 4, 12, 8), torch.randn(1, 6, 6, 4))


class Both(nn.Module):
    """A reflecting FreqFusion beside a padding one."""

    def __init__(self, *paddings: str) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(FreqFusion(4, 6, compressed_channels=8, padding=padding) for padding in paddings)

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        return torch.cat([torch.cat(fusion(hr, lr)[1:], 1) for fusion in self.fusions], 1)


class Plain(nn.Module):
    """The operators with their last argument left to its default."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return carafe(x, mask, 3, 1, 1) + adaptive_filter(x, mask, [1.0] * 9, 3, 1, 1, 0)


def exported(network: nn.Module, *inputs: Tensor) -> ir.Model:
    with translation_table() as table:
        program = torch.onnx.export(
            network.eval(), inputs, dynamo=True, opset_version=18, custom_translation_table=table, verbose=False
        )
    return AddFunctionBodiesPass()(program.model).model


def paddings(model: ir.Model) -> list[int | None]:
    nodes = [node for node in model.graph if node.op_type in ("Carafe", "AdaptiveFilter") and node.domain]
    assert nodes
    return [node.attributes.get_int("padding", None) for node in nodes]


def run(model: ir.Model, *inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {each.name: value.numpy() for each, value in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feed)[0]


def test_files_that_pad_with_zeros_do_not_have_the_attribute():
    for network, inputs in ((Both("zeros"), MAPS), (Plain(), (MAPS[0], torch.rand(1, 9, 12, 8)))):
        model = exported(network, *inputs)
        assert set(paddings(model)) == {None}
        assert all("padding" not in function.attributes for function in model.functions.values())
        np.testing.assert_allclose(run(model, *inputs), network(*inputs).detach().numpy(), atol=1e-4)


def test_where_one_reflects_every_node_says_how_it_pads():
    network = Both("reflect", "zeros")
    model = exported(network, *MAPS)
    assert sorted(set(paddings(model))) == [0, 1]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(run(model, *MAPS), network(*MAPS).detach().numpy(), atol=1e-4)


def test_a_second_run_changes_nothing():
    model = exported(Both("reflect"), *MAPS)
    assert not AddFunctionBodiesPass()(model).modified


@pytest.mark.parametrize("padding", [0, 1])
def test_tensorrt_rtx_builds_the_body(padding, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")
    attributes: dict[str, Any] = {"kernel_size": 5, "group_size": 1, "scale_factor": 2, "padding": padding}
    model = one_node_model("Carafe", attributes)
    for value, shape in zip(model.graph.input, ((1, 4, 8, 6), (1, 25, 16, 12)), strict=True):
        for extent in shape:
            value.type.tensor_type.shape.dim.add().dim_value = extent
    file = Path(tmp_path) / "carafe.onnx"
    onnx.save(ir.to_proto(AddFunctionBodiesPass()(ir.from_proto(model)).model), file)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(file)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert tuple(network.get_output(0).shape) == (1, 4, 16, 12)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
