# SPDX-License-Identifier: Apache-2.0
"""What reading a request costs grows with the request and no faster, whatever is in it."""

from __future__ import annotations

import contextlib
import json

import pytest
from described_model import DescribedModel
from freqfusion_runtime.serving.oip.grpc_messages import parsing_bytes, read_call, read_request
from freqfusion_runtime.serving.oip.json_body import parse
from freqfusion_runtime.serving.operation.errors import BadRequestError
from growth import assert_linear
from tritonclient.grpc import service_pb2 as pb


def tensor(**fields) -> dict:
    return {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3], **fields}


REQUESTS = {
    "numbers": lambda n: {"inputs": [tensor(shape=[1, 1, n, 3], data=[7] * 3 * n)]},
    "nested numbers": lambda n: {"inputs": [tensor(shape=[1, 1, n, 3], data=[[[[1, 2, 3]] * n]])]},
    "texts": lambda n: {"inputs": [tensor(data=["x"] * n)]},
    "fields": lambda n: {"inputs": [tensor()], **{f"a{k}": k for k in range(n)}},
    "inputs": lambda n: {"inputs": [tensor()] * n},
    "sides": lambda n: {"inputs": [tensor(shape=[1] * n)]},
    "parameters": lambda n: {"inputs": [tensor(parameters={f"a{k}": {} for k in range(n)})]},
    "one text": lambda n: {"id": "x" * 10 * n},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_json_of_any_kind_costs_what_its_length_costs(kind):
    def read(body):
        with contextlib.suppress(BadRequestError):
            parse(body, None, 1 << 30, DescribedModel())

    assert_linear(read, lambda n: json.dumps(REQUESTS[kind](n)).encode(), 20_000)


def message(n, **contents) -> bytes:
    request = pb.ModelInferRequest(model_name="colors")
    entry = request.inputs.add(name="image", datatype="UINT8", shape=[1, 1, n, 3])
    for name, values in contents.items():
        getattr(entry.contents, name).extend(values)
    if not contents:
        request.raw_input_contents.append(bytes(3 * n))
    return request.SerializeToString()


MESSAGES = {
    "raw": message,
    "typed": lambda n: message(n, uint_contents=[7] * 3 * n),
    "texts": lambda n: message(n, bytes_contents=[b""] * n),
    "parameters": lambda n: pb.ModelInferRequest(parameters={f"a{k}": {} for k in range(n)}).SerializeToString(),
    "inputs": lambda n: pb.ModelInferRequest(inputs=[{"name": "image"}] * n).SerializeToString(),
    "numbers without end": lambda n: b"\x08" + b"\xff" * n,
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_of_any_kind_cost_what_their_length_costs(kind):
    def read(body):
        with contextlib.suppress(BadRequestError):
            parsing_bytes(body)
            read_call(read_request(body, pb.ModelInferRequest), DescribedModel(), lambda _: None)

    assert_linear(read, MESSAGES[kind], 20_000)
