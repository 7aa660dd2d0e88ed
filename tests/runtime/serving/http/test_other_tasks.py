# SPDX-License-Identifier: Apache-2.0
"""A model that does something else than segmentation is served by tensors, with all its outputs."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from freqfusion_runtime.model_files.manifest import sidecar_path
from freqfusion_runtime.serving.http.catalog_routes import router
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource, Registry
from served_detector import SLOTS, write_detector
from server_process import ServerProcess, photo, png


@pytest.fixture(scope="module")
def mixed(models, tmp_path_factory):
    """A detector of each interface, the first one the server's default, and a model that segments; all may batch."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = [write_detector(folder / f"{interface}.onnx", interface) for interface in ("image", "tensor")]
    started = ServerProcess([*paths, models["colors"]], "--max-batch", "4", folder=folder)
    yield started
    assert started.terminate() == 0


def clients(server):
    for module, port in ((tritonclient.http, server.port), (tritonclient.grpc, server.grpc_port)):
        yield module, module.InferenceServerClient(f"127.0.0.1:{port}")


def test_all_outputs_come_back_over_both_protocols(mixed):
    picture = photo()
    for module, client in clients(mixed):
        wanted = module.InferInput("image", [1, *picture.shape], "UINT8")
        wanted.set_data_from_numpy(picture[None])
        answer = client.infer("image", [wanted])
        np.testing.assert_array_equal(answer.as_numpy("num"), [2])
        np.testing.assert_array_equal(answer.as_numpy("labels"), [[3, 1, 0]])
        np.testing.assert_array_equal(answer.as_numpy("scores"), np.array([[0.9, 0.5, 0.0]], np.float32))
        expected = np.tile(np.arange(1, 5) * picture.mean(), (1, SLOTS, 1))
        np.testing.assert_allclose(answer.as_numpy("boxes"), expected, rtol=1e-5)


def test_a_second_input_is_no_picture(mixed):
    tensor = np.full((1, 3, 64, 96), 0.5, np.float32)
    for module, client in clients(mixed):
        inputs = [module.InferInput("image", list(tensor.shape), "FP32"), module.InferInput("size", [1, 2], "INT64")]
        inputs[0].set_data_from_numpy(tensor)
        inputs[1].set_data_from_numpy(np.array([[60, 90]], np.int64))
        boxes = client.infer("tensor", inputs).as_numpy("boxes")
        np.testing.assert_allclose(boxes[0, 0], np.arange(1, 5) * 0.5 + 150)


def test_metadata_names_every_output_and_no_batch(mixed):
    metadata = json.loads(mixed.ask("GET", "/v2/models/image")[2])
    assert [output["name"] for output in metadata["outputs"]] == ["num", "boxes", "scores", "labels"]
    configuration = json.loads(mixed.ask("GET", "/v2/models/image/config")[2])
    assert configuration["max_batch_size"] == 0


@pytest.mark.parametrize("query", ["", "?model=tensor"])
def test_no_label_map_is_made_of_its_answers(mixed, query):
    name = query.partition("=")[2] or "image"
    status, reason = mixed.error("POST", f"/v1/segment{query}", png(photo()))
    assert status == 400
    assert f"model '{name}' is made for detection" in reason
    assert f"/v2/models/{name}/infer, or choose one of: colors." in reason
    assert mixed.ask("POST", "/v1/segment?model=colors", png(photo()))[0] == 200


def test_the_list_says_what_each_model_does(mixed):
    entries = json.loads(mixed.ask("GET", "/v1/models")[2])["models"]
    assert [(e["name"], e["task"]) for e in entries] == [
        ("image", "detection"),
        ("tensor", "detection"),
        ("colors", "semantic_segmentation"),
    ]


def test_a_model_that_is_not_loaded_yet_says_its_task_if_a_manifest_lies_beside_it(tmp_path):
    sources = [ModelSource(name, write_detector(tmp_path / f"{name}.onnx", "image")) for name in ("told", "untold")]
    sidecar_path(sources[0].path).write_text(json.dumps({"task": "detection"}))
    sidecar_path(sources[1].path).write_text("[]")
    registry = Registry(sources)
    routes = router(SimpleNamespace(registry=registry, settings=Settings())).routes
    listed = asyncio.run(routes[0].endpoint()).models
    assert [(entry.state, entry.task) for entry in listed] == [("LOADING", "detection"), ("LOADING", None)]
