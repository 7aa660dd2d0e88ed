# SPDX-License-Identifier: Apache-2.0
"""What kinds of network say of themselves is what the exporter has."""

from __future__ import annotations

from typing import get_args

import freqfusion
import pytest
import torch
from freqfusion_export import export
from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.protocol import Comparison
from freqfusion_export.networks.trace import trace_network
from freqfusion_export.precision.eight_bits import Options
from freqfusion_export.precision.offered import precision_of
from freqfusion_export.verification.by_kind import WRITTEN_FILES


@pytest.fixture(scope="module")
def detector():
    return freqfusion.create_model("faster_rcnn_r50")


def test_every_comparison_that_a_form_can_name_is_there():
    assert set(WRITTEN_FILES) == set(get_args(Comparison))


def test_what_a_form_refuses_are_precisions_that_there_are(detector):
    refused = form_of(detector).refused
    assert set(refused) == {"bf16", "int8", "fp8"}
    assert {precision_of(name, (), None, Options(), lambda _: None).name for name in refused} == set(refused)


def test_a_precision_that_is_not_offered_is_refused_before_what_it_lacks(detector, tmp_path):
    with pytest.raises(ExportError, match="int8 is offered for semantic segmenters, and this is for detection"):
        export(detector, tmp_path / "out" / "m.onnx", precision="int8")
    assert not list(tmp_path.iterdir())


def test_a_network_of_no_known_form_is_not_traced():
    with pytest.raises(ExportError, match=r"Conv2d has no decode_head\.conv_seg"):
        trace_network(torch.nn.Conv2d(3, 3, 1).eval(), 32)
