# SPDX-License-Identifier: Apache-2.0
"""Writes what the container image installs, each package with its version and the SHA-256 of its wheels.

    python3.12 scripts/lock_image.py

The versions are those of ``constraints.txt``, the packages those that ``pyproject.toml`` names for the extras ``cpu``
and ``serve`` and for building the wheel, with all that these need. pip chooses, as it would when it installs, for each
processor the image is built for; so run this with the image's Python, after each change of ``constraints.txt``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (3, 12)  # of deploy/Dockerfile
MACHINES = ("x86_64", "aarch64")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
HEADER = "# Written by scripts/lock_image.py. deploy/Dockerfile installs these packages and no others.\n"


def wanted() -> dict[str, list[str]]:
    """Requirements by the file that locks them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)
    project = settings["project"]
    extras = project["optional-dependencies"]
    return {
        "requirements.txt": [*project["dependencies"], *extras["cpu"], *extras["serve"]],
        "requirements-build.txt": settings["build-system"]["requires"],
    }


def chosen(requirements: Sequence[str], machine: str) -> dict[str, str]:
    """``name==version`` -> SHA-256 of the wheel that pip would install on a machine."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--target", folder, "--report", str(report)]
        command += [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{machine}")]
        subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt"), *requirements], check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        f"{item['metadata']['name'].lower()}=={item['metadata']['version']}": item["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for item in installed
    }


def main() -> int:
    if sys.version_info[:2] != PYTHON:
        sys.exit(f"run it with Python {PYTHON[0]}.{PYTHON[1]}, which is the image's: pip chooses by its own")
    for name, requirements in wanted().items():
        hashes: dict[str, set[str]] = defaultdict(set)
        for machine in MACHINES:
            for package, sha256 in chosen(requirements, machine).items():
                hashes[package].add(sha256)
        lines = [
            f"{package} " + " ".join(f"--hash=sha256:{sha256}" for sha256 in sorted(hashes[package]))
            for package in sorted(hashes)
        ]
        (ROOT / "deploy" / name).write_text(HEADER + "\n".join(lines) + "\n", encoding="ascii")
        print(f"deploy/{name}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
