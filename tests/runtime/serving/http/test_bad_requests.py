# SPDX-License-Identifier: Apache-2.0
"""What hostile and broken clients send: a 4xx that says why, at little cost, and a server that is right afterwards."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
import tritonclient.grpc
from freqfusion_runtime.serving.oip.json_body import parse, parse_index_request
from freqfusion_runtime.serving.operation.errors import TooLargeError
from server_process import photo, png

BINARY = "Inference-Header-Content-Length"


@pytest.fixture(autouse=True)
def _right_afterwards(server, expected):
    yield
    picture = photo(16, 24)
    status, _, content = server.ask("POST", "/v1/segment", png(picture), {"Accept": "application/octet-stream"})
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(content, np.uint8).reshape(16, 24), expected("colors", picture))
    assert server.metric("freqfusion_held_bytes") == 0


def infer(server, request, data=b"", header_length=None, model="colors", **headers):
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    if data or header_length is not None:
        headers[BINARY] = str(len(head)) if header_length is None else header_length
    return server.error("POST", f"/v2/models/{model}/infer", head + data, headers)


def image(**changes):
    return {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [0] * 6, **changes}


def without_data(**changes):
    return {k: v for k, v in image(**changes).items() if k != "data"}


def bomb_png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


PICTURES = [
    pytest.param(b"", 400, "body is empty", id="nothing"),
    pytest.param(b"not a picture at all", 400, "not a picture", id="text"),
    pytest.param(png(photo())[:200], 400, "damaged or truncated", id="truncated"),
    pytest.param(png(photo())[:80] + bytes(3000), 400, "damaged or truncated", id="garbage-inside"),
    pytest.param(bomb_png(30_000), 413, "larger than the limit", id="bomb"),
    pytest.param(bomb_png(5_000), 413, "more than the limit", id="too-many-pixels"),
    pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "not a picture", id="postscript"),
    pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "not a picture", id="svg"),
]


def test_a_picture_in_place_of_pixels_is_told_how_it_is_sent(server):
    request = {"inputs": [without_data(parameters={"binary_data_size": len(png(photo()))})]}
    status, message = infer(server, request, png(photo()))
    assert status == 400
    assert "has 6 bytes, got" in message
    assert message.endswith("with Content-Type: image/* to /v2/models/NAME/infer, or to /v1/segment.")


def test_members_that_are_null_are_as_good_as_absent(server):
    nothing = {"id": None, "parameters": None, "outputs": None}
    inner = image(parameters=None)
    answer = server.ask("POST", "/v2/models/colors/infer", json.dumps({"inputs": [inner], **nothing}).encode())
    assert answer[0] == 200
    absent = server.ask("POST", "/v2/models/colors/infer", json.dumps({"inputs": [image()]}).encode())
    assert json.loads(answer[2]) == json.loads(absent[2])
    outputs = [{"name": "labels", "parameters": {"binary_data": None, "classification": None}}]
    status, _, content = server.ask(
        "POST", "/v2/models/colors/infer", json.dumps({"inputs": [image()], "outputs": outputs}).encode()
    )
    assert (status, json.loads(content)["outputs"]) == (200, json.loads(absent[2])["outputs"])
    found, message = infer(server, {"inputs": [{**image(), "name": None}]})
    assert (found, "an input's name must be a string" in message) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/v2/systemsharedmemory/region/a/register", "shared memory is not offered here"),
        ("GET", "/v2/systemsharedmemory/status", "shared memory is not offered here"),
        ("POST", "/v2/cudasharedmemory/unregister", "shared memory is not offered here"),
        ("GET", "/v2/trace/setting", "traces are not offered here"),
        ("POST", "/v2/models/colors/trace/setting", "traces are not offered here"),
        ("POST", "/v2/logging", "the log is set up when the server starts"),
    ],
)
def test_parts_of_the_protocol_that_are_left_out_say_why(server, method, path, reason):
    status, message = server.error(method, path, b"{}" if method == "POST" else None)
    assert status == 404
    assert reason in message


@pytest.mark.parametrize(("body", "status", "reason"), PICTURES)
def test_what_is_no_picture_is_refused(server, body, status, reason):
    found, message = server.error("POST", "/v1/segment", body)
    assert found == status
    assert reason in message


FORMS = [
    pytest.param("multipart/form-data", b"x", "form cannot be read", id="no-boundary"),
    pytest.param("multipart/form-data; boundary=x", b"garbage", "form", id="garbage"),
    pytest.param("multipart/form-data; boundary=x", b"--x--\r\n", "got no field", id="no-field"),
    pytest.param(
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\na\r\n--x--\r\n',
        "the file 'image'",
        id="text-not-file",
    ),
    pytest.param(
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\na\r\n' * 2 + b"--x--\r\n",
        "got 'image', 'image'",
        id="twice",
    ),
    pytest.param(
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\na\r\n' * 9 + b"--x--\r\n",
        "Too many files",
        id="many-files",
    ),
]


@pytest.mark.parametrize(("kind", "body", "reason"), FORMS)
def test_broken_forms_are_refused(server, kind, body, reason):
    status, message = server.error("POST", "/v1/segment", body, {"Content-Type": kind})
    assert status == 400
    assert reason in message


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("?model=../../etc/passwd", 404, "there is no model"),
        ("?model=%00", 404, "there is no model"),
        ("?version=1%2F..", 404, "has no version"),
        ("?size=0", 400, "query size"),
        ("?size=many", 400, "query size"),
        ("?opacity=nan", 400, "query opacity"),
        ("?classes=unicorn", 400, "has no class 'unicorn'"),
        ("?classes=99", 400, "has no class '99'"),
        ("?view=sideways", 400, "query view"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(server, query, status, reason):
    found, message = server.error("POST", f"/v1/segment{query}", png(photo()))
    assert found == status
    assert reason in message


JSON = [
    pytest.param(b"", "JSON cannot be read", id="empty"),
    pytest.param(b"{", "JSON cannot be read", id="cut-short"),
    pytest.param(b"\xff\xfe{}", "not UTF-8", id="not-utf8"),
    pytest.param(b"[" * 100_000, "nested too deeply", id="deep"),
    pytest.param(b"[]", "must be a JSON object", id="list"),
    pytest.param(b'{"inputs": [], "inputs": []}', "there twice", id="field-twice"),
    pytest.param(b'{"inputs": [{"name": "image", "name": "b"}]}', "there twice", id="inner-field-twice"),
    pytest.param(b'{"inputs": NaN}', "NaN is no JSON number", id="nan"),
    pytest.param({}, "inputs must be a JSON list", id="no-inputs"),
    pytest.param({"inputs": []}, "takes 1 inputs, got 0", id="zero-inputs"),
    pytest.param({"inputs": [image()] * 10_000}, "takes 1 inputs, got 10000", id="10000-tensors"),
    pytest.param({"inputs": [7]}, "an input must be a JSON object", id="number-as-input"),
    pytest.param({"inputs": [image()], "id": 7}, "id must be a string", id="id-number"),
    pytest.param({"inputs": [image()], "id": "x" * 300}, "id must be a string of up to 256", id="long-id"),
    pytest.param({"inputs": [image(name="picture")]}, "takes the inputs 'image', got 'picture'", id="wrong-name"),
    pytest.param({"inputs": [image(datatype="FP32")]}, "must be UINT8, got FP32", id="wrong-dtype"),
    pytest.param({"inputs": [image(datatype="FLOAT")]}, "datatype must be one of", id="unknown-dtype"),
    pytest.param({"inputs": [image(datatype="BYTES", data=["x"])]}, "datatype must be one of", id="bytes"),
    *(
        pytest.param(request, r"with Content-Type: image/* to /v2/models/NAME/infer, or to /v1/segment.", id=name)
        for name, request in {
            "picture-as-bytes": {"inputs": [image(datatype="BYTES", shape=[1], data=["/9j/4AAQ"])]},
            "picture-as-base64": {"inputs": [image(data="/9j/4AAQSkZJRg==")]},
            "picture-as-list-of-base64": {"inputs": [image(data=["/9j/4AAQSkZJRg=="])]},
            "picture-without-its-type": png(photo()),
            "gif-without-its-type": b"GIF89a" + bytes(20),
        }.items()
    ),
    pytest.param({"inputs": [image(shape=[1, 2, 1, 3, 1])]}, "must have shape", id="wrong-rank"),
    pytest.param({"inputs": [image(shape=[1, 0, 2, 3], data=[])]}, "must have shape", id="empty-picture"),
    pytest.param({"inputs": [image(shape=[1, -1, 2, 3])]}, "shape must be a list", id="negative-side"),
    pytest.param({"inputs": [image(shape=[1, 1, True, 6])]}, "shape must be a list", id="boolean-side"),
    pytest.param({"inputs": [image(shape=[2**40] * 4)]}, "shape must be a list", id="huge-side"),
    pytest.param({"inputs": [image(shape="1123")]}, "shape must be a list", id="shape-text"),
    pytest.param({"inputs": [image(data=[0] * 7)]}, "has 6 values, got 7", id="too-many-values"),
    pytest.param({"inputs": [image(data=[[0, 1], [2]])]}, "ragged", id="ragged"),
    pytest.param({"inputs": [image(data=[0.5] * 6)]}, "are no UINT8", id="fractions"),
    pytest.param({"inputs": [image(data=[256] * 6)]}, "UINT8 holds 0 to 255", id="out-of-range"),
    pytest.param({"inputs": [image(data=[10**30] * 6)]}, "data", id="huge-number"),
    pytest.param({"inputs": [image(data=["a"] * 6)]}, "are no UINT8", id="texts"),
    pytest.param({"inputs": [image(data=[None] * 6)]}, "are no UINT8", id="nulls"),
    pytest.param({"inputs": [image(parameters={"binary_data_size": 6})]}, "and not both", id="data-twice"),
    pytest.param({"inputs": [without_data()]}, "either data or binary_data_size", id="no-data"),
    pytest.param({"inputs": [image()], "outputs": [{"name": "x"}]}, "has no output 'x'", id="unknown-output"),
    pytest.param({"inputs": [image()], "outputs": [{}] * 99}, "has 1 outputs, 99", id="many-outputs"),
    pytest.param({"inputs": [image()], "parameters": {"timeout": "1"}}, "timeout must be", id="timeout-text"),
]


@pytest.mark.parametrize(("request_body", "reason"), JSON)
def test_malformed_json_is_refused(server, request_body, reason):
    status, message = infer(server, request_body)
    assert status == 400
    assert reason in message


def binary(size) -> dict:
    return {"inputs": [without_data(parameters={"binary_data_size": size})]}


def test_other_limits_name_their_option_too(server):
    large = without_data(shape=[1, 300, 1000, 3], parameters={"binary_data_size": 900_000})
    for status, message in (
        server.error("POST", "/v1/segment", bomb_png(5_000)),
        server.error("POST", "/v1/segment", bomb_png(30_000)),
        infer(server, {"inputs": [large]}, bytes(900_000)),
    ):
        assert status == 413
        assert message.endswith("or start the server with a larger --max-image-pixels.")
    with pytest.raises(TooLargeError, match=r"20 bytes of JSON, the limit is 10\. .* with a larger --max-json-mb\."):
        parse(b" " * 20, None, 10, None)
    with pytest.raises(TooLargeError, match=r"20 bytes of JSON, the limit is 10\."):
        parse_index_request(b" " * 20, 10, int)


@pytest.mark.parametrize(
    ("request_body", "data", "header_length", "reason"),
    [
        pytest.param(binary(6), b"123456", "99999", "must be a number of bytes up to", id="header-beyond-body"),
        pytest.param(binary(6), b"123456", "-1", "must be a number of bytes up to", id="negative-header"),
        pytest.param(binary(6), b"123456", "0x10", "must be a number of bytes up to", id="hexadecimal-header"),
        pytest.param(binary(6), b"123456", "9" * 40, "must be a number of bytes up to", id="huge-header"),
        pytest.param(binary(6), b"123456", "7", "JSON cannot be read", id="header-inside-json"),
        pytest.param(binary(7), b"123456", None, "the 6 bytes that are left", id="size-beyond-body"),
        pytest.param(binary(5), b"12345", None, "has 6 bytes, got 5", id="too-few-bytes"),
        pytest.param(binary(6), b"1234567", None, "1 bytes follow", id="bytes-left-over"),
        pytest.param(binary(-1), b"123456", None, "binary_data_size must be", id="negative-size"),
        pytest.param(binary(True), b"123456", None, "binary_data_size must be", id="boolean-size"),
        pytest.param(b"", b"12345", "0", "do not tell its size", id="raw-without-shape"),
    ],
)
def test_lying_lengths_are_refused(server, request_body, data, header_length, reason):
    status, message = infer(server, request_body, data, header_length)
    assert status == 400
    assert reason in message


def test_raw_binary_shape_header_is_checked(server):
    for shape, reason in [("1,2,x,3", "sizes with commas"), ("1,9,9,3", "has 243 bytes"), ("1" * 30, "sizes with")]:
        status, message = infer(server, b"", b"123456", "0", **{"X-Tensor-Shape": shape})
        assert status == 400
        assert reason in message


@pytest.mark.parametrize(
    ("body", "encoding", "status", "reason"),
    [
        pytest.param(b"not gzip", "gzip", 400, "not valid gzip", id="not-gzip"),
        pytest.param(gzip.compress(b"{}")[:-3], "gzip", 400, "it ends early", id="gzip-cut-short"),
        pytest.param(gzip.compress(b"{}") + b"x", "gzip", 400, "goes on after", id="gzip-with-more"),
        pytest.param(gzip.compress(bytes(50_000_000)), "gzip", 413, "when inflated", id="gzip-bomb"),
        pytest.param(b"{}", "br", 415, "content encoding 'br'", id="unknown"),
    ],
)
def test_bad_compression_is_refused(server, body, encoding, status, reason):
    found, message = server.error("POST", "/v2/models/colors/infer", body, {"Content-Encoding": encoding})
    assert found == status
    assert reason in message


@pytest.mark.parametrize("path", ["/v1/segment", "/v2/models/colors/infer"])
def test_a_body_beyond_the_limit_is_refused_and_the_client_sees_why(server, path):
    status, message = server.error("POST", path, bytes(3_000_000))
    assert status == 413
    assert message.endswith("the limit is 2 MiB. Send less at a time, or start the server with a larger --max-body-mb.")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/%2e%2e/config", 404),
        ("GET", "/v2/models/%ff%fe", 404),
        ("GET", "/v2/models/" + "a" * 5000, 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/page_routes.py", 404),
        ("GET", "/v2/models/colors/versions/0", 404),
        ("GET", "/v2/models/colors/versions/1e0", 404),
        ("DELETE", "/v2/models/colors", 405),
        ("GET", "/v1/segment", 405),
        ("POST", "/v2/repository/models/colors/unload", 403),
        ("GET", "/v2/systemsharedmemory/status", 404),
    ],
)
def test_paths_that_lead_nowhere_are_refused_in_the_protocols_words(server, method, path, status):
    found, message = server.error(method, path)
    assert found == status
    assert message


def test_deadlines_must_be_numbers(server):
    for text in ("soon", "-1", "nan", "inf", "0"):
        status, message = server.error("POST", "/v1/segment", png(photo()), {"X-Deadline-Ms": text})
        assert status == 400
        assert "X-Deadline-Ms must be a positive number" in message


def grpc_request(**changes):
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="colors", raw_input_contents=[bytes(6)])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 1, 2, 3])
    for name, change in changes.items():
        change(request) if callable(change) else setattr(request, name, change)
    return request


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda r: r.raw_input_contents.append(b""), "INVALID_ARGUMENT", "must hold the data of all 1 inputs"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"x"), "INVALID_ARGUMENT", "has 6 bytes, got 1"),
        (lambda r: r.inputs.add(), "INVALID_ARGUMENT", "takes 1 inputs, got 2"),
        (lambda r: r.inputs[0].shape.append(-5), "INVALID_ARGUMENT", "shape must be a list"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP16"), "INVALID_ARGUMENT", "has 12 bytes"),
        (lambda r: setattr(r.inputs[0], "name", "x"), "INVALID_ARGUMENT", "takes the inputs 'image'"),
        (lambda r: r.ClearField("raw_input_contents"), "INVALID_ARGUMENT", "uint_contents has 0"),
        (lambda r: setattr(r, "model_name", "../x"), "NOT_FOUND", "there is no model"),
        (lambda r: r.raw_input_contents.__setitem__(0, bytes(3_000_000)), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_grpc_refuses_in_its_own_words(server, change, code, reason):
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    request = grpc_request(change=change)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code().name == code
    assert reason in caught.value.details()


def test_grpc_leaves_out_what_this_server_has_not(server):
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    with pytest.raises(Exception, match=r"UNIMPLEMENTED"):
        client.load_model("colors")
