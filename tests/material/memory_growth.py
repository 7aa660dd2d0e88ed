# SPDX-License-Identifier: Apache-2.0
"""How far processes grow, in native code as well, each doing one thing and nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping

PRELUDE = """
import os, pickle, sys

def told(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field + ":"))
"""
EACH = """
for name, item in pickle.load(sys.stdin.buffer).items():
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{name} failed")
        continue
    warm_up()  # a new process maps code anew, and that would count
    open("/proc/self/clear_refs", "w").write("5")
    before = told("VmRSS")
    result = work(item)
    print(told("VmHWM") - before, result, name, flush=True)
    os._exit(0)
"""
SLACK = 1 << 20  # what does not depend on the item's size
LINUX = sys.platform == "linux"


def growth(script: str, items: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """Does something with each item in a process of its own.

    Args:
        script: Defines ``work(item)``, which returns a number, and ``warm_up()``, which does such things once.
        items: What to do it with.

    Returns:
        For each, the bytes that its process grew by at most meanwhile, and the number.
    """
    command = [sys.executable, "-c", PRELUDE + script + EACH]
    done = subprocess.run(command, input=pickle.dumps(dict(items)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split(" ", 2) for line in done.stdout.decode().splitlines()]
    assert [name for _, _, name in lines] == list(items)
    return {name: (int(size), int(result)) for size, result, name in lines}
