# SPDX-License-Identifier: Apache-2.0
"""Writes a file of standard operators alone from an exported one, and holds the one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from freqfusion_runtime.agreement.comparison import Comparison, compare
from freqfusion_runtime.agreement.tolerances import LABEL_AGREEMENT_FP32, MAX_ERROR_INSIDE_FP32
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.files import atomic_path, scratch_folder
from freqfusion_runtime.model_files.external_data import WEIGHTS_KEY, check_external_files
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec, write_sidecar
from freqfusion_runtime.model_files.onnx_growth import check_growth
from freqfusion_runtime.model_files.plain.inlining import STANDARD, graphs_of, inlined, simplified
from freqfusion_runtime.model_files.plain.opsets import lower_format, lower_opset
from freqfusion_runtime.model_files.plain.sizes import Shape, fix_sizes
from freqfusion_runtime.sessions.graph_check import tensors_of

_QUIET = 4  # ONNX Runtime's log
_STEP = 64  # of a file that does not say by which numbers its sides can be divided
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PlainFile:
    """What was written.

    Attributes:
        path: The file.
        opset: Of the standard operators.
        ir_version: Of the file's format.
        nodes: How many it has.
        manifest: What it says of itself; None where the file that it was made of said nothing.
        comparisons: Of each output with that of the file it was made of, on each set of inputs.
    """

    path: Path
    opset: int
    ir_version: int
    nodes: int
    manifest: Manifest | None
    comparisons: tuple[Comparison, ...]


def write_plain_file(
    source: Path,
    target: Path,
    *,
    shapes: Mapping[str, Shape] | None = None,
    opset: int | None = None,
    ir_version: int | None = None,
) -> PlainFile:
    """Writes ``target`` and, where ``source`` has a manifest, that beside it.

    Args:
        source: An ONNX file, exported here or not.
        target: Replaced whole if it exists.
        shapes: Sides to fix, by input; what then is constant is computed.
        opset: Of the standard operators, an older one than the file's.
        ir_version: Of the file's format, likewise.

    Raises:
        ModelFileError: If it cannot be read, has operators without a body or without a form in ``opset``, or what was
            written computes something else; nothing is kept.
        OutputError: If ``target`` cannot be written.
    """
    if target.suffix != ".onnx":
        raise ModelFileError(f"the output must end in .onnx, got {target}. Give it that suffix.")
    check_growth(source)
    check_external_files(source)
    try:
        original = onnx.load(source)
    except Exception as e:  # protobuf's errors have no base class of their own
        raise ModelFileError(f"{source} is no ONNX model. Name a file written by `freqfusion export`.") from e
    plain = inlined(original, str(source))
    kept = [entry for entry in plain.metadata_props if entry.key != WEIGHTS_KEY]  # they are in the file now
    del plain.metadata_props[:]
    plain.metadata_props.extend(kept)
    if shapes:
        fix_sizes(plain, shapes, str(source))
        plain = _with_constants_computed(plain)
    if opset is not None:
        lower_opset(plain, opset, str(source))
    if ir_version is not None:
        lower_format(plain, ir_version, str(source))
    manifest = _manifest_of(plain, str(source))
    with atomic_path(target) as temporary:
        onnx.save(plain, temporary)
        onnx.checker.check_model(str(temporary), full_check=True)
        comparisons = _compared(source, temporary, manifest)
    if manifest is not None:
        write_sidecar(target, manifest)
    nodes = sum(len(graph.node) for graph in graphs_of(plain.graph))
    return PlainFile(target, _opset(plain), plain.ir_version, nodes, manifest, comparisons)


def _opset(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in STANDARD)


def _with_constants_computed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Lets ONNX Runtime compute what no input changes; its basic level stays within standard operators."""
    with scratch_folder("inline") as folder:
        before, after = folder / "before.onnx", folder / "after.onnx"
        onnx.save(model, before)
        options = ort.SessionOptions()
        options.log_severity_level = _QUIET
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(after)
        try:
            ort.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's errors have no base class of their own
            raise ModelFileError(
                f"the model cannot have these sizes: {str(e).splitlines()[0]} Give sides that the network takes."
            ) from e
        folded = onnx.load(after)
    folded.ir_version = min(folded.ir_version, model.ir_version)
    for name in ("producer_name", "producer_version"):
        setattr(folded, name, getattr(model, name))
    return simplified(folded)


def _manifest_of(model: onnx.ModelProto, source: str) -> Manifest | None:
    """The file's manifest for what the model has become, put into it; None if it has none."""
    entry = next((entry for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if entry is None:
        return None
    manifest = Manifest.from_json(entry.value, source)
    sides = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)}

    def told(spec: TensorSpec) -> TensorSpec:
        dims = sides.get(spec.name, ())
        if len(dims) != len(spec.shape):
            return spec
        shape = [d.dim_value if d.HasField("dim_value") else side for d, side in zip(dims, spec.shape, strict=True)]
        return replace(spec, shape=tuple(shape))

    manifest = replace(
        manifest,
        opset=_opset(model),
        operators={},
        inputs=tuple(map(told, manifest.inputs)),
        outputs=tuple(map(told, manifest.outputs)),
    )
    entry.value = manifest.to_json()
    return manifest


def _compared(source: Path, written: Path, manifest: Manifest | None) -> tuple[Comparison, ...]:
    """Runs both files on made-up inputs, and compares what they put out."""
    expected, actual = _session(source), _session(written)
    step = _STEP if manifest is None or manifest.task == "network" else manifest.preprocessing.size_divisor
    found = []
    for number, sides in enumerate(({"height": 3, "width": 4}, {"height": 5, "width": 3}), start=1):
        inputs = _made_up(tensors_of(actual.get_inputs()), number, {k: v * step for k, v in sides.items()}, step)
        try:
            wanted = expected.run(None, inputs)
        except Exception as e:  # as above
            raise ModelFileError(
                f"{source} does not run on inputs of {_shapes(inputs)}, so nothing can be compared: "
                f"{str(e).splitlines()[0]} Fix its sizes with --shape to ones that it takes."
            ) from e
        names = [output.name for output in expected.get_outputs()]
        for name, one, other in zip(names, actual.run(names, inputs), wanted, strict=True):
            found.append(_held(f"{name} of {_shapes(inputs)}", one, other, source))
        if not any(isinstance(side, str) for spec in tensors_of(actual.get_inputs()) for side in spec.shape):
            break
    return tuple(found)


def _held(name: str, actual: NDArray[Any], expected: NDArray[Any], source: Path) -> Comparison:
    if not expected.size:
        raise ModelFileError(f"{source}: {name} has no values. Give larger sides.")
    found = compare("network", name, actual, expected, MAX_ERROR_INSIDE_FP32)
    is_labels = expected.dtype.kind in "iub"
    share = float((actual == expected).mean()) if is_labels else 1.0
    if (share < LABEL_AGREEMENT_FP32) if is_labels else (expected.std() and not found.agrees):
        fact = f"{1 - share:.2%} of the values differ" if is_labels else f"off by {found.max_over_std:.1e} deviations"
        raise ModelFileError(
            f"the file made of {source} computes something else: {name} is {fact}. "
            "Nothing was written; please report it."
        )
    return found


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _made_up(specs: Sequence[TensorSpec], number: int, sides: Mapping[str, int], step: int) -> Arrays:
    """Inputs of these sides, the batch as large as the number of the set; sizes of pictures fit the first input."""
    rng = np.random.default_rng(number)
    arrays: Arrays = {}
    for spec in specs:
        named = {**sides, "batch": number}
        shape = [side if isinstance(side, int) else named.get(side, step) for side in spec.shape]
        if spec.name == "image_sizes":
            first = next(iter(arrays.values())).shape
            arrays[spec.name] = np.tile(np.array(first[2:], np.int64), (first[0], 1))
        elif spec.dtype == "uint8":
            arrays[spec.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            arrays[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return arrays


def _shapes(arrays: Arrays) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, array.shape))}" for name, array in arrays.items())
