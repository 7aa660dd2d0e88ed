# SPDX-License-Identifier: Apache-2.0
"""Workers as processes of this machine; a worker that dies costs the picture it died of, not the batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from freqfusion_runtime.batch.items import Item
from freqfusion_runtime.batch.labeller import Labeller, Outcome, Work

_AHEAD = 2  # items waiting for each worker, so that none idles; all others stay here
_labeller: Labeller | None = None


def label_locally(work: Work, items: Sequence[Item], workers: int) -> Iterator[Outcome]:
    """Labels items in worker processes; outcomes come as they are ready.

    A pool breaks as a whole when one of its processes dies. What was in its hands is then tried again one by one, so
    that the picture that kills is found; the others go on in a new pool.

    Raises:
        FreqFusionError: If the model cannot be opened or a result cannot be written.
    """
    todo = deque(items)
    while todo:
        suspects = yield from _until_broken(work, todo, min(workers, len(todo)))
        for item in suspects:
            alone = deque([item])
            if (yield from _until_broken(work, alone, 1)):
                yield Outcome.failed(
                    item, f"{item.key} ended its worker process, perhaps for want of memory. Make it smaller."
                )


def _until_broken(work: Work, todo: deque[Item], workers: int) -> Iterator[Outcome]:  # returns suspects
    # A fork would copy ONNX Runtime's locks without its threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (work,))
    running: dict[Future[Outcome], Item] = {}
    try:
        while todo or running:
            while todo and len(running) < workers * _AHEAD:
                running[pool.submit(_label, work, todo[0])] = todo[0]
                todo.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                del running[future]
                yield outcome
    except BrokenProcessPool:
        return list(running.values())  # type: ignore[return-value]
    finally:
        _stop(pool)
    return []  # type: ignore[return-value]
