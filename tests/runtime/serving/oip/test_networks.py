# SPDX-License-Identifier: Apache-2.0
"""Networks of arrays are served by both protocols, joined by their batch alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from array_networks import expected_of, inputs_of, network_manifest, write_network
from freqfusion_runtime.model_files.manifest import TensorSpec
from freqfusion_runtime.serving.scheduling.footprint import Footprint
from freqfusion_runtime.serving.scheduling.registry import LoadedModel, ModelSource
from server_process import ServerProcess, photo, png


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    options = ["--max-batch", "4", "--max-image-pixels", "20000"]
    started = ServerProcess([write_network(folder / "pair.onnx")], *options, folder=folder)
    yield started
    assert started.terminate() == 0


def clients(server):
    for module, port in ((tritonclient.http, server.port), (tritonclient.grpc, server.grpc_port)):
        yield module, module.InferenceServerClient(f"127.0.0.1:{port}")


def call(module, client, arrays):
    tensors = [module.InferInput(name, list(array.shape), "FP32") for name, array in arrays.items()]
    for tensor, array in zip(tensors, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return client.infer("pair", tensors)


def test_arrays_go_in_and_come_out(served):
    for module, client in clients(served):
        for size in ((1, 32, 48), (6, 8, 4)):  # more than run together
            arrays = inputs_of(*size)
            answer = call(module, client, arrays)
            for name, values in expected_of(arrays).items():
                np.testing.assert_allclose(answer.as_numpy(name), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (inputs_of(1, 30, 8), r"size height must be a multiple of 4, got 30 by axis 2 of input 'image'"),
        ({**inputs_of(1, 32, 8), "depth": np.zeros((1, 1, 16, 3), np.float32)}, "must be 1/2 of the size width"),
        (inputs_of(1, 200, 200), r"input 'image' has 0\.1 million numbers, the limit is 0\.1, 3 for each pixel"),
    ],
)
def test_sizes_that_do_not_fit_are_told(served, arrays, message):
    for module, client in clients(served):
        with pytest.raises(tritonclient.utils.InferenceServerException, match=message):
            call(module, client, arrays)


def test_no_label_map_is_made_of_it(served):
    status, reason = served.error("POST", "/v1/segment", png(photo(32, 32)))
    assert status == 400
    assert "is made for network" in reason
    (entry,) = json.loads(served.ask("GET", "/v1/models")[2])["models"]
    assert (entry["task"], entry["architecture"]) == ("network", "Pair")


@pytest.mark.parametrize(
    ("changes", "is_batchable"),
    [
        ({}, True),
        ({"outputs": (TensorSpec("pooled", "float32", (3,)),)}, False),
        ({"inputs": (TensorSpec("x", "float32", ("side", 3)),), "outputs": (TensorSpec("y", "float32", ("side",)),)},
         False),
    ],
)  # fmt: skip
def test_requests_are_joined_along_the_batch_alone(tmp_path, changes, is_batchable):
    class Session:
        manifest = network_manifest(**changes)

    path = tmp_path / "m.onnx"
    model = LoadedModel(ModelSource("m", path), Session(), 1 << 20, "", (), Footprint(2.0))
    assert model.is_batchable == is_batchable
    assert model.run_bytes((2, 3, 4)) == 48
