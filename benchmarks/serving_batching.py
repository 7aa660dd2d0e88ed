# SPDX-License-Identifier: Apache-2.0
"""Throughput of eight clients against the best that the bare session does with any batch, and who spends the cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from freqfusion_runtime.model_files.manifest import METADATA_KEY
from freqfusion_runtime.predictors.opening import open_session
from serving_process import Server
from small_models import CLASSES, image_manifest

CLIENTS = 8
SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Workload:
    """A model of the image interface and the pictures it is given; ``seconds`` of load, and of each bare rate."""

    name: str
    path: Path
    side: int
    threads: int
    seconds: float
    bare_seconds: float = 2.0

    def body(self, folder: Path) -> Path:
        """Writes one picture as raw bytes."""
        path = folder / f"{self.side}.bin"
        path.write_bytes(self._picture().tobytes())
        return path

    def headers(self) -> dict[str, str]:
        """What tells the server that the body is one raw picture."""
        return {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": f"1,{self.side},{self.side},3"}

    def bare_rates(self) -> dict[int, float]:
        """Pictures per second of the session alone, by batch size."""
        session = open_session(self.path, threads=self.threads)
        rates = {}
        for size in SIZES:
            inputs = {"image": np.stack([self._picture()] * size)}
            session.run(inputs)
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < self.bare_seconds:
                session.run(inputs)
                runs += 1
            rates[size] = round(size * runs / (time.perf_counter() - start), 1)
        return rates

    def _picture(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (self.side, self.side, 3), np.uint8)


def batching(work: Workload, folder: Path) -> dict[str, Any]:
    """Loads a server with eight clients; it may batch as many as the bare session does best with."""
    before = work.bare_rates()
    best_size = max(before, key=before.__getitem__)
    options = ["--threads", str(work.threads), "--max-batch", str(best_size)]
    options += ["--max-delay-ms", "5"] if best_size > 1 else []
    body = work.body(folder)
    with Server([f"m={work.path}"], *options) as server:
        server.load(body, "/v2/models/m/infer", work.headers(), clients=CLIENTS, seconds=2)
        earlier, runs_before = server.cpu_s(), server.network_s()
        found = server.load(body, "/v2/models/m/infer", work.headers(), clients=CLIENTS, seconds=work.seconds)
        server_cpu_s, network_s = server.cpu_s() - earlier, server.network_s() - runs_before
        batches = server.batches()
    after = work.bare_rates()
    rates = {size: round((before[size] + after[size]) / 2, 1) for size in before}
    best = max(rates.values())
    answered = found["statuses"].get("200", 0)
    return {
        "part": "batching",
        "model": work.name,
        "side": work.side,
        "threads": work.threads,
        "options": options,
        "bare_images_per_s_by_batch": rates,
        "clients": CLIENTS,
        "seconds": work.seconds,
        "runs_by_batch": batches,
        **found,
        "share_of_best_bare": round(found["answered_per_s"] / best, 3),
        "share_limit": 0.9,
        # Of the time the load ran. What is missing to 1 is the time the network waited for requests or for a core.
        "network_busy_share": round(network_s / work.seconds, 3),
        # The load comes from the same cores: what it takes, the server has not.
        "server_cpu_ms_per_request": round(server_cpu_s * 1e3 / answered, 3),
        "client_cpu_ms_per_request": round(found["client_cpu_s"] * 1e3 / answered, 3),
        "cpu_share_of_client": round(found["client_cpu_s"] / (found["client_cpu_s"] + server_cpu_s), 3),
        "p99_over_p50": round(found["p99_ms"] / found["p50_ms"], 2),
        "p99_over_p50_limit": 3,
    }


def write_batchable_model(path: Path, width: int = 4096, layers: int = 20) -> Path:
    """Writes a model that reads a weight matrix of 64 MB ``layers`` times for each run, whatever the batch.

    That is what makes batching pay on a CPU; the matrix sees the picture's mean colour and shifts all its scores.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {
        "weights": random.standard_normal((width, width), np.float32) / np.float32(64),
        "first": random.standard_normal((3, width), np.float32),
        "last": random.standard_normal((width, len(CLASSES)), np.float32),
        "axes": np.array([1, 2], np.int64),
        "places": np.array([1, 2], np.int64),
        "colors": random.standard_normal((3, len(CLASSES)), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "first"], ["x0"]),
    ]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"x{layer}", "weights"], [f"y{layer}"]))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]))
    nodes += [
        helper.make_node("MatMul", [f"x{layers}", "last"], ["shift"]),
        helper.make_node("Unsqueeze", ["shift", "places"], ["shifts"]),
        helper.make_node("MatMul", ["floats", "colors"], ["own"]),
        helper.make_node("Add", ["own", "shifts"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=3, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "batchable",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: image_manifest().to_json()})
    onnx.save(model, path)
    return path
