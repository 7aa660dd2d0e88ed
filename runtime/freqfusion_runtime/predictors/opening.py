# SPDX-License-Identifier: Apache-2.0
"""Opens a model file with the engine that its suffix names."""

from __future__ import annotations

import os
from pathlib import Path

from freqfusion_runtime.errors import KernelLibraryError
from freqfusion_runtime.sessions.protocol import PLAN_SUFFIXES, Kernels, Provider, Session


def open_session(
    path: str | os.PathLike[str],
    *,
    provider: Provider = "cpu",
    threads: int = 0,
    kernels: Kernels = "auto",
    trust: bool = False,
) -> Session:
    """Opens a model file with the engine that its suffix names.

    Args:
        path: An ``.onnx`` file written by ``freqfusion export``, or a ``.plan`` written by ``freqfusion build``.
        provider: Where an ONNX file is to run; a plan runs on its GPU. Nothing else is tried when it cannot be had.
        threads: Cores to use for one call, 0 for all.
        kernels: ``auto`` uses our custom-operator library where it is found, ``never`` runs on standard operators
            only, ``require`` refuses to run any FreqFusion node otherwise than by a kernel. An engine's nodes were
            settled when it was built; ``never`` refuses one with plugins, ``require`` one in which an operator that
            has a plugin runs otherwise.
        trust: Load a plan that is not the one its manifest tells of. A plan is code.

    Raises:
        ModelFileError, ManifestError, ProviderError, KernelLibraryError, EngineError: See there.
    """
    if Path(path).suffix in PLAN_SUFFIXES:
        from freqfusion_runtime.engines.tensorrt_session import TensorRTSession

        engine = TensorRTSession(path, trust=trust)
        _check_engine_kernels(engine, kernels)
        return engine
    # ONNX Runtime takes 0.1 s to import, and another engine's file needs none of it.
    from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(path, provider=provider, threads=threads, kernels=kernels)


def _check_engine_kernels(engine: Session, kernels: Kernels) -> None:
    from freqfusion_runtime.engines.plugin_library import OPERATORS  # of no use to ONNX files

    unwanted = {"never": "kernel", "require": "function body"}.get(kernels)
    # An operator without a plugin (PrepareImage, PyramidRoiAlign) runs as its function body on every engine.
    nodes = [entry.node for entry in engine.operator_paths if entry.path == unwanted and entry.operator in OPERATORS]
    if nodes:
        raise KernelLibraryError(
            f"{engine.path}: {len(nodes)} FreqFusion nodes run by {unwanted}, which kernels={kernels!r} forbids: "
            f"{', '.join(nodes)}. Build the engine so with `freqfusion build`, or leave the option out."
        )
