# SPDX-License-Identifier: Apache-2.0
"""A server under measurement and the load on it, each a process of its own, on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Server:
    """``freqfusion serve`` on free ports, ready."""

    def __init__(self, models: list[str], *options: str) -> None:
        """Starts it.

        Args:
            models: As the command takes them.
            options: Of the command.
        """
        command = [
            sys.executable,
            "-m",
            "freqfusion_runtime.commands.cli",
            "serve",
            *models,
            "--port",
            "0",
            "--grpc-port",
            "0",
        ]
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
        """Sends SIGTERM; gives the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        return status

    def events(self) -> list[dict[str, Any]]:
        """Lines of its log."""
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

    def network_s(self) -> float:
        """Seconds the network has run."""
        return sum(run["runs"] * run["mean_ms"] for run in self.batches().values()) / 1e3

    def cpu_s(self) -> float:
        """Seconds of all cores the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Memory in use."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def start_load(self, body: Path, path: str, headers: dict[str, str], **plan: float) -> subprocess.Popen[str]:
        """Starts serving_load.py, which see for the plan."""
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
        """Runs it to its end; gives its summary."""
        answer: dict[str, Any] = json.loads(self.start_load(body, path, headers, **plan).communicate()[0])
        return answer
