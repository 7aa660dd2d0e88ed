# SPDX-License-Identifier: Apache-2.0
"""Compares an exported file with its PyTorch model, from single operators to label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from freqfusion import native
from freqfusion_runtime.agreement.comparison import Comparison, compare, label_agreement, mean_iou, mean_iou_of_set
from freqfusion_runtime.agreement.tolerances import (
    INSIDE_BOUNDS,
    LOGIT_BOUNDS,
    MAX_ERROR_FP32,
    OPERATOR_BOUNDS,
    TASK_BOUNDS,
)
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.results.labels import labels_of_outputs
from freqfusion_runtime.sessions.protocol import Kernels
from numpy.typing import NDArray
from torch import Tensor, nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.manifests import network_outputs
from freqfusion_export.parity import mmcv_peer
from freqfusion_export.parity.probe import Probe
from freqfusion_export.parity.pytorch_run import labels_of, outputs_of
from freqfusion_export.verification.hidden_keys import HEAD, KeyRecorder, compare_keys, hidden_values

# ONNX operator -> PyTorch operator, and the attributes in the order of the latter's arguments.
_REASSEMBLY = ("kernel_size", "group_size", "scale_factor")
OPERATORS = {
    "Carafe": ("carafe", _REASSEMBLY),
    "AdaptiveFilter": ("adaptive_filter", ("window", *_REASSEMBLY, "mode")),
    "LocalSimilarity": ("local_similarity", ("kernel_size", "dilation")),
    "OffsetResample": ("offset_resample", ("groups",)),
}
# And one with the sizes of levels as its last input: for several pictures it cannot stand alone in one file, as the
# others do in reference data, which hold its results inside the network only.
COMPARED = {**OPERATORS, "DeformableAttention": ("deformable_attention", ())}
LOGITS = "logits"
IMAGES = "images"


@dataclass(frozen=True)
class PictureParity:
    """What the comparison found on one picture.

    Attributes:
        name: The picture.
        comparisons: Every compared array, from the input on.
        label_agreement: Share of pixels with equal labels.
        miou: Mean IoU between the two label maps of this picture alone; :func:`miou_of_set` is held to the bound.
        photo: The picture.
        labels: The file's label map.
        expected: PyTorch's label map.
        expected_outputs: What the network puts out in PyTorch, by name.
        least_agreement: Bound of ``label_agreement``.
    """

    name: str
    comparisons: list[Comparison]
    label_agreement: float
    miou: float
    photo: NDArray[np.uint8]
    labels: NDArray[Any]
    expected: NDArray[Any]
    expected_outputs: Mapping[str, NDArray[Any]]
    least_agreement: float

    @property
    def agrees(self) -> bool:
        """Whether everything that a picture alone is judged by is within its tolerance."""
        return self.label_agreement >= self.least_agreement and all(c.agrees for c in self.comparisons)

    @property
    def first_mismatch(self) -> Comparison | None:
        """The first array beyond its tolerance, in the order of computation."""
        return next((comparison for comparison in self.comparisons if not comparison.agrees), None)


def miou_of_set(results: Sequence[PictureParity]) -> float:
    """Mean IoU between the label maps of all pictures, counted over the set."""
    return mean_iou_of_set([result.labels for result in results], [result.expected for result in results])


class Parity:
    """Compares one exported file with one PyTorch model.

    Args:
        path: The file.
        network: The model it was exported from, with equal weights and bases.
        kernels: As the runtime takes it.
        layers: Whether to compare every labelled module's result, not only FreqFusion's.
        threads: Cores to use, 0 for all.

    Raises:
        ExportError: If the file has no manifest.
    """

    def __init__(
        self, path: Path, network: nn.Module, kernels: Kernels = "auto", layers: bool = False, threads: int = 0
    ) -> None:
        self.network = network
        self.layers = layers
        self.probe = Probe(path, kernels, threads)
        self.manifest = read_manifest(path)
        self.precision = self.manifest.precision
        self.least_miou = TASK_BOUNDS[self.precision][1]

    def on_picture(self, picture: Path) -> PictureParity:
        """Runs both on one picture; PyTorch with its plain definitions and the official pre-processing."""
        photo = read_picture(picture)
        images, inputs = self._inputs(photo)
        wanted = self._wanted_stages()
        stages = {stage: value for stage, value in self.probe.stages.items() if stage in wanted}
        outputs = [spec.name for spec in network_outputs(self.manifest)]
        hidden = hidden_values(self.probe.graph)
        names = [IMAGES, *outputs, *hidden, *stages.values()]
        names += [str(value.name) for node in self.probe.operators for value in (*node.inputs, *node.outputs) if value]
        found = self.probe.read(inputs, names)
        # No two roundings agree behind a key that only one of them hides, so that PyTorch is given the file's.
        given = [found[name] for name in hidden] if hidden and self.precision != "fp32" else None
        with KeyRecorder(self.network, given) as keys:
            expected = self._by_pytorch(images, wanted)

        bound = OPERATOR_BOUNDS[self.precision] if self.probe.is_half(IMAGES) else MAX_ERROR_FP32
        comparisons = [compare("preprocessing", IMAGES, found[IMAGES], images, bound)]
        comparisons += self._operators(found)
        by_layer, holds = compare_keys(hidden, found, keys.logits, self.precision)
        behind = [inside for inside in stages if inside.startswith(HEAD)]
        for stage, value in stages.items():
            level = "module" if ".freqfusions." in stage else "layer"
            bound = INSIDE_BOUNDS[self.precision] if holds or stage not in behind else inf
            comparisons.append(compare(level, stage, found[value], expected[stage], bound))
        comparisons += by_layer
        bound = LOGIT_BOUNDS[self.precision] if holds else inf
        comparisons += [compare("network", name, found[name], expected[name], bound) for name in outputs]

        results = {name: expected[name] for name in outputs} if given is None else self._by_pytorch(images, [])
        labels = labels_of(results, self.manifest, photo)
        actual = self._labels(found, photo)
        return PictureParity(
            picture.name,
            comparisons,
            label_agreement(actual, labels),
            mean_iou(actual, labels),
            photo,
            actual,
            labels,
            results,
            TASK_BOUNDS[self.precision][0],
        )

    def on_variant(self, model: ir.Model, known: PictureParity) -> PictureParity:
        """Runs a variant of the file's network on a picture that was compared before; only logits and labels are."""
        _, inputs = self._inputs(known.photo)
        found = self.probe.read_variant(model, inputs, [LOGITS])
        logits = compare("network", LOGITS, found[LOGITS], known.expected_outputs[LOGITS], LOGIT_BOUNDS[self.precision])
        labels = self._labels(found, known.photo)
        agreement, miou = label_agreement(labels, known.expected), mean_iou(labels, known.expected)
        return replace(known, comparisons=[logits], labels=labels, label_agreement=agreement, miou=miou)

    @staticmethod
    def miou_of(results: Sequence[PictureParity]) -> float:
        """Mean IoU over a set of pictures, which :attr:`least_miou` bounds."""
        return miou_of_set(results)

    def _inputs(self, photo: NDArray[np.uint8]) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """The network's images of a picture, and the file's inputs."""
        images = prepare(photo, self.manifest.preprocessing)
        is_image = self.manifest.interface == "image"
        return images, {self.manifest.inputs[0].name: photo[None] if is_image else images}

    def _labels(self, found: Mapping[str, NDArray[Any]], photo: NDArray[np.uint8]) -> NDArray[Any]:
        """The file's label map at the picture's size."""
        if self.manifest.interface == "image":
            labels: NDArray[Any] = found[self.manifest.outputs[0].name][0]
            return labels
        # The runtime refuses scores that overflowed; here the logits' comparison says so.
        names = [spec.name for spec in self.manifest.outputs]
        finite = {name: np.nan_to_num(found[name], nan=0, posinf=0, neginf=0) for name in names}
        return labels_of_outputs(finite, (photo.shape[0], photo.shape[1]), self.manifest)

    def _wanted_stages(self) -> list[str]:
        """Modules to compare: FreqFusion's results always, every labelled module's on request."""
        stages = self.probe.stages
        return [stage for stage in stages if self.layers or stage.endswith((".hr_out", ".lr_out"))]

    def _by_pytorch(self, images: NDArray[np.float32], stages: Sequence[str]) -> dict[str, NDArray[Any]]:
        results: dict[str, NDArray[Any]] = {}
        handles = [record_stage(self.network, stage, results) for stage in stages]
        try:
            with torch.inference_mode(), native.disabled():
                outputs = outputs_of(self.network, network_outputs(self.manifest), torch.from_numpy(images))
                results |= {name: value.numpy() for name, value in outputs.items()}
        finally:
            for handle in handles:
                handle.remove()
        return results

    def _operators(self, found: dict[str, NDArray[Any]]) -> list[Comparison]:
        """Runs each FreqFusion node's PyTorch definition, in fp64, on the node's own inputs."""
        comparisons = []
        for node in self.probe.operators:
            if node.op_type not in COMPARED:
                continue  # pictures to images, scores to labels: compared as such
            tensors = [torch.from_numpy(found[str(value.name)]) for value in node.inputs if value is not None]
            tensors = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
            expected = by_definition(node, tensors).numpy()
            actual = found[str(node.outputs[0].name)]
            bound = OPERATOR_BOUNDS[self.precision]
            comparisons.append(compare("operator", f"{node.op_type} {node.name}", actual, expected, bound))
            if node.op_type == "AdaptiveFilter" and "padding" not in node.attributes and mmcv_peer.is_available():
                on_device = [tensor.float().cuda() for tensor in tensors]
                values: list[Any] = [node.attributes[name].value for name in OPERATORS[node.op_type][1]]
                by_mmcv = mmcv_peer.adaptive_filter(on_device[0], on_device[1], *values).cpu().numpy()
                comparisons.append(compare("operator", f"mmcv, {node.name}", actual, by_mmcv, bound))
        return comparisons


def by_definition(node: ir.Node, tensors: Sequence[Tensor]) -> Tensor:
    """Computes a FreqFusion node by its operator's PyTorch definition."""
    operator, attributes = COMPARED[node.op_type]
    values = [node.attributes[name].value for name in attributes]
    if "padding" in node.attributes:
        values.append(node.attributes["padding"].value)
    arguments = [tensor if tensor.is_floating_point() else tensor.tolist() for tensor in tensors]
    with native.disabled():
        return cast(Tensor, getattr(torch.ops.freqfusion, operator)(*arguments, *values))


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest inside an exported file.

    Raises:
        ExportError: If it has none.
    """
    text = ir.load(path).metadata_props.get(METADATA_KEY)
    if text is None:
        raise ExportError(f"{path} carries no manifest; it was not written by `freqfusion export`")
    return Manifest.from_json(text, source=str(path))


def record_stage(network: nn.Module, stage: str, results: dict[str, NDArray[Any]]) -> Any:
    """Keeps the result of the module that ``stage`` names; ``hr_out`` and ``lr_out`` are parts of a triple."""
    module, index = stage, None
    for position, suffix in ((1, ".hr_out"), (2, ".lr_out")):
        if stage.endswith(suffix):
            module, index = stage.removesuffix(suffix), position

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        value = output if index is None else output[index]
        if isinstance(value, Tensor):  # a detector's heads return several
            results[stage] = value.numpy()

    return network.get_submodule(module).register_forward_hook(keep)
