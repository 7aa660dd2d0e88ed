# SPDX-License-Identifier: Apache-2.0
"""Runs a new engine through the gate, with the two further engines that show what is inside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from freqfusion_runtime.agreement.reference_data import ReferenceData
from freqfusion_runtime.building.builder import EngineBuilder
from freqfusion_runtime.building.gate import Gate
from freqfusion_runtime.building.publication import publish
from freqfusion_runtime.engines import tensorrt_session
from freqfusion_runtime.engines.profiles import Profile, ShapeRange
from freqfusion_runtime.engines.record import EngineRecord
from freqfusion_runtime.model_files.manifest import TensorSpec
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from freqfusion_runtime.model_files.onnx_probe import inner_values

Report = Callable[[float, str], None]


def verify(
    builder: EngineBuilder,
    staged: Path,
    record: EngineRecord,
    gate: Gate,
    report: Callable[[str], AbstractContextManager[Report]],
) -> None:
    """Runs every level that there is something for; ``gate.results`` has what was found.

    Args:
        builder: Of the engine.
        staged: Its plan, in a folder that further files may be written to.
        record: Of the engine.
        gate: What it is held against.
        report: Given what is built, opens what is called with that build's progress.

    Raises:
        EngineError: If an engine cannot be built or run.
    """
    publish(staged, staged, builder.manifest, record)
    if builder.options.strip_weights:  # they are put back from the file beside the plan
        shutil.copyfile(builder.model, staged.with_name(builder.model.name))
    with tensorrt_session.TensorRTSession(staged, plugin=builder.plugin_path) as engine:
        gate.check_engine(engine)
    values = inner_values(builder.model)
    if values:
        probe = EngineBuilder(
            builder.flavour,
            builder.model,
            builder.facts,
            builder.profiles,
            builder.options,
            builder.plugin_path if builder.plugin else None,
            [value.tensor for value in values],
        )
        with report("values inside") as tell:
            plan = _build(probe, staged.with_name("inside.plan"), tell)
        with tensorrt_session.TensorRTSession(plan, plugin=builder.plugin_path) as session:
            gate.check_inside(session, values)
    if gate.reference is not None and gate.reference.facts.operators:
        operators = _operators_alone(builder, gate.reference, staged.with_name("operators.onnx"))
        with report("operators alone") as tell:
            plan = _build(operators, staged.with_name("operators.plan"), tell)
        with tensorrt_session.TensorRTSession(plan, plugin=builder.plugin_path) as session:
            gate.check_operators(session)


def _operators_alone(builder: EngineBuilder, reference: ReferenceData, model: Path) -> EngineBuilder:
    model.write_bytes(reference.operator_model)
    facts = read_onnx_facts(model)
    shapes: dict[str, list[tuple[int, ...]]] = {spec.name: [] for spec in facts.inputs}
    for place in range(len(reference.names)):
        values = reference.picture(place).values
        for name, seen in shapes.items():
            seen.append(values[name].shape)
    profile = Profile({name: _range(seen) for name, seen in shapes.items()})
    plugin = builder.plugin_path if builder.plugin else None
    return EngineBuilder(builder.flavour, model, facts, [profile], builder.options, plugin)


def _range(shapes: Sequence[tuple[int, ...]]) -> ShapeRange:
    low, high = (tuple(map(pick, *shapes, shapes[0])) for pick in (min, max))
    return ShapeRange(low, shapes[0], high)


def _build(builder: EngineBuilder, plan: Path, report: Report) -> Path:
    built = builder.build(plan, report)
    plan.write_bytes(built.plan)
    further = tuple(TensorSpec(name, "float32", ()) for name in builder.further_outputs)
    manifest = replace(builder.manifest, outputs=builder.manifest.outputs + further)
    publish(plan, plan, manifest, built.record)
    return plan
