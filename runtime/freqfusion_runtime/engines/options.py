# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a build."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuildOptions:
    """Everything beside the model and the profiles that changes the engine.

    Attributes:
        workspace_mb: Memory that layers may use while they run, in MiB; None for the device's whole memory.
        optimization_level: 0 to 5: how long the builder searches; None for TensorRT's default of 3.
        tf32: Whether fp32 convolutions may round their inputs to TF32. Off, so that fp32 means fp32.
        version_compatible: Whether later versions of TensorRT can run the engine.
        hardware_compatible: Whether other GPUs, Ampere or later, can run it.
        serialize_plugins: Whether the plugin library travels inside the engine.
        refittable: Whether weights can be replaced later.
        strip_weights: Whether weights are left out, to be put back from the ONNX file.
        allow_function_bodies: Whether FreqFusion nodes may run without plugins.
    """

    workspace_mb: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    serialize_plugins: bool = False
    refittable: bool = False
    strip_weights: bool = False
    allow_function_bodies: bool = False

    @property
    def workspace_words(self) -> str:
        """For messages."""
        return "the whole device memory" if self.workspace_mb is None else f"{self.workspace_mb} MiB"
