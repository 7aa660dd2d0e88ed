# SPDX-License-Identifier: Apache-2.0
"""Memory of processes."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mb(process: int | None = None) -> float:
    """Resident memory of a process, this one by default, in MB."""
    text = Path(f"/proc/{process or os.getpid()}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class OwnMemory:
    """An entry point that is called in this process."""

    def resident_mb(self) -> float:
        """Of this process."""
        return resident_mb()

    def close(self) -> None:
        """Nothing was started."""
