# SPDX-License-Identifier: Apache-2.0
"""Measures how long `freqfusion build` takes: the first build of a model, and the second, which the cache answers.

    python benchmarks/engines.py MODEL.onnx... [--flavour tensorrt-rtx] [--output FILE.jsonl]

Each command is a process of its own and is timed whole, interpreter start included. Appends one JSON line per model,
with its hash, the options, what was built, and where.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = ("--min", "1x64x64", "--opt", "1x512x512", "--max", "1x1024x2048")
LIMITS = {"first_build_s": 20.0, "cached_build_s": 1.0}  # on two cores


def build(model: Path, flavour: str, folder: Path) -> tuple[float, dict[str, Any]]:
    """Runs the command once; returns its wall time in seconds and its JSON."""
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "build",
        str(model),
        "--flavour",
        flavour,
        *SIZES,
    ]
    command += ["--output", str(folder / "net.plan"), "--json", str(folder / "facts.json")]
    environment = {**os.environ, "FREQFUSION_CACHE_DIR": str(folder / "cache")}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, json.loads((folder / "facts.json").read_text())


def measure(model: Path, flavour: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="freqfusion-engines-") as name:
        first_s, first = build(model, flavour, Path(name))
        cached = [build(model, flavour, Path(name)) for _ in range(5)]
    assert not first["cache"]["hit"]
    assert all(facts["cache"]["hit"] and facts["sha256"] == first["sha256"] for _, facts in cached)
    times = sorted(seconds for seconds, _ in cached)
    return {
        "entry": f"build {first['engine']['flavour']}",
        "model": model.name,
        "onnx_sha256": first["engine"]["onnx_sha256"],
        "plan_sha256": first["sha256"],
        "plan_mb": first["size_mb"],
        "first_build_s": round(first_s, 3),
        "parse_s": first["build"]["parse_s"],
        "build_s": first["build"]["build_s"],
        "cached_build_s": round(times[len(times) // 2], 3),
        "cached_runs": len(times),
        "limits": LIMITS,
        "layers": sum(layer["count"] for layer in first["build"]["layers"]),
        "memory_bytes": first["build"]["memory_bytes"],
        "profiles": first["engine"]["profiles"],
        "versions": first["versions"],
    }


def provenance() -> dict[str, Any]:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    revision = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "git": revision.stdout.strip(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--flavour", default="tensorrt-rtx", choices=("tensorrt", "tensorrt-rtx"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "engines.jsonl")
    arguments = parser.parse_args()
    missed = 0
    for model in arguments.models:
        record = {**provenance(), **measure(model, arguments.flavour)}
        missed += any(record[name] > limit for name, limit in LIMITS.items())
        with arguments.output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{model.name}: built in {record['first_build_s']:.1f} s, from the cache {record['cached_build_s']:.2f} s"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
