# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of the gate for segmenters by queries: attention is compared inside the network, queries by labels."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_export.parity.reference_writer import save_reference
from freqfusion_export.parity.segmenter_parity import read_manifest
from freqfusion_export.verification.sample_pictures import smooth_pictures
from freqfusion_runtime.agreement.reference_data import ReferenceData
from freqfusion_runtime.building.gate import Gate
from freqfusion_runtime.model_files.onnx_probe import inner_values, write_with_outputs
from freqfusion_runtime.predictors.opening import open_session
from mask2former_files import small_file, small_network
from PIL import Image

pytestmark = pytest.mark.long  # tracing takes a minute, if no other test has


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    pictures = []
    for place, (h, w) in enumerate(((40, 66), (50, 30))):  # other sizes, other levels
        pictures.append(folder / f"{place}.png")
        Image.fromarray(smooth_pictures(np.random.Generator(np.random.PCG64(place)), 1, h, w)[0]).save(pictures[-1])
    model, checkpoint = small_file("image"), folder / "weights.pth"
    checkpoint.write_bytes(b"its hash is all that counts")
    save_reference(folder / "r.npz", model, checkpoint, small_network(), read_manifest(model), pictures)
    return ReferenceData(folder / "r.npz")


def test_attention_is_recorded_inside_the_network(reference):
    attention = [value for value in inner_values(small_file("image")) if value.name.startswith("DeformableAttention")]
    assert len(attention) == 1
    assert [reference.picture(place).values[attention[0].tensor].shape[0] for place in (0, 1)] == [1, 1]
    assert {entry.operator for entry in reference.facts.operators} == {
        "AdaptiveFilter",
        "LocalSimilarity",
        "OffsetResample",
    }


def test_the_gate_compares_attention_and_labels_and_sees_a_wrong_one(reference, tmp_path):
    model = small_file("image")
    values = inner_values(model)
    write_with_outputs(model, [value.tensor for value in values], tmp_path / "inside.onnx")
    inside = open_session(tmp_path / "inside.onnx", kernels="never")
    gate = Gate(read_manifest(model), [], model, reference)
    gate.check_engine(open_session(model, kernels="never"))
    gate.check_inside(inside, values)
    assert all(result.agrees for result in gate.results)
    rungs = [rung for result in gate.results for rung in result.rungs if rung.name.startswith("DeformableAttention")]
    assert {rung.reference for rung in rungs} == {"ONNX file", "PyTorch"}

    class Wrong:
        manifest = inside.manifest

        def run(self, inputs):
            return {name: value * (1 + 1e-3 * (value.ndim == 4)) for name, value in inside.run(inputs).items()}

    gate = Gate(read_manifest(model), [], model, reference)
    gate.check_inside(Wrong(), values)
    wrong = {rung.name for result in gate.results for rung in result.rungs if not rung.agrees}
    assert any(name.startswith("DeformableAttention") for name in wrong)


def test_queries_are_compared_by_their_labels_alone(reference):
    model = small_file("tensor")
    session = open_session(model, kernels="never")
    gate = Gate(read_manifest(model), [], model, reference)
    gate.check_engine(session)
    assert {rung.level for result in gate.results for rung in result.rungs} == {"task"}
