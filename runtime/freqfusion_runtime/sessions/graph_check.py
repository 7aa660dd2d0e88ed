# SPDX-License-Identifier: Apache-2.0
"""Whether a manifest tells of the network it is for: tensors, their types and sides, and the number of classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec

_ORT_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_REEXPORT = "Write the model again with `freqfusion export`."
_NAMED = 10  # of a list in a message
_FLOATS = ("float32", "float16", "bfloat16")


def tensors_of(nodes: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """What ONNX Runtime says of a session's inputs or outputs; a side without a name is called ``free``."""
    return tuple(
        TensorSpec(
            node.name,
            _ORT_DTYPES.get(node.type, node.type),
            tuple(side if isinstance(side, int) and side > 0 else str(side or "free") for side in node.shape),
        )
        for node in nodes
    )


def check_graph(
    path: str | os.PathLike[str], manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Compares a manifest with the graph it was found in; the graph may have further outputs.

    A side counts where both give it as a number; what gives no sides at all does not say how many there are.

    Args:
        path: The model file.
        manifest: Its manifest.
        inputs: Of the graph.
        outputs: Of the graph.

    Raises:
        ModelFileError: If one of them is another, or not what a model of this task and interface has.
    """
    path = Path(path)
    found = {spec.name: spec for spec in inputs}
    if {spec.name for spec in manifest.inputs} != set(found):
        raise ModelFileError(
            f"{path}: the manifest names the inputs {_names(manifest.inputs)}, the graph has {_names(inputs)}. "
            f"{_REEXPORT}"
        )
    computed = {spec.name: spec for spec in outputs}
    if not {spec.name for spec in manifest.outputs} <= set(computed):
        raise ModelFileError(
            f"{path}: the manifest names the outputs {_names(manifest.outputs)}, the graph has {_names(outputs)}. "
            f"{_REEXPORT}"
        )
    for told, graph in ((manifest.inputs, found), (manifest.outputs, computed)):
        for spec in told:
            _check_tensor(path, spec, graph[spec.name])
    if manifest.task == "network":
        return
    _check_pictures(path, manifest)
    _check_classes(path, manifest, computed)


def _check_tensor(path: Path, told: TensorSpec, found: TensorSpec) -> None:
    fits = told.dtype == found.dtype and (
        not found.shape
        or not told.shape
        or (
            len(told.shape) == len(found.shape)
            and all(
                isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(told.shape, found.shape, strict=True)
            )
        )
    )
    if not fits:
        raise ModelFileError(
            f"{path}: the manifest says that {told.name[:80]!r} is {_words(told)}, in the graph it is {_words(found)}. "
            f"{_REEXPORT}"
        )


def _check_pictures(path: Path, manifest: Manifest) -> None:
    """The first input takes pictures, and that of a detector without its own preprocessing is followed by sizes."""
    is_image = manifest.interface == "image"
    expected = 1 if is_image or manifest.task == "semantic_segmentation" else 2
    if len(manifest.inputs) != expected:
        raise ModelFileError(
            f"{path}: a model for {manifest.task} with the {manifest.interface} interface has {expected} "
            f"input{'s' * (expected > 1)}, this one has {len(manifest.inputs)}. {_REEXPORT}"
        )
    spec, channels = manifest.inputs[0], 3 if is_image else 1
    dtypes = ("uint8",) if is_image else _FLOATS
    takes_colours = len(spec.shape) == 4 and (isinstance(spec.shape[channels], str) or spec.shape[channels] == 3)
    if spec.dtype not in dtypes or not takes_colours:
        layout = "(n, height, width, 3)" if is_image else "(n, 3, height, width)"
        raise ModelFileError(
            f"{path}: the input of the {manifest.interface} interface is {' or '.join(dtypes)} {layout}, "
            f"this one's {spec.name[:80]!r} is {_words(spec)}. {_REEXPORT}"
        )


def _check_classes(path: Path, manifest: Manifest, outputs: Mapping[str, TensorSpec]) -> None:
    """Holds the number of classes against the output that has a side of it; labels show theirs when they are made."""
    is_scores = manifest.task == "semantic_segmentation" and manifest.interface == "tensor"
    if is_scores and len(manifest.outputs) == 1:
        name, expected = manifest.outputs[0].name, manifest.num_classes
    elif manifest.task == "panoptic_segmentation":
        name, expected = "semantic", manifest.num_classes - (manifest.num_things or 0) + 1
    else:
        return
    told = next((spec for spec in manifest.outputs if spec.name == name), None)
    for spec in (told, outputs.get(name)):
        if spec is not None and len(spec.shape) > 1 and isinstance(spec.shape[1], int) and spec.shape[1] != expected:
            raise ModelFileError(
                f"{path}: the manifest has {manifest.num_classes} classes, so {name[:80]!r} must have {expected} maps, "
                f"and it has {spec.shape[1]}. {_REEXPORT}"
            )


def _names(specs: Sequence[TensorSpec]) -> str:
    shown = sorted(spec.name[:80] for spec in specs)[:_NAMED]
    return f"{shown}{f' and {len(specs) - _NAMED} more' if len(specs) > _NAMED else ''}"


def _words(spec: TensorSpec) -> str:
    sides = ", ".join(str(side)[:40] for side in spec.shape[:_NAMED])
    return f"{spec.dtype[:40]} ({sides}{', ...' if len(spec.shape) > _NAMED else ''})"
