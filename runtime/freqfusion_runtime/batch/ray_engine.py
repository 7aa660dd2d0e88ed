# SPDX-License-Identifier: Apache-2.0
"""Workers as Ray actors, on this machine or on a cluster whose nodes all see the input, the model and the output."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from freqfusion_runtime.batch.items import BatchError, Item
from freqfusion_runtime.batch.labeller import Labeller, Outcome, Work
from freqfusion_runtime.batch.ray_start import last_line, running_ray
from freqfusion_runtime.errors import FreqFusionError

_ROWS = 8  # pictures in one task: enough to forget Ray's own few ms, few enough for steady progress
_BLOCKS = 20_000


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
    cores = max(1, work.threads)
    texts = [{"item": json.dumps(asdict(item))} for item in items]
    # One core more for reading the list, which is done soon.
    with running_ray(address, workers * cores + 1):
        import ray.data
        from ray.exceptions import RayError as RaysOwnError

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            # Ray keeps something of every block, so a million items are cut into no more than are of use.
            blocks = min(max(1, len(texts) // _ROWS), _BLOCKS)
            dataset = ray.data.from_items(texts, override_num_blocks=blocks).map_batches(
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
        except RaysOwnError as e:
            raise BatchError(f"Ray stopped the batch: {last_line(e)} Run it again to go on where it ended.") from e
