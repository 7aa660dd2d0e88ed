# SPDX-License-Identifier: Apache-2.0
"""From checkpoints to checked, portable ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_export.exporter import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:  # torch takes seconds to import; commands that need none of this should not wait
    if name == "export":
        from freqfusion_export.exporter import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
