# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file, a plan or reference data hold, as facts and as lines for people; needs neither onnx nor a GPU."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from freqfusion_runtime.agreement.noise import noise_lines
from freqfusion_runtime.agreement.reference_data import ReferenceData
from freqfusion_runtime.building.report import path_lines, profile_lines
from freqfusion_runtime.engines.plan_header import read_plan_header
from freqfusion_runtime.engines.record import read_plan_manifest
from freqfusion_runtime.errors import ManifestError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.external_data import WEIGHTS_KEY, check_external_files, model_sha256
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec, read_sidecar, sidecar_path
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN
from freqfusion_runtime.model_files.setting_table import setting_lines

Report = tuple[dict[str, Any], list[str]]  # facts for JSON, lines for people


def inspect_onnx(path: Path) -> Report:
    """Describes an ONNX file, one of ours or any other.

    Raises:
        ModelFileError: If it is none.
        ManifestError: If it has a manifest that is damaged.
    """
    facts = read_onnx_facts(path)
    manifest = facts.manifest(str(path)) if METADATA_KEY in facts.metadata else None
    external = check_external_files(path)
    sha256 = model_sha256(path)
    bodies = {node.function for node in facts.nodes if node.function}
    ours = [node for node in facts.main_nodes if node.domain == DOMAIN]
    operators = Counter((node.domain, node.operator) for node in facts.main_nodes)
    record = {
        "kind": "ONNX",
        **_file_facts(path, sha256),
        "producer": facts.producer,
        "opsets": facts.opsets,
        "inputs": [asdict(spec) for spec in facts.inputs],
        "outputs": [asdict(spec) for spec in facts.outputs],
        "weights": dict(facts.weights),
        "external_files": [
            {"path": str(file), "size_bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in external
        ],
        "weights_named_sha256": facts.metadata.get(WEIGHTS_KEY),
        "operators": [
            {"domain": domain, "operator": operator, "count": count}
            for (domain, operator), count in operators.most_common()
        ],
        "freqfusion_nodes": [
            {"name": n.name, "operator": n.operator, "has_function_body": f"{n.domain}::{n.operator}" in bodies}
            for n in ours
        ],
        "casts": operators["", "Cast"],
        "quantizers": operators["", "QuantizeLinear"] + operators["", "DequantizeLinear"],
        "misread_by_tensorrt": facts.misread_nodes(),
        "manifest": _as_json(manifest),
        "manifest_beside": _beside(path, sha256),
    }
    lines = [f"{path}: ONNX, {path.stat().st_size / 1e6:.1f} MB, written by {facts.producer or 'an unnamed program'}"]
    lines += [f"  opset {domain or 'of ONNX'} {version}" for domain, version in facts.opsets.items()]
    lines += _tensor_lines(facts.inputs, facts.outputs)
    lines.append("  weights: " + (", ".join(f"{n} {dtype}" for dtype, n in facts.weights.most_common()) or "none"))
    lines += [_weights_line(file, facts.metadata.get(WEIGHTS_KEY)) for file in external]
    by_operator = Counter(node.operator for node in ours)
    for operator, count in sorted(by_operator.items()):
        body = "with" if f"{DOMAIN}::{operator}" in bodies else "WITHOUT"
        lines.append(f"  * {DOMAIN}::{operator}: {count} nodes, {body} function body")
    standard = Counter({op: n for (domain, op), n in operators.items() if domain != DOMAIN})
    lines.append("  " + ", ".join(f"{op} {n}" for op, n in standard.most_common()))
    if manifest is not None and manifest.settings:
        lines.append("  test-time settings:")
        lines += [f"    {line}" for line in setting_lines(manifest.settings)]
    lines.append(f"  precision: {record['casts']} casts, {record['quantizers']} quantizers")
    lines += [f"  TensorRT would misread {node}" for node in facts.misread_nodes()]
    lines += _manifest_lines(manifest)
    return record, [*lines, f"  manifest beside it: {record['manifest_beside']}", f"  sha256 {sha256}"]


def _weights_line(file: Path, named: str | None) -> str:
    """Of weights beside a model, and whether they are those that it names by their hash."""
    line = f"  weights in {file.name}, {file.stat().st_size / 1e6:.1f} MB beside it"
    if named is None:
        return line
    return f"{line}, {'as exported' if named == sha256_of(file) else 'OTHER than were exported'}"


def inspect_plan(path: Path) -> Report:
    """Describes a plan by its first bytes and its manifest; the plan itself is not loaded, since it is code.

    Raises:
        CorruptPlanError: If it is none.
        ManifestError: If its manifest is damaged. One that is missing, or another plan's, is told of.
    """
    header = read_plan_header(path)
    sha256 = sha256_of(path)
    beside = _beside(path, sha256)
    told = read_plan_manifest(path, trust=True) if sidecar_path(path).is_file() else None
    engine = told.engine if told else None
    version = header.version or (engine.tensorrt_version if engine else "of unknown version")
    record = {
        "kind": "plan",
        **_file_facts(path, sha256),
        "flavour": header.flavour,
        "tensorrt_version": version,
        "engine": engine.as_json() if engine else None,
        "manifest": _as_json(told.manifest) if told else None,
        "manifest_beside": beside,
    }
    lines = [f"{path}: plan of {header.flavour} {version}, {path.stat().st_size / 1e6:.1f} MB"]
    if told is not None:
        lines += _tensor_lines(told.manifest.inputs, told.manifest.outputs)
    if engine is not None:
        lines += profile_lines(engine.profiles)
        lines += [f"  *{line.removeprefix(' ')}" for line in path_lines(engine.operator_paths)]
        lines.append(f"  bound to {engine.gpu.label if engine.gpu else 'no GPU in particular'}")
        lines.append(f"  plugins: {engine.plugin.label if engine.plugin else 'none'}")
        lines.append(f"  built from {engine.onnx_file}, sha256 {engine.onnx_sha256}, in {engine.build_s:.1f} s")
        lines.append(f"  {engine.verified.words if engine.verified else 'not verified by the gate'}")
        changed = {name: value for name, value in asdict(engine.options).items() if value not in (None, False)}
        lines.append("  options: " + (", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"))
    lines += _manifest_lines(told.manifest if told else None)
    return record, [*lines, f"  manifest beside it: {beside}", f"  sha256 {sha256}"]


def inspect_reference(path: Path) -> Report:
    """Describes a file of reference data.

    Raises:
        ReferenceDataError: If it is none.
    """
    data = ReferenceData(path)
    sha256, facts = sha256_of(path), data.facts
    by_operator = Counter(entry.operator for entry in facts.operators)
    record = {
        "kind": "reference data",
        **_file_facts(path, sha256),
        "onnx_file": facts.onnx_file,
        "onnx_sha256": facts.onnx_sha256,
        "checkpoint_file": facts.checkpoint_file,
        "checkpoint_sha256": facts.checkpoint_sha256,
        "pictures": list(data.names),
        "operators": [asdict(entry) for entry in facts.operators],
        "noise_floor": [asdict(entry) for entry in facts.noise_floor],
        "recorded_with": dict(facts.versions),
        "manifest": _as_json(data.manifest),
    }
    lines = [
        f"{path}: what PyTorch computed on {len(data.names)} pictures, {path.stat().st_size / 1e6:.1f} MB",
        f"  for {facts.onnx_file}, sha256 {facts.onnx_sha256}",
        f"  with the weights of {facts.checkpoint_file}, sha256 {facts.checkpoint_sha256}",
        *[f"  picture {name}" for name in data.names],
        *[f"  * {operator}: {count} nodes" for operator, count in sorted(by_operator.items())],
        *noise_lines(facts.noise_floor),
    ]
    return record, [*lines, f"  sha256 {sha256}"]


def _file_facts(path: Path, sha256: str) -> dict[str, Any]:
    return {"path": str(path), "size_bytes": path.stat().st_size, "sha256": sha256}


def _beside(path: Path, sha256: str) -> str:
    """Whether the manifest file beside a model is that model's."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return "none"
    try:
        told = read_sidecar(sidecar, "Write it again.").get("sha256")
    except ManifestError as e:
        return str(e)
    return (
        f"{sidecar.name}, of this file" if told == sha256 else f"{sidecar.name}, of ANOTHER file (sha256 {told!s:.64})"
    )


def _as_json(manifest: Manifest | None) -> dict[str, Any] | None:
    return None if manifest is None else dict(json.loads(manifest.to_json()))


def _tensor_lines(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> list[str]:
    return [
        f"  {kind} {spec.name}: {spec.dtype} ({', '.join(map(str, spec.shape))})"
        for kind, specs in (("input", inputs), ("output", outputs))
        for spec in specs
    ]


def _manifest_lines(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return ["  no FreqFusion manifest"]
    lines = [
        f"  {manifest.model} {manifest.precision}, {manifest.task}, {manifest.interface} interface, "
        + ("" if manifest.task == "network" else f"{manifest.num_classes} classes, ")
        + f"weights: {manifest.weights}"
    ]
    lines += [
        f"  size {name}: a multiple of {size.multiple}, {size.usual} when it was exported"
        for name, size in manifest.sizes.items()
    ]
    lines += [
        f"  kept in fp32: {island.name}, {island.nodes} nodes: {island.reason}"
        + (f" ({', '.join(island.found)})" if island.found else "")
        for island in manifest.islands
    ]
    if manifest.weights_file:
        taken = {"ema": ", averaged weights", "model": ", weights as trained"}.get(manifest.weights_taken, "")
        lines.append(f"  from {manifest.weights_file}{taken}, sha256 {manifest.weights_sha256}")
    if manifest.config_file:
        lines.append(f"  settings of {manifest.config_file}, sha256 {manifest.config_sha256}")
    return lines
