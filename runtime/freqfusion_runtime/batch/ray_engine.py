# SPDX-License-Identifier: Apache-2.0
"""Workers as Ray actors, on this machine or on a cluster whose nodes all see the input, the model and the output."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from freqfusion_runtime.batch.items import BatchError, Item
from freqfusion_runtime.batch.labeller import Labeller, Outcome, Work
from freqfusion_runtime.errors import FreqFusionError

_ROWS = 8  # pictures in one task: enough to forget Ray's own few ms, few enough for steady progress
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # only paths and facts pass through it


class _Actor:
    """A labeller as Ray Data's ``map_batches`` calls it."""

    def __init__(self, work: Work) -> None:
        self._labeller = Labeller(work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        outcomes = [self._one(Item(**json.loads(text))) for text in batch["item"].tolist()]
        return {"outcome": np.array(outcomes, dtype=object)}

    def _one(self, item: Item) -> str:
        try:
            return json.dumps(self._labeller.label(item).as_record())
        except FreqFusionError as e:
            return json.dumps({"fatal": str(e)})


def label_with_ray(work: Work, items: Sequence[Item], workers: int, address: str | None) -> Iterator[Outcome]:
    """Labels items in an actor pool; outcomes come as blocks of them are ready.

    Args:
        work: The same for all.
        items: What to do.
        workers: Actors; each holds the model.
        address: Of a cluster's head, or ``auto``; None starts Ray on this machine alone, reachable by it alone.

    Raises:
        BatchError: If Ray cannot be started or gives up, the model cannot be opened or a result cannot be written.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data
    from ray.exceptions import RayError

    cores = max(1, work.threads)
    try:
        _start(ray, address, workers * cores)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        texts = [{"item": json.dumps(asdict(item))} for item in items]
        blocks = max(1, -(-len(texts) // _ROWS))
        # Ray keeps a copy of every block's facts, so a million items are not cut into as many blocks as rows allow.
        dataset = ray.data.from_items(texts, override_num_blocks=min(blocks, 20_000)).map_batches(
            _Actor,
            fn_constructor_args=(work,),
            batch_size=_ROWS,
            batch_format="numpy",
            num_cpus=cores,
            num_gpus=1 if work.provider == "cuda" else None,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        for row in dataset.iter_rows():
            record = json.loads(row["outcome"])
            if "fatal" in record:
                raise BatchError(record["fatal"])
            yield Outcome(**record)
    except (RayError, ConnectionError, ValueError, RuntimeError) as e:
        raise BatchError(f"Ray stopped the batch: {_last_line(e)} Run it again to go on where it ended.") from e
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None, cores: int) -> None:
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return
    ray.init(
        num_cpus=cores + 1,  # one for reading the list, which is idle soon
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if lines[-1].endswith(".") else lines[-1] + "."
