# SPDX-License-Identifier: Apache-2.0
"""A network in PyTorch behind the runtime's session interface, so that both have the same pre- and post-processing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from freqfusion import native
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.sessions.input_checks import check_inputs, check_sides
from freqfusion_runtime.sessions.protocol import OperatorPath
from numpy.typing import NDArray
from torch import Tensor, nn


class PytorchSession:
    """Runs a network in PyTorch; see :class:`freqfusion_runtime.sessions.protocol.Session`.

    Args:
        network: In evaluation mode.
        path: Where its weights came from, for messages.
        manifest: Of the tensor interface; its inputs and outputs are the network's, in order.
        device: Where to run.
        by_definition: Compute FreqFusion's operators by their PyTorch definitions, even where native kernels are there.
    """

    def __init__(
        self, network: nn.Module, path: Path, manifest: Manifest, device: str = "cpu", by_definition: bool = False
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.provider = f"PyTorch {torch.__version__}, {device}"
        self.operator_paths: tuple[OperatorPath, ...] = ()  # there are no nodes
        self._network = network.to(device)
        self._device = device
        self._by_definition = by_definition

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes all outputs.

        Raises:
            InputError: If a name, dtype or shape is not what the network takes.
        """
        check_inputs(self.path, self.manifest.inputs, inputs)
        check_sides(self.manifest, inputs)
        # Copies: what came from a client cannot be written to.
        tensors = [torch.tensor(inputs[spec.name], device=self._device) for spec in self.manifest.inputs]
        with torch.inference_mode(), native.disabled() if self._by_definition else nullcontext():
            results = self._network(*tensors)
        values = [results] if isinstance(results, Tensor) else results
        return {spec.name: value.cpu().numpy() for spec, value in zip(self.manifest.outputs, values, strict=True)}
