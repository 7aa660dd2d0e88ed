# SPDX-License-Identifier: Apache-2.0
"""The unmodified ``tritonclient`` package, over HTTP and gRPC, against a running server."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from server_process import photo
from tritonclient.utils import InferenceServerException

PROTOCOLS = ["http", "grpc"]


@pytest.fixture(scope="module", params=PROTOCOLS)
def triton(request, server):
    """The client's module and a client."""
    if request.param == "http":
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
        yield tritonclient.http, client
    else:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        yield tritonclient.grpc, client
    client.close()


def image_input(module, picture: np.ndarray, **how):
    tensor = module.InferInput("image", list(picture.shape), "UINT8")
    tensor.set_data_from_numpy(picture, **how)
    return tensor


def as_dict(answer) -> dict:
    from google.protobuf import json_format

    if isinstance(answer, (dict, list)):
        return answer
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def test_server_and_models_are_live_and_ready(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "2")


def test_metadata_names_the_model_its_versions_and_tensors(triton):
    _, client = triton
    metadata = as_dict(client.get_model_metadata("colors"))
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"][0]["datatype"] == "UINT8"
    assert [int(side) for side in metadata["inputs"][0]["shape"]] == [-1, -1, -1, 3]
    assert metadata["outputs"][0]["name"] == "labels"
    assert "binary_tensor_data" in as_dict(client.get_server_metadata())["extensions"]


def test_configuration_tells_load_tools_the_batch_size_and_dims(triton):
    _, client = triton
    answer = as_dict(client.get_model_config("means"))
    config = answer.get("config", answer)
    assert config["max_batch_size"] == 1
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(side) for side in config["input"][0]["dims"]] == [3, -1, -1]


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (
            lambda client: client.get_system_shared_memory_status(),
            "shared memory is not offered here: the server may be",
        ),
        (lambda client: client.register_system_shared_memory("a", "/a", 8), "shared memory is not offered here"),
        (lambda client: client.unregister_cuda_shared_memory("a"), "shared memory is not offered here"),
        (lambda client: client.get_trace_settings(), "traces are not offered here"),
        (lambda client: client.update_trace_settings("colors", {"trace_rate": "1"}), "traces are not offered here"),
        (lambda client: client.get_log_settings(), "the log is set up when the server starts"),
        (lambda client: client.load_model("colors"), "models cannot be loaded or unloaded by clients, asked to load"),
        (lambda client: client.unload_model("colors"), "cannot be loaded or unloaded by clients, asked to unload"),
    ],
)
def test_what_is_left_out_is_refused_in_the_same_words_by_both(triton, ask, reason):
    _, client = triton
    with pytest.raises(InferenceServerException) as caught:
        ask(client)
    assert reason in caught.value.message()


def test_bytes_are_told_how_a_picture_is_sent(triton):
    module, client = triton
    tensor = module.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"\xff\xd8\xff\xe0"], np.object_))
    with pytest.raises(InferenceServerException) as caught:
        client.infer("colors", [tensor])
    assert "got 'BYTES'. An encoded picture (JPEG, PNG) is taken as the whole body" in caught.value.message()
    assert "or to /v1/segment" in caught.value.message()


def test_repository_index_lists_every_version(triton):
    _, client = triton
    answer = as_dict(client.get_model_repository_index())
    models = answer if isinstance(answer, list) else answer["models"]
    assert {(m["name"], m["version"], m["state"]) for m in models} == {
        ("colors", "1", "READY"),
        ("colors", "2", "READY"),
        ("means", "1", "READY"),
    }


def test_labels_are_the_runtimes_and_the_id_comes_back(triton, expected):
    module, client = triton
    picture = photo(60, 81)
    result = client.infer("colors", [image_input(module, picture[None])], request_id="request 7")
    np.testing.assert_array_equal(result.as_numpy("labels")[0], expected("colors", picture))
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "request 7"


def test_a_batch_is_its_pictures_one_by_one(triton, expected):
    module, client = triton
    pictures = np.stack([photo(24, 32, seed) for seed in range(3)])
    labels = client.infer("colors", [image_input(module, pictures)]).as_numpy("labels")
    for picture, found in zip(pictures, labels, strict=True):
        np.testing.assert_array_equal(found, expected("colors", picture))


def test_a_float_tensor_gives_scores(triton, models):
    import freqfusion_runtime

    module, client = triton
    tensor = prepare(photo(40, 64), Preprocessing(short_side=64, long_side=128))
    wanted = module.InferInput("image", list(tensor.shape), "FP32")
    wanted.set_data_from_numpy(tensor)
    scores = client.infer("means", [wanted], outputs=[module.InferRequestedOutput("logits")]).as_numpy("logits")
    session = freqfusion_runtime.load(models["means"]).session
    np.testing.assert_array_equal(scores, session.run({"image": tensor})["logits"])


def test_statistics_count_what_was_inferred(triton):
    module, client = triton

    def totals():
        model = as_dict(client.get_inference_statistics("colors", "2"))["model_stats"][0]
        return {k: int(model.get(k, 0)) for k in ("inference_count", "execution_count")} | {
            "success": int(model["inference_stats"]["success"].get("count", 0))
        }

    before = totals()
    pictures = np.stack([photo(8, 8)] * 2)
    client.infer("colors", [image_input(module, pictures)], model_version="2")
    after = totals()
    # One execution for each picture, since --max-batch is 1.
    assert {k: after[k] - before[k] for k in after} == {"inference_count": 2, "execution_count": 2, "success": 1}


def test_unknown_model_and_version_are_named_in_the_clients_error(triton):
    module, client = triton
    tensors = [image_input(module, photo(8, 8)[None])]
    with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
        client.infer("nope", tensors)
    with pytest.raises(InferenceServerException, match="has no version '9'"):
        client.infer("colors", tensors, model_version="9")


def test_a_wrong_shape_is_the_clients_error(triton):
    module, client = triton
    with pytest.raises(InferenceServerException, match=r"must have shape \[-1, -1, -1, 3\]"):
        client.infer("colors", [image_input(module, np.zeros((1, 8, 8, 4), np.uint8))])


def test_a_time_that_has_passed_is_refused(triton):
    module, client = triton
    with pytest.raises(InferenceServerException, match="time"):
        client.infer("colors", [image_input(module, photo(300, 400)[None])], timeout=1)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_http_json_binary_and_compression_agree(server, expected, binary, compression):
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
    picture = photo(12, 20)
    result = client.infer(
        "colors",
        [image_input(tritonclient.http, picture[None], binary_data=binary)],
        outputs=[tritonclient.http.InferRequestedOutput("labels", binary_data=binary)],
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(result.as_numpy("labels")[0], expected("colors", picture))


def test_grpc_stream_answers_each_request_and_survives_an_error(server, expected):
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    import queue

    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    picture = photo(16, 16)
    for name in ("colors", "nope", "colors"):
        client.async_stream_infer(name, [image_input(tritonclient.grpc, picture[None])])
    results = [answers.get(timeout=10) for _ in range(3)]
    client.stop_stream()
    assert [error is None for _, error in results] == [True, False, True]
    np.testing.assert_array_equal(results[2][0].as_numpy("labels")[0], expected("colors", picture))


def test_grpc_typed_contents_give_the_same_as_raw_ones(server, expected):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    picture = photo(6, 7)
    request = service_pb2.ModelInferRequest(model_name="colors")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, *picture.shape])
    tensor.contents.uint_contents.extend(picture.ravel().tolist())
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    labels = np.frombuffer(response.raw_output_contents[0], np.int32).reshape(6, 7)
    np.testing.assert_array_equal(labels, expected("colors", picture))
