# SPDX-License-Identifier: Apache-2.0
"""What every precision does in an export, and what it is handed to verify."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from freqfusion_runtime.model_files.manifest import Interface, KeptInFp32, Manifest, Preprocessing
from freqfusion_runtime.model_files.manifest import Precision as Name
from numpy.typing import NDArray
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.precision.calibration import Calibration


@dataclass(frozen=True)
class WrittenFile(ABC):
    """A file that was just written, beside the network it must agree with; ``verification`` has one for each kind.

    Attributes:
        path: The file.
        network: What it was exported from.
        interface: ``tensor`` or ``image``.
        preprocessing: Of pictures.
        full_size: Whether to compare an input of the largest size too, where that is more than the rest.
    """

    path: Path
    network: nn.Module
    interface: Interface
    preprocessing: Preprocessing
    full_size: bool = False

    @abstractmethod
    def compare(self, precision: str, sessions: Sequence[Any]) -> dict[str, float]:
        """Compares the file with its network on made-up inputs.

        Args:
            precision: Whose tolerance it is held to.
            sessions: The file, opened in every way its precision is to be tried; see ``open_written``.

        Returns:
            The worst of each measure.

        Raises:
            VerificationError: If the file computes something else.
        """

    def outputs(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What a network of the user's own computes from arrays, by name.

        Raises:
            ExportError: If it takes pictures.
        """
        raise ExportError("arrays calibrate networks of arrays, and this one takes pictures; name a folder of pictures")

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a network of one input and one output computes from prepared images."""
        with torch.inference_mode():
            result: NDArray[np.float32] = self.network(torch.from_numpy(images)).numpy()
        return result


@dataclass(frozen=True)
class Precision(ABC):
    """A precision, and what was asked of it.

    Attributes:
        name: Of the precision.
        keep_fp32: Patterns of node, module and stage names that stay in fp32.
        calibration: Pictures to look for ranges with.
    """

    name: Name
    keep_fp32: Sequence[str] = ()
    calibration: Calibration | None = None

    @abstractmethod
    def check(self) -> None:
        """Raises ``ExportError`` if what is asked makes no sense, as far as that shows without the network."""

    @abstractmethod
    def apply(self, model: ir.Model, preprocessing: Preprocessing) -> tuple[ir.Model, tuple[KeptInFp32, ...]]:
        """Types an fp32 network.

        Args:
            model: It may be changed.
            preprocessing: How the calibration's pictures become inputs.

        Returns:
            The typed network; what stayed in fp32, and why.

        Raises:
            ExportError: If it cannot be done as asked.
        """

    @abstractmethod
    def verify(self, file: WrittenFile) -> None:
        """Compares a written file with the network.

        Raises:
            VerificationError: If it is malformed, cannot run, or computes something else.
        """

    @property
    def calibration_method(self) -> str:
        """How ranges are taken from pictures."""
        return "range"

    def describe(self, manifest: Manifest, islands: tuple[KeptInFp32, ...]) -> Manifest:
        """Adds to an fp32 network's manifest what became of it."""
        manifest = replace(manifest, precision=self.name, islands=islands)
        if self.calibration is None:
            return manifest
        return replace(
            manifest,
            calibration_method=self.calibration_method,
            calibration_pictures=len(self.calibration.pictures),
            calibration_sha256=self.calibration.sha256,
        )
