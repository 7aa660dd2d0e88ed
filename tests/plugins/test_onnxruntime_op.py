# SPDX-License-Identifier: Apache-2.0
"""libfreqfusion_onnxruntime.so: right results, the kernel rather than the function body, errors with what to do."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from compiled_libraries import cpu_libraries
from freqfusion_export.operators import functions
from freqfusion_export.operators.image_functions import PrepareImageAsPillow
from freqfusion_export.passes.add_function_bodies import OPERATORS, AddFunctionBodiesPass
from freqfusion_runtime.sessions.kernel_library import INTERFACE
from one_node_models import (
    OPEN_ALONE,
    OPSETS,
    kernel_counts,
    models_beyond_64_bits,
    one_node_model,
    open_session,
    run_session,
)
from onnx import helper
from operator_cases import CASES, DTYPES, Case, assert_matches_golden, golden_calls, reassembly

pytestmark = pytest.mark.numerics

CARAFE = {"kernel_size": 3, "group_size": 2, "scale_factor": 2}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Carafe": CARAFE,
    "AdaptiveFilter": {**CARAFE, "scale_factor": 1, "window": [1.0] * 9, "mode": 1},
    "DeformableAttention": {"levels": 2},
    "LocalSimilarity": {"kernel_size": 3, "dilation": 2},
    "OffsetResample": {"groups": 2},
    "QueryArgmax": {},
    "ResizeArgmax": {"align_corners": 0},
}


ATTENTION = [(1, 7, 2, 4), (1, 7, 2, 8), (1, 7, 2, 4)]  # value, offsets and logits of two levels, 2 x 3 and 1 x 1


@pytest.fixture(scope="module")
def onnxruntime_library() -> Path:
    return cpu_libraries() / "libfreqfusion_onnxruntime.so"


def run_case(case: Case, library: Path, tensors: list[torch.Tensor]) -> torch.Tensor:
    session = open_session(one_node_model(case.operator, case.attributes, tensors[0].dtype), library)
    return run_session(session, tensors, case.attributes.get("sizes"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_float64_loops(case, dtype, onnxruntime_library):
    tensors = case.tensors(dtype)
    case.check(run_case(case, onnxruntime_library, tensors), tensors)


@pytest.mark.parametrize(("operator", "tensors", "attributes", "expected"), golden_calls())
def test_matches_the_official_code(operator, tensors, attributes, expected, onnxruntime_library):
    session = open_session(one_node_model(operator, attributes), onnxruntime_library)
    assert_matches_golden(run_session(session, tensors), expected)


def zero_body(operator: str, count: int) -> onnx.FunctionProto:
    """A function body that cannot be mistaken for the operator: it returns zeros."""
    inputs = [f"i{k}" for k in range(count)]
    nodes = [helper.make_node("Sub", ["i0", "i0"], ["o"])]
    body = helper.make_function("freqfusion", operator, inputs, ["o"], nodes, [OPSETS[0]], list(CARAFE))
    return body


def test_a_registered_kernel_wins_over_the_function_body(onnxruntime_library):
    case = reassembly(1, 4, 5, 7, 3, 2, 1)
    tensors = case.tensors(torch.float32)
    model = one_node_model("Carafe", case.attributes, functions=[zero_body("Carafe", 2)])

    before = kernel_counts(onnxruntime_library)
    with_library = open_session(model, onnxruntime_library)
    after = kernel_counts(onnxruntime_library)

    case.check(run_session(with_library, tensors), tensors)
    assert {name for name in after if after[name] != before[name]} == {"Carafe/cpu"}
    assert after["Carafe/cpu"] == before["Carafe/cpu"] + 1
    without = open_session(model, None)
    assert not run_session(without, tensors).any()
    assert kernel_counts(onnxruntime_library) == after


def has_function_body(case: Case) -> bool:
    """Functions cannot choose a resize mode by attribute, and ONNX Runtime's own operators need not run on nothing."""
    return not case.attributes.get("align_corners") and case.shapes[0][0] > 0


def with_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    return ir.to_proto(AddFunctionBodiesPass()(ir.from_proto(model)).model)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("case", [case for case in CASES if has_function_body(case.values[0])])
def test_agrees_with_the_exported_function_body(case, dtype, onnxruntime_library):
    tensors = case.tensors(dtype)
    sizes = case.attributes.get("sizes")
    model = with_bodies(one_node_model(case.operator, case.attributes, dtype))

    case.check(run_session(open_session(model, None), tensors, sizes), tensors)
    case.check(run_session(open_session(model, onnxruntime_library), tensors, sizes), tensors)


def test_eight_threads_on_one_session_agree(onnxruntime_library):
    case = reassembly(2, 12, 19, 23, 5, 1, 2, mode=0)
    session = open_session(one_node_model(case.operator, case.attributes), onnxruntime_library)
    inputs = [case.tensors(torch.float32, seed) for seed in range(4)]
    expected = [run_session(session, tensors) for tensors in inputs]

    def work(thread: int) -> bool:
        turns = [(thread + turn) % len(inputs) for turn in range(12)]
        return all(torch.equal(run_session(session, inputs[i]), expected[i]) for i in turns)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    case.check(expected[0], inputs[0])


def test_sessions_made_in_threads_count_their_own_kernels(onnxruntime_library):
    model = one_node_model("OffsetResample", {"groups": 1})

    def open_and_count(times: int) -> int:
        before = kernel_counts(onnxruntime_library)["OffsetResample/cpu"]
        for _ in range(times):
            open_session(model, onnxruntime_library, threads=1)
        return kernel_counts(onnxruntime_library)["OffsetResample/cpu"] - before

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_and_count, [1, 5, 2, 3])) == [1, 5, 2, 3]


@pytest.mark.parametrize(
    ("operator", "shape", "expected"),
    [
        ("Carafe", (1, 4, 5, 7), [1, 4, 10, 14]),
        ("Carafe", ("batch", 4, "h", 7), ["batch", 4, "2*h", 14]),
        ("AdaptiveFilter", ("batch", 4, "h", "w"), ["batch", 4, "h", "w"]),
        ("DeformableAttention", ("batch", "tokens", 8, 32), ["batch", "tokens", 8, 32]),
        ("LocalSimilarity", (2, 16, "h", 9), [2, 8, "h", 9]),
        ("OffsetResample", (1, 4, "h", "w"), [1, 4, "h", "w"]),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_infers_the_output_size(operator, shape, expected, dtype, onnxruntime_library):
    model = one_node_model(operator, ATTRIBUTES[operator], dtype, shape=shape)
    (output,) = open_session(model, onnxruntime_library).get_outputs()
    assert output.shape == expected


@pytest.mark.parametrize("operator", ATTRIBUTES)
def test_leaves_an_output_size_open_that_it_cannot_know(operator, onnxruntime_library):
    model = one_node_model(operator, ATTRIBUTES[operator], shape=(None, None, None, None))
    (output,) = open_session(model, onnxruntime_library).get_outputs()
    assert not any(isinstance(extent, int) for extent in output.shape or [])


@pytest.mark.parametrize(("name", "model"), models_beyond_64_bits().items())
def test_a_size_that_does_not_fit_64_bits_is_unknown_or_refused(name, model, onnxruntime_library):
    if name in OPEN_ALONE:
        (output,) = open_session(model, onnxruntime_library).get_outputs()
        assert not any(isinstance(extent, int) for extent in output.shape or [])
    else:
        with pytest.raises(Exception, match=r"(scale_factor|kernel_size) must fit 32 bits, got -?4611686018427387\d+"):
            open_session(model, onnxruntime_library)


@pytest.mark.parametrize(
    ("operator", "wrong", "reason"),
    [
        ("Carafe", {"kernel_size": 4}, r"freqfusion::Carafe: .*kernel_size.*odd"),
        ("Carafe", {"kernel_size": None}, r"freqfusion::Carafe: .*integer attribute kernel_size"),
        ("Carafe", {"group_size": 0}, r"freqfusion::Carafe: .*group"),
        ("Carafe", {"scale_factor": -1}, r"freqfusion::Carafe: .*scale"),
        (
            "Carafe",
            {"kernel_size": 2**40 + 1},
            r"Carafe: .*kernel_size must fit 32 bits, got 1099511627777",
        ),
        ("Carafe", {"padding": 2}, r"freqfusion::Carafe: padding must be 0 \(zeros\) or 1 \(reflect\)"),
        ("AdaptiveFilter", {"padding": -1}, r"freqfusion::AdaptiveFilter: padding must be 0"),
        ("Carafe", {"plugin_version": "7"}, r"freqfusion::Carafe: .*version 7 .* this library has 1"),
        ("AdaptiveFilter", {"mode": 3}, r"freqfusion::AdaptiveFilter: .*mode"),
        ("AdaptiveFilter", {"scale_factor": 2}, r"freqfusion::AdaptiveFilter: .*scale"),
        ("AdaptiveFilter", {"window": [1.0] * 8}, r"freqfusion::AdaptiveFilter: .*window"),
        ("AdaptiveFilter", {"window": None}, r"freqfusion::AdaptiveFilter: .*attribute window of floats"),
        ("DeformableAttention", {"levels": 0}, r"freqfusion::DeformableAttention: .*between 1 and 8 levels"),
        ("DeformableAttention", {"levels": 9}, r"freqfusion::DeformableAttention: .*between 1 and 8 levels"),
        ("DeformableAttention", {"levels": None}, r"DeformableAttention: .*integer attribute levels"),
        ("LocalSimilarity", {"kernel_size": 1}, r"freqfusion::LocalSimilarity: .*kernel_size"),
        ("LocalSimilarity", {"dilation": 0}, r"freqfusion::LocalSimilarity: .*dilation"),
        ("OffsetResample", {"groups": 0}, r"freqfusion::OffsetResample: .*groups"),
    ],
)
def test_bad_attributes_are_refused_when_the_session_is_made(operator, wrong, reason, onnxruntime_library):
    attributes = {key: value for key, value in {**ATTRIBUTES[operator], **wrong}.items() if value is not None}
    with pytest.raises(Exception, match=reason):
        open_session(one_node_model(operator, attributes), onnxruntime_library)


@pytest.mark.parametrize(
    ("operator", "shapes", "sizes", "reason"),
    [
        ("Carafe", [(1, 4, 8, 8), (1, 18, 8, 8)], None, r"freqfusion::Carafe: .*mask"),
        ("Carafe", [(1, 5, 8, 8), (1, 18, 16, 16)], None, r"freqfusion::Carafe: .*group"),
        ("Carafe", [(4, 8, 8), (1, 18, 16, 16)], None, r"features must have four dimensions .*got \(4, 8, 8\)"),
        ("Carafe", [(1, 4, 8, 8), (18,)], None, r"mask must have four dimensions .*got \(18\)"),
        ("AdaptiveFilter", [(1, 4, 8, 8), (2, 18, 8, 8)], None, r"freqfusion::AdaptiveFilter: .*logits"),
        ("OffsetResample", [(1, 4, 8, 8), (1, 16, 8, 8)], None, r"freqfusion::OffsetResample: .*offsets"),
        ("ResizeArgmax", [(1, 4, 8, 8)], (8, 8, 0, 8), r"sizes must hold 4 numbers .*got \(8, 8, 0, 8\)"),
        ("ResizeArgmax", [(1, 4, 8, 8)], (8, 8), r"sizes must have the shape \(4\), got \(2\)"),
        ("ResizeArgmax", [(1, 4, 8, 8)], (8, 8, 2**40, 8), r"sizes must hold 4 numbers .*1099511627776"),
        ("ResizeArgmax", [(1, 0, 8, 8)], (8, 8, 8, 8), r"freqfusion::ResizeArgmax: .*class"),
        ("DeformableAttention", ATTENTION, (2, 3, 1), r"sizes must have the shape \(4\), got \(3\)"),
        ("DeformableAttention", ATTENTION, (2, 3, 1, 0), r"sizes must hold 4 numbers .*got \(2, 3, 1, 0\)"),
        ("DeformableAttention", ATTENTION, (2, 3, 1, 2), r"freqfusion::DeformableAttention: .*token for every pixel"),
        ("DeformableAttention", [*ATTENTION[:2], (1, 7, 2, 5)], (2, 3, 1, 1), r"DeformableAttention: .*logits"),
        ("DeformableAttention", [ATTENTION[0], (1, 7, 2, 9), ATTENTION[2]], (2, 3, 1, 1), r"Attention: .*offsets"),
        ("DeformableAttention", [(1, 7, 8), *ATTENTION[1:]], (2, 3, 1, 1), r"four dimensions \(N, T, M, D\)"),
        (
            "QueryArgmax",
            [(1, 3, 4, 4), (1, 3, 4, 1)],
            (8,) * 6,
            r"three dimensions .*got \(1, 3, 4, 1\)",
        ),
        ("QueryArgmax", [(1, 3, 4, 4), (1, 2, 4)], (8,) * 6, r"freqfusion::QueryArgmax: .*classes"),
        ("QueryArgmax", [(1, 3, 4, 4), (1, 3, 1)], (8,) * 6, r"freqfusion::QueryArgmax: .*at least one class"),
        ("QueryArgmax", [(1, 800, 4, 4), (1, 800, 3)], (8,) * 6, r"freqfusion::QueryArgmax: .*768 queries"),
        ("QueryArgmax", [(1, 3, 4, 4), (1, 3, 4)], (8, 8, 8, 9, 5, 5), r"freqfusion::QueryArgmax: .*kept"),
        ("QueryArgmax", [(1, 3, 4, 4), (1, 3, 4)], (8, 8, 8, 8, 5, 0), r"sizes must hold 6 numbers"),
    ],
)
def test_bad_sizes_are_refused_when_the_node_runs(operator, shapes, sizes, reason, onnxruntime_library):
    session = open_session(one_node_model(operator, ATTRIBUTES[operator]), onnxruntime_library)
    with pytest.raises(Exception, match=reason):
        run_session(session, [torch.rand(shape) for shape in shapes], sizes)


@pytest.mark.parametrize("with_kernel", [True, False])
def test_a_map_that_is_too_small_to_be_reflected_is_refused(with_kernel, onnxruntime_library):
    model = with_bodies(one_node_model("Carafe", {**CARAFE, "kernel_size": 5, "group_size": 1, "padding": 1}))
    session = open_session(model, onnxruntime_library if with_kernel else None)
    reason = "higher and wider than kernel_size / 2" if with_kernel else "out of data bounds"
    for h, w in ((2, 8), (8, 2), (1, 1)):
        with pytest.raises(Exception, match=reason):
            run_session(session, [torch.rand(1, 4, h, w), torch.rand(1, 25, 2 * h, 2 * w)])
    assert run_session(session, [torch.rand(1, 4, 3, 3), torch.rand(1, 25, 6, 6)]).shape == (1, 4, 6, 6)


def test_a_session_lives_on_after_a_refusal(onnxruntime_library):
    case = reassembly(1, 4, 5, 7, 3, 2, 2)
    session = open_session(one_node_model("Carafe", case.attributes), onnxruntime_library)
    features, mask = case.tensors(torch.float32)
    with pytest.raises(Exception, match="mask"):
        run_session(session, [features, mask[:, :9]])
    case.check(run_session(session, [features, mask]), [features, mask])


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_session_threads_gives_the_same_bits(threads, onnxruntime_library):
    case = reassembly(1, 7, 13, 21, 5, 1, 2)
    tensors = case.tensors(torch.float32)
    model = one_node_model(case.operator, case.attributes)
    result = run_session(open_session(model, onnxruntime_library, threads), tensors)
    assert torch.equal(result, run_session(open_session(model, onnxruntime_library, 2), tensors))
    case.check(result, tensors)


def test_the_library_can_be_registered_more_than_once(onnxruntime_library):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(onnxruntime_library))
    model = one_node_model("Carafe", CARAFE).SerializeToString()
    sessions = [onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(2)]
    feed = {"x0": np.ones((1, 2, 3, 3), np.float32), "x1": np.ones((1, 18, 6, 6), np.float32)}
    first, second = (session.run(None, feed)[0] for session in sessions)
    assert np.array_equal(first, second)
    assert first[0, 0, 3, 3] == 9.0  # an inner pixel: nine ones


def test_kernels_read_the_attributes_that_files_have_and_no_others(onnxruntime_library):
    library = ctypes.CDLL(str(onnxruntime_library))
    assert library.freqfusion_onnxruntime_interface() == INTERFACE
    library.freqfusion_onnxruntime_attributes.restype = ctypes.c_char_p
    with_kernel = {}
    for name, body in {**OPERATORS, **functions.PADDED, "PrepareImage": PrepareImageAsPillow}.items():
        read = library.freqfusion_onnxruntime_attributes(name.encode())
        if read is not None:
            with_kernel[name] = set(read.decode().split())
            proto = body.to_function_proto()
            assert with_kernel[name] == {*proto.attribute, *(attribute.name for attribute in proto.attribute_proto)}
    assert with_kernel.keys() == {*(case.values[0].operator for case in CASES), "PrepareImage", "PyramidRoiAlign"}


def test_exports_its_interface_and_nothing_else(onnxruntime_library):
    libraries = onnxruntime_library.parent
    expected = {
        "libfreqfusion_onnxruntime.so": {"RegisterCustomOps"}
        | {f"freqfusion_onnxruntime_{name}" for name in ("interface", "attributes", "kernel_name", "kernel_counts")},
        "libfreqfusion_c.so": {"freqfusion_abi_version", "freqfusion_has_cuda", "freqfusion_host_level"}
        | {f"freqfusion_{name}" for name in ("carafe", "adaptive_filter", "local_similarity")}
        | {"freqfusion_offset_resample", "freqfusion_resize_argmax", "freqfusion_pyramid_roi_align"}
        | {"freqfusion_deformable_attention", "freqfusion_query_argmax", "freqfusion_window_products"},
    }
    for library, names in expected.items():
        listing = subprocess.run(
            ["nm", "-D", "--defined-only", str(libraries / library)], capture_output=True, text=True, check=True
        )
        assert {line.split()[-1] for line in listing.stdout.splitlines()} == names
        needed = subprocess.run(["readelf", "-d", str(libraries / library)], capture_output=True, text=True, check=True)
        assert "onnxruntime.so" not in needed.stdout.replace(library, "")
        assert "torch" not in needed.stdout
