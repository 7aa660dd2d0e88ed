# SPDX-License-Identifier: Apache-2.0
"""A server among honest, slow and hostile clients, on a full disk, while models are replaced and it is killed.

    python benchmarks/soak.py [--seconds 600] [--output FILE.jsonl]

Everything is on loopback and bounded. In turn: eight honest clients alone; the same beside the hostile mix of
soak_clients.py; honest clients at twice the capacity, with slow and hostile ones, while model files are replaced by
good and bad ones, the log has no room, and the server is killed with SIGKILL; the eight alone again. Every honest
answer is compared byte for byte. One JSON line a part, and one with the verdict; exit status 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests" / "material")]

import freqfusion_runtime  # noqa: E402
from freqfusion_runtime.commands.json_output import versions  # noqa: E402
from freqfusion_runtime.files import json_text  # noqa: E402
from serving_load import percentile  # noqa: E402
from small_models import CLASSES, image_manifest, write_image_model  # noqa: E402

CLIENTS = 8
BUDGET_MB = 256
SHARES = {"alone": 0.15, "mix": 0.35, "faults": 0.4, "alone again": 0.1}
# After a kill, answers may be lost for as long as a server takes to start; they are counted apart.
RESTART_S = 15.0
PAUSE_S = 2.5  # between two new model files
MOST_RATIO, MOST_MEMORY = 3.0, 1.25


class Soaked:
    """``freqfusion serve --restarts`` with two models in a folder, and what is seen of it from outside."""

    def __init__(self, place: Path) -> None:
        self.folder, self.temporary, self.log = place / "models", place / "temporary", place / "server.log"
        for folder in (self.folder, self.temporary):
            folder.mkdir()
        self.model = write_image_model(self.folder / "m.onnx")
        self.other = write_image_model(self.folder / "other.onnx")
        options = ["--max-memory-mb", str(BUDGET_MB), "--restarts", "1000", "--reload-interval-s", "0.2", "--no-grpc"]
        options += ["--deadline-ms", "5000", "--body-timeout-s", "10", "--header-timeout-s", "5"]
        command = [sys.executable, "-m", "freqfusion_runtime.commands.cli", "serve", str(self.model), str(self.other)]
        self._process = subprocess.Popen(
            [*command, "--port", "0", "--log-file", str(self.log), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "TMPDIR": str(self.temporary)},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        found = re.search(r"://127\.0\.0\.1:(\d+)/", self._process.stdout.readline())
        assert found, "the server did not start"
        self.port = int(found[1])
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self.wait_until_ready()
        self.peak_mb = self.lines_lost = 0.0
        self.is_over = False
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()

    def worker(self) -> int:
        """The process that serves: the parent's oldest child."""
        pid = self._process.pid
        with contextlib.suppress(OSError, IndexError):
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return 0

    def resident_mb(self) -> float:
        """Of the worker."""
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.worker()}/status").read_text())
            return int(found[1]) / 1024 if found else 0.0
        return 0.0

    def get(self, path: str) -> tuple[int, bytes]:
        """Asks for something; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Sums a metric over its labels; 0 where there is none."""
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", self.get("/metrics")[1].decode(), re.MULTILINE)
        return sum(map(float, values))

    def wait_until_ready(self, timeout_s: float = 60.0) -> float:
        """Waits until model ``m`` answers; gives the seconds it took, -1 if it did not."""
        begin = time.monotonic()
        while self.get("/v2/models/m/ready")[0] != 200:
            if time.monotonic() - begin > timeout_s:
                return -1.0
            time.sleep(0.05)
        return time.monotonic() - begin

    def stop(self) -> dict[str, Any]:
        """Ends it by SIGTERM; gives its exit status and what it left."""
        self.is_over = True
        self._sampler.join()
        self._process.send_signal(signal.SIGTERM)
        try:
            status: int | None = self._process.wait(90)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(self._process.pid, signal.SIGKILL)
        left = [p for p in self.temporary.iterdir() if p.name.startswith("freqfusion") or p.suffix == ".partial"]
        return {"exit_status": status, "temporary_folders_left": len(left), "processes_left": self._left()}

    def _left(self) -> int:
        left = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                left += int(fields[3]) == self._process.pid and fields[0] != "Z"
        return left

    def _sample(self) -> None:
        while not self.is_over:
            self.peak_mb = max(self.peak_mb, self.resident_mb())
            time.sleep(0.1)


def clients(server: Soaked, place: Path, **plan: Any) -> subprocess.Popen[str]:
    """Starts soak_clients.py, which see for the plan."""
    started = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("soak_clients.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdin is not None
    files = {"expected": str(place / "expected"), "picture": str(place / "picture.png")}
    json.dump({"port": server.port, **files, **plan}, started.stdin)
    started.stdin.close()
    started.stdin = None
    return started


def told(started: subprocess.Popen[str]) -> Any:
    """What clients counted, at their end."""
    return json.loads(started.communicate()[0])


def summary(results: list[tuple[float, float, str]], kills: list[float] = []) -> dict[str, Any]:  # noqa: B006
    """Counts honest answers and ranks the time of the right ones; those lost around a kill are counted apart."""

    def is_by_kill(start: float, took: float) -> bool:
        return any(start - RESTART_S < kill < start + took + 1 for kill in kills)

    outcomes: Counter[str] = Counter()
    for start, took, outcome in results:
        if outcome.startswith("lost") or outcome in ("500", "502"):
            outcomes["lost around a kill" if is_by_kill(start, took) else outcome] += 1
        else:
            outcomes[outcome] += 1
    right = [took for _, took, outcome in results if outcome == "right"]
    return {
        "outcomes": dict(sorted(outcomes.items())),
        "right": len(right),
        "wrong": outcomes["wrong"],
        "lost": sum(n for outcome, n in outcomes.items() if outcome.startswith("lost:") or outcome in ("500", "502")),
        "lost_around_a_kill": outcomes["lost around a kill"],
        "p50_ms": percentile(right, 0.5),
        "p99_ms": percentile(right, 0.99),
    }


def replace_models(server: Soaked, until: float, chance: random.Random) -> dict[str, int]:
    """Puts good and bad files in the place of the models, one after the other."""
    counts: Counter[str] = Counter()
    sidecar = server.model.with_suffix(".json")
    whole = server.model.read_bytes()
    while time.monotonic() < until:
        kind = chance.choice(("good", "good", "garbage", "truncated", "nested manifest", "nested sidecar"))
        # Killed while its good file is away, a server comes back without the model: bad ones go to the other place.
        target = chance.choice((server.model, server.other)) if kind == "good" else server.other
        new = server.folder / ".new"
        if kind == "good":
            write_image_model(new)
        elif kind == "nested manifest":
            write_nested(new)
        elif kind == "nested sidecar":
            new, target = server.folder / ".new.json", sidecar
            new.write_bytes(b"[" * 200_000)
        else:
            new.write_bytes(b"garbage" * 1000 if kind == "garbage" else whole[: len(whole) // 2])
        os.replace(new, target)
        counts[kind] += 1
        time.sleep(PAUSE_S)
    sidecar.unlink(missing_ok=True)
    return dict(counts)


def write_nested(path: Path) -> None:
    """Writes a model whose manifest is nested too deeply to be read."""
    import onnx
    from freqfusion_runtime.model_files.manifest import METADATA_KEY

    write_image_model(path)
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = '{"a":' * 100_000
    onnx.save(model, path)


def kill_workers(server: Soaked, until: float, every_s: float) -> list[tuple[float, float]]:
    """Kills the worker again and again; gives when, and how long the model was away."""
    kills = []
    while time.monotonic() + every_s < until:
        time.sleep(every_s)
        server.lines_lost = max(server.lines_lost, server.metric("freqfusion_log_lines_lost_total"))
        worker = server.worker()
        if worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            begin = time.monotonic()
            time.sleep(0.2)
            kills.append((begin, server.wait_until_ready()))
    return kills


def fill_disk(server: Soaked) -> None:
    """Lets the worker write nothing more into files, as on a full disk; a new worker can again."""
    with contextlib.suppress(OSError):
        resource.prlimit(server.worker(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def is_reloading(server: Soaked, place: Path) -> bool:
    """Whether a new model file is still noticed."""
    names = tuple(f"{name} again" for name in CLASSES)
    write_image_model(place / "last.onnx", image_manifest(classes=names))
    os.replace(place / "last.onnx", server.model)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # no answer, or a model that is not loaded yet
            models = json.loads(server.get("/v1/models")[1])["models"]
            if [entry["name"] for entry in models[0]["classes"]] == list(names):
                return True
        time.sleep(0.2)
    return False


def prepare(place: Path) -> None:
    """The picture that honest clients send, and the right answer."""
    colors = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colors).resize((320, 240), Image.Resampling.NEAREST).save(stream, "PNG")
    (place / "picture.png").write_bytes(stream.getvalue())
    path = write_image_model(place / "reference.onnx")
    labels = freqfusion_runtime.load(path).predict(place / "picture.png").labels
    (place / "expected").write_bytes(labels.astype(np.uint8).tobytes())


def soak(place: Path, seconds: float, say: Any) -> bool:
    """Runs all parts; whether every goal was met."""
    prepare(place)
    server = Soaked(place)
    idle_mb = server.resident_mb()
    spans = {part: seconds * share for part, share in SHARES.items()}

    def eight(part: str) -> subprocess.Popen[str]:
        return clients(server, place, kind="honest", clients=CLIENTS, seconds=spans[part])

    alone = summary(told(eight("alone")))
    say("alone", spans["alone"], clients=CLIENTS, **alone)
    capacity = alone["right"] / spans["alone"]

    server.peak_mb = 0.0
    hostile = clients(server, place, kind="hostile", seconds=spans["mix"])
    mix = summary(told(eight("mix")))
    ratio = mix["p99_ms"] / max(alone["p99_ms"], 1e-9)
    peak_mb = server.peak_mb - idle_mb
    say("mix", spans["mix"], clients=CLIENTS, **mix, p99_ratio=round(ratio, 2), idle_mb=round(idle_mb),
        peak_above_idle_mb=round(peak_mb), budget_mb=BUDGET_MB, hostile=told(hostile))  # fmt: skip

    until = time.monotonic() + spans["faults"]
    changes: dict[str, int] = {}
    replacing = threading.Thread(target=lambda: changes.update(replace_models(server, until, random.Random(0))))
    replacing.start()
    hostile = clients(server, place, kind="hostile", seconds=spans["faults"])
    honest = clients(server, place, kind="honest", clients=200, rate=2 * capacity, seconds=spans["faults"])
    fill_disk(server)
    kills = kill_workers(server, until - min(RESTART_S, spans["faults"] / 3), spans["faults"] / 8)
    faults = summary(told(honest), [at for at, _ in kills])
    replacing.join()
    say("faults", spans["faults"], rate_per_s=round(2 * capacity, 1), **faults, replaced=changes, kills=len(kills),
        longest_return_s=round(max((away for _, away in kills), default=0.0), 2),
        never_returned=sum(away < 0 for _, away in kills), hostile=told(hostile),
        log_lines_lost=server.lines_lost)  # fmt: skip

    reloads = is_reloading(server, place)
    again = summary(told(eight("alone again")))
    say("alone again", spans["alone again"], clients=CLIENTS, **again, watcher_alive=reloads)

    left = server.stop()
    goals = {
        "p99_with_the_mix_at_most_3_times": ratio <= MOST_RATIO,
        "no_honest_answer_wrong_or_lost": not any(p["wrong"] + p["lost"] for p in (alone, mix, faults, again)),
        "memory_at_most_budget_and_a_quarter": peak_mb <= MOST_MEMORY * BUDGET_MB,
        "watcher_alive": reloads,
        "always_returned": all(away >= 0 for _, away in kills),
        "nothing_left": left == {"exit_status": 0, "temporary_folders_left": 0, "processes_left": 0},
    }
    say("verdict", seconds, p99_ratio=round(ratio, 2), peak_above_idle_mb=round(peak_mb), **left, goals=goals)
    return all(goals.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of all parts together (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="append the lines there, too")
    args = parser.parse_args()
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()

    def say(part: str, seconds: float, **facts: Any) -> None:
        where = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "revision": revision,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": versions(),
        }
        line = json_text({"part": f"soak: {part}", "seconds": round(seconds, 1), **facts, **where})
        print(line, flush=True)
        if args.output is not None:
            with args.output.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return 0 if soak(Path(folder), args.seconds, say) else 1


if __name__ == "__main__":
    sys.exit(main())
