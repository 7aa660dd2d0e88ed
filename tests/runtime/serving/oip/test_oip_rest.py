# SPDX-License-Identifier: Apache-2.0
"""The protocol's REST side as its text has it, without a client library."""

from __future__ import annotations

import json

import numpy as np
from server_process import photo, png

LENGTH = "Inference-Header-Content-Length"


def split(headers: dict[str, str], body: bytes) -> tuple[dict, bytes]:
    length = int(headers[LENGTH.lower()])
    return json.loads(body[:length]), body[length:]


def test_one_raw_picture_is_a_request(server, expected):
    picture = photo(20, 31)
    headers = {LENGTH: "0", "X-Tensor-Shape": "1,20,31,3"}
    status, found, body = server.ask("POST", "/v2/models/colors/infer", picture.tobytes(), headers)
    answer, data = split(found, body)
    assert status == 200
    assert answer["outputs"][0]["shape"] == [1, 20, 31]
    np.testing.assert_array_equal(np.frombuffer(data, np.int32).reshape(20, 31), expected("colors", picture))


def test_one_encoded_picture_is_a_request(server, expected):
    picture = photo(20, 31)
    headers = {"Content-Type": "image/png"}
    _, found, body = server.ask("POST", "/v2/models/colors/versions/1/infer", png(picture), headers)
    answer, data = split(found, body)
    assert answer["model_version"] == "1"
    np.testing.assert_array_equal(np.frombuffer(data, np.int32).reshape(20, 31), expected("colors", picture))


def test_an_encoded_picture_for_a_model_of_tensors_is_refused(server):
    status, reason = server.error("POST", "/v2/models/means/infer", png(photo(32, 32)), {"Content-Type": "image/png"})
    assert status == 400
    assert "must be FP32, got UINT8" in reason


def test_json_in_and_out_with_the_id(server, expected):
    picture = photo(3, 5)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 3, 5, 3], "data": picture.tolist()}
    nested = {**tensor, "data": [picture.tolist()]}
    flat = {**tensor, "data": picture.ravel().tolist()}
    for form in (nested, flat):
        body = json.dumps({"id": "é 1", "inputs": [form]}).encode()
        status, headers, content = server.ask("POST", "/v2/models/colors/infer", body)
        answer = json.loads(content)
        assert (status, headers["content-type"], answer["id"]) == (200, "application/json", "é 1")
        assert answer["outputs"][0]["data"] == expected("colors", picture).ravel().tolist()


def test_an_answer_without_an_id_has_none(server):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
    _, _, content = server.ask("POST", "/v2/models/colors/infer", json.dumps({"inputs": [tensor]}).encode())
    assert set(json.loads(content)) == {"model_name", "model_version", "outputs"}


def test_health_and_metadata_routes(server):
    assert json.loads(server.ask("GET", "/v2/health/live")[2]) == {"live": True}
    ready = json.loads(server.ask("GET", "/v2/health/ready")[2])
    assert ready == {"ready": True, "live": True, "draining": False, "problems": {}}
    assert json.loads(server.ask("GET", "/v2")[2])["name"] == "freqfusion"
    version = json.loads(server.ask("GET", "/v2/models/colors/versions/2/ready")[2])
    assert version == {"name": "colors", "version": "2", "ready": True, "problem": ""}


def test_statistics_of_all_models_and_of_one_version(server):
    everything = json.loads(server.ask("GET", "/v2/models/stats")[2])["model_stats"]
    assert [(m["name"], m["version"]) for m in everything] == [("colors", "1"), ("means", "1"), ("colors", "2")]
    one = json.loads(server.ask("GET", "/v2/models/colors/versions/2/stats")[2])["model_stats"]
    assert [m["version"] for m in one] == ["2"]


def test_the_openapi_document_names_every_route(server):
    paths = json.loads(server.ask("GET", "/openapi.json")[2])["paths"]
    assert {"/v1/segment", "/v1/models", "/metrics", "/v2", "/v2/repository/index"} <= set(paths)
    for prefix in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{version}"):
        assert {prefix, f"{prefix}/ready", f"{prefix}/infer", f"{prefix}/config", f"{prefix}/stats"} <= set(paths)
