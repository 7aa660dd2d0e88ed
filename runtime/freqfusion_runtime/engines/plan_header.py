# SPDX-License-Identifier: Apache-2.0
"""The first bytes of a plan: which flavour and version wrote it, and whether it is whole.

The layout is not documented. It was read from plans of TensorRT-RTX 1.7: four letters (``vtrt``; ``ftrt`` in TensorRT's
own), at byte 16 the file's size in eight bytes, at byte 24 the version in four. What TensorRT writes beyond the letters
was not seen, so only RTX's fields are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.engines.errors import CorruptPlanError, rebuild
from freqfusion_runtime.engines.flavours import FlavourName

_LENGTH = 28
_FLAVOURS: dict[bytes, FlavourName] = {b"vtrt": "tensorrt-rtx", b"ftrt": "tensorrt"}


@dataclass(frozen=True)
class PlanHeader:
    """What the first bytes say; ``version`` is None where they are not understood."""

    flavour: FlavourName
    version: str | None


def read_plan_header(path: Path) -> PlanHeader:
    """Reads and checks the first bytes.

    Raises:
        CorruptPlanError: If the file is missing, no plan, or not whole.
    """
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise CorruptPlanError(f"{path} {reason}. Name a plan, or build one with `freqfusion build MODEL.onnx`.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_LENGTH)
    if head[:4] not in _FLAVOURS or len(head) < _LENGTH:
        raise CorruptPlanError(
            f"{path} is no TensorRT plan: it starts with {head[:4]!r}, expected b'ftrt' or b'vtrt'. "
            f"Plans with a header of another program must be unpacked first; or build one: {rebuild(path)}."
        )
    flavour = _FLAVOURS[head[:4]]
    if flavour != "tensorrt-rtx":
        return PlanHeader(flavour, None)
    (told,) = struct.unpack_from("<Q", head, 16)
    if told != size:
        raise CorruptPlanError(
            f"{path} is damaged: it has {size} bytes, its header tells of {told}. Copy it again, or {rebuild(path)}."
        )
    return PlanHeader(flavour, ".".join(str(part) for part in head[24:28]))
