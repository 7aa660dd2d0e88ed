# SPDX-License-Identifier: Apache-2.0
"""What every engine offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from freqfusion_runtime.model_files.manifest import Manifest

PLAN_SUFFIXES = (".plan", ".engine")

Provider = Literal["cpu", "cuda"]
Kernels = Literal["auto", "never", "require"]


@dataclass(frozen=True)
class OperatorPath:
    """How one FreqFusion node is computed: ``kernel`` by our library, ``function body`` by standard operators."""

    node: str
    operator: str
    path: Literal["kernel", "function body"]


class Session(Protocol):
    """A model ready to run. Safe to call from several threads."""

    @property
    def path(self) -> Path:
        """The model file."""

    @property
    def manifest(self) -> Manifest:
        """What the file says about itself."""

    @property
    def provider(self) -> str:
        """Where it runs, in the engine's own words."""

    @property
    def operator_paths(self) -> tuple[OperatorPath, ...]:
        """How each FreqFusion node runs, as found in the network the engine made of the file."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes all outputs.

        Args:
            inputs: Every input of the model by name, with the dtype and a shape that the manifest names.

        Raises:
            InputError: If a name, dtype or shape is not what the model takes.
        """
