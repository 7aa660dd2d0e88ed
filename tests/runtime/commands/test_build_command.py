# SPDX-License-Identifier: Apache-2.0
"""`freqfusion build` on TensorRT-RTX: real builds of small models, the cache, and everything that can go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_builds import build, needs_rtx, record_of
from freqfusion_runtime.building.builder import EngineBuilder
from freqfusion_runtime.engines.errors import FunctionBodiesError, PluginLibraryError, UnsupportedOptionError
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.plan_header import read_plan_header
from freqfusion_runtime.engines.profiles import ShapeRange, read_profiles
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import METADATA_KEY, TensorSpec
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE
from onnx import TensorProto, helper
from places import EXAMPLES
from small_models import image_manifest, tensor_manifest, write_image_model, write_tensor_model

pytestmark = needs_rtx
PLAN = "net.tensorrt-rtx.plan"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "cache"))


def write_model(path: Path, nodes: list[onnx.NodeProto], opset: int = 18, **constants: np.ndarray) -> Path:
    """A model of these nodes, from a picture ``image`` to ``logits``, with a manifest."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: tensor_manifest().to_json()})
    onnx.save(model, path)
    return path


def test_a_plan_and_its_manifest_are_written_and_tell_of_each_other(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    status, facts = build(model)
    plan = tmp_path / PLAN
    assert status == 0
    assert (facts["path"], facts["sha256"]) == (str(plan), sha256_of(plan))
    header = read_plan_header(plan)
    assert (header.flavour, header.version) == ("tensorrt-rtx", facts["versions"]["tensorrt-rtx"])
    record = record_of(plan)
    assert record.onnx_sha256 == sha256_of(model)
    assert record.profiles[0].ranges["image"] == ShapeRange((1, 3, 32, 32), (1, 3, 64, 64), (2, 3, 128, 96))
    assert [(p.operator, p.path) for p in record.operator_paths] == [("LocalSimilarity", "function body")]
    assert record.gpu is None  # RTX compiles for the GPU that it meets
    assert sum(layer["count"] for layer in facts["build"]["layers"]) > 2
    assert {layer["precision"] for layer in facts["build"]["layers"]} >= {"fp32"}
    assert facts["build"]["memory_bytes"]["activations"] > 0


def test_the_model_keeps_its_own_manifest(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text("the model's")
    assert build(model)[0] == 0
    assert (tmp_path / "net.json").read_text() == "the model's"


def test_the_second_build_is_a_copy_of_the_first(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    assert build(model)[1]["cache"]["hit"] is False
    plan = tmp_path / PLAN
    first, _ = plan.read_bytes(), plan.unlink()
    status, facts = build(model, "--output", str(tmp_path / "again.plan"))
    assert (status, facts["cache"]["hit"]) == (0, True)
    assert (tmp_path / "again.plan").read_bytes() == first
    assert record_of(tmp_path / "again.plan").build_s > 0
    assert "cache hit: the model, options, TensorRT, plugin and GPU are the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--optimization-level", "2"], "--optimization-level: None -> 2"),
        (["--workspace", "512"], "--workspace-mb: None -> 512"),
        (["--tf32"], "--tf32: False -> True"),
    ],
)
def test_other_options_are_another_engine(tmp_path, options, part):
    model = write_tensor_model(tmp_path / "net.onnx")
    build(model)
    _, facts = build(model, *options)
    assert facts["cache"]["hit"] is False
    assert facts["cache"]["reason"] == f"other than the nearest engine there: {part}"


def test_another_model_and_other_sizes_are_other_engines(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx")
    build(model)
    _, wider = build(model, sizes=("--min", "1x32x32", "--opt", "1x64x64", "--max", "2x128x128"))
    assert "profile 0: image 1x3x32x32..1x3x64x64..2x3x128x96 -> " in wider["cache"]["reason"]
    write_tensor_model(model, manifest=replace(tensor_manifest(), weights="checkpoint"))
    _, changed = build(model)
    assert changed["cache"]["hit"] is False
    assert "ONNX file: " in changed["cache"]["reason"]


def test_no_cache_builds_again(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx")
    build(model)
    _, facts = build(model, "--no-cache")
    assert (facts["cache"]["hit"], facts["cache"]["reason"]) == (False, "--no-cache")


def test_several_profiles_of_a_picture_interface(tmp_path):
    model = write_image_model(tmp_path / "net.onnx")
    sizes = ("--min", "1x8x8", "--max", "1x64x64", "--min", "1x100x100", "--max", "4x200x300")
    assert build(model, sizes=sizes)[0] == 0
    small, large = record_of(tmp_path / PLAN).profiles
    assert small.ranges["image"].opt == (1, 64, 64, 3)
    assert large.ranges["image"] == ShapeRange((1, 100, 100, 3), (4, 200, 300, 3), (4, 200, 300, 3))


def test_a_dry_run_parses_and_writes_nothing(tmp_path, capsys):
    model = write_image_model(tmp_path / "net.onnx")
    status, facts = build(model, "--dry-run")
    assert status == 0
    shapes = [(t["kind"], t["name"], t["dtype"], t["shape"]) for t in facts["tensors"]]
    assert shapes == [("input", "image", "UINT8", [-1, -1, -1, 3]), ("output", "labels", "INT32", [-1, -1, -1])]
    assert "profile 0: image 1x32x32x3 .. 1x64x64x3 .. 2x128x96x3" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.facts.json", "net.onnx"]


def refusal(capsys, model: Path, *options: str, status: int = 2, **keywords) -> str:
    """The one line that a build fails with; nothing may be left of it."""
    assert build(model, *options, **keywords)[0] == status
    assert not list(model.parent.glob("*.plan"))
    assert not list(model.parent.glob("cache/**/*.plan"))
    return capsys.readouterr().err.splitlines()[-1]


def test_operators_that_tensorrt_does_not_know_are_listed_all_at_once(tmp_path, capsys):
    nodes = [
        helper.make_node("Sharpen", ["image"], ["a"], "first", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Blur", ["b"], ["logits"], "second", domain="acme"),
    ]
    line = refusal(capsys, write_model(tmp_path / "net.onnx", nodes))
    assert "cannot take 2 of its nodes: first (Sharpen): Plugin not found" in line
    assert "second (Blur): Plugin not found" in line
    assert "--plugin" in line


@pytest.mark.parametrize("opset", [20, 22])
def test_grid_sample_that_tensorrt_would_misread_is_refused(tmp_path, capsys, opset):
    grid = np.zeros((1, 4, 4, 2), np.float32)
    nodes = [helper.make_node("GridSample", ["image", "grid"], ["logits"], "sample", mode="linear")]
    line = refusal(capsys, write_model(tmp_path / "net.onnx", nodes, opset, grid=grid))
    assert "1 GridSample nodes of opset 20 or later, which TensorRT's parser reads as mode=nearest" in line
    assert f"sample (opset {opset})" in line
    assert "Export the model again" in line


def test_grid_sample_of_an_earlier_opset_is_taken(tmp_path):
    grid = np.zeros((1, 4, 4, 2), np.float32)
    nodes = [helper.make_node("GridSample", ["image", "grid"], ["logits"], "sample", mode="bilinear")]
    assert build(write_model(tmp_path / "net.onnx", nodes, 18, grid=grid), "--dry-run")[0] == 0


def test_too_little_memory_is_told_apart_from_other_failures(tmp_path, capsys):
    line = refusal(
        capsys, write_tensor_model(tmp_path / "net.onnx"), "--workspace", "1", sizes=("--opt", "1x1024x1024")
    )
    assert "ran out of memory (workspace: 1 MiB)" in line
    assert "Raise or leave out --workspace" in line


def test_an_engine_too_large_for_this_gpu_says_so(tmp_path, capsys, monkeypatch):
    from freqfusion_runtime.building import builder
    from freqfusion_runtime.engines.cuda import GpuIdentity

    model = write_tensor_model(tmp_path / "net.onnx")
    monkeypatch.setattr(EngineBuilder, "_layers", lambda self, plan, messages: [])  # there is no GPU to ask
    monkeypatch.setattr(builder, "find_gpu", lambda: GpuIdentity("a small GPU", "8.9", 1))
    assert build(model, "--no-cache", sizes=("--opt", "1x1024x1024"))[0] == 0
    assert "WARNING: one context needs" in (out := capsys.readouterr().out)
    assert "a small GPU has 1 MiB: it cannot run here. Build it with a smaller --max" in out
    monkeypatch.setattr(builder, "find_gpu", lambda: GpuIdentity("a GPU", "8.9", 24000))
    assert build(model, "--no-cache", sizes=("--opt", "1x1024x1024"))[0] == 0
    assert "WARNING" not in capsys.readouterr().out


def test_what_rtx_does_not_have_is_refused_before_the_build(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    assert "no lean runtime" in refusal(capsys, model, "--version-compatible")
    assert "no plugins to put into an engine" in refusal(capsys, model, "--serialize-plugins")


def test_a_model_of_others_is_refused(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx", metadata="")
    model.write_bytes(onnx.load(model).SerializeToString())
    onnx_model = onnx.load(model)
    del onnx_model.metadata_props[:]
    onnx.save(onnx_model, model)
    assert "is an ONNX model without a FreqFusion manifest" in refusal(capsys, model)
    model.write_bytes(b"\xff" * 50)
    assert "is no ONNX model" in refusal(capsys, model)
    model.unlink()
    assert "does not exist" in refusal(capsys, model)


def test_sizes_that_contradict_the_model_are_refused(tmp_path, capsys):
    assert "multiples of 32" in refusal(capsys, write_tensor_model(tmp_path / "net.onnx"), sizes=("--opt", "1x100x100"))


def test_a_flavour_that_is_not_installed_is_told_how_to_get(tmp_path, capsys):
    if __import__("importlib").util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    line = refusal(capsys, write_tensor_model(tmp_path / "net.onnx"), "--flavour", "tensorrt")
    assert "the Python module tensorrt is not installed. Install it with: pip install 'freqfusion-deploy[gpu]'" in line


def test_the_gate_needs_pictures(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    (tmp_path / "empty").mkdir()
    assert "no picture found in" in refusal(capsys, model, "--verify", str(tmp_path / "empty"))
    assert "--reference belongs to the gate" in refusal(capsys, model, "--reference", str(tmp_path))


def has_gpu() -> bool:
    from freqfusion_runtime.engines.cuda import find_gpu

    return find_gpu() is not None


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_the_gate_says_so_before_it_builds(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    picture = EXAMPLES / "coffee.jpg"
    line = refusal(capsys, model, "--verify", str(picture))
    assert "--verify runs the engine, which needs an NVIDIA GPU, and" in line
    assert "needs a GPU to build a refittable" in refusal(capsys, model, "--strip-weights")


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_a_plan_says_what_it_needs(tmp_path, capsys):
    from freqfusion_runtime.commands.cli import main

    build(write_image_model(tmp_path / "net.onnx", image_manifest()))
    picture = EXAMPLES / "coffee.jpg"
    assert main(["run", str(tmp_path / PLAN), str(picture), "--output", str(tmp_path / "out")]) == 2
    assert f"running {tmp_path / PLAN} needs an NVIDIA GPU" in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    """A graph that takes seconds, and Ctrl-C after the first of them."""
    nodes, previous, constants = [], "image", {}
    for index in range(1500):
        constants[f"w{index}"] = np.full((3, 3, 1, 1), index / 5000, np.float32)
        nodes.append(helper.make_node("Conv", [previous, f"w{index}"], [f"c{index}"]))
        nodes.append(helper.make_node("Sigmoid", [f"c{index}"], [f"s{index}"]))
        previous = f"s{index}"
    nodes.append(helper.make_node("Relu", [previous], ["logits"]))
    model = write_model(tmp_path / "net.onnx", nodes, **constants)
    timing = tmp_path / "cache" / "timing"
    timing.mkdir(parents=True)
    (timing / "kept.cache").write_bytes(b"measured")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "build",
        str(model),
        "--flavour",
        "tensorrt-rtx",
    ]
    command += ["--opt", "1x64x64"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A shell without job control starts what it puts in the background with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "cache miss" in process.stdout.readline()  # printed when the build begins
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert f"the build of {tmp_path / PLAN} was interrupted: no plan was written" in stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert (timing / "kept.cache").read_bytes() == b"measured"


def test_inputs_beside_the_picture_have_sizes_of_their_own(tmp_path):
    path = write_model(tmp_path / "net.onnx", [helper.make_node("Add", ["image", "bias"], ["logits"])])
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["n", 3, 1, 1]))
    manifest = tensor_manifest()
    inputs = (*manifest.inputs, TensorSpec("bias", "float32", ("n", 3, 1, 1)))
    helper.set_model_props(model, {METADATA_KEY: replace(manifest, inputs=inputs).to_json()})
    onnx.save(model, path)
    assert build(path, sizes=("--opt", "1x64x64,bias=1"))[0] == 0
    assert record_of(tmp_path / PLAN).profiles[0].ranges["bias"].opt == (1, 3, 1, 1)


def test_a_plugin_library_is_of_no_use_to_rtx(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    line = refusal(capsys, model, "--plugin", str(tmp_path / "some.so"))
    assert "TensorRT-RTX" in line
    assert "has no plugins, so" in line


class TensorRTOnRtx(Flavour):
    """The rules of TensorRT on RTX's parser, which is the same, knows no plugin, and needs no GPU."""

    needs_gpu_to_build = False


def tensorrt_builder(model: Path, options: BuildOptions) -> EngineBuilder:
    import tensorrt_rtx

    facts = read_onnx_facts(model)
    profiles = read_profiles(facts.manifest(""), [], ["1x64x64"], [])
    return EngineBuilder(TensorRTOnRtx("tensorrt", tensorrt_rtx), model, facts, profiles, options)


def test_nodes_that_fall_to_their_bodies_are_named_unless_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))  # no library there
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    with pytest.raises(PluginLibraryError, match=r"does not exist.*--allow-function-bodies builds without it"):
        tensorrt_builder(model, BuildOptions())
    builder = tensorrt_builder(model, BuildOptions(allow_function_bodies=True))
    assert [entry.path for entry in builder.parse().operator_paths] == ["function body"]
    builder.options = BuildOptions()
    with pytest.raises(
        FunctionBodiesError, match=r"1 FreqFusion nodes fell to their function bodies: echo\. No plugin"
    ):
        builder.parse()


def test_plugins_travel_in_version_compatible_engines_only(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    model = write_tensor_model(tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOptionError, match="Add --version-compatible to --serialize-plugins"):
        tensorrt_builder(model, BuildOptions(serialize_plugins=True))
