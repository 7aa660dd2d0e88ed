# SPDX-License-Identifier: Apache-2.0
"""A native library of another release, or older than a model, is never used, and never left out silently."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from freqfusion_runtime.errors import KernelLibraryError
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions import kernel_library
from freqfusion_runtime.sessions.kernel_library import (
    FOLDER_VARIABLE,
    INTERFACE,
    LIBRARY_NAME,
    library_fault,
    usable_library,
)
from other_libraries import write_onnxruntime_library
from small_models import write_tensor_model

IDENTITY = Path(__file__).parents[3] / "plugins" / "plugin_identity.h"
READ = "dilation kernel_size"  # of the small model's node


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Where the library is looked for."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder / LIBRARY_NAME


def test_the_runtime_and_the_libraries_are_of_one_release():
    (number,) = re.findall(r"constexpr int32_t kInterface = (\d+);", IDENTITY.read_text())
    assert int(number) == INTERFACE


@pytest.mark.parametrize(
    ("interface", "attributes", "fault"),
    [
        (None, READ, "is of an older release: it does not say which interface it has, expected 1"),
        (INTERFACE - 1, READ, "is of another release: it has interface 0, expected 1"),
        (INTERFACE + 1, READ, "is of another release: it has interface 2, expected 1"),
        (INTERFACE, "kernel_size", "is older than the model: its kernel of Echo does not know dilation"),
    ],
)
def test_what_would_compute_something_else_is_not_used_and_told(library, tmp_path, interface, attributes, fault):
    write_onnxruntime_library(library, interface, attributes)
    model = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    with pytest.warns(UserWarning, match=rf"net\.onnx: .*{LIBRARY_NAME} {fault}\. Function bodies .*`make plugins`"):
        session = open_session(model)
    assert session.kernel_library is None
    assert session.operator_paths[0].path == "function body"
    assert session.run({"image": np.ones((1, 3, 32, 32), np.float32)})["logits"].shape == (1, 4, 4, 4)
    with pytest.raises(KernelLibraryError, match=rf"{fault}\. Build it again .* with `make plugins`"):
        open_session(model, kernels="require")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_session(model, kernels="never")


def test_a_library_of_this_release_is_used_without_a_word(library, tmp_path):
    write_onnxruntime_library(library, INTERFACE, READ)
    model = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_session(model).kernel_library == library


def test_attributes_for_tensorrt_need_no_kernel_that_reads_them(library):
    write_onnxruntime_library(library, INTERFACE)
    node = kernel_library.NodeEntry("n", "Echo", "freqfusion", "y", ("plugin_version", "plugin_namespace"))
    assert library_fault(library, [node]) is None
    elsewhere = kernel_library.NodeEntry("n", "Echo", "other", "y", ("anything",))
    assert library_fault(library, [elsewhere]) is None


@pytest.mark.parametrize("interface", [INTERFACE, 0])
def test_calibration_and_bench_do_without_a_library_of_another_release(library, interface):
    assert usable_library() is None
    write_onnxruntime_library(library, interface)
    if interface == INTERFACE:
        assert usable_library() == library
    else:
        with pytest.warns(UserWarning, match=r"has interface 0, expected 1\. Function bodies .*`make plugins`"):
            assert usable_library() is None
