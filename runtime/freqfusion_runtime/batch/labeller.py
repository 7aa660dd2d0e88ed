# SPDX-License-Identifier: Apache-2.0
"""What one worker does, whoever started it: a picture in, its label map on the disk, and the facts about it back."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from freqfusion_runtime.batch.items import LABELS_SUFFIX, OVERLAY_SUFFIX, Item, content
from freqfusion_runtime.errors import FreqFusionError, OutputError
from freqfusion_runtime.files import check_stays
from freqfusion_runtime.sessions.protocol import Kernels, Provider

STATE_FOLDER = ".freqfusion-batch"
STAGING_FOLDER = "partial"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all workers of a batch have in common.

    Args:
        model: The exported file.
        model_sha256: Its hash.
        output: The folder for the results, absolute; every worker must see the same one.
        overlay: Whether to draw overlays, too.
        provider, threads, kernels: See :func:`freqfusion_runtime.predictors.opening.open_session`.
        max_pixels: Larger pictures are refused undecoded.
    """

    model: str
    model_sha256: str
    output: str
    overlay: bool = False
    provider: Provider = "cpu"
    threads: int = 1
    kernels: Kernels = "auto"
    max_pixels: int = 64_000_000

    def outputs_of(self, name: str) -> list[str]:
        """Names the files of one item, relative to the output folder."""
        return [name + LABELS_SUFFIX] + ([name + OVERLAY_SUFFIX] if self.overlay else [])


@dataclass(frozen=True)
class Outcome:
    """How one item ended.

    Args:
        key: Of the item.
        size, mtime_ns: The item's file when it was listed.
        error: Why it could not be done; empty if it was.
        outputs: Size in bytes by name of each file written.
        height, width: Of the picture.
        classes: Pixels by label, of those that occur.
        stages_ms: Time each stage took.
    """

    key: str
    size: int
    mtime_ns: int
    error: str = ""
    outputs: dict[str, int] = field(default_factory=dict)
    height: int = 0
    width: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def failed(cls, item: Item, error: str) -> Outcome:
        """Words a failure."""
        return cls(item.key, item.size, item.mtime_ns, error=error)

    def as_record(self) -> dict[str, Any]:
        """Gives the outcome as plain values."""
        return asdict(self)


class Labeller:
    """A model in memory that labels items one after the other."""

    def __init__(self, work: Work) -> None:
        from freqfusion_runtime.predictors.segmenter import load_segmenter

        self._work = work
        self._segmenter = load_segmenter(
            work.model, provider=work.provider, threads=work.threads, kernels=work.kernels, max_pixels=work.max_pixels
        )

    def label(self, item: Item) -> Outcome:
        """Labels one item.

        Raises:
            OutputError: If a result cannot be written, which the next ones could not be either.
        """
        try:
            return self._label(item)
        except OutputError:
            raise
        except FreqFusionError as e:
            return Outcome.failed(item, str(e))
        except Exception as e:  # one picture that breaks a decoder in a new way must not end a batch of a million
            return Outcome.failed(item, f"{item.key}: unexpected {type(e).__name__}: {e}")

    def _label(self, item: Item) -> Outcome:
        from freqfusion_runtime.pictures.reading import read_picture_bytes

        start = time.perf_counter()
        photo = read_picture_bytes(content(item, self._work.max_pixels), item.key, self._work.max_pixels)
        decoded = time.perf_counter()
        result = self._segmenter.predict(photo)
        labelled = time.perf_counter()
        outputs = {}
        for name in self._work.outputs_of(item.name):
            image = result.label_image() if name.endswith(LABELS_SUFFIX) else result.overlay()
            outputs[name] = self._publish(image, name)
        written = time.perf_counter()
        stages = {**result.timings_ms, "decode": (decoded - start) * 1e3, "write": (written - labelled) * 1e3}
        return Outcome(
            item.key,
            item.size,
            item.mtime_ns,
            outputs=outputs,
            height=photo.shape[0],
            width=photo.shape[1],
            classes={str(share.label): share.pixels for share in result.shares()},
            stages_ms={stage: round(ms, 3) for stage, ms in stages.items()},
        )

    def _publish(self, image: Any, name: str) -> int:
        """Writes a picture under a name that nobody reads, then moves it to its place; returns its size in bytes."""
        root = Path(self._work.output)
        target = root / name
        temporary = root / STATE_FOLDER / STAGING_FOLDER / (secrets.token_hex(8) + target.suffix)
        check_stays(root, target.parent)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                image.save(file, "JPEG" if target.suffix == ".jpg" else "PNG", quality=92)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.replace(temporary, target)
        except OSError as e:
            temporary.unlink(missing_ok=True)
            raise OutputError(target, (e.strerror or str(e)).lower()) from e
        return size
