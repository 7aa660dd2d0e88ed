# SPDX-License-Identifier: Apache-2.0
"""The ``config.pbtxt`` of one model; the fields are those of ``ModelConfig`` in Triton's ``model_config.proto``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.classes.class_table import class_names
from freqfusion_runtime.model_files.free_sizes import usual_shapes
from freqfusion_runtime.model_files.manifest import TensorSpec
from freqfusion_runtime.serving.triton.source import ModelSource
from freqfusion_runtime.serving.triton.text_format import Message, Name, Value, to_text

Device = Literal["auto", "cpu", "gpu"]
LABELS_FILE = "labels.txt"

_DTYPES = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_BATCH_ON_A_GPU = 8
_NETWORK_STEP = 32


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """What an operator can choose.

    Args:
        device: Where instances run; ``auto`` lets Triton take the GPU where there is one.
        instances: On each device.
        max_batch: Most requests that are run together; None for 8, or 1 on a CPU and for plans, whose limit is known
            to their builder only.
        max_delay_us: Longest time the first request of a batch waits for others, in microseconds.
        queue: Requests that may wait; the next one is refused.
        threads: Of ONNX Runtime on a CPU, 0 for all cores.
    """

    device: Device = "auto"
    instances: int = 1
    max_batch: int | None = None
    max_delay_us: int = 0
    queue: int = 64
    threads: int = 0

    def batch_of(self, source: ModelSource) -> int:
        """Gives ``max_batch_size``: 0 for a model whose batch is fixed."""
        if not source.can_batch:
            if self.max_batch not in (None, 1):
                raise ModelFileError(
                    f"{source.path} takes a batch of {source.inputs[0].shape[0]}, so --max-batch {self.max_batch} "
                    "cannot be had. Export it with a free batch, or leave the option out."
                )
            return 0
        if self.max_batch is not None:
            return self.max_batch
        return 1 if source.is_plan or self.device == "cpu" else _BATCH_ON_A_GPU


def write_config(name: str, source: ModelSource, options: ConfigOptions, op_library: str | None) -> str:
    """Writes ``config.pbtxt``.

    Args:
        name: Of the model, and of its folder.
        source: The model file.
        options: See there.
        op_library: Path of the custom-operator library as the server will see it, for an ONNX file.

    Raises:
        ModelFileError: If the file cannot be served so.
    """
    if source.is_plan and options.device == "cpu":
        raise ModelFileError(f"{source.path} is a TensorRT plan and runs on a GPU only. Leave --device cpu out.")
    batch = options.batch_of(source)
    kind = "gpu" if source.is_plan else options.device
    config: Message = {
        "name": name,
        "platform": "tensorrt_plan" if source.is_plan else "onnxruntime_onnx",
        "backend": "tensorrt" if source.is_plan else "onnxruntime",
        "default_model_filename": "model.plan" if source.is_plan else "model.onnx",
        "max_batch_size": batch,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(spec, batch) for spec in source.inputs],
        "output": [{**_tensor(spec, batch), **_labels(source)} for spec in source.outputs],
        "instance_group": [{"count": options.instances, "kind": Name(f"KIND_{kind.upper()}")}],
    }
    if batch > 1:
        config["dynamic_batching"] = _batching(options)
    config["model_warmup"] = [_warmup(source, batch)]
    if op_library is not None:
        config["model_operations"] = {"op_library_filename": [op_library]}
    config["parameters"] = [
        {"key": key, "value": {"string_value": value}} for key, value in _parameters(source, options).items()
    ]
    return to_text(config)


def _labels(source: ModelSource) -> Message:
    """What a network's outputs number is not known."""
    return {} if source.manifest.task == "network" else {"label_filename": LABELS_FILE}


def write_labels(source: ModelSource) -> str:
    """Names the classes, one a line, in the order of their numbers."""
    return "".join(name.replace("\n", " ") + "\n" for name in class_names(source.manifest))


def _tensor(spec: TensorSpec, batch: int) -> Message:
    # Where there is a batch size, Triton's dims leave the first side out.
    sides = spec.shape[1:] if batch else spec.shape
    if spec.dtype not in _DTYPES:
        raise ModelFileError(f"tensor {spec.name!r} is {spec.dtype}, which Triton has no name for. Export it as fp32.")
    dims = [side if isinstance(side, int) else -1 for side in sides]
    return {"name": spec.name, "data_type": Name(_DTYPES[spec.dtype]), "dims": dims}


def _batching(options: ConfigOptions) -> Message:
    fields: Message = {}
    if options.max_delay_us:
        fields["max_queue_delay_microseconds"] = options.max_delay_us
    fields["default_queue_policy"] = {"max_queue_size": options.queue}
    return fields


def _warmup(source: ModelSource, batch: int) -> Message:
    """One black picture of the size most pictures come to, so that the first client does not pay for set-up.

    Zeros of the sizes that it was exported with, for a model of which nobody says what its tensors mean.
    """
    side = source.manifest.preprocessing.short_side // _NETWORK_STEP * _NETWORK_STEP or _NETWORK_STEP
    usual = usual_shapes(source.manifest) if source.manifest.task == "network" else {}
    inputs: list[Value] = []
    for spec in source.inputs:
        tensor = _tensor(spec, batch)
        shape = spec.shape[1:] if batch else spec.shape
        free = [side if i or batch else 1 for i in range(len(shape))]
        dims = [given if isinstance(given, int) else chosen for given, chosen in zip(shape, free, strict=True)]
        if usual:
            dims = list(usual[spec.name][1:] if batch else usual[spec.name])
        inputs.append({"key": spec.name, "value": {"data_type": tensor["data_type"], "dims": dims, "zero_data": True}})
    return {"name": "black picture", "batch_size": 1, "inputs": inputs}


def _parameters(source: ModelSource, options: ConfigOptions) -> dict[str, str]:
    manifest = source.manifest
    facts = {
        "freqfusion_model": manifest.model,
        "freqfusion_interface": manifest.interface,
        "freqfusion_precision": manifest.precision,
        "freqfusion_weights": manifest.weights,
        "freqfusion_sha256": source.sha256,
    }
    if not source.is_plan and options.threads:
        facts["intra_op_thread_count"] = str(options.threads)  # read by the onnxruntime backend
    return facts
