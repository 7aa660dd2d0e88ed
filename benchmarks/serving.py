# SPDX-License-Identifier: Apache-2.0
"""Measures the server on loopback: overhead, batched throughput, overload, and stops under load.

    python benchmarks/serving.py [--only overhead batching overload stops] [--segnext FILE.onnx] [--output FILE.jsonl]

Each part appends one JSON line with its figures, the limits they are held against, and where they were taken. The load
comes from a process of its own and is bounded in time and number.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests" / "runtime")]

from freqfusion_runtime.json_output import versions  # noqa: E402
from freqfusion_runtime.session import open_session  # noqa: E402
from small_models import CLASSES, image_manifest, write_image_model  # noqa: E402

OVERLOAD_SECONDS = 60
STOPS = 100
DEADLINE_MS = 2000


class Server:
    """``freqfusion serve`` on free ports, ready."""

    def __init__(self, models: list[str], *options: str) -> None:
        command = [sys.executable, "-m", "freqfusion_runtime.cli", "serve", *models, "--port", "0", "--grpc-port", "0"]
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        self.process = subprocess.Popen(
            [*command, "--log-file", str(self.log), *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        )
        assert self.process.stdout is not None
        found = re.search(r":(\d+)/, gRPC on [^:]+:(\d+)", self.process.stdout.readline())
        assert found, "the server did not start"
        self.port, self.grpc_port = int(found[1]), int(found[2])
        for _ in models:
            print("  ", self.process.stdout.readline().strip(), file=sys.stderr)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        return status

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def batches(self) -> dict[str, dict[str, float]]:
        """How often each batch size ran, and how long the network took in the server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/models/m/stats") as answer:
            stats = json.load(answer)["model_stats"][0]["batch_stats"]
        runs = {str(entry["batch_size"]): entry["compute_infer"] for entry in stats}
        return {
            size: {"runs": run["count"], "mean_ms": round(run["ns"] / run["count"] / 1e6, 2)}
            for size, run in runs.items()
        }

    def resident_mb(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def start_load(self, body: Path, path: str, headers: dict[str, str], **plan: float) -> subprocess.Popen[str]:
        load = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("serving_load.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert load.stdin is not None
        json.dump({"port": self.port, "path": path, "headers": headers, "body": str(body), **plan}, load.stdin)
        load.stdin.close()
        load.stdin = None
        return load

    def load(self, body: Path, path: str, headers: dict[str, str], **plan: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.start_load(body, path, headers, **plan).communicate()[0])
        return answer


def timed(work: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each call after a tenth of them as warm-up."""
    for _ in range(max(3, count // 10)):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def middle(times: list[float]) -> float:
    return round(statistics.median(times), 3)


def stage_ms(timing: str, *names: str) -> float:
    found = dict(re.findall(r"(\w+);dur=([0-9.]+)", timing))
    return sum(float(found.get(name, 0)) for name in names)


def overhead(name: str, model: str, side: int, count: int, threads: int) -> dict[str, Any]:
    """Median latency of one client at a time, by way of asking, less the bare session's on the same picture."""
    import http.client

    import tritonclient.grpc
    import tritonclient.http
    from PIL import Image

    picture = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).resize((side, side))
    )
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    jpeg = stream.getvalue()
    session = open_session(model, threads=threads)
    tensor = picture[None]
    bare = timed(lambda: session.run({"image": tensor}), count)
    with Server([f"m={model}"], "--threads", str(threads)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        codec: list[float] = []
        beside: list[float] = []

        def simple() -> None:
            headers = {"Accept": "application/octet-stream"}
            start = time.perf_counter()
            connection.request("POST", "/v1/segment", jpeg, headers)
            answer = connection.getresponse()
            answer.read()
            total = (time.perf_counter() - start) * 1e3
            timing = answer.headers["Server-Timing"]
            codec.append(stage_ms(timing, "decode", "encode"))
            beside.append(total - stage_ms(timing, "decode", "inference", "encode"))

        raw_headers = {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": f"1,{side},{side},3"}
        raw_body = tensor.tobytes()

        def raw() -> None:
            connection.request("POST", "/v2/models/m/infer", raw_body, raw_headers)
            connection.getresponse().read()

        def triton(module: Any, client: Any) -> Callable[[], object]:
            wanted = module.InferInput("image", list(tensor.shape), "UINT8")

            def ask() -> None:
                wanted.set_data_from_numpy(tensor)
                client.infer("m", [wanted]).as_numpy("labels")

            return ask

        simple_ms = timed(simple, count)
        raw_ms = timed(raw, count)
        http_ms = timed(
            triton(tritonclient.http, tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")), count
        )
        grpc_ms = timed(
            triton(tritonclient.grpc, tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")), count
        )
        bare += timed(lambda: session.run({"image": tensor}), count)  # before and after, as others use the machine
    base = middle(bare)
    return {
        "part": "overhead",
        "model": name,
        "side": side,
        "threads": threads,
        "requests_each": count,
        "bare_p50_ms": base,
        "jpeg_to_labels_p50_ms": middle(simple_ms),
        "jpeg_decode_and_encode_p50_ms": middle(codec),
        "jpeg_overhead_without_codec_ms": round(middle(simple_ms) - base - middle(codec), 3),
        # Request by request, which a model of half a second needs: its own spread hides a difference of medians.
        "jpeg_total_less_network_and_codec_p50_ms": middle(beside),
        "jpeg_overhead_limit_ms": 1.5,
        "raw_tensor_overhead_ms": round(middle(raw_ms) - base, 3),
        "tritonclient_http_overhead_ms": round(middle(http_ms) - base, 3),
        "tritonclient_http_limit_ms": 3.5,
        "tritonclient_grpc_overhead_ms": round(middle(grpc_ms) - base, 3),
    }


def write_batchable_model(path: Path, width: int = 4096, layers: int = 20) -> Path:
    """Writes a model that reads a weight matrix of 64 MB ``layers`` times for each run, whatever the batch.

    That is what makes batching pay on a CPU; the matrix sees the picture's mean colour and shifts all its scores.
    """
    import onnx
    from freqfusion_runtime.manifest import METADATA_KEY
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


def batching(folder: Path) -> tuple[dict[str, Any], float, Path]:
    """Throughput of eight clients against the bare session's best over batch sizes."""
    model = write_batchable_model(folder / "batchable.onnx")
    session = open_session(model, threads=1)
    tensor = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    body = folder / "body.bin"
    body.write_bytes(tensor.tobytes())

    def bare() -> dict[int, float]:
        rates = {}
        for size in (1, 2, 4, 8):
            inputs = {"image": np.stack([tensor] * size)}
            session.run(inputs)
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < 3.0:
                session.run(inputs)
                runs += 1
            rates[size] = round(size * runs / (time.perf_counter() - start), 1)
        return rates

    headers = {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": "1,64,64,3"}
    before = bare()
    options = ["--threads", "1", "--max-batch", "8", "--max-delay-ms", "5"]
    with Server([f"m={model}"], *options) as server:
        server.load(body, "/v2/models/m/infer", headers, clients=8, seconds=2)
        found = server.load(body, "/v2/models/m/infer", headers, clients=8, seconds=12)
        batches = server.batches()
        network_s = sum(run["runs"] * run["mean_ms"] for run in batches.values()) / 1e3
    after = bare()
    rates = {size: round((before[size] + after[size]) / 2, 1) for size in before}
    best = max(rates.values())
    return (
        {
            "part": "batching",
            "model": "a 64 MB matrix twenty times, 64 x 64 picture, 1 thread",
            "options": options,
            "bare_images_per_s_by_batch": rates,
            "clients": 8,
            "runs_by_batch": batches,
            **found,
            "share_of_best_bare": round(found["answered_per_s"] / best, 3),
            "share_limit": 0.9,
            # Of the time the load ran; what is missing to 1 is the server's, however busy the machine is with others.
            "network_busy_share": round(network_s / 14, 3),
            "p99_over_p50": round(found["p99_ms"] / found["p50_ms"], 2),
            "p99_over_p50_limit": 3,
        },
        found["answered_per_s"],
        body,
    )


def overload(model: Path, body: Path, capacity: float, seconds: int) -> dict[str, Any]:
    """Twice the capacity for a minute, then one client at once."""
    headers = {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": "1,64,64,3"}
    path = "/v2/models/m/infer"
    options = ["--threads", "1", "--max-batch", "8", "--max-delay-ms", "5", "--deadline-ms", str(DEADLINE_MS)]
    with Server([f"m={model}"], *options) as server:
        server.load(body, path, headers, clients=8, seconds=3)
        before = server.resident_mb()
        load = server.start_load(body, path, headers, rate=2 * capacity, seconds=seconds)
        memory = []
        while load.poll() is None and len(memory) < 10 * seconds:
            time.sleep(1)
            memory.append(server.resident_mb())
        found = json.loads(load.communicate()[0])
        calm = server.load(body, path, headers, clients=1, seconds=1)
        third = max(1, len(memory) // 3)
        return {
            "part": "overload",
            "capacity_per_s": capacity,
            "sent_per_s": round(2 * capacity, 1),
            "seconds": seconds,
            "deadline_ms": DEADLINE_MS,
            "options": options,
            **found,
            "memory_before_mb": round(before, 1),
            "memory_first_third_mb": round(statistics.mean(memory[:third]), 1),
            "memory_last_third_mb": round(statistics.mean(memory[-third:]), 1),
            "first_second_afterwards": calm,
        }


def stops(folder: Path, cycles: int) -> dict[str, Any]:
    """Starts, loads with eight clients, and stops by SIGTERM in the middle, again and again."""
    model = write_image_model(folder / "small.onnx")
    body = folder / "small.bin"
    body.write_bytes(np.zeros((64, 64, 3), np.uint8).tobytes())
    headers = {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": "1,64,64,3"}
    answered = received = broken = refused = failed = nonzero = 0
    slowest = 0.0
    for _ in range(cycles):
        server = Server([f"m={model}"], "--drain-delay-s", "0.1")
        load = server.start_load(body, "/v2/models/m/infer", headers, clients=8, seconds=30)
        time.sleep(0.6)
        start = time.monotonic()
        nonzero += server.stop() != 0
        slowest = max(slowest, time.monotonic() - start)
        statuses = json.loads(load.communicate()[0])["statuses"]
        answered += sum(e["event"] == "request" and e["status"] == 200 for e in server.events())
        failed += sum(e["event"] == "request" and e["status"] != 200 for e in server.events())
        received += statuses.get("200", 0)
        broken += statuses.get("-1", 0)
        refused += statuses.get("0", 0)
        server.log.unlink()
    return {
        "part": "stops",
        "cycles": cycles,
        "answered_by_server": answered,
        "received_by_clients": received,
        "accepted_but_lost": answered - received + failed,
        "lost_limit": 0,
        "connections_broken_before_an_answer": broken,
        "connections_refused_after_the_stop": refused,
        "exits_not_zero": nonzero,
        "slowest_stop_s": round(slowest, 2),
    }


def provenance() -> dict[str, Any]:
    """Where and of what the figures were taken."""
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": revision.stdout.strip(),
        "processor": processor[1] if processor else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("overhead", "batching", "overload", "stops"))
    parser.add_argument("--segnext", help="an image-interface ONNX file of SegNeXt-T, for overhead at 512 x 512")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "serving.jsonl")
    parser.add_argument("--overload-seconds", type=int, default=OVERLOAD_SECONDS)
    parser.add_argument("--stops", type=int, default=STOPS)
    args = parser.parse_args()
    wanted = args.only or ["overhead", "batching", "overload", "stops"]

    def report(facts: dict[str, Any]) -> None:
        line = json.dumps({**facts, **provenance()})
        print(json.dumps(facts, indent=1), flush=True)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "overhead" in wanted:
            tiny = write_image_model(folder / "tiny.onnx")
            report(overhead("one matrix product per pixel", str(tiny), 256, 300, threads=1))
            if args.segnext:
                report(overhead("segnext_t", args.segnext, 512, 30, threads=2))
        if "batching" in wanted or "overload" in wanted:
            facts, capacity, body = batching(folder)
            report(facts)
            if "overload" in wanted:
                report(overload(folder / "batchable.onnx", body, capacity, args.overload_seconds))
        if "stops" in wanted:
            report(stops(folder, args.stops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
