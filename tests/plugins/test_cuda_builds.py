# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels compile without a warning, and their launchers and the GPU check say what is wrong without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU_CHECK = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check"
sys.path.insert(0, str(GPU_CHECK))

import native_build  # noqa: E402
from kernels import (  # noqa: E402
    DTYPES,
    NCHW,
    NHWC,
    AdaptiveFilterShape,
    CarafeShape,
    DeformableAttentionShape,
    Form,
    Library,
    LocalSimilarityShape,
    OffsetResampleShape,
    QueryArgmaxShape,
    ResizeArgmaxShape,
)

INVALID_VALUE = 1  # cudaErrorInvalidValue
NOT_SUPPORTED = 801  # cudaErrorNotSupported


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Library:
    """Built for one architecture; the full list is `make plugins`'s."""
    try:
        native_build.find_nvcc()
    except native_build.BuildError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    path = native_build.build_check_library(tmp_path_factory.mktemp("cuda"), "90", jobs=2, are_warnings_errors=True)
    return Library(path, "cuda")


def form(dtype: torch.dtype = torch.float16, layout: int = NCHW, tactic: int = 0) -> Form:
    return Form(DTYPES.index(dtype), layout, tactic, 0, None)


CALLS = {  # operator -> shape that runs, pointers
    "carafe": (CarafeShape(1, 16, 4, 4, 5, 1, 2), 3),
    "adaptive_filter": (AdaptiveFilterShape(CarafeShape(0, 16, 4, 4, 5, 1, 2), 0), 4),
    "local_similarity": (LocalSimilarityShape(1, 16, 4, 4, 3, 2), 2),
    "offset_resample": (OffsetResampleShape(1, 16, 4, 4, 4), 3),
    "resize_argmax": (ResizeArgmaxShape(1, 16, 4, 4, 8, 8, 8, 8, False), 2),
    "deformable_attention": (DeformableAttentionShape.of(1, 2, 8, 4, 2, 3, 4, 1), 4),
    "query_argmax": (QueryArgmaxShape(1, 3, 4, 2, 2, 8, 8, 8, 8, 5, 5), 3),
}
EMPTY = {
    "carafe": CarafeShape(0, 16, 4, 4, 5, 1, 2),
    "adaptive_filter": AdaptiveFilterShape(CarafeShape(1, 16, 0, 4, 5, 1, 2), 0),
    "local_similarity": LocalSimilarityShape(1, 16, 4, 0, 3, 2),
    "offset_resample": OffsetResampleShape(0, 16, 4, 4, 4),
    "resize_argmax": ResizeArgmaxShape(0, 16, 4, 4, 8, 8, 8, 8, False),
    "deformable_attention": DeformableAttentionShape.of(0, 2, 8, 4, 2, 3, 4, 1),
    "query_argmax": QueryArgmaxShape(0, 3, 4, 2, 2, 8, 8, 8, 8, 5, 5),
}
NONSENSE = {
    "carafe": CarafeShape(1, 16, 4, 4, 4, 1, 2),
    "adaptive_filter": AdaptiveFilterShape(CarafeShape(1, 16, 4, 4, 5, 1, 2), 1),
    "local_similarity": LocalSimilarityShape(1, 16, 4, 4, 2, 2),
    "offset_resample": OffsetResampleShape(1, 16, 4, 4, 3),
    "resize_argmax": ResizeArgmaxShape(1, 0, 4, 4, 8, 8, 8, 8, False),
    "deformable_attention": DeformableAttentionShape.of(1, 2, 8, 0, 2, 3, 4, 1),
    "query_argmax": QueryArgmaxShape(1, 769, 4, 2, 2, 8, 8, 8, 8, 5, 5),
}


@pytest.mark.long
@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("operator", CALLS)
def test_launchers_check_before_they_launch(library, operator, layout):
    pointers = [0] * CALLS[operator][1]
    assert library.status(operator, EMPTY[operator], form(layout=layout), *pointers) == 0
    assert library.status(operator, NONSENSE[operator], form(layout=layout), *pointers) == INVALID_VALUE


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the launch would succeed, on null pointers")
@pytest.mark.parametrize("operator", [name for name in CALLS if name != "adaptive_filter"])
def test_no_launch_status_is_lost(library, operator):
    shape, count = CALLS[operator]
    assert library.status(operator, shape, form(), *[0] * count) not in (0, INVALID_VALUE)


@pytest.mark.long
def test_tactics_are_those_that_can_run(library):
    usual, wide = CarafeShape(1, 64, 8, 8, 5, 1, 2), CarafeShape(1, 64, 8, 8, 7, 1, 2)
    grouped = CarafeShape(1, 12, 8, 8, 5, 3, 2)
    tactics = range(4)
    assert [library.has_tactic(usual, form(tactic=t)) for t in tactics] == [True, True, True, True]
    assert [library.has_tactic(usual, form(torch.float32, tactic=t)) for t in tactics] == [True, True, True, False]
    assert [library.has_tactic(wide, form(tactic=t)) for t in tactics] == [True, True, False, False]
    assert [library.has_tactic(wide, form(layout=NHWC, tactic=t)) for t in tactics] == [True, True, True, False]
    assert [library.has_tactic(grouped, form(layout=NHWC, tactic=t)) for t in tactics] == [True, True, False, False]
    assert library.status("carafe", wide, form(tactic=3), 0, 0, 0) == NOT_SUPPORTED


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: run `make gpu-check`")
def test_gpu_check_says_that_there_is_no_gpu():
    done = subprocess.run([sys.executable, str(GPU_CHECK)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "PyTorch finds no CUDA device here, so that nothing was checked" in done.stderr


def test_gpu_check_refuses_nonsense_arguments():
    done = subprocess.run([sys.executable, str(GPU_CHECK), "--thin", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--thin and --time-budget must be positive" in done.stderr


def test_names_the_missing_headers(tmp_path):
    with pytest.raises(native_build.BuildError, match=r"does not hold NvInferRuntime\.h"):
        native_build.build_tensorrt(tmp_path, "90", tmp_path)


def test_names_the_missing_compiler(monkeypatch):
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(native_build.Path, "is_file", lambda self: False)
    with pytest.raises(native_build.BuildError, match=r"found no nvcc in CUDACXX, PATH or /usr/local/cuda/bin"):
        native_build.find_nvcc()
