# SPDX-License-Identifier: Apache-2.0
"""Tests the server with the oldest and with the newest versions that ``pyproject.toml`` allows of what it is built on.

    .venv/bin/python scripts/check_bounds.py [oldest|newest]

The server extends a class inside uvicorn and speaks to Starlette, so neither is free to change. Each end of the ranges
is installed in a folder of its own, which comes before the environment's packages; the environment stays as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fastapi", "httptools", "prometheus-client", "python-multipart", "starlette", "uvicorn")
TESTS = ("tests/runtime/serving/http", "tests/runtime/serving/process", "tests/runtime/serving/test_client.py")


def allowed() -> list[str]:
    """The requirements of the extra ``serve`` that name one of ``PACKAGES``."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        serve = tomllib.load(file)["project"]["optional-dependencies"]["serve"]
    found = {re.match(r"[\w-]+", line)[0]: line for line in serve}  # type: ignore[index]
    return [found[name] for name in PACKAGES]


def at(end: str) -> list[str]:
    """The requirements of one end: pinned to their lower bounds, or as they are, of which pip takes the newest."""
    if end == "newest":
        return allowed()
    return [re.sub(r">=([\d.]+).*", r"==\1", line) for line in allowed()]


def test(end: str) -> int:
    """Runs the tests with the versions of one end; gives pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, *at(end)], check=True)
        versions = sorted(path.stem for path in Path(folder).glob("*.dist-info"))
        print(f"{end}: {', '.join(versions)}", flush=True)
        environment = {**os.environ, "PYTHONPATH": folder}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not long", "-p", "no:schemathesis", *TESTS]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(max(test(end) for end in sys.argv[1:] or ("oldest", "newest")))
