# SPDX-License-Identifier: Apache-2.0
"""Kernels that TensorRT-RTX compiled for this GPU, kept between runs; without them every process compiles them anew.

TensorRT-RTX itself refuses what another version, GPU or driver compiled, and then compiles again.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from freqfusion_runtime.engines.cache import cache_folder
from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.errors import OutputError
from freqfusion_runtime.files import atomic_path

_KEPT = 64  # files: each belongs to one plan, and plans come and go


class RuntimeCache:
    """One file per plan, version and GPU, and the object inside TensorRT-RTX that its contexts share.

    Args:
        flavour: TensorRT-RTX.
        gpu: This machine's.
        plan_sha256: Of the plan whose kernels these are.
        folder: Where; the cache folder by default.
    """

    def __init__(self, flavour: Flavour, gpu: GpuIdentity, plan_sha256: str, folder: Path | None = None) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{flavour.name}-{flavour.version}-{gpu.label}").strip("-")
        self.path = (folder or cache_folder()) / "kernels" / f"{name}-{plan_sha256[:16]}.cache"
        self._api = flavour.api
        self._kernels: Any = None
        self._stored = b""

    def new_context(self, engine: Any) -> Any:
        """Makes a context whose working memory its user gives, and whose kernels come from here; None if it cannot be.

        Contexts must be gone before this object is.
        """
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._api.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            self._read()
        config.set_runtime_cache(self._kernels)
        return engine.create_execution_context(config)

    def write(self) -> None:
        """Writes what was compiled since the file was read, whole; a place that cannot be written to is left alone."""
        if self._kernels is None:
            return
        data = bytes(self._kernels.serialize())
        if data == self._stored:
            return
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(data)
            self._stored = data
        except OutputError:  # it saves time and no more
            return
        for old in self._by_use()[:-_KEPT]:
            with contextlib.suppress(OSError):
                old.unlink(missing_ok=True)

    def _by_use(self) -> list[Path]:
        """All such files, the least recently used first."""
        found = []
        for path in self.path.parent.glob("[!.]*.cache"):
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                found.append((path.stat().st_mtime_ns, path.name, path))
        return [path for *_, path in sorted(found)]

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except OSError:
            return
        if data and self._kernels.deserialize(data):
            self._stored = data
            with contextlib.suppress(OSError):
                os.utime(self.path)
