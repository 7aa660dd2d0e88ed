# SPDX-License-Identifier: Apache-2.0
"""Entry points that do what none may, by which the campaign itself is tested."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from fuzzing.memory import OwnMemory


class Raising(OwnMemory):
    """Ends in a traceback."""

    def __init__(self, folder: Path) -> None:
        self.kept: list[bytes] = []

    def make(self, rng: random.Random) -> Any:
        return rng.random()

    def give(self, case: Any) -> bool:
        raise RuntimeError("not a sentence")


class Hanging(Raising):
    """Does not come back."""

    def give(self, case: Any) -> bool:
        time.sleep(60)
        return True


class Dying(Raising):
    """Ends the process."""

    def give(self, case: Any) -> bool:
        os._exit(11)


class Growing(Raising):
    """Keeps what it was given."""

    def give(self, case: Any) -> bool:
        self.kept.append(b"x" * 30_000_000)
        return True
