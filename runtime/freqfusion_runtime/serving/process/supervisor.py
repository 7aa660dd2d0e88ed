# SPDX-License-Identifier: Apache-2.0
"""Keeps a server running: a process that listens, and a worker that serves and is started again when it dies.

An engine that crashes takes its process with it. The listening socket stays open here, so that clients who come
meanwhile wait for the next worker instead of being refused.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from freqfusion_runtime.files import printable
from freqfusion_runtime.serving.operation.listening import SOCKET_VARIABLE, listen

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_STEADY_S = 60.0  # a worker that lived so long did not die of what killed the one before


def supervise(arguments: Sequence[str], host: str, port: int, restarts: int) -> int:
    """Runs ``freqfusion serve`` with these arguments, again and again.

    Args:
        arguments: Of the worker's command line, without those that lead here.
        host: Address to listen on.
        port: Of HTTP.
        restarts: How often in a row a worker that dies at once is replaced.

    Returns:
        The worker's exit status after SIGTERM or SIGINT, or if it ended by itself; 1 if it died too often.

    Raises:
        ListenError: If the address cannot be had.
    """
    with listen(host, port) as opened:
        return _Supervisor(arguments, opened, restarts).watch()


class _Supervisor:
    def __init__(self, arguments: Sequence[str], opened: socket.socket, restarts: int) -> None:
        self._arguments, self._socket, self._restarts = arguments, opened, restarts
        self._worker: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def watch(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        left, pause_s = self._restarts, _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            status = self._run_worker()
            # A worker that ends with a status of its own has said why; only one killed by a signal is replaced.
            if self._is_stopping or status >= 0:
                return max(status, 0)
            if time.monotonic() - started > _STEADY_S:
                left, pause_s = self._restarts, _FIRST_PAUSE_S
            if left == 0:
                _say(f"the worker died {self._restarts + 1} times, by {_name(status)}")
                return 1
            left -= 1
            _say(f"the worker died by {_name(status)}, the next one starts")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_worker(self) -> int:
        handle = self._socket.fileno()
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "freqfusion_runtime.commands.cli", "serve", *self._arguments],
            pass_fds=(handle,),
            env={**os.environ, SOCKET_VARIABLE: str(handle)},
        )
        if self._is_stopping:  # the signal came before there was anyone to pass it on to
            self._worker.terminate()
        return self._worker.wait()

    def _pass_on(self, number: int, frame: object) -> None:
        self._is_stopping = True
        if self._worker is not None and self._worker.poll() is None:
            self._worker.send_signal(number)


def _say(text: str) -> None:
    print(f"freqfusion serve: {printable(text)}", file=sys.stderr, flush=True)


def _name(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
