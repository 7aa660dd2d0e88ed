# SPDX-License-Identifier: Apache-2.0
"""Compares a written network of the user's own with the module it came from: every output, at several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
from freqfusion_runtime.model_files.onnx_nodes import list_nodes
from freqfusion_runtime.sessions.kernel_library import library_fault, usable_library
from numpy.typing import NDArray

from freqfusion_export.errors import VerificationError
from freqfusion_export.networks.own_network import NetworkForm
from freqfusion_export.precision.protocol import WrittenFile

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class NetworkFile(WrittenFile):
    """A file of tensors in and tensors out.

    Attributes:
        form: What goes in and comes out.
    """

    form: NetworkForm

    def compare(self, precision: str, sessions: Sequence[Any]) -> dict[str, float]:
        """See ``WrittenFile``: at the example inputs, at smaller sizes and at larger ones, with kernels besides.

        Returns:
            The worst error over the standard deviation of an output, and the least share of equal whole numbers.
        """
        ways = [*sessions, *(_with_kernels(self.path) if precision == "fp32" else ())]
        worst = {"error": 0.0, "equal": 1.0}
        for place, sizes in enumerate(self.form.checked_sizes()):
            tensors = self.form.resized(sizes)
            try:
                expected = {name: value.numpy() for name, value in self.form.call(self.network, tensors).items()}
            except Exception:
                if place != 1:
                    raise
                continue  # the network itself takes none so small
            feed = {name: tensor.numpy() for name, tensor in tensors.items()}
            for session in ways:
                actual = dict(zip(expected, _run(session, feed), strict=True))
                for name, values in expected.items():
                    measure, found = difference(name, actual[name], values, feed, precision)
                    keep = max if measure == "error" else min
                    worst[measure] = keep(worst[measure], found)
        return worst

    def outputs(self, feed: Arrays) -> dict[str, NDArray[Any]]:
        """See ``WrittenFile``."""
        tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
        return {name: value.numpy() for name, value in self.form.call(self.network, tensors).items()}


def difference(
    name: str, actual: NDArray[Any], expected: NDArray[Any], feed: Arrays, precision: str
) -> tuple[str, float]:
    """How far an output is off: what is measured, and its value.

    Raises:
        VerificationError: If that is too far, or there is nothing to compare with.
    """
    shapes = ", ".join(f"{tensor} {'x'.join(map(str, value.shape))}" for tensor, value in feed.items())
    if actual.shape != expected.shape:
        raise VerificationError(
            f"output {name!r} of the exported graph has shape {actual.shape} at {shapes}, the network's "
            f"{expected.shape}; say which axes are free in dynamic, and make forward compute with the sizes that come"
        )
    if expected.dtype.kind != "f":
        share = float((actual == expected).mean())
        if share < TASK_BOUNDS[precision][0]:
            raise VerificationError(
                f"output {name!r} of the exported graph is unlike the network's in {1 - share:.2%} of its values at "
                f"{shapes}, allowed {1 - TASK_BOUNDS[precision][0]:.2%}{_remedy(precision)}"
            )
        return "equal", share
    if not np.isfinite(expected).all():
        raise VerificationError(
            f"{int((~np.isfinite(expected)).sum())} of {expected.size} values of output {name!r} of the network itself "
            f"are infinite or not a number at {shapes}, so there is nothing to compare with; look at its weights"
        )
    # What is the same everywhere is compared with its own magnitude.
    spread = float(expected.std()) or float(np.abs(expected).max()) or 1.0
    error = float(np.abs(actual - expected).max() / spread)
    if not error <= LOGIT_BOUNDS[precision]:  # also catches NaN
        raise VerificationError(
            f"output {name!r} of the exported graph is off by {error:.1e} of its standard deviation at {shapes}, "
            f"allowed {LOGIT_BOUNDS[precision]:.0e}{_remedy(precision)}"
        )
    return "error", error


def _remedy(precision: str) -> str:
    if precision == "fp32":
        return "; a network that draws random numbers, or keeps what it saw before, has no answer to compare with"
    return f" for {precision}; keep a stage with --keep-fp32, or export another precision"


def _run(session: Any, feed: Arrays) -> list[Any]:
    taken = {tensor.name for tensor in session.get_inputs()}
    try:
        values: list[Any] = session.run(None, {name: value for name, value in feed.items() if name in taken})
    except Exception as e:  # ONNX Runtime's errors have no base class of their own
        shapes = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in feed.items())
        raise VerificationError(
            f"ONNX Runtime cannot run the exported graph at {shapes}: {str(e).splitlines()[0]}; leave the axes that "
            "differ there out of dynamic"
        ) from e
    return values


def _with_kernels(path: Path) -> list[Any]:
    """The file on our kernels, where there are some that have all that its nodes say."""
    library = usable_library()
    if library is None or library_fault(library, list_nodes(path)) is not None:
        return []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(library))
    return [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])]
