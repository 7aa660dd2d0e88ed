# SPDX-License-Identifier: Apache-2.0
"""The custom-operator library for ONNX Runtime: where it lies, whether it is of this release, and what it did."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from freqfusion_runtime.model_files.onnx_nodes import DOMAIN, NodeEntry

INTERFACE = 1  # kInterface in plugins/plugin_identity.h
FOLDER_VARIABLE = "FREQFUSION_LIBRARY_DIR"
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY_NAME = f"libfreqfusion_onnxruntime{_SUFFIX}"
BODIES_INSTEAD = "Function bodies are used instead, which is slower."
# Attributes that are for TensorRT, or that every kernel compares with its own version.
_READ_ELSEWHERE = {"plugin_namespace", "plugin_version", "tensorrt_plugin_shape_input_indices"}
_MOST_COUNTERS = 64  # an operator has one for each device


def library_folder() -> Path:
    """Names the one place where native libraries lie: ``$FREQFUSION_LIBRARY_DIR``, else the package's ``lib``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else Path(__file__).parents[1] / "lib"


def library_path() -> Path:
    """Where the custom-operator library is to lie, in :func:`library_folder`."""
    return library_folder() / LIBRARY_NAME


def library_fault(library: Path, nodes: Iterable[NodeEntry] = ()) -> str | None:
    """Says why a library must not compute these nodes; None if it may.

    It may be broken, of another release, or older than an attribute of a node. ONNX Runtime would not tell: it hands a
    node to a kernel whatever attributes it has, and what the kernel does not read is as if it were not there.
    """
    try:
        functions = ctypes.CDLL(str(library.resolve()))
    except OSError as e:
        return f"{library} cannot be loaded: {e}."
    if not hasattr(functions, "freqfusion_onnxruntime_interface"):
        return f"{library} is of an older release: it does not say which interface it has, expected {INTERFACE}."
    found = int(functions.freqfusion_onnxruntime_interface())
    if found != INTERFACE:
        return f"{library} is of another release: it has interface {found}, expected {INTERFACE}."
    functions.freqfusion_onnxruntime_attributes.restype = ctypes.c_char_p
    for node in (node for node in nodes if node.domain == DOMAIN):
        read = functions.freqfusion_onnxruntime_attributes(node.operator.encode())
        if read is not None and (unread := set(node.attributes) - set(read.decode().split()) - _READ_ELSEWHERE):
            return (
                f"{library} is older than the model: its kernel of {node.operator} does not know "
                f"{', '.join(sorted(unread))}."
            )
    return None


def usable_library() -> Path | None:
    """Names the library in :func:`library_path`; None where there is none, and with a warning where it is unfit."""
    library = library_path()
    if not library.is_file():
        return None
    fault = library_fault(library)
    if fault is None:
        return library
    warnings.warn(f"{fault} {BODIES_INSTEAD} Build it again with `make plugins`.", stacklevel=3)
    return None


def kernels_made(library: Path) -> Counter[str]:
    """Counts the kernels that sessions opened in this thread have made so far, by operator."""
    handle = ctypes.CDLL(str(library))
    handle.freqfusion_onnxruntime_kernel_name.restype = ctypes.c_char_p
    counts = (ctypes.c_int64 * _MOST_COUNTERS)()
    made: Counter[str] = Counter()
    for index in range(handle.freqfusion_onnxruntime_kernel_counts(counts)):
        operator, _, _device = handle.freqfusion_onnxruntime_kernel_name(index).decode().partition("/")
        made[operator] += counts[index]
    return made
