# SPDX-License-Identifier: Apache-2.0
"""Opens a model first in a process of its own, which may be killed: a server's threads may not.

A few hundred bytes can keep ONNX Runtime busy for hours, take all memory, or crash it. What happens to such a file here
is that its process ends and the server goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.errors import ModelFileError, ran_out_of_memory
from freqfusion_runtime.serving.operation.settings import MEBIBYTE, Settings
from freqfusion_runtime.serving.scheduling.footprint import Footprint

# The process finds its modules where this one did, which need not be in its environment.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from freqfusion_runtime.serving.scheduling.probing import main; main(json.loads(sys.argv[2]))"
)
_MOST_LETTERS = 4000  # of a reason: a hostile file chooses what it says


@dataclass(frozen=True, kw_only=True)
class _Order:
    path: str
    provider: str
    threads: int
    kernels: str
    max_pixels: int
    memory_bytes: int
    cpu_s: int
    parent: int


class Probe:
    """One trial of one file; :meth:`run` is for a thread, :meth:`stop` for any other."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path, self._settings = path, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self) -> Footprint:
        """Opens the file and warms it up, within the time and memory that the settings allow.

        Returns:
            What its runs cost in memory, measured in a process that does nothing else.

        Raises:
            ModelFileError: If it cannot be opened or run, or takes more than that.
            OSError: If no process can be started.
        """
        settings, limit_s = self._settings, self._settings.load_timeout_s
        order = _Order(
            path=os.fspath(self._path),
            provider=settings.backend,
            threads=settings.threads,
            kernels=settings.kernels,
            max_pixels=settings.max_image_pixels,
            # CUDA reserves more addresses than there is memory, and none of a card's memory is counted by the system.
            memory_bytes=int(settings.load_memory_mb * MEBIBYTE) if settings.backend == "cpu" else 0,
            cpu_s=int(limit_s * (os.cpu_count() or 1)) + 1,
            parent=os.getpid(),
        )
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), json.dumps(asdict(order))]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as self._process:
            try:
                if self._is_stopped:
                    self._process.kill()
                reply, _ = self._process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise ModelFileError(
                    f"{self._path} was still being opened after {limit_s:g} s, and was given up. Write it again with "
                    "`freqfusion export`, or allow more with --load-timeout-s if it is trusted."
                ) from None
            finally:
                self._process.kill()
        return self._judge(reply, self._process.returncode)

    def stop(self) -> None:
        """Kills the process, if there is one; ``run`` then ends at once."""
        self._is_stopped = True
        if self._process is not None:
            self._process.kill()

    def _judge(self, reply: bytes, status: int) -> Footprint:
        try:
            problem, network, picture = json.loads(reply)
        except ValueError:
            how = f"died by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise ModelFileError(
                f"{self._path}: the process that opened it first {how}, as this one would have. "
                "Write it again with `freqfusion export`."
            ) from None
        if problem is None:
            return Footprint(network, picture)
        if self._settings.load_memory_mb and ran_out_of_memory(problem):
            raise ModelFileError(
                f"{self._path} takes more than {self._settings.load_memory_mb:g} MiB of memory to be opened and warmed "
                "up. Write it again with `freqfusion export`, or allow more with --load-memory-mb if it is trusted."
            )
        raise ModelFileError(problem)


def main(values: dict[str, Any]) -> None:
    """Does what :class:`Probe` asks for, in the process that it starts; says what is wrong or what a run costs."""
    order = _Order(**values)
    told = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for handle in (1, 2):  # whatever is written there is the file's
        os.dup2(silence, handle)
    _limit(order)
    os.write(told, json.dumps(_try(order)).encode())
    os._exit(0)  # there is nothing to clean up, and a hostile network is not to be taken apart


def _try(order: _Order) -> tuple[str | None, float, float]:
    from freqfusion_runtime.errors import FreqFusionError
    from freqfusion_runtime.predictors.opening import open_session
    from freqfusion_runtime.serving.scheduling.warmup import warm_up

    try:
        session = open_session(
            order.path,
            provider=order.provider,  # type: ignore[arg-type]
            threads=order.threads,
            kernels=order.kernels,  # type: ignore[arg-type]
        )
        footprint = warm_up(session, order.max_pixels)
    except (FreqFusionError, OSError) as e:
        return str(e)[:_MOST_LETTERS], 0, 0
    except BaseException as e:
        return f"{order.path} cannot be opened: unexpected {type(e).__name__}: {e}"[:_MOST_LETTERS], 0, 0
    return None, footprint.network, footprint.picture


def _limit(order: _Order) -> None:
    if sys.platform == "win32":
        return
    import ctypes
    import resource

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != order.parent:  # it died before that
            os._exit(1)
        # Where memory runs out before the limit is met, the system is to end this process and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # If the server cannot do it: the processor time of all cores for as long as it would have waited.
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_s, order.cpu_s))
    if order.memory_bytes:
        # Of addresses (RLIMIT_AS), threads reserve far more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (order.memory_bytes, order.memory_bytes))


_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
