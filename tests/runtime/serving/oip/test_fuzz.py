# SPDX-License-Identifier: Apache-2.0
"""Random requests to every route and protocol: no 5xx but those documented, memory bounded, right answers afterwards.

An ordinary run takes some hundred cases. ``FUZZ_CASES=6000 pytest tests/serving/test_fuzz.py`` takes that many.
"""

from __future__ import annotations

import http.client
import json
import os

import grpc
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server_process import ServerProcess, photo, png
from tritonclient.grpc import service_pb2, service_pb2_grpc

CASES = int(os.environ.get("FUZZ_CASES", "300"))
_GROWTH_MB = 150  # what allocators keep after bodies and pictures of up to 2 MB; a leak of one body a case is 4 GB

COUNTS: dict[str, int] = {}
quick = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def fuzzed(models, expected, tmp_path_factory):
    server = ServerProcess(
        [models["colors"], models["means"]],
        *("--max-body-mb", "2", "--max-image-pixels", "200000", "--body-timeout-s", "2"),
        folder=tmp_path_factory.mktemp("fuzzed"),
    )
    check_right(server, expected)
    before = server.resident_mb()
    yield server
    check_right(server, expected)
    grown = server.resident_mb() - before
    assert server.metric("freqfusion_held_bytes") == 0
    assert server.terminate() == 0
    assert [event for event in server.events() if event["event"] == "unexpected_error"] == []
    assert grown < _GROWTH_MB
    print(f"fuzzed with {COUNTS}, resident memory grew by {grown:.0f} MB")


def check_right(server, expected):
    picture = photo(24, 16)
    status, _, content = server.ask("POST", "/v1/segment", png(picture), {"Accept": "application/octet-stream"})
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(content, np.uint8).reshape(24, 16), expected("colors", picture))


@pytest.mark.long
def test_every_documented_route_answers_as_documented(fuzzed):
    # Left out of the checks: what fits the schema may still name no class or hold no picture.
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    failures = []
    for operation in operations:
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=max(2, CASES // 3 // len(operations) // 2), **quick)
            def one(case):
                COUNTS["rest"] = COUNTS.get("rest", 0) + 1
                case.call_and_validate(timeout=20, excluded_checks=[positive_data_acceptance])

            try:
                one()
            except Unsatisfiable:
                continue  # a route without parameters cannot be asked wrongly
            except BaseException as e:
                failures.append(f"{operation.label}: {e}")
    assert not failures, "\n".join(failures)


names = st.sampled_from(["image", "labels", "", "x" * 300, "image\x00", "\ud7ff"]) | st.text(max_size=8)
datatypes = st.sampled_from(["UINT8", "FP32", "INT64", "BOOL", "FP16", "BYTES", "BF16", "", "uint8"])
sides = st.integers(0, 6) | st.integers(-(2**63), 2**63 - 1)
shapes = st.sampled_from([[1, 2, 3, 3], [2, 1, 2, 3], [1, 3, 32, 32]]) | st.lists(sides, max_size=9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
sizes = st.integers(0, 40) | st.integers(-(2**70), 2**70) | json_values
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": names | json_values,
        "datatype": datatypes | json_values,
        "shape": shapes | json_values,
        "data": st.lists(st.integers(0, 300), max_size=20) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": sizes}) | json_values,
    },
)
likely_tensors = st.fixed_dictionaries(
    {
        "name": st.just("image"),
        "datatype": st.just("UINT8"),
        "shape": st.sampled_from([[1, 2, 2, 3], [1, 1, 4, 3]]),
        "parameters": st.fixed_dictionaries({"binary_data_size": st.sampled_from([12, 11, 13, 0])}),
    }
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(likely_tensors | tensors, max_size=3) | json_values},
    optional={
        "id": st.text(max_size=4) | json_values,
        "outputs": st.lists(st.fixed_dictionaries({"name": names | json_values}), max_size=2) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": st.booleans()}) | json_values,
        "unknown": json_values,
    },
)


@given(
    request=requests,
    data=st.binary(max_size=30) | st.just(bytes(12)),
    lie=st.just(0) | st.integers(-20, 20),
    header=st.none() | st.sampled_from(["0", "-1", "1e3", "", "999999999999", "\u0661"]) | st.text(max_size=5),
    model=st.sampled_from(["colors", "means", "nope", "colors/versions/1"]),
    mutation=st.none() | st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=2)),
)
@settings(max_examples=CASES // 3, **quick)
def test_binary_requests_of_any_shape_are_answered_or_refused(fuzzed, request, data, lie, header, model, mutation):
    COUNTS["binary"] = COUNTS.get("binary", 0) + 1
    head = json.dumps(request).encode("utf-8", "surrogatepass")
    if mutation is not None:
        at, change = mutation[0] % (len(head) + 1), mutation[1]
        head = head[:at] + change + head[at + 1 :]
    length = str(len(head) + lie) if header is None else header
    connection = http.client.HTTPConnection("127.0.0.1", fuzzed.port, timeout=20)
    try:
        connection.putrequest("POST", f"/v2/models/{model}/infer")
        connection.putheader("Content-Length", str(len(head) + len(data)))
        connection.putheader("Inference-Header-Content-Length", length.encode("utf-8", "replace"))
        connection.endheaders(head + data)
        answer = connection.getresponse()
        body = answer.read()
    except ValueError:  # http.client itself refuses line breaks in headers
        return
    finally:
        connection.close()
    assert answer.status in (200, 400, 404), body
    if answer.status != 200:
        assert json.loads(body)["error"]


contents = st.sampled_from(["uint_contents", "int_contents", "fp32_contents", "bool_contents", "bytes_contents"])


@st.composite
def grpc_requests(draw):
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["colors", "means", "nope", ""])),
        model_version=draw(st.sampled_from(["", "1", "7", "x"])),
        id=draw(st.text(max_size=4)),
    )
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(names), datatype=draw(datatypes))
        tensor.shape.extend(side for side in draw(shapes))
        if draw(st.booleans()):
            field = draw(contents)
            values = draw(st.lists(st.integers(0, 300), max_size=20))
            if field == "bytes_contents":
                values = [bytes(2)] * len(values)
            elif field == "bool_contents":
                values = [value % 2 == 1 for value in values]
            getattr(tensor.contents, field).extend(values)
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40) | st.just(bytes(18)), max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        request.outputs.add(name=draw(names))
    if draw(st.booleans()):
        request.parameters["timeout"].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    return request


@given(request=grpc_requests())
@settings(max_examples=CASES // 3, **quick)
def test_grpc_requests_of_any_shape_are_answered_or_refused(fuzzed, request):
    COUNTS["grpc"] = COUNTS.get("grpc", 0) + 1
    with grpc.insecure_channel(f"127.0.0.1:{fuzzed.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(request, timeout=20)  # waits below, and does not raise for a refusal
        code, details = call.code().name, call.details()
    answers = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert code in answers, details
    assert code != "UNAVAILABLE" or "busy" in details, details


@given(data=st.binary(max_size=300), kind=st.sampled_from(["image/png", "multipart/form-data; boundary=x", "a/b"]))
@settings(max_examples=CASES // 10, **quick)
def test_bytes_of_any_kind_are_no_picture(fuzzed, data, kind):
    COUNTS["pictures"] = COUNTS.get("pictures", 0) + 1
    assert fuzzed.ask("POST", "/v1/segment", data, {"Content-Type": kind})[0] in (400, 413, 415)


@given(changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=9))
@settings(max_examples=CASES // 10, **quick)
def test_damaged_pictures_are_labelled_or_refused(fuzzed, changes):
    COUNTS["damaged"] = COUNTS.get("damaged", 0) + 1
    body = bytearray(png(photo()))
    for at, value in changes:
        body[at % len(body)] = value
    assert fuzzed.ask("POST", "/v1/segment", bytes(body))[0] in (200, 400, 413)
