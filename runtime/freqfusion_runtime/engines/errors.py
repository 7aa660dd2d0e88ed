# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with an engine; each message is a fact, then the remedy, which `freqfusion doctor` also prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from freqfusion_runtime.errors import FreqFusionError, InputError, ManifestError, ModelFileError

INSTALL_TENSORRT = "pip install 'freqfusion-deploy[gpu]' (TensorRT) or 'freqfusion-deploy[rtx]' (TensorRT-RTX)"
INSTALL_DRIVER = "Install the NVIDIA driver and check it with `nvidia-smi`, or use a machine that has a GPU"
BUILD_PLUGIN = "Build it with `python scripts/build_plugins.py --cuda on --require tensorrt`"


class EngineError(FreqFusionError):
    """Root of what concerns TensorRT engines."""


class TensorRTMissingError(EngineError):
    """No TensorRT that could do what was asked is installed."""

    def __init__(self, wanted: str, reason: str = "is not installed") -> None:
        super().__init__(f"{wanted} {reason}. Install it with: {INSTALL_TENSORRT}.")


class GpuMissingError(EngineError):
    """There is no GPU, or no driver for it."""

    def __init__(self, purpose: str, found: str) -> None:
        super().__init__(f"{purpose} needs an NVIDIA GPU, and {found}. {INSTALL_DRIVER}.")


class CudaError(EngineError):
    """A call of the CUDA runtime failed."""


class PluginLibraryError(EngineError):
    """The TensorRT plugin library is missing, or cannot be loaded."""


class UnsupportedOptionError(EngineError):
    """An option that this flavour of TensorRT does not have, or not here."""


class MisreadOperatorError(EngineError, ModelFileError):
    """The model holds operators that TensorRT would silently compute wrongly."""

    def __init__(self, path: Path, nodes: Sequence[str]) -> None:
        super().__init__(
            f"{path}: {len(nodes)} GridSample nodes of opset 20 or later, which TensorRT's parser reads as "
            f"mode=nearest without a word: {', '.join(nodes)}. "
            "Export the model again with `freqfusion export`, which writes opset 18 and no GridSample."
        )


class UnknownOperatorsError(EngineError, ModelFileError):
    """The model holds operators that TensorRT has neither a layer nor a plugin nor a function body for."""

    def __init__(self, path: Path, flavour: str, nodes: Sequence[str]) -> None:
        super().__init__(
            f"{path}: {flavour} cannot take {len(nodes)} of its nodes: {'; '.join(nodes)}. "
            "Load the library that brings the operator with --plugin, or write the model with `freqfusion export`."
        )


class FunctionBodiesError(EngineError):
    """FreqFusion nodes would run as their function bodies, which nobody asked for."""

    def __init__(self, path: Path, nodes: Sequence[str], cause: str) -> None:
        super().__init__(
            f"{path}: {len(nodes)} FreqFusion nodes fell to their function bodies: {', '.join(nodes)}. {cause} "
            "To build without plugins all the same, add --allow-function-bodies."
        )


class BuildFailedError(EngineError):
    """TensorRT gave up, for a reason that has no class of its own."""


class BuildInterruptedError(EngineError):
    """The build was stopped; no plan was written and the timing cache is as it was."""

    def __init__(self, subject: Path) -> None:
        super().__init__(
            f"the build of {subject} was interrupted: no plan was written, and the timing cache is as it was. "
            "Start the same command again."
        )


class EngineMemoryError(EngineError):
    """The device's or the host's memory, or the workspace allowed, is too small."""


class CorruptPlanError(EngineError, ModelFileError):
    """A plan is no plan, or damaged."""


class UntrustedPlanError(EngineError, ManifestError):
    """A plan is not the one its manifest tells of."""


class EngineVersionError(EngineError):
    """A plan was built by another TensorRT."""

    def __init__(self, path: Path, built_by: str, found: str) -> None:
        super().__init__(
            f"{path} was built by {built_by}, and this machine has {found}. "
            f"Install that version, or build the engine again here: {rebuild(path)}."
        )


class EngineDeviceError(EngineError):
    """A plan was built for another GPU."""

    def __init__(self, path: Path, built_for: str, found: str) -> None:
        super().__init__(
            f"{path} was built for {built_for}, and this machine has {found}. "
            f"Build the engine again here: {rebuild(path)}; --hardware-compatible makes one for several GPUs."
        )


class EnginePluginError(EngineError):
    """A plan was built with another plugin library."""

    def __init__(self, path: Path, built_with: str, found: str) -> None:
        super().__init__(
            f"{path} was built with {built_with}, and {found} is here. "
            f"Put that library back, or build the engine again: {rebuild(path)}."
        )


class ProfileOptionError(EngineError):
    """Sizes asked for on the command line that make no optimisation profile."""


class ProfileError(EngineError, InputError):
    """An input's shape lies outside every optimisation profile of the engine."""


class CacheLimitError(EngineError):
    """The limit of the engine cache is no number."""


class GateError(EngineError):
    """The gate has nothing to compare, or cannot compare it."""


def rebuild(path: Path) -> str:
    """Words the command that makes an engine anew."""
    return f"`freqfusion build MODEL.onnx --output {shlex.quote(str(path))}`"
