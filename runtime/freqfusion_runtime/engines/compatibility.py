# SPDX-License-Identifier: Apache-2.0
"""Whether an engine can run here: with this TensorRT, on this GPU, with this plugin library."""

from __future__ import annotations

from pathlib import Path

from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.errors import (
    CorruptPlanError,
    EngineDeviceError,
    EngineError,
    EngineMemoryError,
    EnginePluginError,
    EngineVersionError,
    rebuild,
)
from freqfusion_runtime.engines.flavours import Flavour, version_numbers
from freqfusion_runtime.engines.messages import Messages
from freqfusion_runtime.engines.plugin_library import PluginIdentity
from freqfusion_runtime.engines.record import EngineRecord


def check_version(path: Path, record: EngineRecord, flavour: Flavour) -> None:
    """Compares the builder's version with the one that is here.

    Raises:
        EngineVersionError: If they differ; a version-compatible engine runs on every later one too.
    """
    built, here = version_numbers(record.tensorrt_version), version_numbers(flavour.version)
    runs = record.flavour == flavour.name and (
        built == here or (record.options.version_compatible and built[:2] <= here[:2])
    )
    if not runs:
        raise EngineVersionError(path, record.builder_label, flavour.label)


def check_gpu(path: Path, record: EngineRecord, gpu: GpuIdentity) -> None:
    """Compares the GPU it was built on with the one that is here.

    Raises:
        EngineDeviceError: If they differ; a hardware-compatible engine runs on every one since Ampere.
    """
    if record.gpu is None or record.gpu == gpu:
        return
    if record.options.hardware_compatible and version_numbers(gpu.compute_capability) >= (8, 0):
        return
    raise EngineDeviceError(path, record.gpu.label, gpu.label)


def check_plugin(path: Path, record: EngineRecord, found: PluginIdentity) -> None:
    """Compares the plugin library that it was built with with the one that is here.

    Raises:
        EnginePluginError: If they are different files.
    """
    if record.plugin is not None and record.plugin.sha256 != found.sha256:
        raise EnginePluginError(path, record.plugin.label, found.label)


def refusal(path: Path, flavour: Flavour, messages: Messages) -> EngineError:
    """Makes the error of a plan that TensorRT would not read, from what it said."""
    said, reason = " ".join(messages.errors).lower(), messages.reason()
    if "out of memory" in said or "outofmemory" in said:
        return EngineMemoryError(
            f"{path} does not fit into the GPU's memory: {reason}. Free memory (`nvidia-smi` shows who has it), or "
            "build the engine with a smaller --max."
        )
    if "version" in said and ("not compatible" in said or "expecting library version" in said or "tag" in said):
        return EngineVersionError(path, f"another TensorRT ({reason})", flavour.label)
    if "plugin" in said and ("not found" in said or "creator" in said):
        return EnginePluginError(path, f"plugins that are not loaded ({reason})", "no such library")
    if "compute capability" in said or "different device" in said or "gpu" in said:
        return EngineDeviceError(path, f"another GPU ({reason})", "another one")
    return CorruptPlanError(f"{path} cannot be read by {flavour.label}: {reason}. {rebuild(path)} makes it anew.")
