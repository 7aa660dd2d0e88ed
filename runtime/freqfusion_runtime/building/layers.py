# SPDX-License-Identifier: Apache-2.0
"""The layers of a finished engine, as TensorRT lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion_runtime.engines.flavours import Flavour

# TensorRT's words for a type: the inspector says "Row major linear FP16 format", the listing "Half".
_PRECISIONS = {
    "fp32": ("float", "fp32"),
    "fp16": ("half", "fp16"),
    "bf16": ("bfloat16", "bf16", "bfloat"),
    "fp8": ("fp8", "float8"),
    "int8": ("int8",),
    "uint8": ("uint8",),
    "int32": ("int32",),
    "int64": ("int64",),
    "bool": ("bool",),
}
_TENSOR = re.compile(r"\{ Name: (?P<name>.+?),(?: Location: \w+,)? Dimensions: (?P<rest>.*?)\}")


@dataclass(frozen=True)
class EngineLayer:
    """One layer; ``precision`` is that of its first output, empty where TensorRT does not say."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str
    metadata: str = ""

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes layout or type."""
        return self.kind.lower() == "reformat" or (
            self.kind == "kgen" and self.name.startswith(("__myl_Move_", "__myl_Tran_"))
        )

    @property
    def is_plugin(self) -> bool:
        """Whether a plugin computes it."""
        return self.kind.lower().startswith("plugin")


def layers_of_engine(flavour: Flavour, engine: Any) -> list[EngineLayer]:
    """Asks the inspector of an engine that is loaded, which takes a GPU."""
    text = engine.create_engine_inspector().get_engine_information(flavour.api.LayerInformationFormat.JSON)
    return read_inspector(text)


def read_inspector(text: str) -> list[EngineLayer]:
    """Reads the inspector's JSON, of TensorRT 10 and 11 and of RTX; only the names of layers where it holds no more."""
    layers = json.loads(text).get("Layers", [])
    return [_layer(layer) if isinstance(layer, dict) else EngineLayer(str(layer), "", (), (), "") for layer in layers]


def read_listing(text: str) -> list[EngineLayer]:
    """Reads the listing that the builder logs at the end of a build, the only one to be had without a GPU."""
    layers = []
    for line in text.partition("I/O Tensors:")[0].splitlines():
        if not line.startswith("Name: ") or ", LayerType: " not in line:
            continue
        name, _, rest = line.removeprefix("Name: ").partition(", LayerType: ")
        kind, _, rest = rest.partition(", Inputs: [")
        inputs, _, rest = rest.partition(", Outputs: [")
        outputs, _, rest = rest.partition(", TacticName:")
        found = list(_TENSOR.finditer(outputs))
        precision = ""
        if found and (dtype := re.search(r"Datatype: (\w+)", found[0]["rest"])):
            precision = precision_of(dtype[1])
        names = tuple(match["name"] for match in _TENSOR.finditer(inputs.partition(", Constants: [")[0]))
        metadata = rest.partition("Metadata: ")[2].strip()
        layers.append(EngineLayer(name, kind, names, tuple(m["name"] for m in found), precision, metadata))
    return layers


def precision_of(words: str) -> str:
    """Names the type that TensorRT's words speak of."""
    parts = set(re.findall(r"[a-z]+\d*", words.lower()))
    return next((name for name, spoken in _PRECISIONS.items() if parts & set(spoken)), words)


def count_layers(layers: Sequence[EngineLayer]) -> Counter[tuple[str, str]]:
    """Counts layers by kind and precision."""
    return Counter((layer.kind, layer.precision) for layer in layers)


def reformats_around_plugins(layers: Sequence[EngineLayer]) -> list[EngineLayer]:
    """Finds the layers that do nothing but bring tensors into or out of a plugin's layout or type."""
    touched = {tensor for layer in layers if layer.is_plugin for tensor in (*layer.inputs, *layer.outputs)}
    return [layer for layer in layers if layer.is_reformat and touched & {*layer.inputs, *layer.outputs}]


def _layer(values: Mapping[str, Any]) -> EngineLayer:
    outputs = values.get("Outputs", [])
    precision = ""
    if outputs:
        precision = precision_of(str(outputs[0].get("Datatype") or outputs[0].get("Format/Datatype", "")))
    return EngineLayer(
        str(values.get("Name", "")),
        str(values.get("LayerType", "")),
        tuple(str(tensor.get("Name", "")) for tensor in values.get("Inputs", [])),
        tuple(str(tensor.get("Name", "")) for tensor in outputs),
        precision,
        str(values.get("Metadata", "")),
    )
