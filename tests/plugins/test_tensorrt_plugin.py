# SPDX-License-Identifier: Apache-2.0
"""libfreqfusion_tensorrt.so in a real TensorRT plugin registry, on machines with and without a GPU.

The lean runtime's registry is enough (``pip install tensorrt-lean-cu13``). Each check runs in a process of its own,
because a registry is global to its process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from compiled_libraries import cuda_libraries
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION
from onnx import AttributeProto, NodeProto, helper

ROOT = Path(__file__).parents[2]

# Nodes as the exporter writes them.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Carafe": {"kernel_size": 5, "group_size": 1, "scale_factor": 2},
    "AdaptiveFilter": {"kernel_size": 3, "group_size": 1, "scale_factor": 1, "window": [0.5] * 9, "mode": 2},
    "DeformableAttention": {"levels": 3},
    "LocalSimilarity": {"kernel_size": 3, "dilation": 2},
    "OffsetResample": {"groups": 4},
    "QueryArgmax": {},
    "ResizeArgmax": {"align_corners": 0},
}
PROBE_CHECKS = [
    "dlopen",
    "late",
    "method-tables",
    "preload",
    "preload-first",
    "registry",
    "capabilities",
    "fields",
    "formats",
    "nonsense",
    "no-gpu",
    "shapes",
    "sizes",
    "tactics",
    "timing-cache-id",
    "types",
]

# Reads {"nodes": [{"op", "fields"}]} and prints what the registry said of each, as onnx-tensorrt's parser would ask.
REGISTRY_CLIENT = """
import json, sys
import numpy as np
import {module} as trt

request = json.load(sys.stdin)
registry = trt.get_plugin_registry()
answer = {{"loaded": registry.load_library(request["library"]) is not None, "version": trt.__version__, "made": []}}
answer["creators"] = [
    [c.name, c.plugin_version, c.plugin_namespace, [[f.name, f.type.name] for f in c.field_names]]
    for c in registry.all_creators
    if c.plugin_namespace == request["namespace"]
]
keep = []
for node in request["nodes"]:
    creator = registry.get_creator(node["op"], request["version"], request["namespace"])
    fields = []
    for name, (kind, values) in node["fields"].items():
        keep.append(np.array(values, np.dtype(kind)))
        fields.append(trt.PluginField(name, keep[-1], getattr(trt.PluginFieldType, kind.upper())))
    plugin = creator.create_plugin("layer of " + node["op"], trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    answer["made"].append(plugin is not None)
print(json.dumps(answer))
"""


def built(name: str) -> Path:
    """A file of the CUDA build."""
    return next(cuda_libraries().rglob(name)).resolve()


def installed(*names: str) -> str:
    """The first of the Python packages that is installed; skips the test if none is."""
    for name in names:
        if importlib.util.find_spec(name) is not None:
            return name
    pytest.skip(f"none of {', '.join(names)} is installed: pip install tensorrt-lean-cu13")


@pytest.fixture(scope="module")
def plugin() -> Path:
    return built("libfreqfusion_tensorrt.so")


@pytest.fixture(scope="module")
def libnvinfer() -> Path:
    package = importlib.util.find_spec(installed("tensorrt_libs", "tensorrt_lean_libs"))
    assert package is not None
    assert package.origin is not None
    pattern = re.compile(r"libnvinfer(_lean)?\.so\.\d+")
    return next(path for path in Path(package.origin).parent.iterdir() if pattern.fullmatch(path.name))


def node(op: str, **changes: Any) -> NodeProto:
    attributes = ATTRIBUTES[op] | changes
    return helper.make_node(
        op, ["X"], ["Y"], domain=DOMAIN, plugin_namespace=PLUGIN_NAMESPACE, plugin_version=PLUGIN_VERSION, **attributes
    )


def fields(of: NodeProto) -> dict[str, tuple[str, list[float]]]:
    """A node's attributes as onnx-tensorrt's parser turns them into plugin fields (loadFields, onnxOpImporters.cpp)."""
    kinds = {
        AttributeProto.INT: "int32",
        AttributeProto.INTS: "int32",
        AttributeProto.FLOAT: "float32",
        AttributeProto.FLOATS: "float32",
    }
    result = {}
    for attribute in of.attribute:
        if attribute.type in kinds:
            value = onnx.helper.get_attribute_value(attribute)
            values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__len__") else [value]
            result[attribute.name] = (kinds[attribute.type], values)
    return result


def ask_registry(plugin: Path, nodes: list[NodeProto]) -> tuple[dict[str, Any], str]:
    """What a process with TensorRT answers for these nodes, and what it wrote to standard error."""
    module = installed("tensorrt", "tensorrt_lean")
    request = {
        "library": str(plugin),
        "namespace": PLUGIN_NAMESPACE,
        "version": PLUGIN_VERSION,
        "nodes": [{"op": n.op_type, "fields": fields(n)} for n in nodes],
    }
    done = subprocess.run(
        [sys.executable, "-c", REGISTRY_CLIENT.format(module=module)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.long
def test_every_creator_is_found_under_the_exporters_names(plugin: Path) -> None:
    answer, _ = ask_registry(plugin, [])

    assert answer["loaded"]
    types = {AttributeProto.INT: "INT32", AttributeProto.FLOATS: "FLOAT32"}
    expected = {
        op: [[a.name, types[a.type]] for a in node(op).attribute if not a.name.startswith("plugin_")]
        for op in ATTRIBUTES
    }
    for op in ("Carafe", "AdaptiveFilter"):
        expected[op].append(["padding", "INT32"])  # zero-padded files do not have it
    found = {name: announced for name, version, namespace, announced in answer["creators"]}
    assert all(row[1:3] == [PLUGIN_VERSION, PLUGIN_NAMESPACE] for row in answer["creators"])
    assert {op: sorted(rows) for op, rows in found.items()} == {op: sorted(rows) for op, rows in expected.items()}


@pytest.mark.long
def test_plugins_are_made_from_the_exporters_nodes(plugin: Path) -> None:
    padded = [node(op, padding=padding) for op in ("Carafe", "AdaptiveFilter") for padding in (0, 1)]
    nodes = [*(node(op) for op in ATTRIBUTES), *padded]
    answer, stderr = ask_registry(plugin, nodes)

    assert answer["made"] == [True] * len(nodes)
    assert "freqfusion::" not in stderr


@pytest.mark.long
def test_nonsense_gives_no_plugin_and_a_sentence_and_the_process_lives(plugin: Path) -> None:
    wrong = [
        node("Carafe", kernel_size=4),
        node("Carafe", group_size=0),
        node("Carafe", padding=2),
        node("AdaptiveFilter", window=[1.0] * 4),
        node("LocalSimilarity", dilation=2**31 - 1),
        node("OffsetResample", groups=[1, 2]),
        node("ResizeArgmax", align_corners=0.5),
    ]
    answer, stderr = ask_registry(plugin, [*wrong, node("Carafe")])

    assert answer["made"] == [False] * len(wrong) + [True]
    sentences = [line for line in stderr.splitlines() if "freqfusion::" in line]
    assert len(sentences) == len(wrong)
    for sentence, words in zip(
        sentences,
        [
            "Carafe (layer 'layer of Carafe'): attribute kernel_size is 4, expected an odd number from 1 to 31",
            "attribute group_size is 0, expected a number from 1 to",
            "attribute padding is 2, expected a number from 0 to 1",
            "attribute window has 4 values, expected kernel_size squared, 9",
            "attribute dilation is 2147483647, expected a number from 1 to",
            "attribute groups has 2 values, expected 1",
            "attribute align_corners is of type float32, expected int32",
        ],
        strict=True,
    ):
        assert words in sentence


@pytest.mark.long
def test_loads_where_there_is_neither_tensorrt_nor_a_gpu(plugin: Path) -> None:
    program = f"import ctypes; library = ctypes.CDLL({str(plugin)!r}); print(library.initFreqFusionPlugins() & 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "0", "")


@pytest.mark.long
@pytest.mark.parametrize("check", PROBE_CHECKS)
def test_through_tensorrts_own_interfaces(plugin: Path, libnvinfer: Path, check: str, tmp_path: Path) -> None:
    probe = built("freqfusion_tensorrt_probe")
    environment = dict(os.environ)
    if check.startswith("preload"):
        environment["LD_PRELOAD"] = str(plugin)
    if check == "preload-first":  # as on a machine where TensorRT is installed system-wide
        (tmp_path / libnvinfer.name.replace("_lean", "")).symlink_to(libnvinfer)
        environment["LD_LIBRARY_PATH"] = str(tmp_path)
    done = subprocess.run(
        [probe, plugin, libnvinfer, check], capture_output=True, text=True, timeout=120, check=False, env=environment
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_check_of_the_probe_is_left_out() -> None:
    listed = subprocess.run(
        [built("freqfusion_tensorrt_probe"), "--list"], capture_output=True, text=True, timeout=60, check=True
    )
    assert sorted(listed.stdout.split()) == sorted(PROBE_CHECKS)


@pytest.mark.gpu
def test_enqueue_gives_what_the_host_kernels_give(plugin: Path, libnvinfer: Path) -> None:
    done = subprocess.run(
        [built("freqfusion_tensorrt_enqueue"), plugin, libnvinfer],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
