# SPDX-License-Identifier: Apache-2.0
"""Workers as processes of this machine; a worker that dies costs the picture it died of, not the batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from freqfusion_runtime.batch.items import BatchError, Item
from freqfusion_runtime.batch.labeller import Labeller, Outcome, Work
from freqfusion_runtime.errors import FreqFusionError

_AHEAD = 2  # items in each worker's hands, so that none idles; all others stay here
_labeller: Labeller | None = None


def label_locally(work: Work, items: Sequence[Item], workers: int) -> Iterator[Outcome]:
    """Labels items in worker processes; outcomes come as they are ready.

    A pool breaks as a whole when one of its processes dies. What was in its hands is then tried again one by one, so
    that the picture that kills is found; the others go on in a new pool.

    Raises:
        BatchError: If the model cannot be opened or a result cannot be written.
    """
    todo = deque(items)
    while todo:
        for item in (yield from _until_broken(work, todo, workers)):
            if (yield from _until_broken(work, deque([item]), 1)):
                yield Outcome.failed(
                    item, f"{item.key} ended its worker process, perhaps for want of memory. Make it smaller."
                )


def _until_broken(work: Work, todo: deque[Item], workers: int) -> Generator[Outcome, None, list[Item]]:
    """Takes items from ``todo`` until it is empty or a process dies; returns the items that were in the pool then."""
    # A fork would copy ONNX Runtime's locks without its threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _prepare)
    running: dict[Future[Outcome], Item] = {}
    try:
        while todo or running:
            while todo and len(running) < workers * _AHEAD:
                running[pool.submit(_label, work, todo[0])] = todo[0]
                todo.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                del running[future]
                yield outcome
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the batch, after what is being written
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes outlive a parent that is killed, and would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _label(work: Work, item: Item) -> Outcome:
    global _labeller
    try:
        if _labeller is None:
            _labeller = Labeller(work)
        return _labeller.label(item)
    except FreqFusionError as e:
        raise BatchError(str(e)) from None  # errors with other arguments than a text do not travel between processes
