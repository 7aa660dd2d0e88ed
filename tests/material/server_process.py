# SPDX-License-Identifier: Apache-2.0
"""A real server process for the tests of serving, and pictures to send to it."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from places import ROOT


class ServerProcess:
    """``freqfusion serve`` in a process of its own, on free ports."""

    def __init__(self, models: list[Path | str], *options: str, folder: Path) -> None:
        self.log = folder / "server.log"
        if "--log-file" not in options:
            options = (*options, "--log-file", str(self.log))
        command = [sys.executable, "-m", "freqfusion_runtime.commands.cli", "serve", *map(str, models), "--port", "0"]
        command += ["--grpc-port", "0", *options]
        places = [str(ROOT / place) for place in ("runtime", "export", "models")]
        # What stands there already may be other versions of packages: scripts/check_bounds.py.
        places += filter(None, [os.environ.get("PYTHONPATH")])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: list[str] = []
        first = self._line()
        found = re.search(r"://127\.0\.0\.1:(\d+)/, gRPC on 127\.0\.0\.1:(\d+)", first)
        assert found, first + self.process.communicate(timeout=10)[1]
        self.port, self.grpc_port = int(found[1]), int(found[2])
        for _ in models:
            self._line()

    def _line(self) -> str:
        line = self.process.stdout.readline()
        self.lines.append(line)
        return line

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends one request on a connection of its own; gives status, headers by lower-case name, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content
        finally:
            connection.close()

    def error(self, *request: object) -> tuple[int, str]:
        """Sends a request that is refused; gives the status and the reason."""
        status, _, body = self.ask(*request)
        return status, json.loads(body)["error"]

    def metric(self, name: str) -> float:
        """Sums a metric over its labels."""
        text = self.ask("GET", "/metrics")[2].decode()
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def terminate(self) -> int:
        """Sends SIGTERM and waits; gives the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode


def wait_until(condition, timeout_s: float = 10.0) -> None:
    """Waits for a condition that another process brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Patches of plain colour, ``(height, width, 3)``."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(colors).resize((width, height), Image.Resampling.NEAREST))


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
