# SPDX-License-Identifier: Apache-2.0
"""What the manifest beside a plan says of the engine, and whether the plan is the one it speaks of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.errors import UntrustedPlanError, rebuild
from freqfusion_runtime.engines.flavours import FlavourName
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.plugin_library import PluginIdentity
from freqfusion_runtime.engines.profiles import Profile
from freqfusion_runtime.errors import ManifestError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import Manifest, read_sidecar, sidecar_path
from freqfusion_runtime.model_files.typed_records import RecordError, read_record
from freqfusion_runtime.sessions.protocol import OperatorPath


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the gate held an engine against when it passed.

    Attributes:
        pictures: How many.
        against_sha256: Hash of the ONNX file that ran beside it; None where there was none.
        reference_sha256: Hash of the reference data; None where there were none.
    """

    pictures: int
    against_sha256: str | None
    reference_sha256: str | None

    @property
    def words(self) -> str:
        """For people."""
        sources = [("an ONNX file", self.against_sha256), ("PyTorch's reference data", self.reference_sha256)]
        told = [f"{name} with sha256 {sha256[:12]}..." for name, sha256 in sources if sha256 is not None]
        count = f"{self.pictures} picture{'' if self.pictures == 1 else 's'}"
        return f"verified on {count}, against {' and '.join(told)}"


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Where an engine comes from, and what it can be used for.

    Attributes:
        flavour, tensorrt_version: What built it.
        gpu: What it is bound to; None for an engine that is not, as TensorRT-RTX builds.
        plugin: The library it was built with; None where no plugin is in it.
        onnx_file, onnx_sha256: What it was built from; the file's name is without folders.
        profiles: In TensorRT's order.
        options: Of the build.
        operator_paths: How each FreqFusion node runs.
        build_s: Time the build took.
        verified: What the gate held it against; None if it was not asked to.
    """

    flavour: FlavourName
    tensorrt_version: str
    gpu: GpuIdentity | None
    plugin: PluginIdentity | None
    onnx_file: str
    onnx_sha256: str
    profiles: tuple[Profile, ...]
    options: BuildOptions
    operator_paths: tuple[OperatorPath, ...]
    build_s: float
    verified: Verification | None = None

    @property
    def builder_label(self) -> str:
        """For messages."""
        return f"{'TensorRT-RTX' if self.flavour == 'tensorrt-rtx' else 'TensorRT'} {self.tensorrt_version}"

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: Path) -> EngineRecord:
        """Reads what :meth:`as_json` gave.

        Raises:
            ManifestError: If something is missing or of another kind.
        """
        known = {field.name for field in fields(cls)}
        try:
            return read_record(cls, {k: v for k, v in values.items() if k in known}, "engine", defaults=True)
        except RecordError as e:
            raise ManifestError(f"{source}: what it says of the engine is damaged ({e}). Build the plan again.") from e


@dataclass(frozen=True)
class PlanManifest:
    """A plan's manifest: the model's, the engine's (None where another program built it), the plan's hash."""

    manifest: Manifest
    engine: EngineRecord | None
    sha256: str


def read_plan_manifest(path: Path, trust: bool = False, with_engine: bool = True) -> PlanManifest:
    """Reads the manifest beside a plan.

    A plan is code: whoever loads it runs what is in it. So it must be the file that its manifest was written for.

    Args:
        path: The plan.
        trust: Take the plan as it is.
        with_engine: Whether to read what it says of the engine, too; a plan of another builder has a record of its own.

    Raises:
        ManifestError: If there is no manifest, or it is damaged.
        UntrustedPlanError: If the plan is another file than the one it was written for.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise ManifestError(f"{path} has no manifest: {sidecar} does not exist. Put it back, or build the plan again.")
    record = read_sidecar(sidecar, "Build the plan again.")
    if not isinstance(record.get("sha256"), str):
        raise ManifestError(f"{sidecar} names no sha256 of its plan. Build the plan again.")
    if not trust and (found := sha256_of(path)) != record["sha256"]:
        raise UntrustedPlanError(
            f"{sidecar} belongs to a file with sha256 {record['sha256'][:12]}..., {path} has {found[:12]}.... "
            f"A plan is code, so this one is not loaded. Build the plan again: {rebuild(path)}. If you know where it "
            "comes from, `freqfusion run --trust`, or trust=True in Python, loads it all the same."
        )
    known = {field.name for field in fields(Manifest)}
    manifest = Manifest.from_record({k: v for k, v in record.items() if k in known}, source=str(sidecar))
    engine = record.get("engine") if with_engine else None
    return PlanManifest(
        manifest, EngineRecord.from_json(engine, sidecar) if isinstance(engine, dict) else None, record["sha256"]
    )


def plan_sidecar(manifest: Manifest, engine: EngineRecord, sha256: str) -> str:
    """Words the manifest of a plan as JSON."""
    record = {**json.loads(manifest.to_json()), "engine": engine.as_json(), "sha256": sha256}
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
