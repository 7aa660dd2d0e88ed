# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels for the tests of operators."""

from __future__ import annotations

import pytest
from host_kernels import LEVELS, HostKernels, has_level


@pytest.fixture(scope="module", params=LEVELS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    if not has_level(request.param):
        pytest.skip(f"this processor has no {request.param}")
    return HostKernels(request.param, tmp_path_factory.mktemp("libraries"))
