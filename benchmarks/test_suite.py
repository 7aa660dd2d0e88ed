# SPDX-License-Identifier: Apache-2.0
"""How long the test suite takes and how much memory it holds, checkout by checkout.

    python benchmarks/test_suite.py --checkout OLD --checkout NEW --runs test --results FILE.jsonl

Runs ``make TARGET`` in each checkout in turn and writes a line per run: wall seconds, the most memory that all its
processes held at one time (proportional set size, so that shared pages count once), what pytest said at its end, the
processor and the revision. Set up the checkouts first (``make setup ray plugins``), so that no download is timed.
Needs Linux's /proc and nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def main() -> int:
    arguments = parse_arguments()
    status = 0
    for target in arguments.runs:
        for checkout in arguments.checkout:
            line = {**measure(checkout.resolve(), target), "note": arguments.note}
            print(json.dumps(line), flush=True)
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            status = status or int(line["exit_status"] != 0)
    return status


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--runs", nargs="+", default=["test"], metavar="TARGET", help="make targets, one after another")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append the lines here as well")
    parser.add_argument("--note", default="", help="what a reader of the lines should know of the runs")
    return parser.parse_args()


def measure(checkout: Path, target: str) -> dict[str, object]:
    """Runs one target; its output stays in a temporary file whose end is searched for pytest's summary."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(["make", target], cwd=checkout, stdout=output, stderr=subprocess.STDOUT)
        memory = MemoryOfDescendants(process.pid)
        exit_status = process.wait()
        seconds = time.monotonic() - started
        peak = memory.stop()
        output.seek(0)
        text = output.read()
    summary = re.findall(r"^=* ?(\d.*(?:passed|failed|error).* in \S+s)\b.*$", text, re.MULTILINE)
    if exit_status:
        sys.stderr.write(text[-4000:])
    return {
        "target": target,
        "wall_s": round(seconds, 1),
        "peak_mb": round(peak / 2**20),
        "exit_status": exit_status,
        "pytest": summary,
        "revision": revision(checkout),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


class MemoryOfDescendants:
    """Samples the memory of a process and of everything it started; not often, since to ask the kernel costs time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(3.0):
            self._peak = max(self._peak, sum(proportional_bytes(pid) for pid in descendants(self._pid)))


def descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {root}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(children)
        found |= children
    return found


def proportional_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def revision(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    present = flags.group(1).split() if flags else []
    return f"{model.group(1) if model else platform.machine()} ({', '.join(f for f in FLAGS if f in present)})"


if __name__ == "__main__":
    sys.exit(main())
