# SPDX-License-Identifier: Apache-2.0
"""Plans and their manifests on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from freqfusion_runtime.engines.record import EngineRecord, plan_sidecar
from freqfusion_runtime.files import atomic_path, sha256_of
from freqfusion_runtime.model_files.manifest import Manifest, sidecar_path


def publish(staged: Path, output: Path, manifest: Manifest, record: EngineRecord) -> None:
    """Puts a plan at ``output``, each of its two files whole or not at all; the plan may be there already."""
    sha256 = sha256_of(staged)
    if staged != output:
        with atomic_path(output) as temporary:
            shutil.copyfile(staged, temporary)
    with atomic_path(sidecar_path(output)) as temporary:
        temporary.write_text(plan_sidecar(manifest, record, sha256), encoding="utf-8")


def delete_same(output: Path, sha256: str) -> bool:
    """Removes the plan at ``output`` if it is the one that failed; returns whether another one is there and stays."""
    if not output.is_file():
        return False
    if sha256_of(output) != sha256:
        return True
    output.unlink()
    sidecar_path(output).unlink(missing_ok=True)
    return False
