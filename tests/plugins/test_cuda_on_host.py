# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, emulated on the host thread by thread, against the float64 definitions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU_CHECK = ROOT / "scripts" / "gpu_check"
EMULATION = ROOT / "plugins" / "tests" / "cuda_on_host"
sys.path.insert(0, str(GPU_CHECK))

import native_build  # noqa: E402


@pytest.fixture(scope="module")
def cuda_headers() -> Path:
    try:
        return native_build.cuda_headers()
    except native_build.BuildError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.long
def test_kernels_and_fast_references_match_the_definitions(cuda_headers):
    command = [sys.executable, str(GPU_CHECK), "--self-test", "--thin", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "fast references: agree with the loops" in done.stdout
    counts = re.search(r"emulated: (\d+) cases, 0 wrong", done.stdout)
    assert counts is not None, done.stdout
    assert int(counts[1]) > 350


# A block of two warps turns 64 numbers round through shared memory. What BARRIER and LAST are decides whether that is
# right.
REVERSAL = """
#include "device.cuh"

namespace freqfusion {{

__global__ void reverse(int32_t const* from, int32_t* to, int32_t last)
{{
    int32_t* const shared = &sharedMemory<int32_t>();
    auto const i = static_cast<int32_t>(threadIdx.x);
    if (i <= last) {{
        shared[i] = from[i];
    }}
    {barrier}
    to[i] = shared[63 - i];
}}

}} // namespace freqfusion

int main()
{{
    int32_t from[64];
    int32_t to[64] = {{}};
    for (int32_t i = 0; i < 64; ++i) {{
        from[i] = i;
    }}
    freqfusion::Work const work{{1, 1, 1}};
    static_cast<void>(freqfusion::launchKernel(
        &freqfusion::reverse, work, dim3(64), {shared_bytes}, nullptr, &from[0], &to[0], {last}));
    for (int32_t i = 0; i < 64; ++i) {{
        if (to[i] != 63 - i) {{
            return 1;
        }}
    }}
    return 0;
}}
"""
RIGHT = {"barrier": "__syncthreads();", "shared_bytes": 256, "last": 63}
DEFECTS = [
    pytest.param({}, 0, id="right"),
    pytest.param({"barrier": ""}, 1, id="missing-barrier"),
    pytest.param({"last": 62}, 1, id="unwritten-shared-memory"),
    pytest.param({"shared_bytes": 128}, -11, id="too-little-shared-memory"),
    pytest.param({"barrier": "if (i < 40) { __syncthreads(); }"}, -6, id="barrier-not-reached-by-all"),
    pytest.param({"barrier": "if (i > 40) { return; } __syncthreads();"}, -6, id="thread-ended-before-a-barrier"),
]


@pytest.mark.parametrize(("defect", "status"), DEFECTS)
def test_emulation_shows_what_is_wrong_with_a_kernel(cuda_headers, tmp_path, defect, status):
    source = tmp_path / "reversal.cpp"
    source.write_text(REVERSAL.format(**{**RIGHT, **defect}), encoding="utf-8")
    program = tmp_path / "reversal"
    command = ["g++", "-std=c++17", "-O1", "-Wno-attributes", "-DFREQFUSION_CUDA_ON_HOST", f"-I{EMULATION}"]
    command += [
        f"-I{native_build.KERNELS}",
        "-isystem",
        str(cuda_headers),
        str(source),
        str(EMULATION / "cuda_on_host.cpp"),
    ]
    subprocess.run([*command, "-o", str(program)], check=True)
    assert subprocess.run([str(program)], capture_output=True, check=False).returncode == status
