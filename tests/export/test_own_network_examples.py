# SPDX-License-Identifier: Apache-2.0
"""The examples of networks of one's own: each from its code to a file that is served."""

from __future__ import annotations

import importlib.util
import json

import freqfusion_runtime
import numpy as np
import pytest
import torch
import tritonclient.http
from places import EXAMPLES
from server_process import ServerProcess

OUTPUTS = {
    "unet": {"scores": (1, 2, 32, 48)},
    "yolo_graph": {"p2": (1, 32, 8, 12), "p3": (1, 32, 4, 6), "p4": (1, 32, 2, 3)},
}


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "own_networks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Exports each example once, as its own main does."""
    folder, made = tmp_path_factory.mktemp("examples"), {}

    def file(name):
        if name not in made:
            torch.manual_seed(0)
            made[name] = folder / f"{name}.onnx"
            example(name).main(made[name])
        return made[name]

    return file


@pytest.mark.parametrize("name", OUTPUTS)
def test_arrays_come_out_of_an_example_by_name(files, name):
    found = freqfusion_runtime.load(files(name)).run({"images": np.zeros((1, 3, 32, 48), np.float32)})
    assert {output: value.shape for output, value in found.items()} == OUTPUTS[name]


def test_labels_come_out_of_the_segmenter(files):
    result = freqfusion_runtime.load(files("segformer_head")).predict(EXAMPLES / "coffee.jpg")
    assert result.labels.shape == (400, 600)
    assert result.classes == ("road", "tree", "sky")


def test_the_examples_are_served(files, tmp_path):
    server = ServerProcess([files("unet"), files("segformer_head")], folder=tmp_path)
    arrays = np.ones((1, 3, 32, 48), np.float32)
    tensor = tritonclient.http.InferInput("images", list(arrays.shape), "FP32")
    tensor.set_data_from_numpy(arrays)
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.infer("unet", [tensor]).as_numpy("scores").shape == (1, 2, 32, 48)
    picture = (EXAMPLES / "coffee.jpg").read_bytes()
    headers = {"Content-Type": "image/jpeg", "Accept": "application/json"}
    status, _, content = server.ask("POST", "/v1/segment?model=segformer_head", picture, headers)
    assert status == 200, content
    assert {entry["name"] for entry in json.loads(content)["classes"]} <= {"road", "tree", "sky"}
    assert server.terminate() == 0
