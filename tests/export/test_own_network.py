# SPDX-License-Identifier: Apache-2.0
"""Networks of one's own around FreqFusion: exported files are equal to PyTorch's, and what cannot be is said."""

from __future__ import annotations

from typing import Any

import embedding_networks
import freqfusion
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import own_networks
import pytest
import torch
from freqfusion import FreqFusion, native
from freqfusion_export import export
from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.networks.own_network import describe_network
from freqfusion_export.parity.segmenter_parity import read_manifest
from freqfusion_export.precision.calibration import CalibrationError, read_calibration
from freqfusion_export.precision.eight_bits import Options
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.verification.network_file import difference
from freqfusion_export.verification.segmenter_file import SegmenterFile
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, MAX_ERROR_FP32
from freqfusion_runtime.errors import InputError
from freqfusion_runtime.model_files.manifest import FreeSize, Preprocessing
from freqfusion_runtime.sessions.kernel_library import library_path
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from kept_files import kept
from own_network_files import NETWORKS, PICTURES, exported, tensors
from torch import nn

# 98 x 50: the coarse maps' sides are odd.
SIZES = {
    "unet": [{"images": (1, 3, 32, 40)}, {"images": (3, 3, 104, 56)}, {"images": (1, 3, 200, 8)}],
    "shared": [{"images": (1, 3, 8, 8)}, {"images": (3, 3, 200, 104)}, {"images": (2, 3, 16, 72)}],
    "two inputs": [
        {"image": (3, 3, 98, 50), "depth": (3, 1, 49, 25)},
        {"image": (1, 3, 2, 4), "depth": (1, 1, 1, 2)},
        {"image": (1, 3, 70, 66), "depth": (1, 1, 35, 33)},
    ],
}


@pytest.mark.parametrize("kernels", ["never", "require"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_pytorch_at_sizes_it_was_not_traced_at(name, kernels):
    if kernels == "require" and not library_path().is_file():
        pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
    network = own_networks.make(NETWORKS[name][0])
    session = OnnxRuntimeSession(exported(name), kernels=kernels)
    for shapes in SIZES[name]:
        feed = tensors(shapes)
        with torch.inference_mode(), native.disabled():
            expected = network(**{tensor: torch.from_numpy(value) for tensor, value in feed.items()})
        expected = expected if isinstance(expected, dict) else {"output": expected}
        actual = session.run(feed)
        assert list(actual) == list(expected)
        for output, values in expected.items():
            if values.is_floating_point():
                limit = MAX_ERROR_FP32 * float(values.std())
                np.testing.assert_allclose(actual[output], values.numpy(), rtol=0, atol=limit)
            else:
                assert (actual[output] == values.numpy()).mean() > 0.999


def test_a_file_has_what_those_of_our_models_have():
    model = onnx.load(exported("unet"))
    operators = [node.op_type for node in model.graph.node if node.domain == "freqfusion"]
    assert set(operators) == {function.name for function in model.functions} == {
        "AdaptiveFilter", "LocalSimilarity", "OffsetResample"
    }  # fmt: skip
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    stages = {
        entry.value for node in model.graph.node for entry in node.metadata_props if entry.key == "freqfusion.stage"
    }
    assert {"fusions.0.hr_out", "fusions.1.lr_out", "head", "down.0"} <= stages
    assert all(node.name for node in model.graph.node)


def test_a_manifest_says_what_goes_in_and_comes_out():
    manifest = OnnxRuntimeSession(exported("two inputs")).manifest
    assert (manifest.task, manifest.model, manifest.interface) == ("network", "TwoInputs", "tensor")
    assert {spec.name: (spec.dtype, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)} == {
        "depth": ("float32", ("batch", 1, "height/2", "width/2")),
        "image": ("float32", ("batch", 3, "height", "width")),
        "features": ("float32", ("batch", 8, "height", "width")),
        "pooled": ("float32", ("batch", 8)),
        "best": ("int64", ("batch", "height", "width")),
    }
    assert manifest.sizes == {"batch": FreeSize(1, 1), "height": FreeSize(2, 32), "width": FreeSize(2, 48)}


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("unet", {"images": (1, 3, 44, 64)},
         r"size height must be a multiple of 8, got 44 by axis 2 .* pad it to 40 or 48"),
        ("two inputs", {"image": (1, 3, 32, 32), "depth": (1, 1, 16, 18)},
         r"axis 3 of input 'image' must be the size width, which is 36 by axis 3 of 'depth', got 32"),
        ("two inputs", {"image": (1, 3, 31, 32), "depth": (1, 1, 16, 16)}, "must be the size height, which is 32"),
        ("two inputs", {"image": (2, 3, 32, 32), "depth": (1, 1, 16, 16)}, "must be the size batch, which is 1"),
    ],
)  # fmt: skip
def test_a_size_that_breaks_the_rule_of_two_is_refused_where_it_runs(name, shapes, message):
    with pytest.raises(InputError, match=message):
        OnnxRuntimeSession(exported(name)).run(tensors(shapes))


def test_half_types_keep_islands_in_fp32():
    session = OnnxRuntimeSession(exported("shared", "fp16"))
    assert session.manifest.precision == "fp16"
    (feed,) = [tensors({"images": (1, 3, 40, 32)})]
    with torch.inference_mode():
        expected = own_networks.make(own_networks.SharedFusions)(torch.from_numpy(feed["images"])).numpy()
    actual = session.run(feed)["output"]
    assert actual.dtype == np.float32
    assert 1e-6 < np.abs(actual - expected).max() / expected.std() < 0.05


def test_a_bf16_file_computes_the_same_with_every_rounding_that_it_asks_for():
    model = emulated(exported("shared", "bf16"))  # ONNX Runtime's CPU provider runs no bf16
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feed = tensors({"images": (1, 3, 40, 32)})
    with torch.inference_mode():
        expected = own_networks.make(own_networks.SharedFusions)(torch.from_numpy(feed["images"])).numpy()
    (actual,) = session.run(["output"], feed)
    assert read_manifest(exported("shared", "bf16")).precision == "bf16"
    assert 1e-4 < np.abs(actual - expected).max() / expected.std() < LOGIT_BOUNDS["bf16"]


class Fixed(nn.Module):
    """Each refuses something else; ``forward`` is set below."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.conv, self.bias = nn.Conv2d(3, 4, 3, 2, 1), nn.Parameter(torch.zeros(1, 4, 16, 16))
        self.does = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.does(self, self.conv(x), x)


def add_positions(network, y, x):
    return y + network.bias


def branch_on_size(network, y, x):
    return y if x.shape[2] >= 48 else 2 * y


def branch_on_numbers(network, y, x):
    return y if y.mean().item() > 0 else -y


def turn(network, y, x):
    return y + y.transpose(2, 3)


def bessel(network, y, x):
    return torch.special.bessel_j0(y)


LINE = r"in test_own_network\.py:\d+ \(`return "


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            add_positions,
            rf"fixes axis 2 of input 'x'.*free size height: it takes 32, not 36 {LINE}y \+ network\.bias`\)",
        ),
        (branch_on_size, rf"what was traced holds up to 44 alone {LINE}y if x\.shape\[2\] >= 48.*leave the axis out"),
        (branch_on_numbers, rf"depends on numbers that only a run knows {LINE}y if y\.mean\(\).*with torch\.where"),
        (turn, rf"takes height and width of one size alone {LINE}y \+ y\.transpose.*one name in dynamic"),
        (bessel, r"the operator prims\.bessel_j0 has no form in ONNX\. Write it with PyTorch's own operators"),
    ],
)
def test_what_cannot_be_traced_is_named_with_its_line(tmp_path, forward, message):
    dynamic = {"x": {2: "height: 4", 3: "width: 4"}}
    with pytest.raises(ExportError, match=message):
        export(Fixed(forward).eval(), tmp_path / "m.onnx", inputs={"x": torch.randn(1, 3, 32, 32)}, dynamic=dynamic)
    assert not list(tmp_path.iterdir())


def test_a_segmenter_of_ones_own_is_told_the_line_that_fixes_its_sizes(tmp_path):
    message = rf"fixes axis 2 of input 'images'.*what was traced holds up to 44 alone {LINE}y if x"
    with pytest.raises(ExportError, match=message):
        export(
            Fixed(branch_on_size).eval(),
            tmp_path / "m.onnx",
            task="semantic_segmentation",
            classes=["a", "b", "c", "d"],
            preprocessing=Preprocessing(size_divisor=4),
        )
    assert not list(tmp_path.iterdir())


X = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"no example inputs; give Fixed one for each parameter of its forward\(x"),
        ({"x": X, "y": X}, r"does not take the 2 inputs x, y: too many positional arguments; give one tensor for each"),
        ([X, X], r"does not take the 2 inputs x, input_1"),
        ({"x": [1, 2]}, "input 'x' must be a tensor, got list"),
        ({"x": X.double()}, r"input 'x' is float64 1x3x32x32, and inputs are float32, .* half types by precision="),
        ({"x": X[:, :, :0]}, "input 'x' is empty, float32 1x3x0x32"),
        ({"x": X[:, :2]}, r"Fixed itself fails on the example inputs x float32 1x2x32x32 in test_own_network"),
    ],
)
def test_example_inputs_that_the_network_does_not_take_are_refused(inputs, message):
    with pytest.raises(ExportError, match=message):
        describe_network(Fixed(add_positions).eval(), inputs)


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": {0: "batch"}}, "dynamic names the input 'y', and there are x"),
        ({"x": {4: "batch"}}, "dynamic names axis 4 of input 'x', which has 4, from 0"),
        ({"x": {2: "32"}}, r"dynamic says '32' of axis 2 of 'x'; write a name, .* 'height: 32'"),
        ({"x": {2: "height: 5"}}, r"height is to be a multiple of 5, and axis 2 of 'x' .* makes it 32"),
        ({"x": {1: "side", 2: "side"}}, r"size side is 3 by axis 1 of 'x' .* and 32 by axis 2"),
    ],
)
def test_dynamic_axes_that_make_no_sense_are_refused(dynamic, message):
    with pytest.raises(ExportError, match=message):
        describe_network(Fixed(add_positions).eval(), {"x": X}, dynamic=dynamic)


@pytest.mark.parametrize(
    ("result", "names", "message"),
    [
        (lambda n, y, x: (y, 0.5), None, r"output 'output_1' of Fixed is no tensor but float \(0\.5\); leave it out"),
        (lambda n, y, x: {"a": y, "b": None}, None, "output 'b' of Fixed is no tensor but NoneType"),
        (lambda n, y, x: y.double(), None, "output 'output' of Fixed is float64 .* convert it in forward"),
        (lambda n, y, x: [y, y], ["a"], "Fixed puts out 2 tensors, and 1 names are given: a"),
        (lambda n, y, x: [y, y], ["a", "a"], "names a, a are not all different"),
    ],
)
def test_outputs_that_are_no_tensors_are_refused(result, names, message):
    with pytest.raises(ExportError, match=message):
        describe_network(Fixed(result).eval(), {"x": X}, names)


def with_hook() -> nn.Module:
    network = Fixed(add_positions).eval()
    network.conv.register_forward_hook(add_positions)
    return network


def training_inside() -> nn.Module:
    network = Fixed(add_positions).eval()
    network.conv.train()
    return network


def scripted() -> nn.Module:
    network = Fixed(add_positions).eval()
    network.conv = torch.jit.script(network.conv)
    return network


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_hook, r"Fixed\.conv has a forward hook \(add_positions\), which would become part of the file"),
        (training_inside, r"Fixed\.conv is in training mode; call model\.eval\(\) first"),
        (scripted, r"Fixed\.conv is a torch\.jit module, whose code cannot be traced"),
        (lambda: Fixed(add_positions).eval().to("meta"), r"Fixed\.bias is on meta, .* call model\.cpu\(\)"),
    ],
)
def test_modules_in_a_state_that_cannot_be_written_are_refused(make, message):
    with pytest.raises(ExportError, match=message):
        describe_network(make(), {"x": X})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "detection"}, "task must be one of network, semantic_segmentation, got 'detection'"),
        ({"task": "network"}, "a network of one's own needs example inputs"),
        ({"dynamic": PICTURES}, "a network of one's own needs example inputs"),
        ({"classes": ["a"]}, "give task='semantic_segmentation', or leave them out"),
        ({"inputs": {"x": X}, "interface": "image"}, "nobody says that this network scores classes"),
        ({"task": "semantic_segmentation"}, "needs the names of its classes"),
        ({"task": "semantic_segmentation", "classes": "abcd"}, "how its pictures were prepared; give preprocessing="),
        ({"task": "semantic_segmentation", "classes": "abcd", "inputs": X}, "leave inputs, outputs and dynamic out"),
        ({"task": "semantic_segmentation", "classes": "abc", "preprocessing": Preprocessing(size_divisor=8)},
         "scores 4 classes, and 3 are named"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_network_must_fit_together(tmp_path, arguments, message):
    network = nn.Conv2d(3, 4, 1).eval()
    with pytest.raises(ExportError, match=message):
        export(network, tmp_path / "m.onnx", **arguments)


def test_a_network_without_a_word_is_none_of_ours(tmp_path):
    with pytest.raises(ExportError, match=r"Conv2d has no decode_head\.conv_seg.* give inputs="):
        export(nn.Conv2d(3, 4, 1).eval(), tmp_path / "m.onnx")


def test_a_segmenter_of_one_tensor_alone_gets_pictures():
    pair = Fixed(lambda n, y, x: (y, y)).eval()
    with pytest.raises(ExportError, match="puts out tuple, and a semantic segmenter one tensor of class scores"):
        export(pair, "m.onnx", task="semantic_segmentation", classes="abcd", preprocessing=Preprocessing())


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (
            np.ones((2, 3), np.float32),
            np.ones((3, 3), np.float32),
            r"has shape \(2, 3\) at x 1, the network's \(3, 3\)",
        ),
        (np.array([0, 1]), np.array([0, 0]), r"unlike the network's in 50\.00% of its values at x 1, allowed 0\.10%"),
        (np.array([0.0, 1]), np.array([0, np.nan]), r"1 of 2 values of output 'y' of the network itself are infinite"),
        (np.array([0.0, np.nan]), np.array([0.0, 1]), "off by nan of its standard deviation at x 1, allowed 5e-05"),
        (np.array([0.0, 1.1]), np.array([0.0, 1]), "off by 2.0e-01 of its standard deviation"),
        (np.array([2.0, 2.1]), np.array([2.0, 2]), "off by 5.0e-02 of its standard deviation"),
    ],
)
def test_a_file_that_computes_something_else_is_not_kept(actual, expected, message):
    with pytest.raises(VerificationError, match=message):
        difference("y", actual, expected, {"x": np.zeros(1)}, "fp32")


def test_a_fusion_alone_is_a_network_too(tmp_path):
    fusion = FreqFusion(4, 4, compressed_channels=4).eval()
    manifest = export(
        fusion,
        tmp_path / "m.onnx",
        inputs=[torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8)],
        outputs=["taps", "fine", "coarse"],
    )
    assert [spec.name for spec in manifest.inputs] == ["hr_feat", "lr_feat"]
    assert manifest.outputs[2].shape == (1, 4, 16, 16)
    assert manifest.sizes == {}


class Several(nn.Module):
    """Copies of FreqFusion in three forms, of both paddings, as other people's networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [
                embedding_networks.Pair(embedding_networks.FreqFusion(8, 12, padding="reflect")),
                embedding_networks.Pair(embedding_networks.ReversedListCat(8, 12), "[lr, hr]"),
                embedding_networks.Pair(
                    embedding_networks.TwoStages(8, 8), down=nn.Conv2d(8, 8, 3, stride=2, padding=1)
                ),
            ]
        )

    def forward(self, image: torch.Tensor) -> list[Any]:
        (_, fine, coarse), *others = (part(image) for part in self.parts)
        return [torch.cat([fine, coarse], dim=1), *others]


@pytest.mark.parametrize("kernels", ["never", "auto"])
def test_adopted_copies_are_exported_in_every_form_and_padding(kernels):
    original = embedding_networks.filled(Several())

    def write(folder: Any) -> None:
        network = embedding_networks.filled(Several())
        image = torch.randn(1, 3, 16, 24)
        freqfusion.adopt(network, image)
        export(
            network, folder / "net.onnx", inputs=image, dynamic={"image": {0: "batch", 2: "height: 2", 3: "width: 2"}}
        )

    session = OnnxRuntimeSession(kept("adopted copies", write) / "net.onnx", kernels=kernels)
    feed = tensors({"image": (3, 3, 26, 10)})  # coarse maps of 13 x 5
    with torch.inference_mode():
        expected = original(torch.from_numpy(feed["image"]))
    for values, actual in zip(expected, session.run(feed).values(), strict=True):
        np.testing.assert_allclose(actual, values.numpy(), rtol=0, atol=MAX_ERROR_FP32 * float(values.std()))


def arrays_in(folder: Any, **arrays: Any) -> Any:
    folder.mkdir()
    np.savez(folder / "a.npz", **(arrays or tensors({"images": (1, 3, 32, 48)})))
    return read_calibration(folder)


def test_eight_bits_are_judged_by_outputs_where_there_are_no_labels(tmp_path):
    network, table = own_networks.make(own_networks.SharedFusions), []
    calibration = arrays_in(tmp_path / "arrays")
    path, images = tmp_path / "m.onnx", torch.randn(1, 3, 32, 48)
    manifest = export(
        network,
        path,
        inputs={"images": images},
        dynamic=PICTURES,
        precision="int8",
        calibration=calibration,
        eight_bits=Options(max_drop=0.1),
        on_sensitivity=table.extend,
    )
    assert (manifest.precision, manifest.calibration_pictures) == ("int8", 1)
    assert {line.miou_drop for line in table} == {None}
    assert 0 < table[-1].label_drop <= 0.1
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in kinds
    # What FreqFusion's nodes read is fp32: the scales end at the convolutions.
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    read = {made_by.get(name) for node in model.graph.node if node.domain == "freqfusion" for name in node.input}
    assert "QuantizeLinear" not in read


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"other": np.zeros(1, np.float32)},
            r"a\.npz has no array 'images', only other\. Write each",
        ),
        ({"images": np.array([print], dtype=object)}, "none of the 1 files of arrays in the calibration folder"),
    ],
)
def test_arrays_that_calibrate_nothing_are_refused(tmp_path, arrays, message):
    (value,) = [ir.val("images", ir.DataType.FLOAT, [1])]
    graph = ir.Graph([value], [], nodes=[])
    with pytest.raises(CalibrationError, match=message):
        list(arrays_in(tmp_path / "arrays", **arrays).feeds(graph, Preprocessing()))


def test_arrays_calibrate_no_network_of_pictures(tmp_path):
    file = SegmenterFile(tmp_path / "m.onnx", nn.Identity(), "tensor", Preprocessing())
    with pytest.raises(ExportError, match="arrays calibrate networks of arrays, and this one takes pictures"):
        file.outputs({})
