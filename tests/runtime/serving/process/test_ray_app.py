# SPDX-License-Identifier: Apache-2.0
"""`freqfusion serve --ray`: the very same application, behind Ray Serve on one machine."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.ray_app import RayError, RayOptions, build_application, parse_replicas
from freqfusion_runtime.serving.scheduling.registry import parse_source
from PIL import Image
from places import ROOT
from server_process import photo, png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'freqfusion-deploy[ray]'"
)


def start(*arguments: object) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "serve",
        *map(str, arguments),
        "--ray",
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


class RayServer:
    """One replica on a Ray of its own, on a free port of this machine."""

    def __init__(self, *arguments: object) -> None:
        self.process = start(*arguments)
        self.line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/ on Ray, 1 replica", self.line)
        assert found, self.line + self.process.communicate(timeout=60)[1]
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@pytest.fixture
def ray_server(models, tmp_path_factory):
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("open sesame\n")
    # A busy machine may need longer than the default for the largest picture below, and the small models of the tests
    # more memory a pixel than a network does.
    limits = ("--deadline-ms", "300000", "--max-memory-mb", "8000")
    server = RayServer(models["colors"], models["means"], "--api-key-file", key, *limits)
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


KEY = {"Authorization": "Bearer open sesame"}


@pytest.mark.long
@needs_ray
def test_the_whole_life_of_a_deployment(ray_server, models, expected):
    """One start is ten seconds, so one test: it is ready when it says so, answers right, and ends without losses."""
    import tritonclient.http as triton

    server = ray_server
    status, _, body = server.ask("GET", "/v2/health/ready")
    assert (status, json.loads(body)["ready"]) == (200, True)
    assert server.ask("GET", "/")[2].startswith(b"<!doctype html>")

    # The application's own middleware, errors and limits.
    status, headers, body = server.ask("GET", "/v2/models/colors")
    assert status == 401
    assert "key" in json.loads(body)["error"]
    assert headers["www-authenticate"] == "Bearer"
    status, _, body = server.ask("POST", "/v1/segment", b"no picture", {**KEY, "Content-Type": "image/png"})
    assert status == 400
    assert "error" in json.loads(body)

    # The simple way.
    picture = photo()
    status, headers, body = server.ask("POST", "/v1/segment", png(picture), {**KEY, "Content-Type": "image/png"})
    assert status == 200
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), expected("colors", picture))
    assert "inference;dur=" in headers["server-timing"]

    # An unmodified client of the protocol, binary both ways.
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    tensor = triton.InferInput("image", (1, *picture.shape), "UINT8")
    tensor.set_data_from_numpy(picture[None])
    labels = client.infer("colors", [tensor], headers=KEY).as_numpy("labels")
    np.testing.assert_array_equal(labels[0], expected("colors", picture))
    client.close()

    # A request of seconds is under way when SIGTERM comes.
    stream = io.BytesIO()
    Image.fromarray(np.zeros((6000, 8000, 3), np.uint8)).save(stream, "PNG", compress_level=1)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(
            server.ask("POST", "/v1/segment", stream.getvalue(), {**KEY, "Content-Type": "image/png"})
        )
    )
    asking.start()
    time.sleep(0.4)
    assert asking.is_alive()
    server.process.send_signal(signal.SIGTERM)
    asking.join()
    assert answers[0][0] == 200
    assert Image.open(io.BytesIO(answers[0][2])).size == (8000, 6000)
    _, errors = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, errors
    with pytest.raises(OSError, match="refused"):
        server.ask("GET", "/v2/health/live")


@needs_ray
def test_a_model_that_cannot_be_read_is_named(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_text("no model")
    process = start(broken)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "broken.onnx" in errors
    assert "Traceback" not in errors


@needs_ray
def test_replicas_scale_between_the_limits(models):
    options = RayOptions(min_replicas=1, max_replicas=4)
    settings = Settings(threads=2, max_batch=8, queue=16)
    deployment = build_application([parse_source(models["colors"])], settings, options)._bound_deployment
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 4, 16)
    assert deployment._deployment_config.max_ongoing_requests == 24
    assert deployment.ray_actor_options["num_cpus"] == 2
    options = RayOptions(min_replicas=3, max_replicas=3)
    fixed = build_application([parse_source(models["colors"])], Settings(backend="cuda"), options)._bound_deployment
    assert fixed.num_replicas == 3
    assert fixed.ray_actor_options["num_gpus"] == 1


@pytest.mark.parametrize(("text", "pair"), [("1", (1, 1)), ("3", (3, 3)), ("1:4", (1, 4))])
def test_replicas_as_written(text, pair):
    assert parse_replicas(text) == pair


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 2)])
def test_impossible_replicas(low, high):
    with pytest.raises(RayError, match=f"got {low}:{high}"):
        RayOptions(min_replicas=low, max_replicas=high)
