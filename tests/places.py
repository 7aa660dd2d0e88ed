# SPDX-License-Identifier: Apache-2.0
"""Where things are in the repository, for tests of any folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
