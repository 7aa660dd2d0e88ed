# SPDX-License-Identifier: Apache-2.0
"""The exported files: equal to PyTorch at every size, whole, labelled, and runnable by strangers."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from freqfusion import Checkpoint, create_model, native
from freqfusion_export import export, exporter
from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.networks.trace import trace_network
from freqfusion_export.passes.name_tensorrt_plugins import PLUGIN_NAMESPACE, PLUGIN_VERSION
from freqfusion_export.precision.fp32 import Fp32
from freqfusion_export.verification.segmenter_file import SegmenterFile
from freqfusion_runtime import load
from freqfusion_runtime.errors import OutputError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.sessions.kernel_library import library_path
from onnx_sessions import session_of
from reference_data import GOLDEN_TOLERANCE, assert_decided_labels_match_golden, assert_matches_golden, golden
from weights_spec import image

pytestmark = pytest.mark.numerics

COUNTS = {"AdaptiveFilter": 10, "LocalSimilarity": 4, "OffsetResample": 2}


@pytest.fixture(scope="module", params=["function bodies", "inlined", "kernels"])
def tensor_session(request, exported):
    path = exported["tensor"]
    if request.param == "inlined":
        return session_of(onnx.inliner.inline_local_functions(onnx.load(path)).SerializeToString())
    if request.param == "kernels":
        if not library_path().is_file():
            pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
        return session_of(path, library_path())
    return session_of(path)


@pytest.mark.parametrize("size", [(1, 64, 64), (3, 96, 160), (1, 224, 128), (2, 32, 32)])
def test_equals_pytorch_at_sizes_it_was_not_traced_at(segnext_t, tensor_session, size):
    n, h, w = size
    images = image(h, w, 11, n)
    with torch.inference_mode(), native.disabled():
        expected = segnext_t(torch.from_numpy(images)).numpy()
    (actual,) = tensor_session.run(None, {"images": images})
    assert_matches_golden(actual, expected)


def test_nothing_in_the_file_depends_on_the_order_of_hashes(exported):
    """Torch's notes of its program list the sizes' ranges in such an order: two exports had two SHA-256."""
    for path in exported.values():
        model = onnx.load(path)
        assert not model.graph.metadata_props
        assert b"range_constraints" not in model.SerializeToString()


def test_equals_the_official_logits(tensor_session):
    g = golden("segnext_t_seed0_128x128")
    (actual,) = tensor_session.run(None, {"images": image(128, 128, 0)})
    assert_matches_golden(actual, g["logits"])
    assert_matches_golden(actual, golden("segnext_t_seed0_128x128_fp64")["logits_fp64"])


@pytest.mark.parametrize("name", ["e2e_seed0_75x100", "e2e_seed0_120x81"])
@pytest.mark.parametrize("kernels", ["never", "auto"])
@pytest.mark.parametrize("interface", ["image", "tensor"])
def test_label_maps_equal_the_official_pipelines(exported, interface, kernels, name):
    g = golden(name)
    labels = load(exported[interface], kernels=kernels).predict(g["rgb"]).labels
    margin = 2 * GOLDEN_TOLERANCE * float(golden("segnext_t_seed0_128x128")["logits"].std())
    assert assert_decided_labels_match_golden(labels, g, margin) <= 1e-3


def test_a_batch_of_pictures_is_its_pictures_one_by_one(exported):
    rgb = golden("e2e_seed0_75x100")["rgb"]
    session = session_of(exported["image"])
    pair = np.stack([rgb, rgb[:, ::-1]])
    (both,) = session.run(None, {"image": pair})
    singles = np.concatenate([session.run(None, {"image": picture[None]})[0] for picture in pair])
    assert both.shape == (2, 75, 100)
    assert both.dtype == np.uint8
    assert (both == singles).mean() > 0.999  # ties may fall otherwise when products are blocked otherwise


def test_nodes_carry_what_tensorrt_looks_plugins_up_by(exported):
    for path in exported.values():
        model = onnx.load(path)
        nodes = [n for n in model.graph.node if n.domain == "freqfusion" and n.op_type != "PrepareImage"]
        for node in nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["plugin_namespace"] == PLUGIN_NAMESPACE.encode()
            assert attributes["plugin_version"] == PLUGIN_VERSION.encode()
            assert node.name
        bodies = {f.name for f in model.functions}
        assert {n.op_type for n in model.graph.node if n.domain == "freqfusion"} <= bodies
        counts = {name: sum(n.op_type == name for n in nodes) for name in COUNTS}
        assert counts == COUNTS


def test_only_standard_operators_and_no_grid_sample_remain_inside(exported):
    for path in exported.values():
        model = onnx.inliner.inline_local_functions(onnx.load(path))
        assert {node.domain for node in model.graph.node} == {""}
        assert not {"GridSample", "Loop", "If"} & {node.op_type for node in model.graph.node}
        assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", 18)]


def test_strangers_checker_accepts_the_file(exported):
    script = "import sys, onnx; [onnx.checker.check_model(p, full_check=True) for p in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", script, *map(str, exported.values())], check=True)


def test_manifest_lies_inside_and_beside(exported):
    path = exported["image"]
    text = {p.key: p.value for p in onnx.load(path).metadata_props}[METADATA_KEY]
    manifest = Manifest.from_json(text)
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside.pop("sha256") == sha256_of(path)
    assert Manifest.from_json(json.dumps(beside)) == manifest
    assert manifest.operators == {**COUNTS, "PrepareImage": 1, "ResizeArgmax": 1}
    assert manifest.weights == "random"
    assert manifest.nmf_bases_seed == 0
    assert len(manifest.classes) == len(manifest.palette) == 150
    assert manifest.inputs[0].shape == ("batch", "height", "width", 3)
    assert manifest.outputs[0].dtype == "uint8"


def test_no_path_of_the_exporting_machine_is_in_the_file(exported):
    for path in exported.values():
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content.replace(b"python", b"")


def test_a_file_that_computes_something_else_is_not_kept(segnext_t, traced_segnext, tmp_path, monkeypatch):
    path = tmp_path / "wrong.onnx"
    path.write_text("what was here before")
    file_graph = exporter.file_graph

    def spoiled(*arguments):
        model = file_graph(*arguments)
        bias = next(v for name, v in model.graph.initializers.items() if name.endswith("conv_seg.bias"))
        bias.const_value = onnx_ir_tensor(bias.const_value.numpy() + 0.01, bias.name)
        return model

    monkeypatch.setattr(exporter, "file_graph", spoiled)
    with pytest.raises(VerificationError, match=r"off by .* standard deviations .* allowed 5e-05"):
        export(segnext_t, path, interface="tensor", traced=traced_segnext)
    assert path.read_text() == "what was here before"
    assert list(tmp_path.iterdir()) == [path]


def onnx_ir_tensor(array, name):
    import onnx_ir

    return onnx_ir.Tensor(array, name=name)


def test_a_model_whose_own_scores_are_no_numbers_is_nothing_to_compare_with(segnext_t, exported):
    broken = copy.deepcopy(segnext_t)
    torch.nn.init.constant_(broken.decode_head.conv_seg.bias, torch.nan)
    for interface, message in (
        ("image", "class scores of the model itself are infinite or not a number on a 75 x 100 picture"),
        ("tensor", "off by nan standard deviations"),
    ):
        with pytest.raises(VerificationError, match=message):
            Fp32().verify(SegmenterFile(exported[interface], broken, interface, Preprocessing()))


def test_a_malformed_file_is_said_to_be_so(segnext_t, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(VerificationError, match=r"broken.onnx: the exported graph is malformed"):
        Fp32().verify(SegmenterFile(path, segnext_t, "tensor", Preprocessing()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"interface": "video"}, ExportError, "interface must be 'tensor' or 'image', got 'video'"),
        ({"path": "model.pt"}, ExportError, r"the output must end in .onnx, got model.pt"),
        ({"model": create_model("segnext_t").train()}, ExportError, "training mode"),
        ({"model": torch.nn.Conv2d(3, 3, 1).eval()}, ExportError, "Conv2d has no decode_head.conv_seg"),
    ],
)
def test_requests_that_cannot_be_met(segnext_t, tmp_path, arguments, error, message):
    call = {"model": segnext_t, "path": str(tmp_path / "model.onnx"), **arguments}
    with pytest.raises(error, match=message):
        export(call.pop("model"), call.pop("path"), **call)


def test_a_folder_that_cannot_be_written(segnext_t, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(exporter, "trace_network", lambda *_: pytest.fail("traced before looking at the folder"))
    with pytest.raises(OutputError, match="cannot be written"):
        export(segnext_t, tmp_path / "file" / "model.onnx")


def test_one_class_is_labelled_by_its_threshold_in_both_interfaces(tmp_path):
    torch.manual_seed(0)
    model = create_model("segnext_t", num_classes=1)
    photo = golden("e2e_seed0_75x100")["rgb"]
    with torch.no_grad():
        model.decode_head.conv_seg.weight *= 20
        model.decode_head.conv_seg.bias.zero_()
        middle = model(torch.from_numpy(prepare(photo, Preprocessing())))[:, 1].median()
        model.decode_head.conv_seg.bias.fill_(math.log(0.3 / 0.7) - middle)  # half of the pixels on either side
    checkpoint = Checkpoint(model.state_dict(), classes=("crack",), palette=((255, 0, 0),))
    traced = trace_network(model, 32)
    scores = {}
    for interface in ("tensor", "image"):
        path = tmp_path / f"{interface}.onnx"
        manifest = export(model, path, interface=interface, checkpoint=checkpoint, traced=traced)
        assert manifest.num_classes == 2
        assert manifest.classes == ("background", "crack")
        assert manifest.palette == ((0, 0, 0), (255, 0, 0))
        scores[interface] = load(path).predict(photo)
    prepared = prepare(photo, manifest.preprocessing)
    with torch.inference_mode():
        logits = model(torch.from_numpy(prepared))[:, 1:]
        size = tuple(prepared.shape[2:])
        for extent in (size, photo.shape[:2]):
            logits = torch.nn.functional.interpolate(logits, extent, mode="bilinear", align_corners=False)
        probability = logits.sigmoid()[0, 0].numpy()
    decided = np.abs(probability - 0.3) > 1e-4
    assert 0.05 < (probability > 0.3).mean() < 0.95
    for result in scores.values():
        assert (result.labels == (probability > 0.3))[decided].all()
