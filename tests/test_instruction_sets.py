# SPDX-License-Identifier: Apache-2.0
"""What `make test-avx2` sets holds the libraries to AVX2."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from host_kernels import LIBRARY, has_level
from places import ROOT

ASK = """
import ctypes, sys, torch
from numpy._core._multiarray_umath import __cpu_features__
print("numpy", *(name for name in ("X86_V4", "AVX512_ICL", "AVX512_SPR") if __cpu_features__.get(name)))
print("torch", torch.backends.cpu.get_cpu_capability())
torch.relu(torch.ones(1, 64, 9, 9).to_mkldnn())  # oneDNN says what it is
library = ctypes.CDLL(sys.argv[1])
library.freqfusion_host_level.restype = ctypes.c_char_p
print("kernels", library.freqfusion_host_level().decode())
"""


def switches() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("run_tests", ROOT / "scripts" / "run_tests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AVX2


@pytest.mark.skipif(LIBRARY is None, reason="libfreqfusion_c.so is not built: run `make plugins`")
@pytest.mark.skipif(not has_level("avx2"), reason="this processor has no AVX2")
def test_every_switch_is_obeyed():
    environment = {**os.environ, **switches(), "ONEDNN_VERBOSE": "1"}
    command = [sys.executable, "-c", ASK, str(LIBRARY)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"numpy", "torch AVX2", "kernels avx2"} <= set(printed)
    assert [line.rpartition("isa:")[2] for line in printed if "info,cpu,isa:" in line] == ["Intel AVX2"]
