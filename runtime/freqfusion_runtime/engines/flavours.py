# SPDX-License-Identifier: Apache-2.0
"""The flavours of TensorRT, and everything in which they differ; all other modules speak the API that they share.

``tensorrt`` 10.7 to 11.x needs a GPU to build, knows plugins, and ties an engine to one GPU and one version.
``tensorrt_rtx`` builds without a GPU, has no plugins (every FreqFusion node runs as its function body), compiles
kernels on the GPU that it meets, and its timing cache does nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from freqfusion_runtime.engines.errors import TensorRTMissingError, UnsupportedOptionError

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

# Up to 10.6 the parser takes a node's function body even where its plugin is registered.
OLDEST_TENSORRT = (10, 7)


@dataclass(frozen=True, eq=False)
class Flavour:
    """One installed TensorRT; ``api`` is its Python module."""

    name: FlavourName
    api: Any

    @property
    def version(self) -> str:
        """Such as ``11.4.0.106``."""
        return str(self.api.__version__)

    @property
    def label(self) -> str:
        """For messages."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.name == "tensorrt-rtx"

    @property
    def has_plugins(self) -> bool:
        """Whether FreqFusion nodes can become plugins; RTX refuses all plugins."""
        return not self.is_rtx

    @property
    def has_timing_cache(self) -> bool:
        """Whether keeping a timing cache helps. RTX takes one and ignores it, and asks for a GPU to do so."""
        return not self.is_rtx

    @property
    def has_runtime_cache(self) -> bool:
        """Whether kernels are compiled when an engine is run, and can be kept. TensorRT compiles none then."""
        return self.is_rtx and hasattr(self.api, "IRuntimeCache")

    @property
    def needs_gpu_to_build(self) -> bool:
        """Whether the builder measures on the GPU."""
        return not self.is_rtx

    @property
    def binds_to_gpu(self) -> bool:
        """Whether an engine runs on its builder's GPU model only. RTX engines run on Ampere, Ada and Blackwell."""
        return not self.is_rtx

    def network_flags(self) -> int:
        """Flags of a network that takes all types from the file: asked for in 10, the only kind from 11 on."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def can_capture(self, context: Any, stream: int) -> bool:
        """Whether what the context does for its shapes can become a CUDA graph; RTX says so, TensorRT always can."""
        return bool(context.is_stream_capturable(stream)) if self.is_rtx else True

    def check_options(
        self,
        *,
        version_compatible: bool,
        serialize_plugins: bool,
        refittable: bool,
        gpu: bool,
    ) -> None:
        """Refuses what this flavour cannot do.

        Raises:
            UnsupportedOptionError: Names the option and what to do without it.
        """
        if not self.is_rtx:
            if serialize_plugins and not version_compatible:
                raise UnsupportedOptionError(
                    "TensorRT puts plugin libraries into version-compatible engines only. "
                    "Add --version-compatible to --serialize-plugins, or leave both out."
                )
            return
        if version_compatible:
            raise UnsupportedOptionError(
                "TensorRT-RTX has no lean runtime to put into a version-compatible engine. "
                "Leave --version-compatible out, or build with --flavour tensorrt."
            )
        if serialize_plugins:
            raise UnsupportedOptionError(
                "TensorRT-RTX has no plugins to put into an engine. "
                "Leave --serialize-plugins out, or build with --flavour tensorrt."
            )
        if refittable and not gpu:
            raise UnsupportedOptionError(
                "TensorRT-RTX needs a GPU to build a refittable or weight-stripped engine, and there is none here. "
                "Build it on a machine with a GPU, or leave --refittable and --strip-weights out."
            )


def is_installed(name: FlavourName) -> bool:
    """Whether the flavour's Python module is there, without importing it."""
    return importlib.util.find_spec(MODULES[name]) is not None


def open_flavour(name: FlavourName | Literal["auto"]) -> Flavour:
    """Imports a flavour; ``auto`` takes TensorRT where it is installed, else TensorRT-RTX.

    Raises:
        TensorRTMissingError: If it is not installed, cannot be imported, or is too old.
    """
    names: tuple[FlavourName, ...] = ("tensorrt", "tensorrt-rtx") if name == "auto" else (name,)
    chosen = next((candidate for candidate in names if is_installed(candidate)), None)
    if chosen is None:
        raise TensorRTMissingError(" or ".join(f"the Python module {MODULES[n]}" for n in names))
    try:
        api = importlib.import_module(MODULES[chosen])
    except (ImportError, OSError) as e:
        raise TensorRTMissingError(f"the Python module {MODULES[chosen]}", f"cannot be imported: {e}") from e
    flavour = Flavour(chosen, api)
    if chosen == "tensorrt" and version_numbers(flavour.version)[:2] < OLDEST_TENSORRT:
        raise TensorRTMissingError(
            f"TensorRT {'.'.join(map(str, OLDEST_TENSORRT))} or later", f"is needed, {flavour.version} is installed"
        )
    return flavour


def version_numbers(version: str) -> tuple[int, ...]:
    """Reads ``11.4.0.106`` as numbers; what is no number ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
