# SPDX-License-Identifier: Apache-2.0
"""The gate: an engine is kept only if it computes what its ONNX file and PyTorch do, from operators to label maps.

An engine shows its outputs only. What FreqFusion nodes compute inside the network is read from a second engine with
those values as outputs, and what they compute on their own from a third that holds nothing but them. Both are built as
the first one was, but TensorRT fuses other layers there: they tell where a difference comes from, and the first
engine's own answers are what is certain of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.agreement.comparison import compare, label_agreement, mean_iou, mean_iou_of_set
from freqfusion_runtime.agreement.object_agreement import compare_answers
from freqfusion_runtime.agreement.reference_data import RecordedSession, ReferenceData
from freqfusion_runtime.agreement.tolerances import (
    INSIDE_BOUNDS,
    LOGIT_BOUNDS,
    MAX_ERROR_FP32,
    OPERATOR_BOUNDS,
    TASK_BOUNDS,
)
from freqfusion_runtime.building.label_maps import read_label_map
from freqfusion_runtime.building.ladder import LEVELS, PictureGate, Rung
from freqfusion_runtime.engines.errors import GateError
from freqfusion_runtime.engines.profiles import Profile, choose_profile
from freqfusion_runtime.engines.record import Verification
from freqfusion_runtime.errors import NetworkOutputError
from freqfusion_runtime.files import scratch_folder, sha256_of
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.manifest import Manifest, Precision
from freqfusion_runtime.model_files.onnx_probe import InnerValue, inner_values, write_with_outputs
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.predictors.loading import predictor_of
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.results.detections import Detections, PanopticSegmentation
from freqfusion_runtime.results.labels import MASK_LOGITS
from freqfusion_runtime.results.result_names import result_names
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.sessions.protocol import Session

ALL_PICTURES = "all pictures"
Arrays = Mapping[str, NDArray[Any]]
Answer = Segmentation | Detections | PanopticSegmentation


@dataclass(eq=False)
class _Subject:
    """A picture, its place in the reference data if it is from there, and what was found on it."""

    name: str
    path: Path | None
    place: int | None
    rungs: list[Rung] = field(default_factory=list)


class Gate:
    """Holds engines against an ONNX file on ONNX Runtime and against what PyTorch computed.

    Args:
        manifest: Of the model whose engine is to be proved.
        pictures: To compare on, beside those of the reference data.
        against: The ONNX file; None to leave it out, as for bf16, which ONNX Runtime does not run on a CPU.
        reference: PyTorch's side.
        label_maps: A folder of PyTorch's label maps, named as ``freqfusion run`` names its own,
            where there is no more of it.
        judged_as: Precision whose bounds hold; the manifest's if None.

    Raises:
        GateError: If there is nothing to compare.
        ModelFileError: If the ONNX file cannot be run.
    """

    def __init__(
        self,
        manifest: Manifest,
        pictures: Sequence[Path],
        against: Path | None,
        reference: ReferenceData | None = None,
        label_maps: Path | None = None,
        judged_as: Precision | None = None,
    ) -> None:
        self.manifest, self.against, self.reference = manifest, against, reference
        self._label_maps: dict[Path, Path] = {}
        if label_maps is not None:
            self._label_maps = {p: label_maps / f"{name}.labels.png" for p, name in result_names(pictures).items()}
        self.precision: Precision = judged_as or manifest.precision
        self._subjects = [_Subject(path.name, path, None) for path in pictures]
        if reference is not None:
            self._subjects += [_Subject(name, None, place) for place, name in enumerate(reference.names)]
        if not self._subjects:
            raise GateError(
                "the gate has no picture to compare on. Name pictures, or a folder of them, after --verify."
            )
        if against is None and any(subject.place is None for subject in self._subjects):
            raise GateError(
                f"a {manifest.precision} file cannot be run here, and PyTorch's answers are known for the pictures of "
                "the reference data only. Name its fp32 file with --against, or leave the other pictures out."
            )
        self._onnx = None if against is None else open_session(against)
        self._maps: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}  # by reference: labels, and the right ones
        self._has_objects: dict[str, bool] = {}  # by reference: whether an object was compared in any picture

    @property
    def results(self) -> list[PictureGate]:
        """What was found so far, each picture's from operators to the task; mIoU is that of all pictures together.

        Where neither side finds an object in any of them, that is a comparison that fails.
        """
        found = [
            PictureGate(s.name, tuple(sorted(s.rungs, key=lambda rung: (rung.reference, LEVELS.index(rung.level)))))
            for s in self._subjects
        ]
        of_set = [*map(self._set_rung, self._maps), *map(self._empty_rung, self._without_objects)]
        return [*found, PictureGate(ALL_PICTURES, tuple(of_set))] if of_set else found

    @property
    def verification(self) -> Verification:
        """What a passing engine was held against."""
        return Verification(
            pictures=len(self._subjects),
            against_sha256=None if self.against is None else model_sha256(self.against),
            reference_sha256=None if self.reference is None else sha256_of(self.reference.path),
        )

    def _set_rung(self, reference: str) -> Rung:
        """mIoU is defined over a set: in one picture a class may have three pixels."""
        actual, expected = zip(*self._maps[reference], strict=True)
        miou, least = mean_iou_of_set(actual, expected), TASK_BOUNDS[self.precision][1]
        return Rung(reference, "task", "label maps", {"miou": miou}, {"miou": least}, miou >= least)

    @property
    def _without_objects(self) -> list[str]:
        return [reference for reference, has_objects in self._has_objects.items() if not has_objects]

    def _empty_rung(self, reference: str) -> Rung:
        """That neither answer has an object in any picture is no agreement: boxes and scores were never compared."""
        note = "neither finds an object in any picture, so none was compared; name pictures with objects"
        return Rung(reference, "task", "objects", {}, {"objects": 1}, False, note)

    def check_sizes(self, path: Path, profiles: Sequence[Profile]) -> None:
        """Makes sure that an engine of these profiles takes every picture, before it is built.

        Raises:
            ProfileError: If it does not.
        """
        for subject in self._subjects:
            inputs = network_inputs(self.manifest, self._photo(subject))
            choose_profile(path, profiles, {name: array.shape for name, array in inputs.items()})

    def check_engine(self, engine: Session) -> None:
        """Compares the engine's own answers: class scores where it gives them, and the task's."""
        for subject in self._subjects:
            photo = self._photo(subject)
            found = engine.run(network_inputs(engine.manifest, photo))
            for reference, outputs, expected in self._expected(subject, photo):
                scores = engine.manifest.outputs[0].name
                is_scores = self.manifest.task == "semantic_segmentation" and self.manifest.interface == "tensor"
                # Queries' logits differ by any amount behind a key that one of two right computations hides.
                if is_scores and scores in outputs and scores != MASK_LOGITS:
                    subject.rungs.append(self._array_rung(reference, "network", scores, found[scores], outputs[scores]))
                subject.rungs.append(self._task_rung(reference, engine, found, photo, expected))

    def check_inside(self, probe: Session, values: Sequence[InnerValue]) -> None:
        """Compares what FreqFusion nodes compute inside the network, in the order of computation."""
        for subject in self._subjects:
            photo = self._photo(subject)
            found = probe.run(network_inputs(probe.manifest, photo))
            for reference, expected in self._expected_inside(subject, photo, values):
                for value in values:
                    if value.tensor in expected:
                        arrays = found[value.tensor], expected[value.tensor]
                        subject.rungs.append(self._array_rung(reference, value.level, value.name, *arrays))

    def check_operators(self, operators: Session) -> None:
        """Compares FreqFusion nodes on the inputs that they have in PyTorch."""
        if self.reference is None:
            return
        for subject in self._subjects:
            if subject.place is None:
                continue
            picture = self.reference.picture(subject.place)
            needed = {name for entry in self.reference.facts.operators for name in entry.inputs}
            found = operators.run({name: picture.values[name] for name in needed})
            for entry in self.reference.facts.operators:
                expected = picture.alone.get(entry.node, picture.values[entry.output])
                name = f"{entry.operator} {entry.node}"
                actual = found[alone_name(entry.node)]
                subject.rungs.append(self._array_rung("PyTorch", "operator", name, actual, expected))

    def _photo(self, subject: _Subject) -> NDArray[np.uint8]:
        if subject.path is not None:
            return read_picture(subject.path)
        assert self.reference is not None
        assert subject.place is not None
        return self.reference.photo(subject.place)

    def _expected(self, subject: _Subject, photo: NDArray[np.uint8]) -> list[tuple[str, Arrays, Answer | NDArray[Any]]]:
        """By reference: the outputs, and the answer."""
        found: list[tuple[str, Arrays, Answer | NDArray[Any]]] = []
        if self._onnx is not None:
            outputs = self._onnx.run(network_inputs(self._onnx.manifest, photo))
            found.append(("ONNX file", outputs, _answer(self._onnx, outputs, photo)))
        if self.reference is not None and subject.place is not None:
            picture = self.reference.picture(subject.place)
            if picture.labels is not None:
                found.append(("PyTorch", picture.outputs, picture.labels))
            else:
                recorded = RecordedSession(self.reference.path, self.reference.manifest, picture.outputs)
                found.append(("PyTorch", picture.outputs, _answer(recorded, picture.outputs, photo)))
        if subject.path in self._label_maps:
            found.append(
                ("PyTorch", {}, read_label_map(self._label_maps[subject.path], subject.path.name, photo.shape[:2]))
            )
        return found

    def _expected_inside(
        self, subject: _Subject, photo: NDArray[np.uint8], values: Sequence[InnerValue]
    ) -> list[tuple[str, Arrays]]:
        found: list[tuple[str, Arrays]] = []
        if self.against is not None:
            found.append(("ONNX file", _run_with_outputs(self.against, photo, values)))
        if self.reference is not None and subject.place is not None:
            picture = self.reference.picture(subject.place)
            by_level = {value.level: value.tensor for value in values}
            expected: dict[str, NDArray[Any]] = dict(picture.values)
            if "preprocessing" in by_level:
                expected[by_level["preprocessing"]] = prepare(photo, self.manifest.preprocessing)
            if "network" in by_level:
                expected[by_level["network"]] = picture.outputs["logits"]
            found.append(("PyTorch", expected))
        return found

    def _array_rung(self, reference: str, level: str, name: str, actual: NDArray[Any], expected: NDArray[Any]) -> Rung:
        by_level = {"preprocessing": MAX_ERROR_FP32, "operator": OPERATOR_BOUNDS[self.precision]}
        by_level["network"] = LOGIT_BOUNDS[self.precision]
        bound = by_level.get(level, INSIDE_BOUNDS[self.precision])
        if actual.shape != expected.shape:
            note = f"shape {actual.shape}, expected {expected.shape}"
            return Rung(reference, level, name, {}, {"max_over_std": bound}, False, note)
        result = compare(level, name, actual, expected, bound)
        measures = {"max_over_std": result.max_over_std, "rel_l2": result.rel_l2, "cosine": result.cosine}
        return Rung(reference, level, name, measures, {"max_over_std": bound}, result.agrees)

    def _task_rung(
        self,
        reference: str,
        engine: Session,
        outputs: Arrays,
        photo: NDArray[np.uint8],
        expected: Answer | NDArray[Any],
    ) -> Rung:
        task = self.manifest.task.replace("_", " ")
        try:
            actual = _answer(engine, outputs, photo)
        except NetworkOutputError as e:  # a wrong answer, not a failure of ours
            return Rung(reference, "task", task, {}, {}, False, str(e))
        if isinstance(actual, Segmentation):
            labels = expected.labels if isinstance(expected, Segmentation) else expected
            assert isinstance(labels, np.ndarray)
            self._maps.setdefault(reference, []).append((actual.labels, labels))
            share, least = label_agreement(actual.labels, labels), TASK_BOUNDS[self.precision][0]
            measures = {"label_agreement": share, "miou": mean_iou(actual.labels, labels)}
            return Rung(reference, "task", task, measures, {"label_agreement": least}, share >= least)
        assert isinstance(expected, Detections | PanopticSegmentation)
        found = compare_answers(actual, expected, self.precision)
        self._has_objects[reference] = self._has_objects.get(reference, False) or not found.is_empty
        return Rung(reference, "task", task, found.measures, found.bounds, found.agrees)


def network_inputs(manifest: Manifest, photo: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """What a model takes of a picture, by name."""
    first, *others = manifest.inputs
    if manifest.interface == "image":
        return {first.name: photo[None]}
    inputs: dict[str, NDArray[Any]] = {
        first.name: prepare(photo, manifest.preprocessing).astype(first.dtype, copy=False)
    }
    if others:
        height, width = photo.shape[:2]
        inputs[others[0].name] = np.array([keep_ratio_size(height, width, manifest.preprocessing)], np.int64)
    return inputs


def alone_name(node: str) -> str:
    """Names the output of a node in the model of operators that stand alone."""
    return f"{node}.alone"


def _answer(session: Session, outputs: Arrays, photo: NDArray[np.uint8]) -> Answer:
    """Makes of a network's outputs what its task is about."""
    answer: Answer = predictor_of(RecordedSession(session.path, session.manifest, outputs)).predict(photo)
    return answer


def _run_with_outputs(path: Path, photo: NDArray[np.uint8], values: Sequence[InnerValue]) -> Arrays:
    """Computes those values that a file has, too, by their names in the engine's own file.

    The two may be of different precision: nodes and modules keep their names then, tensors need not.
    """
    names = {(value.level, value.name): value.tensor for value in values}
    theirs = {v.tensor: names[v.level, v.name] for v in inner_values(path) if (v.level, v.name) in names}
    with scratch_folder("gate") as folder:
        probed = folder / path.name
        write_with_outputs(path, list(theirs), probed)
        session = open_session(probed)
        outputs = session.run(network_inputs(session.manifest, photo))
    return {ours: outputs[tensor] for tensor, ours in theirs.items()}
