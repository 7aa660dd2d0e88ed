# SPDX-License-Identifier: Apache-2.0
"""Kills `run`, `batch`, `export` and `build` with SIGKILL at random moments; counts what is half and what is left.

    python benchmarks/kills.py [--kills 30] [--only run batch export build] [--seed 0] [--output FILE.jsonl]

Each command works again and again into the same places, its temporary files in a folder of its own. After each kill
every file under its final name must be whole; after one more start, which ends by itself, there must be nothing but
results. Each command gives one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests" / "material")]

from freqfusion_runtime.commands.json_output import versions  # noqa: E402
from freqfusion_runtime.engines.plan_header import read_plan_header  # noqa: E402
from freqfusion_runtime.files import json_text  # noqa: E402
from freqfusion_runtime.model_files.onnx_nodes import list_nodes  # noqa: E402
from small_models import write_image_model  # noqa: E402

PICTURES = 24
CHECKPOINT = ROOT / "models" / "freqfusion" / "data" / "emoji_scenes_segnext_t.safetensors"
WAIT_S = 20.0  # for worker processes to notice that their parent is gone


@dataclass(frozen=True)
class Job:
    """One command: its arguments, the folder of its results, and which of them are removed before each start."""

    arguments: list[str]
    results: Path
    removed: str = ""


def jobs(place: Path) -> dict[str, Callable[[], Job]]:
    """The commands, each made ready when it is asked for."""
    place.mkdir()

    def material() -> tuple[str, str]:
        photos = place / "photos"
        if not photos.is_dir():
            photos.mkdir()
            for number in range(PICTURES):
                colors = np.random.default_rng(number).integers(0, 256, (8, 10, 3), np.uint8)
                Image.fromarray(colors).resize((320, 240)).save(photos / f"{number}.png")
            write_image_model(place / "net.onnx")
        return str(place / "net.onnx"), str(photos)

    def run() -> Job:
        model, photos = material()
        return Job(["run", model, photos, "--output", str(place / "run")], place / "run")

    def batch() -> Job:
        model, photos = material()
        output = ["--output", str(place / "batch"), "--overlay", "--workers", "2"]
        return Job(["batch", model, photos, *output], place / "batch", "*.labels.png")  # it does nothing twice

    def export() -> Job:
        return Job(["export", str(CHECKPOINT), "--output", str(place / "export" / "net.onnx")], place / "export")

    def build() -> Job:
        model, _ = material()
        sizes = ["--min", "1x32x32", "--opt", "1x64x64", "--max", "2x128x96"]
        output = ["--flavour", "tensorrt-rtx", "--no-cache", "--output", str(place / "build" / "net.plan")]
        return Job(["build", model, *sizes, *output], place / "build")

    return {"run": run, "batch": batch, "export": export, "build": build}


def start(job: Job, temporary: Path) -> subprocess.Popen[bytes]:
    """Starts the command, in a session by which its workers are found."""
    if job.removed:
        for path in job.results.rglob(job.removed):
            path.unlink()
    places = os.pathsep.join(str(ROOT / name) for name in ("runtime", "export", "models"))
    environment = {**os.environ, "PYTHONPATH": places, "TMPDIR": str(temporary)}
    environment["FREQFUSION_CACHE_DIR"] = str(temporary.with_name("cache"))
    command = [sys.executable, "-m", "freqfusion_runtime.commands.cli", *job.arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(job: Job, temporary: Path) -> float:
    """Runs the command to its end; gives the seconds it took."""
    begin = time.monotonic()
    process = start(job, temporary)
    _, said = process.communicate(timeout=1200)
    if process.returncode:
        sys.exit(f"{' '.join(job.arguments)} ended with {process.returncode}: {said.decode()}")
    return time.monotonic() - begin


def processes_left(session: int) -> int:
    """How many processes of a session still run after a while."""
    end = time.monotonic() + WAIT_S
    while True:
        left = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                left += int(fields[3]) == session and fields[0] != "Z"
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


def is_whole(path: Path) -> bool:
    """Whether a result is what its name says, from the first byte to the last."""
    try:
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().splitlines():
                json.loads(line)
        elif path.suffix == ".onnx":
            list_nodes(path)
        elif path.suffix == ".plan":
            read_plan_header(path)
        else:
            return path.name == "lock"
    except Exception:
        return False
    return True


def files_in(folder: Path) -> set[Path]:
    """All that is there, folders included, as seen from the folder."""
    return {path.relative_to(folder) for path in folder.rglob("*")} if folder.is_dir() else set()


def beyond(folder: Path, usual: set[str]) -> list[str]:
    """What is there and is not usual."""
    return [path.name for path in folder.iterdir() if path.name not in usual]


def is_unfinished(path: Path) -> bool:
    """Whether a name says itself that the file is not a result yet."""
    return ".partial" in path.name or "partial" in path.parts


def kill_again_and_again(job: Job, place: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills one command; gives the counts."""
    temporary = place / "temporary"
    temporary.mkdir()
    seconds = finish(job, temporary)
    expected = files_in(job.results)
    # What a run that ends by itself leaves, too: PyTorch's exporter makes an empty folder for its caches.
    usual = {path.name for path in temporary.iterdir()}
    counts = dict.fromkeys(("killed", "ended_before_the_kill", "half_files", "processes_left"), 0)
    left_by_kills, left_results, looked_at = 0, 0, 0
    while counts["killed"] < kills:
        process = start(job, temporary)
        try:
            process.communicate(timeout=chance.uniform(0.0, seconds))
            counts["ended_before_the_kill"] += 1
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        counts["killed"] += 1
        counts["processes_left"] += processes_left(process.pid)
        results = [path for path in job.results.rglob("*") if path.is_file() and not is_unfinished(path)]
        looked_at += len(results)
        counts["half_files"] += sum(not is_whole(path) for path in results)
        left_by_kills = max(left_by_kills, len(beyond(temporary, usual)))
        left_results = max(left_results, len(files_in(job.results) - expected))
        print(".", end="", file=sys.stderr, flush=True)
    finish(job, temporary)
    print(file=sys.stderr)
    return {
        "whole_run_s": round(seconds, 2),
        **counts,
        "files_looked_at": looked_at,
        "most_temporary_folders_left_by_kills": left_by_kills,
        "most_unfinished_files_left_by_kills": left_results,
        "temporary_folders_after_the_next_start": len(beyond(temporary, usual)),
        "temporary_folders_of_any_run": sorted(usual),
        "unfinished_files_after_the_next_start": len(files_in(job.results) - expected),
        "results_lacking_after_the_next_start": len(expected - files_in(job.results)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each command (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=("run", "batch", "export", "build"), help="commands, else all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="append the lines there, too")
    args = parser.parse_args()
    wrong = 0
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        ready = jobs(Path(folder) / "work")
        for name in args.only or ready:
            place = Path(folder) / name
            place.mkdir()
            print(name, end=" ", file=sys.stderr, flush=True)
            found = kill_again_and_again(ready[name](), place, args.kills, random.Random(args.seed))
            wrong += found["half_files"] + found["processes_left"]
            wrong += sum(count for key, count in found.items() if key.endswith("after_the_next_start"))
            line = json_text(
                {
                    "part": "kills",
                    "command": name,
                    "seed": args.seed,
                    **found,
                    "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "revision": revision,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "versions": versions(),
                }
            )
            print(line)
            if args.output is not None:
                with args.output.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
