# SPDX-License-Identifier: Apache-2.0
"""What manifests say of a network in PyTorch, and of the fp32 graph of a file."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import onnx_ir as ir
import torch
from freqfusion import Checkpoint
from freqfusion.checkpoint_files.weights import Choice
from freqfusion.configs.findings import Settings
from freqfusion_runtime.model_files.manifest import Interface, Manifest, SettingRecord, TensorSpec
from torch import nn

from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.query_segmenter import OUTPUTS as QUERY_OUTPUTS
from freqfusion_export.networks.trace import OPSET
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    Attributes:
        name: Its name.
        checkpoint: What the weights were read from; None: random weights.
        checkpoint_path: Its file.
        is_own: Whether it is the user's own, whose weights are theirs to know.
    """

    name: str
    checkpoint: Checkpoint | None = None
    checkpoint_path: Path | None = None
    is_own: bool = False


def network_manifest(form: Form, origin: Origin) -> Manifest:
    """Describes a network in PyTorch as an fp32 file of the tensor interface would."""
    is_trained = origin.is_own or (origin.checkpoint is not None and origin.checkpoint.weights == "trained")
    path = origin.checkpoint_path
    settings = Settings() if origin.checkpoint is None else origin.checkpoint.settings
    return Manifest(
        model=origin.name,
        task=form.task,
        interface="tensor",
        precision="fp32",
        opset=OPSET,
        num_classes=form.num_classes,
        num_things=form.num_things,
        inputs=form.inputs,
        outputs=form.outputs,
        weights="checkpoint" if is_trained else "random",
        classes=form.classes,
        palette=form.palette,
        preprocessing=form.preprocessing,
        sizes=form.shared_sizes,
        settings=tuple(SettingRecord(**asdict(setting)) for setting in settings.table),
        network=dict(settings.network),
        weights_file=path.name if path else None,
        weights_sha256=checkpoint_sha256(path) if path else None,
        weights_taken=origin.checkpoint.taken if origin.checkpoint and path else "unknown",
        config_file=settings.config_file,
        config_sha256=settings.config_sha256,
    )


def network_outputs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """What a segmenter's network itself puts out, whatever the interface of the file."""
    if manifest.interface == "tensor":
        return manifest.outputs
    if "QueryArgmax" in manifest.operators:
        return QUERY_OUTPUTS
    return (TensorSpec("logits", "float32", ("batch", manifest.num_classes, "height/8", "width/8")),)


def taken_of(manifest: Manifest) -> Choice | None:
    """Which weights of its checkpoint a file was made of, to take the same again; None if its manifest is too old."""
    return None if manifest.weights_taken == "unknown" else manifest.weights_taken


def file_manifest(
    graph_model: ir.Model, network: nn.Module, form: Form, origin: Origin, interface: Interface
) -> Manifest:
    """Describes the graph that is written of a network; its precision is for ``precision`` to say."""
    operators = Counter(node.op_type for node in graph_model.graph if node.domain == DOMAIN)
    bases_seeds = [module.bases_seed for module in network.modules() if hasattr(module, "bases_seed")]
    return replace(
        network_manifest(form, origin),
        interface=interface,
        opset=graph_model.opset_imports[""],
        inputs=tuple(_spec(value) for value in graph_model.graph.inputs),
        outputs=tuple(_spec(value) for value in graph_model.graph.outputs),
        nmf_bases_seed=cast("int | None", bases_seeds[0]) if bases_seeds else None,
        operators=dict(sorted(operators.items())),
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
        versions={
            "freqfusion-deploy": version("freqfusion-deploy"),
            "onnx": version("onnx"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(value.name, value.dtype.numpy().name, shape)
