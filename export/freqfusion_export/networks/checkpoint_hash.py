# SPDX-License-Identifier: Apache-2.0
"""One hash for a checkpoint, be it a file or a folder of shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from freqfusion.checkpoint_files.formats import files_of
from freqfusion_runtime.files import sha256_of


def checkpoint_sha256(path: Path) -> str:
    """The file's SHA-256; of several, that of their hashes and names, a line each as ``sha256sum`` prints them.

    Raises:
        CheckpointError: If it is a folder without a checkpoint, or an index that cannot be read.
    """
    files = files_of(path)
    if len(files) == 1:
        return sha256_of(files[0])
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
