# SPDX-License-Identifier: Apache-2.0
"""`freqfusion parity --bisect` finds what must be in fp32, and says when it is something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from freqfusion import load_model
from freqfusion_export.commands.precision_bisection import refuse_unless_half
from freqfusion_export.errors import ExportError
from freqfusion_export.parity.probe import Probe
from freqfusion_export.parity.segmenter_parity import LOGITS
from freqfusion_export.passes.assign_precision import AssignPrecisionPass
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.precision.assignment import assign_half
from freqfusion_export.precision.bisection import smallest_sufficient
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.precision.islands import find_islands
from freqfusion_export.precision.retyping import Retyping
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, Preprocessing
from onnx_ir.passes.common import InlinePass, ShapeInferencePass
from PIL import Image
from reference_data import golden
from small_graphs import parse, run, scaled
from weights_spec import image

FP16 = ir.DataType.FLOAT16


@pytest.mark.parametrize("guilty", [[0], [63], [17, 18], [3, 60], [5, 31, 32, 50], list(range(64)), []])
def test_search_finds_exactly_the_guilty(guilty):
    asked = []

    def suffices(kept):
        asked.append(tuple(kept))
        return set(guilty) <= set(kept)

    assert smallest_sufficient(range(64), suffices) == guilty
    assert len(set(asked)) == len(asked)
    if 0 < len(guilty) < 5:
        assert len(asked) <= 1 + 2 * len(guilty) * (np.log2(64 / len(guilty)) + 2)


def test_search_with_two_ways_out_takes_one_and_nothing_else():
    found = smallest_sufficient("abcdefgh", lambda kept: {"b", "g"} <= set(kept) or "e" in kept)
    assert found in (["b", "g"], ["e"])


def test_search_that_is_not_monotone_gives_a_set_that_suffices_and_no_member_too_many():
    # h in fp32 spoils it unless a and b are, too: errors that cancelled out no longer do.
    def suffices(kept):
        return "c" in kept and ("h" not in kept or {"a", "b"} <= set(kept))

    found = smallest_sufficient("abcdefgh", suffices)
    assert suffices(found)
    assert not any(suffices([other for other in found if other != member]) for member in found)


def test_search_among_nothing_and_one():
    assert smallest_sufficient([], lambda _: True) == []
    assert smallest_sufficient("a", bool) == ["a"]


LOSING = """g (float[1,4] x, float[1] one, float[1] two) => (float[1,4] y) {
    a = Mul(x, two)
    b = Add(a, one)
    c = Sub(b, one)
    d = Abs(c)
    t = Transpose<perm=[0,1]>(d)
    y = Mul(t, two)
}"""


@pytest.mark.parametrize("dtype", [FP16, ir.DataType.BFLOAT16])
def test_a_node_that_loses_is_found(tmp_path, dtype):
    model = parse(LOSING, one=np.full(1, 1000.0), two=np.full(1, 2.0))
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
        node.metadata_props[MODULE_KEY] = "body.sum" if node.outputs[0].name in "bc" else "body.rest"
    x = np.array([[0.1, 0.2, 0.3, 0.4]])
    AssignPrecisionPass(dtype, find_islands(model, dtype))(model)
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    retyping = Retyping(path)
    assert retyping.stages == {
        "body.rest": ["node_a", "node_d", "node_t", "node_y"],
        "body.sum": ["node_b", "node_c"],
    }
    # Typed again with nothing more in fp32, it is the file.
    np.testing.assert_array_equal(run(retyping.keeping([]), x=x), run(emulated(path), x=x))

    def suffices(names):
        return bool(np.abs(run(retyping.keeping(names), x=x) - 4 * x).max() < 0.05)

    names = [name for nodes in retyping.stages.values() for name in nodes]
    # The sum itself, and its reader, which would be handed a rounded sum by a cast.
    assert smallest_sufficient(names, suffices) == ["node_b", "node_c"]
    assert smallest_sufficient(
        list(retyping.stages), lambda stages: suffices([n for s in stages for n in retyping.stages[s]])
    ) == ["body.sum"]


def test_a_file_with_nothing_in_half_is_named(tmp_path):
    ir.save(parse(LOSING), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"model\.onnx has 0 half types in its nodes, and one was expected\. Nothing"):
        Retyping(tmp_path / "model.onnx")


@pytest.mark.long
@pytest.mark.parametrize(("precision", "interface"), [("fp16", "image"), ("bf16", "tensor")])
def test_a_file_typed_again_is_the_file(typed_file, precision, interface):
    path = typed_file(precision, interface)
    retyping = Retyping(path)
    assert {"backbone.block1", "decode_head.align", "decode_head.conv_seg"} <= set(retyping.stages)
    probe = Probe(path)
    is_image = interface == "image"
    feed = {"image": golden("e2e_seed0_75x100")["rgb"][None]} if is_image else {"images": image(64, 96, 0)}
    expected = probe.read(feed, [LOGITS])
    found = probe.read_variant(retyping.keeping([]), feed, [LOGITS])
    for name in {LOGITS, "labels"} & set(expected):
        np.testing.assert_array_equal(found[name], expected[name])
    assert np.isfinite(found[LOGITS]).all()


def test_nothing_inside_freqfusions_nodes_is_left_to_search(typed_file):
    path = typed_file("fp16", "image")
    file = ir.load(path)
    own, ours = {node.name for node in file.graph}, [node.name for node in file.graph if node.domain == DOMAIN]
    inlined = InlinePass()(file).model
    ShapeInferencePass()(inlined)
    inside = [node for node in inlined.graph if node.name not in own]
    assert len(inside) > 20 * len(ours)
    assert all(value.dtype is not None for node in inside for value in node.outputs)
    # Each computes in fp32 inside; the cast of its result to its input's type is all that is half, and what a trial
    # takes away when it keeps the node.
    halves = [node.op_type for node in inside if any(value.dtype == FP16 for value in node.outputs)]
    typed = [name for names in Retyping(path).stages.values() for name in names if name in ours]
    assert halves == ["CastLike"] * len(typed)
    assert len(typed) == 16  # the others make the picture an image and logits labels


SMALL = Preprocessing(long_side=96, short_side=64)
NODE, STAGE = "node_mul_1305", "backbone.block3"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def overflowing(exported, checkpoint, tmp_path_factory):
    """An fp32 network, two nodes of which leave fp16's range between them, and its checkpoint.

    One class wins everywhere and by far: with random weights, rounding would decide the rarest of the labels, and mean
    IoU with them.
    """
    model = scaled(exported["tensor"], NODE, 2.0**14)
    nodes = {node.name: node for node in model.graph}
    for name in ("enlarged", "restored"):
        nodes[name].metadata_props[MODULE_KEY] = nodes[NODE].metadata_props[MODULE_KEY]
    manifest = Manifest.from_json(model.metadata_props[METADATA_KEY], source="exported")
    network, _, _ = load_model(checkpoint / "segnext.pth", manifest.model, bases_seed=manifest.nmf_bases_seed or 0)
    # The exported fixture has the goldens' bases, normalised and folded; a checkpoint's are drawn from the seed.
    bases = torch.nn.functional.normalize(network.decode_head.hamburger.ham.bases, dim=0).numpy()
    (folded,) = [v for v in model.graph.initializers.values() if tuple(v.const_value.shape) == bases.shape]
    folded.const_value = ir.tensor(bases, name=folded.name)
    favour = np.eye(1, 150, 7, dtype=np.float32)[0] * 12  # scores have a deviation of 0.67
    (bias,) = [value for name, value in model.graph.initializers.items() if name.endswith("conv_seg.bias")]
    bias.const_value = ir.tensor(bias.const_value.numpy() + favour, name=bias.name)
    network.decode_head.conv_seg.bias.data += torch.from_numpy(favour)
    path = tmp_path_factory.mktemp("decided") / "segnext.pth"
    torch.save({"state_dict": network.state_dict()}, path)
    manifest = replace(manifest, precision="fp16", preprocessing=SMALL)
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    return model, path


@pytest.mark.long
def test_command_finds_the_nodes_that_overflow(overflowing, photo, tmp_path, capsys):
    network, checkpoint = overflowing
    model = network.clone()
    assign_half(model, "fp16")
    ir.save(model, tmp_path / "typed.onnx")
    arguments = [str(photo), "--checkpoint", str(checkpoint), "--bisect", "--json"]
    facts = tmp_path / "facts.json"
    assert main(["parity", str(tmp_path / "typed.onnx"), *arguments, str(facts)]) == 1
    printed = capsys.readouterr().out
    found = json.loads(facts.read_text(), parse_constant=pytest.fail)["bisection"]  # no NaN, which JSON has not
    assert found["nodes"] == ["enlarged", "restored"]
    assert found["stages"] == [STAGE]
    assert found["options"] == ["--keep-fp32 enlarged", "--keep-fp32 restored"]
    assert found["trials"][0]["suffices"]
    assert found["trials"][1]["kept"] == "nothing more"
    assert not found["trials"][1]["suffices"]
    assert found["trials"][1]["logit_error"] is None  # all is lost, and that is no reason to stop
    assert len(found["trials"]) < 60
    assert "\n  --keep-fp32 enlarged\n  --keep-fp32 restored\nPARITY BROKEN" in printed
    # What it advises helps, and then there is nothing to look for.
    model = network.clone()
    assign_half(model, "fp16", keep=[option.split()[1] for option in found["options"]])
    ir.save(model, tmp_path / "kept.onnx")
    assert main(["parity", str(tmp_path / "kept.onnx"), *arguments, str(facts)]) == 0
    assert json.loads(facts.read_text())["bisection"] is None


def test_a_loss_that_is_not_of_precision_is_said_to_be_none(overflowing, photo, tmp_path, capsys):
    network, checkpoint = overflowing
    model = network.clone()
    assign_half(model, "fp16", keep=["enlarged", "restored"])
    weight = next(value for name, value in model.graph.initializers.items() if "conv_seg.weight" in name)
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
    ir.save(model, tmp_path / "spoiled.onnx")
    arguments = [str(photo), "--checkpoint", str(checkpoint), "--bisect", "--json", "-"]
    assert main(["parity", str(tmp_path / "spoiled.onnx"), *arguments]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)["bisection"]
    assert [trial["kept"] for trial in found["trials"]] == ["everything"]
    assert found["nodes"] is None
    assert found["options"] == []
    assert "the loss is not one of precision between nodes" in captured.err


def test_a_network_of_queries_is_refused():
    message = r"m\.onnx is a Mask2Former, and --bisect judges class scores at each place, where it has queries"
    with pytest.raises(ExportError, match=message):
        refuse_unless_half(Path("m.onnx"), "fp16", "semantic_segmentation", ["AdaptiveFilter", "DeformableAttention"])


@pytest.mark.parametrize(
    ("precision", "task", "reason"),
    [
        ("fp32", None, "model.onnx is fp32, and --bisect is for fp16 and bf16: all of it is in fp32 already"),
        ("int8", None, "model.onnx is int8, and --bisect is for fp16 and bf16: its loss is of scales, not of casts"),
        ("fp8", None, "model.onnx is fp8, and --bisect is for fp16 and bf16: its loss is of scales, not of casts"),
        (
            "fp16",
            "detection",
            "model.onnx is for detection, and --bisect judges logits, label maps and tensors, which it has not",
        ),
    ],
)
def test_files_that_cannot_be_searched_are_refused(
    exported, checkpoint, photo, tmp_path, capsys, precision, task, reason
):
    model = parse(LOSING)
    text = ir.load(exported["tensor"]).metadata_props[METADATA_KEY]
    manifest = replace(Manifest.from_json(text, source="exported"), precision=precision)
    if task is not None:
        manifest = replace(manifest, task=task, num_things=None)
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    ir.save(model, tmp_path / "model.onnx")
    arguments = ["parity", str(tmp_path / "model.onnx"), str(photo), "--checkpoint", str(checkpoint / "segnext.pth")]
    assert main([*arguments, "--bisect"]) == 2
    assert reason in capsys.readouterr().err
