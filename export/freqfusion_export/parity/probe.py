# SPDX-License-Identifier: Apache-2.0
"""Looks inside a running ONNX file: intermediate values as further outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from freqfusion_runtime.files import scratch_folder
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.protocol import Kernels
from numpy.typing import NDArray

from freqfusion_export.passes.label_stages import STAGE_KEY
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.precision.emulation import emulated

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class Probe:
    """An exported file whose intermediate values can be read.

    A half-typed file is computed in fp32 with every rounding it asks for, as the hardware it is for would; ONNX Runtime
    itself would leave most of them out (``WidenToFp32Pass``).

    Args:
        path: The file.
        kernels: Whether FreqFusion nodes run on our kernels, as the runtime takes it.
        threads: Cores to use, 0 for all.
    """

    def __init__(self, path: Path, kernels: Kernels = "auto", threads: int = 0) -> None:
        self._path, self._kernels, self._threads = path, kernels, threads
        self.graph = ir.load(path).graph

    @property
    def stages(self) -> dict[str, str]:
        """Value names by the module whose result they are, in the graph's order."""
        marked = ((node.metadata_props.get(STAGE_KEY), node) for node in self.graph)
        return {stage: str(node.outputs[0].name) for stage, node in marked if stage is not None}

    @property
    def operators(self) -> list[ir.Node]:
        """The FreqFusion nodes."""
        return [node for node in self.graph if node.domain == DOMAIN]

    def is_half(self, name: str) -> bool:
        """Whether the file has the value called ``name`` in 16 bits, so that it is rounded to them."""
        values = [*self.graph.inputs, *(value for node in self.graph for value in node.outputs)]
        return any(value.name == name and value.dtype in _HALF for value in values)

    def read(self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Computes the model's outputs and the values called ``names``; inputs may be among them."""
        return self.read_variant(emulated(self._path), inputs, names)

    def read_variant(
        self, model: ir.Model, inputs: Mapping[str, NDArray[Any]], names: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """As :meth:`read`, for a variant of the file's network; changes ``model``."""
        values = {str(v.name): v for node in model.graph for v in node.outputs}
        known = {str(value.name) for value in model.graph.outputs}
        model.graph.outputs.extend(
            values[name] for name in dict.fromkeys(names) if name in values and name not in known
        )
        with scratch_folder("parity") as folder:
            probed = folder / self._path.name
            ir.save(model, probed)
            session = open_session(probed, kernels=self._kernels, threads=self._threads)
            return {**inputs, **session.run(inputs)}
