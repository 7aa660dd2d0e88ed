# SPDX-License-Identifier: Apache-2.0
"""PyramidRoiAlign: compiled kernel, function body and PyTorch operator against the float64 loops."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import references
import torch
from compiled_libraries import cpu_libraries
from freqfusion import native
from freqfusion.ops.pyramid_roi_align import align_by_level, pyramid_levels
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from host_kernels import DTYPE_IDS, DTYPES, ROUNDOFF, HostKernels, guarded
from one_node_models import kernel_counts, open_session
from onnx import helper
from torch import Tensor

pytestmark = [pytest.mark.numerics, pytest.mark.filterwarnings("error")]
STRIDE, SCALE = 4, 8  # level 1 begins at 16 pixels a side, level 3 at 64
# Averages of values below 5; the places of samples are off by 2^-22 of a map's side, 60 at most.
ARITHMETIC = 5 * 2.0**-15
BOXES = {
    "inside": [[4.0, 8.0, 60.0, 52.0], [0.0, 0.0, 128.0, 80.0], [8.2, 9.1, 20.3, 33.7]],
    "every-level": [[1, 1, 9, 9], [0, 0, 16, 16], [2, 3, 34, 35], [0, 0, 64, 64], [0, 0, 128, 80], [5, 5, 69, 69]],
    "at-the-edges": [[0, 0, 10, 10], [118, 70, 128, 80], [0, 70, 10, 80], [118, 0, 128, 10], [0, 0, 128, 3]],
    "beyond-the-map": [[-30.0, -20.0, 10.0, 9.0], [100.0, 60.0, 250.0, 150.0], [-60, -60, 300, 300]],
    "no-area": [[8.0, 8.0, 8.0, 40.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 3.0, 3.0], [9.0, 9.0, 3.0, 30.0]],
    "thin": [[10.2, 11.3, 11.1, 12.9], [1.0, 5.0, 127.0, 7.5], [20.0, 1.0, 22.0, 79.0]],
    "far-away": [[-400.0, -400.0, -300.0, -300.0], [300.0, 300.0, 330.0, 330.0]],
    "none": [],
}


@functools.cache
def maps(
    dtype: torch.dtype, batch: int = 2, channels: int = 5, height: int = 20, width: int = 32
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(max(height >> level, 1), max(width >> level, 1)) for level in range(4)]
    return tuple(torch.randn(batch, channels, *size, generator=generator).to(dtype) for size in sizes)


def boxes_of(name: str, batch: int = 2) -> Tensor:
    """One set of boxes for each image, each image's in another order."""
    boxes = torch.tensor(BOXES[name], dtype=torch.float32).reshape(-1, 4)
    return torch.stack([boxes.roll(image, 0) for image in range(batch)])


@functools.cache
def expected_for(name: str, dtype: torch.dtype, cells: int) -> np.ndarray:
    return expected_of(maps(dtype), boxes_of(name), cells)


def expected_of(inputs: tuple[Tensor, ...], boxes: Tensor, cells: int) -> np.ndarray:
    return references.pyramid_roi_align([x.double().numpy() for x in inputs], boxes.numpy(), cells, STRIDE, SCALE)


def assert_near(actual: Tensor, expected: np.ndarray, roundings: int = 1) -> None:
    assert tuple(actual.shape) == expected.shape
    allowed = ARITHMETIC + roundings * ROUNDOFF[actual.dtype] * np.abs(expected)
    error = np.abs(actual.double().numpy() - expected)
    assert (error <= allowed).all(), f"error {error.max(initial=0):.3e}"


def by_kernel(kernels: HostKernels, inputs: tuple[Tensor, ...], boxes: Tensor, cells: int) -> Tensor:
    n, m = boxes.shape[:2]
    output = guarded((n * m, inputs[0].shape[1], cells, cells), inputs[0].dtype)
    return kernels.run("pyramid_roi_align", [*inputs, boxes.unsqueeze(3)], output, cells, STRIDE, SCALE)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("cells", [1, 7, 14, 17])
@pytest.mark.parametrize("name", BOXES)
def test_kernel_matches_the_loops(kernels, name, cells, dtype):
    boxes = boxes_of(name)
    assert_near(by_kernel(kernels, maps(dtype), boxes, cells), expected_for(name, dtype, cells))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 60)], ids=str)
def test_kernel_matches_the_loops_on_narrow_maps(kernels, size):
    inputs = maps(torch.float32, 1, 2, *size)
    boxes = torch.cat([boxes_of(name, 1) for name in BOXES], dim=1)
    assert_near(by_kernel(kernels, inputs, boxes, 7), expected_of(inputs, boxes, 7))


def test_kernel_reads_nothing_beside_the_maps(kernels):
    """What vectors read over a row's end must not reach the result, and what cells do not touch must not either."""
    inputs = tuple(x.clone() for x in maps(torch.float32))
    boxes = torch.tensor([[[20.0, 20.0, 27.0, 27.0]]]).expand(2, 1, 4).contiguous()
    inputs[0][:, :, :, 8:] = float("nan")
    inputs[0][:, :, 8:] = float("nan")
    assert torch.isfinite(by_kernel(kernels, inputs, boxes, 7)).all()


def test_boxes_that_are_no_numbers_end_soon_and_give_zeros(kernels):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan] * 4, [0, 0, nan, 9], [0, 0, inf, inf], [-inf, -inf, inf, inf], [-3e38, 0, 3e38, 9]]])
    result = by_kernel(kernels, maps(torch.float32, 1), boxes, 7)
    assert not result.any()
    # A billion samples a cell, of which as many are looked at as can lie on the map.
    huge = torch.tensor([[[-1e7, -1e7, 1e7, 1e7]]])
    assert torch.isfinite(by_kernel(kernels, maps(torch.float32, 1), huge, 7)).all()


def test_any_number_of_threads_gives_the_same_bits(tmp_path):
    boxes = torch.cat([boxes_of(name) for name in BOXES], dim=1)
    level = "baseline"
    alone, three = (HostKernels(level, tmp_path, threads) for threads in (1, 3))
    for chosen in (boxes, boxes[:, :1].contiguous()):
        inputs = maps(torch.float32)
        assert torch.equal(by_kernel(alone, inputs, chosen, 7), by_kernel(three, inputs, chosen, 7))


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("name", BOXES)
def test_torch_operator_takes_the_kernel_and_agrees_with_its_definition(name, dtype):
    inputs, boxes = maps(dtype), boxes_of(name)
    actual = torch.ops.freqfusion.pyramid_roi_align(*inputs, boxes, 7, STRIDE, SCALE)
    assert torch.equal(actual, native.pyramid_roi_align(*inputs, boxes, 7, STRIDE, SCALE))
    with native.disabled():
        defined = align_by_level(inputs, boxes, 7, STRIDE, SCALE)
    assert_near(actual, defined.double().numpy(), roundings=2)  # the definition is rounded, too


def test_torch_operator_reads_tensors_that_are_not_contiguous():
    inputs, boxes = maps(torch.float32, 2, 8), boxes_of("every-level")
    expected = native.pyramid_roi_align(*inputs, boxes, 7, STRIDE, SCALE)
    last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    strided = torch.cat((boxes, boxes), dim=2)[..., :4]
    assert torch.equal(native.pyramid_roi_align(*last, strided, 7, STRIDE, SCALE), expected)
    assert native.pyramid_roi_align(*inputs, boxes.double(), 7, STRIDE, SCALE) is None


@pytest.fixture(scope="module")
def library() -> Path:
    return cpu_libraries() / "libfreqfusion_onnxruntime.so"


def model(dtype: str = "float", cells: int = 7, boxes: str = "float[n, m, 4]", **attributes: int) -> object:
    """One PyramidRoiAlign node with its function body; half-typed inside, fp32 at the edges."""
    names = [f"x{level}" for level in range(4)]
    casts = " ".join(f"{name}_as = Cast<to = {getattr(ir.DataType, dtype.upper()).value}>({name})" for name in names)
    sizes = ", ".join(f"float[n, c, h{level}, w{level}] {name}" for level, name in enumerate(names))
    text = f"""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g ({sizes}, {boxes} x4) => (float[r, c, k, l] o) {{
            {casts}
            y = freqfusion.PyramidRoiAlign({", ".join(f"{name}_as" for name in names)}, x4)
            o = Cast<to = 1>(y) }}"""
    proto = ir.to_proto(AddFunctionBodiesPass()(ir.from_onnx_text(text)).model)
    node = next(node for node in proto.graph.node if node.op_type == "PyramidRoiAlign")
    written = {"output_size": cells, "finest_stride": STRIDE, "finest_scale": SCALE, **attributes}
    node.attribute.extend(helper.make_attribute(name, value) for name, value in written.items())
    return proto


def run(session: object, inputs: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    feed = {f"x{level}": x.float().numpy() for level, x in enumerate(inputs)}
    return torch.from_numpy(session.run(None, {**feed, "x4": boxes.numpy()})[0]).to(inputs[0].dtype)


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("with_library", [True, False], ids=["kernel", "body"])
def test_onnxruntime_matches_the_loops(with_library, dtype, library):
    if dtype == "bfloat16" and not with_library:
        pytest.skip("ONNX Runtime's CPU provider casts bfloat16, but not by CastLike")
    kind = {"float": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    before = kernel_counts(library)
    session = open_session(model(dtype), library if with_library else None)
    made = {name for name, count in kernel_counts(library).items() if count != before[name]}
    assert made == ({"PyramidRoiAlign/cpu"} if with_library else set())
    for name in [name for name in BOXES if name != "none"]:  # ONNX Runtime's RoiAlign need not run on nothing
        boxes = boxes_of(name)
        assert_near(run(session, maps(kind), boxes), expected_for(name, kind, 7))
    if with_library:
        assert run(session, maps(kind), boxes_of("none")).shape == (0, 5, 7, 7)


def test_kernel_agrees_with_the_body_on_random_boxes(library):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 400, 2, generator=generator) * torch.tensor([120.0, 72.0])
    sides = torch.exp(torch.randn(2, 400, 2, generator=generator) + 2.5)
    boxes = torch.cat((corners, torch.minimum(corners + sides, torch.tensor([128.0, 80.0]))), dim=2)
    assert torch.bincount(pyramid_levels(boxes, SCALE).flatten()).min() > 20
    for cells in (7, 14):
        one, other = (
            run(open_session(model(cells=cells), path), maps(torch.float32), boxes) for path in (library, None)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=ARITHMETIC)


def test_the_size_of_the_result_is_known_before_a_run(library):
    proto = model(boxes="float[n, 10, 4]")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    session = open_session(proto, library)
    assert session.get_outputs()[0].shape == ["10*n", "c", 7, 7]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"output_size": 0}, "output_size must be at least 1"),
        ({"finest_stride": 0}, "finest_stride and finest_scale must be at least 1"),
        ({"finest_scale": -1}, "finest_stride and finest_scale must be at least 1"),
    ],
)
def test_a_node_with_senseless_attributes_is_refused(attributes, reason, library):
    with pytest.raises(Exception, match=f"freqfusion::PyramidRoiAlign: {reason}"):
        open_session(model(**attributes), library)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({2: (1, 5, 5, 8)}, r"one batch and channel count: map 0 has \(2, 5\), map 2 has \(1, 5\)"),
        ({1: (2, 4, 10, 16)}, r"map 0 has \(2, 5\), map 1 has \(2, 4\)"),
        ({3: (2, 5, 0, 4)}, "every map must have at least one row and column"),
        ({4: (1, 3, 4)}, "boxes must be of as many images as the maps, 2, got 1"),
        ({4: (2, 3, 5)}, r"boxes must have the shape \(N, M, 4\), got \(2, 3, 5\)"),
        ({4: (6, 4)}, r"boxes must have the shape \(N, M, 4\), got \(6, 4\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, reason, library):
    proto = model()
    for value in proto.graph.input:
        value.type.tensor_type.ClearField("shape")
    session = open_session(proto, library)
    shapes = {**{level: tuple(x.shape) for level, x in enumerate(maps(torch.float32))}, 4: (2, 3, 4), **changes}
    feed = {f"x{i}": np.zeros(shape, np.float32) for i, shape in shapes.items()}
    with pytest.raises(Exception, match=reason):
        session.run(None, feed)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({1: (2, 4, 10, 16)}, "one batch and channel count"),
        ({4: (2, 3, 5, 1)}, r"boxes must be float32 \(N, M, 4\)"),
        ({5: (5, 5, 7, 7)}, "output must be"),
    ],
)
def test_the_c_interface_checks_sizes_by_itself(kernels, changes, reason):
    inputs = [torch.zeros(changes.get(level, x.shape)) for level, x in enumerate(maps(torch.float32))]
    boxes, output = torch.zeros(changes.get(4, (2, 3, 4, 1))), torch.zeros(changes.get(5, (6, 5, 7, 7)))
    with pytest.raises(ValueError, match=reason):
        kernels.run("pyramid_roi_align", [*inputs, boxes], output, 7, STRIDE, SCALE)
