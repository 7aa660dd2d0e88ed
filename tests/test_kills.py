# SPDX-License-Identifier: Apache-2.0
"""benchmarks/kills.py, a few kills of it: no half file, and no folder left after the next start."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from places import ROOT

COMMANDS = ("run", "batch", *(("build",) if importlib.util.find_spec("tensorrt_rtx") else ()))


@pytest.mark.long
@pytest.mark.serial
def test_what_is_killed_leaves_nothing_half_and_the_next_start_nothing_behind():
    program = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "4", "--only", *COMMANDS]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["command"] for entry in found] == list(COMMANDS)
    for entry in found:
        assert entry["killed"] == 4
        assert entry["files_looked_at"] > 0
        counts = ("half_files", "processes_left", *(key for key in entry if key.endswith("after_the_next_start")))
        assert {key: entry[key] for key in counts} == dict.fromkeys(counts, 0)
