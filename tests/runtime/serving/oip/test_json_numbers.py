# SPDX-License-Identifier: Apache-2.0
"""Numbers of JSON requests: as many as the shape has, of the right kind, at the cost that was told."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from described_model import DescribedModel
from freqfusion_runtime.serving.oip.json_body import parse
from freqfusion_runtime.serving.oip.json_numbers import to_array
from freqfusion_runtime.serving.operation.errors import BadRequestError


def array(data, dtype="float32", shape=(2, 3)):
    return to_array("image", np.dtype(dtype), shape, data, lambda _: None)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "int64", "uint64"])
def test_flat_and_nested_lists_are_the_same(dtype):
    expected = np.arange(6, dtype=dtype).reshape(2, 3)
    for data in ([0, 1, 2, 3, 4, 5], [[0, 1, 2], [3, 4, 5]]):
        result = array(data, dtype)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


def test_the_ends_of_each_dtype_are_held():
    assert array([2**64 - 1, 0], "uint64", (2,)).tolist() == [2**64 - 1, 0]
    assert array([-(2**63), 2**63 - 1], "int64", (2,)).tolist() == [-(2**63), 2**63 - 1]
    assert array([True, False], "bool", (2,)).tolist() == [True, False]
    assert array([1, -2.5], "float32", (2,)).tolist() == [1, -2.5]


@pytest.mark.parametrize(
    ("data", "dtype", "reason"),
    [
        ([0] * 5, "float32", r"shape \[2, 3\] has 6 values, got 5\. Correct one of them\."),
        ([[0, 1, 2], [3, 4]], "float32", r"ragged, or nested otherwise than shape \[2, 3\]\. Send a flat list\."),
        ([[0, 1], [2, 3], [4, 5]], "float32", "ragged, or nested otherwise"),
        ([[0, 1, 2], 3], "float32", "ragged, or nested otherwise"),
        ([0, [1], 2, 3, 4, 5], "float32", r"data holds values that are no FP32\. Convert them\."),
        (["0"] * 6, "float32", r"data holds texts, which are no FP32\. An encoded picture"),
        ([0, "x" * 100_000, 2, 3, 4, 5], "uint8", "data holds texts, which are no UINT8"),
        ([True] * 6, "uint8", "no UINT8"),
        ([0.5] * 6, "uint8", "no UINT8"),
        ([None] * 6, "float32", "no FP32"),
        ([{}] * 6, "float32", "no FP32"),
        ([256, 0, 0, 0, 0, 0], "uint8", r"UINT8 holds 0 to 255, data has 0 to 256\. Convert it\."),
        ([-1, 0, 0, 0, 0, 0], "uint64", "UINT64 holds 0 to"),
        ([1e39, 0, 0, 0, 0, 0], "float32", r"data has numbers too large for FP32\. Scale them\."),
        ([70000, 0, 0, 0, 0, 0], "float16", "numbers too large for FP16"),
        ([10**400, 0, 0, 0, 0, 0], "float64", "numbers too large for FP64"),
    ],
)
def test_what_a_dtype_cannot_hold_is_refused(data, dtype, reason):
    with pytest.raises(BadRequestError, match=reason):
        array(data, dtype)


def request(data: list, shape: list[int]) -> bytes:
    return json.dumps({"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": data}]}).encode()


def peak_and_charge(body: bytes) -> tuple[int, int, BadRequestError | None]:
    charged: list[int] = []
    refusal = None
    tracemalloc.start()
    try:
        parse(body, None, 1 << 30, DescribedModel(), charged.append)
    except BadRequestError as e:
        refusal = e
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, sum(charged), refusal


HOSTILE = {
    "numbers": request(list(range(256)) * 300, [1, 100, 256, 3]),
    "nested": request(np.zeros((1, 100, 256, 3), int).tolist(), [1, 100, 256, 3]),
    # One long text among short ones: as an array of text each would be as long.
    "texts": request(["x" * 4000, *["y"] * 40_000], [1, 1, 1, 3]),
    "too-many": request([0] * 200_000, [1, 1, 1, 3]),
    "wrong-kind": request([0.5] * 100_000, [1, 1, 1, 3]),
    "many-inputs": json.dumps({"inputs": [{"name": "image"}] * 10_000}).encode(),
    "long-shape": json.dumps({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1] * 100_000}]}).encode(),
    "long-id": json.dumps({"id": [0] * 100_000, "inputs": []}).encode(),
    "long-dtype": json.dumps({"inputs": [{"name": "image", "datatype": [0] * 100_000}]}).encode(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_request_takes_no_more_memory_than_it_is_charged(kind):
    body = HOSTILE[kind]
    peak, charged, refusal = peak_and_charge(body)
    assert peak <= charged + 64 * 1024  # frames, messages, the names of things
    assert (refusal is None) == (kind in ("numbers", "nested"))
    if refusal is not None:
        assert len(str(refusal)) < 400


def test_many_fields_of_one_name_are_refused_at_the_cost_of_their_length():
    body = b'{"id": "a",' + b",".join(b'"%x": 0' % k for k in range(50_000)) + b',"id": "b", "inputs": []}'
    peak, charged, refusal = peak_and_charge(body)
    assert peak <= charged + 64 * 1024
    assert "'id', which is there twice" in str(refusal)
