# SPDX-License-Identifier: Apache-2.0
"""Compares an exported detector with its PyTorch model, from single operators to objects and segments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from freqfusion.detection import Detector
from freqfusion_runtime.agreement.comparison import Comparison, compare
from freqfusion_runtime.agreement.object_agreement import AnswerAgreement, ObjectAgreement, compare_answers
from freqfusion_runtime.agreement.tolerances import INSIDE_BOUNDS, MAX_ERROR_FP32
from freqfusion_runtime.files import scratch_folder
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.predictors.loading import ObjectFinder, load, predictor_of
from freqfusion_runtime.results.detections import Detections, PanopticSegmentation
from freqfusion_runtime.sessions.protocol import Kernels
from numpy.typing import NDArray

from freqfusion_export.networks.detector import DetectorForm
from freqfusion_export.parity.pytorch_session import PytorchSession
from freqfusion_export.parity.segmenter_parity import IMAGES, Parity, record_stage
from freqfusion_export.precision.assignment import HALF_TYPES
from freqfusion_export.precision.emulation import emulated

Found = Detections | PanopticSegmentation


@dataclass(frozen=True)
class ObjectParity:
    """What the comparison found on one picture.

    Args:
        name: The picture.
        comparisons: Every compared array, from the input on.
        objects: Which objects are the same.
        panoptic: Panoptic quality of the file's map with PyTorch's as the truth; None of other models.
        actual: The file's answer.
        expected: PyTorch's answer.
        precision: Of the file.
    """

    name: str
    comparisons: list[Comparison]
    objects: ObjectAgreement
    panoptic: float | None
    actual: Found
    expected: Found
    precision: str = "fp32"

    @property
    def measures(self) -> dict[str, float]:
        """What answers are held to, by its name."""
        return self._answers.measures

    @property
    def _answers(self) -> AnswerAgreement:
        return AnswerAgreement(self.objects, self.panoptic, self.precision)

    @property
    def is_empty(self) -> bool:
        """Whether neither found an object, so that none was compared."""
        return self._answers.is_empty

    @property
    def agrees(self) -> bool:
        """Whether everything is within its tolerance."""
        return self._answers.agrees and all(comparison.agrees for comparison in self.comparisons)

    @property
    def first_mismatch(self) -> Comparison | None:
        """The first array beyond its tolerance, in the order of computation."""
        return next((comparison for comparison in self.comparisons if not comparison.agrees), None)


class DetectorParity(Parity):
    """Compares one exported detector with one PyTorch model; arguments as for :class:`Parity`."""

    def __init__(
        self, path: Path, network: Detector, kernels: Kernels = "auto", layers: bool = False, threads: int = 0
    ) -> None:
        super().__init__(path, network, kernels, layers, threads)
        manifest = replace(self.manifest, interface="tensor", inputs=DetectorForm.inputs)
        reference = PytorchSession(network, path, manifest, by_definition=True)
        with scratch_folder("parity") as folder:
            if self.precision in HALF_TYPES:
                # As the hardware it is for computes it, every rounding included.
                network_file = folder / path.name
                ir.save(emulated(path), network_file)
            else:
                network_file = path
            self._file = cast(ObjectFinder, load(network_file, kernels=kernels, threads=threads))
        self._reference = cast(ObjectFinder, predictor_of(reference))

    def objects_on(self, picture: Path) -> ObjectParity:
        """Runs both on one picture; PyTorch with its plain definitions and the official pre-processing."""
        photo = read_picture(picture)
        images = prepare(photo, self.manifest.preprocessing)
        height, width = photo.shape[:2]
        sizes = np.array([keep_ratio_size(height, width, self.manifest.preprocessing)], np.int64)
        wanted = self._wanted_stages()
        results: dict[str, NDArray[Any]] = {}
        handles = [record_stage(self.network, stage, results) for stage in wanted]
        try:
            expected = self._reference.predict(photo)
        finally:
            for handle in handles:
                handle.remove()
        is_image = self.manifest.interface == "image"
        inputs: dict[str, NDArray[Any]] = {self.manifest.inputs[0].name: photo[None]}
        if not is_image:
            inputs = {"images": images, "image_sizes": sizes}
        stages = {stage: value for stage, value in self.probe.stages.items() if stage in results}
        if self.precision in HALF_TYPES:
            # Proposals of equal scores come in another order, and with them every row behind them.
            stages = {stage: value for stage, value in stages.items() if not stage.startswith("roi_head")}
        names = [IMAGES, *stages.values()]
        names += [str(value.name) for node in self.probe.operators for value in (*node.inputs, *node.outputs) if value]
        found = self.probe.read(inputs, names)
        comparisons = [compare("preprocessing", IMAGES, found[IMAGES], images, MAX_ERROR_FP32)]
        comparisons += self._operators(found)
        for stage, value in stages.items():
            level = "module" if stage.endswith((".hr_out", ".lr_out")) else "layer"
            bound = INSIDE_BOUNDS[self.precision]
            comparisons.append(compare(level, stage, found[value], results[stage], bound))
        return task_parity(picture.name, comparisons, self._file.predict(photo), expected, self.precision)


def task_parity(
    name: str, comparisons: list[Comparison], actual: Found, expected: Found, precision: str = "fp32"
) -> ObjectParity:
    """Compares two answers about one picture."""
    found = compare_answers(actual, expected, precision)
    return ObjectParity(name, comparisons, found.objects, found.panoptic, actual, expected, precision)
