# SPDX-License-Identifier: Apache-2.0
"""What a gRPC message costs is known from its bytes, before protobuf makes anything of it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from described_model import DescribedModel
from freqfusion_runtime.serving.oip.grpc_messages import parsing_bytes, read_call, read_request
from freqfusion_runtime.serving.operation.errors import BadRequestError
from tritonclient.grpc import service_pb2 as pb

MEGA = 1_000_000


def request(shape=(1, 100, 100, 3), datatype="UINT8", **contents) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="colors")
    tensor = message.inputs.add(name="image", datatype=datatype, shape=shape)
    for name, values in contents.items():
        if name == "raw":
            message.raw_input_contents.append(values)
        else:
            getattr(tensor.contents, name).extend(values)
    return message


def hostile(many: int) -> dict[str, pb.ModelInferRequest]:
    return {
        "raw": request(raw=bytes(4 * many)),
        "small-int64": request(int64_contents=[1] * many),
        "small-uint32": request(uint_contents=[1] * many),
        "bools": request(bool_contents=[True] * many),
        "floats": request(fp32_contents=[0.5] * many),
        "doubles": request(fp64_contents=[0.5] * many),
        "texts": request(bytes_contents=[b""] * many),
        "two-kinds": request(fp32_contents=[0.5], int64_contents=[1] * many),
        "sides": request(shape=[1] * many),
        "empty-inputs": pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor()] * min(many, 900)),
        "empty-raw": pb.ModelInferRequest(raw_input_contents=[b""] * min(many, 900)),
    }


HOSTILE = hostile(MEGA)

# In a process of its own for each, where nothing else takes memory; protobuf's is not Python's. A small message of the
# kind goes first, so that the pages of the libraries that it needs are there and are not counted.
MEASURE = """
import os, pickle, sys
from tritonclient.grpc import service_pb2 as pb

def told(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field + ":"))

def read(message):
    request = pb.ModelInferRequest.FromString(message)
    return request, list(request.raw_input_contents)

messages = pickle.load(sys.stdin.buffer)
for kind, (small, message) in messages.items():
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    told("VmHWM"), read(small)
    open("/proc/self/clear_refs", "w").write("5")
    before = told("VmRSS")
    kept = read(message)
    print(kind, told("VmHWM") - before, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak that is gone")
def test_protobuf_takes_no_more_than_is_charged():
    messages = {kind: message.SerializeToString() for kind, message in HOSTILE.items()}
    pairs = {kind: (small.SerializeToString(), messages[kind]) for kind, small in hostile(10).items()}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, input=pickle.dumps(pairs), capture_output=True, check=True)
    taken = {kind: int(size) for kind, size in (line.split() for line in done.stdout.decode().splitlines())}
    assert taken.keys() == messages.keys()
    slack = 512 * 1024  # the system counts pages in batches
    beyond = {kind: size for kind, size in taken.items() if size > parsing_bytes(messages[kind]) + slack}
    assert beyond == {}
    assert taken["small-int64"] > 8 * len(messages["small-int64"])  # it is protobuf that is measured


def test_raw_contents_are_charged_twice_their_length_and_not_more():
    message = HOSTILE["raw"].SerializeToString()
    assert parsing_bytes(message) <= 2 * len(message) + 10_000


def test_more_fields_than_any_request_has_are_refused_before_they_are_all_looked_at():
    for message in (
        pb.ModelInferRequest(raw_input_contents=[b""] * 5000),
        pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor()] * 5000),
    ):
        with pytest.raises(BadRequestError, match=r"more than 1000 fields\. Send each tensor as one entry"):
            parsing_bytes(message.SerializeToString())
    with pytest.raises(BadRequestError, match="more than 1000 fields"):  # unknown numbers, which protobuf would keep
        parsing_bytes(b"\xfd\x011234" * 5000 + b"\xff" * 10_000_000)


@pytest.mark.parametrize("damage", [b"\x2a\x7f", b"\x2a", b"\x2b", b"\xff" * 20, b"\x2a" + b"\xff" * 9 + b"\x01"])
def test_what_is_no_message_is_refused(damage):
    with pytest.raises(BadRequestError, match=r"is no ModelInferRequest: it ends inside a field\. Send it whole\."):
        parsing_bytes(damage)


def test_bytes_that_protobuf_refuses_are_refused_in_our_words():
    with pytest.raises(BadRequestError, match=r"message is no RepositoryIndexRequest\. Send it with the protocol"):
        read_request(b"\xff" * 20, pb.RepositoryIndexRequest)


def test_typed_contents_are_charged_and_become_what_raw_ones_are():
    charged: list[int] = []
    values = np.arange(6) % 256
    typed = read_call(request((1, 1, 2, 3), uint_contents=values.tolist()), DescribedModel(), charged.append)
    raw = read_call(request((1, 1, 2, 3), raw=values.astype(np.uint8).tobytes()), DescribedModel(), charged.append)
    np.testing.assert_array_equal(typed.inputs["image"], raw.inputs["image"])
    assert typed.inputs["image"].dtype == np.uint8
    assert sum(charged) == 6 * 9  # as int64 while they are compared with the dtype, and as uint8


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (request((1, 1, 2, 3), uint_contents=[0] * 5), r"shape \[1, 1, 2, 3\] has 6 values, uint_contents has 5\."),
        (request((1, 1, 2, 3), uint_contents=[256] * 6), r"UINT8 holds 0 to 255, uint_contents has 256 to 256\."),
        (request((1,) * 9, uint_contents=[0]), "shape must be a list of up to 8 sizes"),
        (pb.ModelInferRequest(inputs=[{"name": "x" * 300}]), r"an input's name has 300 characters, the limit is 256\."),
        (pb.ModelInferRequest(inputs=[{}, {}]), "takes 1 inputs, got 2"),
        (
            pb.ModelInferRequest(inputs=request().inputs, raw_input_contents=[bytes(30_000)], id="x" * 300),
            r"id has 300 characters, the limit is 256\. Shorten it\.",
        ),
        (
            pb.ModelInferRequest(
                inputs=request().inputs, raw_input_contents=[bytes(30_000)], outputs=[{"name": "labels"}] * 2
            ),
            r"has 1 outputs, 2 were asked for\. Ask for each once\.",
        ),
    ],
)
def test_contradictions_are_refused(message, reason):
    with pytest.raises(BadRequestError, match=reason):
        read_call(message, DescribedModel(), lambda _: None)
