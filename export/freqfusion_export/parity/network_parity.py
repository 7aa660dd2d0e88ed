# SPDX-License-Identifier: Apache-2.0
"""Compares an exported network of the user's own with its PyTorch module: operators, modules, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from freqfusion import native
from freqfusion_runtime.agreement.comparison import Comparison, compare
from freqfusion_runtime.agreement.tolerances import INSIDE_BOUNDS, LOGIT_BOUNDS, OPERATOR_BOUNDS
from freqfusion_runtime.sessions.input_checks import check_inputs, check_sides
from freqfusion_runtime.sessions.protocol import Kernels
from numpy.typing import NDArray
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.own_network import takes_by_keyword
from freqfusion_export.networks.user_code import check_module
from freqfusion_export.parity.probe import Probe
from freqfusion_export.parity.segmenter_parity import COMPARED, by_definition, read_manifest, record_stage

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class InputParity:
    """What the comparison found on one set of inputs.

    Attributes:
        name: Of the set.
        comparisons: Every compared array, in the order of computation.
        inputs: The inputs, by name.
        expected: What the network puts out in PyTorch, by name.
    """

    name: str
    comparisons: list[Comparison]
    inputs: Arrays
    expected: Arrays
    label_agreement: None = None  # there are no labels

    @property
    def agrees(self) -> bool:
        """Whether everything is within its tolerance."""
        return all(comparison.agrees for comparison in self.comparisons)

    @property
    def first_mismatch(self) -> Comparison | None:
        """The first array beyond its tolerance."""
        return next((comparison for comparison in self.comparisons if not comparison.agrees), None)


class NetworkParity:
    """Compares one exported file with one PyTorch module.

    Args:
        path: The file.
        network: What it was exported from, with equal weights.
        kernels: As the runtime takes it.
        layers: Whether to compare every labelled module's result, not only FreqFusion's.
        threads: Cores to use, 0 for all.

    Raises:
        ExportError: If the file has no manifest, or the network cannot be compared.
    """

    least_miou = 0.0

    def __init__(
        self, path: Path, network: nn.Module, kernels: Kernels = "auto", layers: bool = False, threads: int = 0
    ) -> None:
        check_module(network)
        self.network = network
        self.layers = layers
        self.probe = Probe(path, kernels, threads)
        self.manifest = read_manifest(path)
        self.precision = self.manifest.precision
        self._path = path

    def on_inputs(self, name: str, inputs: Arrays) -> InputParity:
        """Runs both on one set of inputs; PyTorch with its plain definitions.

        Raises:
            InputError: If the file does not take them.
            ExportError: If the module is none that the file was exported from.
        """
        check_inputs(self._path, self.manifest.inputs, inputs)
        check_sides(self.manifest, inputs)
        stages = {
            stage: value
            for stage, value in self.probe.stages.items()
            if self.layers or stage.endswith((".hr_out", ".lr_out"))
        }
        outputs, by_stage = self._by_pytorch(inputs, list(stages))
        names = [*outputs, *stages.values()]
        names += [str(value.name) for node in self.probe.operators for value in (*node.inputs, *node.outputs) if value]
        found = self.probe.read(inputs, names)
        comparisons = []
        for node in self.probe.operators:
            if node.op_type in COMPARED:
                tensors = [torch.from_numpy(found[str(value.name)]) for value in node.inputs if value is not None]
                tensors = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
                expected = by_definition(node, tensors).numpy()
                actual = found[str(node.outputs[0].name)]
                bound = OPERATOR_BOUNDS[self.precision]
                comparisons.append(compare("operator", f"{node.op_type} {node.name}", actual, expected, bound))
        for stage, value in stages.items():
            if stage in by_stage:
                level = "module" if stage.endswith((".hr_out", ".lr_out")) else "layer"
                bound = INSIDE_BOUNDS[self.precision]
                comparisons.append(compare(level, stage, found[value], by_stage[stage], bound))
        return InputParity(name, [*comparisons, *self._outputs(found, outputs)], inputs, outputs)

    def on_variant(self, model: ir.Model, known: InputParity) -> InputParity:
        """Runs a variant of the file's network on inputs that were compared before; only outputs are."""
        found = self.probe.read_variant(model, known.inputs, list(known.expected))
        return replace(known, comparisons=self._outputs(found, known.expected))

    def miou_of(self, results: Sequence[InputParity]) -> None:
        """There are no labels."""

    def _outputs(self, found: Arrays, expected: Arrays) -> list[Comparison]:
        bound = LOGIT_BOUNDS[self.precision]
        return [compare("network", name, found[name], expected[name], bound) for name in expected]

    def _by_pytorch(self, inputs: Arrays, stages: Sequence[str]) -> tuple[Arrays, Arrays]:
        tensors = {spec.name: torch.from_numpy(inputs[spec.name]) for spec in self.manifest.inputs}
        results: dict[str, NDArray[Any]] = {}
        kind = type(self.network).__name__
        try:
            handles = [record_stage(self.network, stage, results) for stage in stages]
        except AttributeError as e:
            raise ExportError(
                f"{self._path} has the modules of another network: {kind} lacks one ({e}). Name what it was "
                "exported from"
            ) from e
        try:
            with torch.inference_mode(), native.disabled():
                by_keyword = takes_by_keyword(self.network, tensors)
                found = self.network(**tensors) if by_keyword else self.network(*tensors.values())
        finally:
            for handle in handles:
                handle.remove()
        leaves = torch.utils._pytree.tree_leaves(found)
        if len(leaves) != len(self.manifest.outputs):
            raise ExportError(
                f"{self._path} has {len(self.manifest.outputs)} outputs, {kind} {len(leaves)}. "
                "Name what it was exported from"
            )
        return {spec.name: leaf.numpy() for spec, leaf in zip(self.manifest.outputs, leaves, strict=True)}, results
