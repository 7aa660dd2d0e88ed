# SPDX-License-Identifier: Apache-2.0
"""The gate: an engine is kept only if it computes what its ONNX file does, and PyTorch where its answers are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.comparison import Comparison, compare, label_agreement, mean_iou
from freqfusion_runtime.engines.errors import GateError
from freqfusion_runtime.pictures import read_picture
from freqfusion_runtime.preprocess import prepare
from freqfusion_runtime.segmenter import Segmenter
from freqfusion_runtime.session import Session
from freqfusion_runtime.tolerances import LOGIT_BOUNDS, NMF_SEED_AGREEMENT, TASK_BOUNDS

NOISE_FLOOR = (
    f"for scale: two runs of the official PyTorch model, which draws its NMF bases anew each time, agree in "
    f"{NMF_SEED_AGREEMENT:.1%} of the labels"
)


@dataclass(frozen=True)
class Rung:
    """One step of the ladder on one picture.

    Attributes:
        reference: ``ONNX file`` or ``PyTorch``.
        level: ``network`` or ``task``.
        measures: What was measured, by name.
        bounds: The least, or for errors the largest, that is allowed, by the same names.
        agrees: Whether every measure is within its bound.
    """

    reference: str
    level: str
    measures: dict[str, float]
    bounds: dict[str, float]
    agrees: bool


@dataclass(frozen=True)
class PictureGate:
    """All steps on one picture."""

    picture: str
    rungs: tuple[Rung, ...]

    @property
    def agrees(self) -> bool:
        """Whether every step holds."""
        return all(rung.agrees for rung in self.rungs)


def check_engine(
    engine: Session, onnx: Session, pictures: Sequence[Path], reference: Path | None = None
) -> list[PictureGate]:
    """Runs both on every picture.

    Args:
        engine: What is to be proved.
        onnx: The file it was built from.
        pictures: At least one.
        reference: Folder of PyTorch's label maps, ``<stem>.labels.png`` with pixel value = label.

    Raises:
        GateError: If there is nothing to compare.
        PictureError: If a picture or label map cannot be read.
    """
    if not pictures:
        raise GateError("the gate has no picture to compare on. Name pictures, or a folder of them, after --verify.")
    ours, theirs = Segmenter(engine), Segmenter(onnx)
    return [_on_picture(ours, theirs, picture, reference) for picture in pictures]


def _on_picture(engine: Segmenter, onnx: Segmenter, picture: Path, reference: Path | None) -> PictureGate:
    photo = read_picture(picture)
    precision = engine.session.manifest.precision
    rungs = []
    if engine.session.manifest.interface == "tensor":
        rungs.append(_network_rung(engine.session, onnx.session, photo, precision))
    labels = engine.predict(photo).labels
    rungs.append(_task_rung("ONNX file", labels, onnx.predict(photo).labels, precision))
    if reference is not None:
        rungs.append(_task_rung("PyTorch", labels, _label_map(reference, picture, labels.shape), precision))
    return PictureGate(picture.name, tuple(rungs))


def _network_rung(engine: Session, onnx: Session, photo: NDArray[np.uint8], precision: str) -> Rung:
    spec = engine.manifest.inputs[0]
    images = prepare(photo, engine.manifest.preprocessing).astype(spec.dtype, copy=False)
    name, bound = engine.manifest.outputs[0].name, LOGIT_BOUNDS[precision]
    actual, expected = (session.run({spec.name: images})[name] for session in (engine, onnx))
    result: Comparison = compare("network", name, actual, expected, bound)
    measures = {"max_over_std": result.max_over_std, "rel_l2": result.rel_l2, "cosine": result.cosine}
    return Rung("ONNX file", "network", measures, {"max_over_std": bound}, result.agrees)


def _task_rung(reference: str, actual: NDArray[Any], expected: NDArray[Any], precision: str) -> Rung:
    least_agreement, least_miou = TASK_BOUNDS[precision]
    agreement, miou = label_agreement(actual, expected), mean_iou(actual, expected)
    return Rung(
        reference,
        "task",
        {"label_agreement": agreement, "miou": miou},
        {"label_agreement": least_agreement, "miou": least_miou},
        agreement >= least_agreement and miou >= least_miou,
    )


def _label_map(folder: Path, picture: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    path = folder / f"{picture.stem}.labels.png"
    if not path.is_file():
        raise GateError(
            f"{path} does not exist: there is no reference for {picture.name}. "
            "Put PyTorch's label map there, or leave --reference out."
        )
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)  # palette mode gives the indices, which are the labels
    except OSError as e:
        raise GateError(f"{path} is no picture ({e}). Write a PNG whose pixel values are labels.") from e
    if labels.shape != shape:
        raise GateError(
            f"{path} has shape {labels.shape}, the picture's labels have {shape}. Write it at the picture's size."
        )
    return labels
