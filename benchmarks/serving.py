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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests" / "material")]

from freqfusion_runtime.commands.json_output import versions  # noqa: E402
from freqfusion_runtime.predictors.opening import open_session  # noqa: E402
from serving_batching import Workload, batching, write_batchable_model  # noqa: E402
from serving_process import Server  # noqa: E402
from small_models import write_image_model  # noqa: E402

TINY = "one matrix product per pixel"
MATRICES = "a 64 MB matrix twenty times"
OVERLOAD_SECONDS = 60
STOPS = 100
DEADLINE_MS = 2000


def stage_ms(timing: str, *names: str) -> float:
    found = dict(re.findall(r"(\w+);dur=([0-9.]+)", timing))
    return sum(float(found.get(name, 0)) for name in names)


def overhead(name: str, model: str, side: int, rounds: int, threads: int) -> dict[str, Any]:
    """Median latency of one client by way of asking, less the bare session's on the same picture, all in turn.

    In turn, since the machine's speed changes by more than the differences. For the same reason two figures are taken
    request by request: what a client waited beyond the stages that the server measured.
    """
    import http.client

    import tritonclient.grpc
    import tritonclient.http
    from PIL import Image

    picture = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).resize((side, side))
    )
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    session = open_session(model, threads=threads)
    tensor = picture[None]
    found: dict[str, list[float]] = {}

    def note(key: str, ms: float) -> None:
        found.setdefault(key, []).append(ms)

    with Server([f"m={model}"], "--threads", str(threads)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)

        def ask(way: str, path: str, body: bytes, headers: dict[str, str]) -> None:
            start = time.perf_counter()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            ms = (time.perf_counter() - start) * 1e3
            timing = answer.headers["Server-Timing"]
            note(way, ms)
            note(way + " codec", stage_ms(timing, "decode", "encode"))
            note(way + " beside", ms - stage_ms(timing, "decode", "inference", "encode"))

        def triton(module: Any, port: int) -> Callable[[], object]:
            client = module.InferenceServerClient(f"127.0.0.1:{port}")
            wanted = module.InferInput("image", list(tensor.shape), "UINT8")

            def infer() -> None:
                wanted.set_data_from_numpy(tensor)
                client.infer("m", [wanted]).as_numpy("labels")

            return infer

        raw_headers = {"Inference-Header-Content-Length": "0", "X-Tensor-Shape": f"1,{side},{side},3"}
        timed = {
            "bare": lambda: session.run({"image": tensor}),
            "http": triton(tritonclient.http, server.port),
            "grpc": triton(tritonclient.grpc, server.grpc_port),
            "alive": lambda: (connection.request("GET", "/v2/health/live"), connection.getresponse().read()),
            "alive at once": lambda: (connection.request("GET", "/v2/health/live"), connection.getresponse().read()),
        }
        warm_up = max(3, rounds // 10)
        for _ in range(rounds + warm_up):
            ask("jpeg", "/v1/segment", stream.getvalue(), {"Accept": "application/octet-stream"})
            ask("raw", "/v2/models/m/infer", tensor.tobytes(), raw_headers)
            for way, work in timed.items():
                start = time.perf_counter()
                work()
                note(way, (time.perf_counter() - start) * 1e3)
                if way == "grpc":  # as idle as a server is while a network runs elsewhere
                    session.run({"image": tensor})
    p50 = {way: round(statistics.median(times[warm_up:]), 3) for way, times in found.items()}
    bare = p50["bare"]
    return {
        "part": "overhead",
        "model": name,
        "side": side,
        "threads": threads,
        "requests_each": rounds,
        "bare_p50_ms": bare,
        "jpeg_to_labels_p50_ms": p50["jpeg"],
        "jpeg_decode_and_encode_p50_ms": p50["jpeg codec"],
        "jpeg_overhead_without_codec_ms": round(p50["jpeg"] - bare - p50["jpeg codec"], 3),
        "jpeg_total_less_network_and_codec_p50_ms": p50["jpeg beside"],
        "jpeg_overhead_limit_ms": 1.5,
        "raw_tensor_overhead_ms": round(p50["raw"] - bare, 3),
        "raw_total_less_network_and_codec_p50_ms": p50["raw beside"],
        "tritonclient_http_overhead_ms": round(p50["http"] - bare, 3),
        "tritonclient_http_limit_ms": 3.5,
        "tritonclient_grpc_overhead_ms": round(p50["grpc"] - bare, 3),
        # The least that any server of this kind costs: its health route, at once and after a network's time of rest.
        "health_at_once_p50_ms": p50["alive at once"],
        "health_after_rest_p50_ms": p50["alive"],
    }


def overload(work: Workload, folder: Path, capacity: float, seconds: int) -> dict[str, Any]:
    """Twice the capacity for a minute, then one client at once."""
    body, headers, path = work.body(folder), work.headers(), "/v2/models/m/infer"
    options = ["--threads", "1", "--max-batch", "8", "--max-delay-ms", "5", "--deadline-ms", str(DEADLINE_MS)]
    with Server([f"m={work.path}"], *options) as server:
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
    parser.add_argument(
        "--segnext", type=Path, help="an image-interface ONNX file of SegNeXt-T, for overhead at 512 x 512"
    )
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
            report(overhead(TINY, str(tiny), 256, 300, threads=1))
            if args.segnext:
                report(overhead("segnext_t", str(args.segnext), 512, 30, threads=2))
        work = Workload(MATRICES, write_batchable_model(folder / "batchable.onnx"), 64, 1, 12)
        capacity = 0.0
        if "batching" in wanted:
            report(batching(Workload(TINY, write_image_model(folder / "tiny.onnx"), 256, 1, 8), folder))
            if args.segnext:
                report(batching(Workload("segnext_t", args.segnext, 512, 2, 16, 4), folder))
        if "batching" in wanted or "overload" in wanted:
            facts = batching(work, folder)
            report(facts)
            capacity = facts["answered_per_s"]
        if "overload" in wanted:
            report(overload(work, folder, capacity, args.overload_seconds))
        if "stops" in wanted:
            report(stops(folder, args.stops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
