# SPDX-License-Identifier: Apache-2.0
"""Half-typed files against the official goldens: emulated with every rounding, and as ONNX Runtime takes them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from freqfusion import native
from freqfusion_export import export
from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.parity.probe import Probe
from freqfusion_export.parity.segmenter_parity import LOGITS, record_stage
from freqfusion_export.passes.assign_precision import CAST_KEY, ISLAND_KEY, count_casts
from freqfusion_export.precision import assignment
from freqfusion_export.precision.calibration import CalibrationError, read_calibration
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.precision.islands import RANGE
from freqfusion_runtime import load
from freqfusion_runtime.agreement.comparison import error_spread, mean_iou_of_set
from freqfusion_runtime.agreement.tolerances import (
    DECIDED_MARGINS,
    HIGH_BOUNDS,
    HIGH_INSIDE_BOUNDS,
    INSIDE_BOUNDS,
    LOGIT_BOUNDS,
    RMS_BOUNDS,
    ROUNDINGS_IN_A_ROW,
)
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.sessions.kernel_library import library_path
from onnx_sessions import session_of
from PIL import Image
from reference_data import assert_decided_labels_match_golden, golden
from small_graphs import scaled
from weights_spec import image

pytestmark = pytest.mark.numerics

HALVES = ("fp16", "bf16")


def emulated_session(path):
    return session_of(ir.to_proto(emulated(path)).SerializeToString())


# Random weights leave classes of a few pixels, and which way those fall is the processor's rounding. So errors are held
# to their derived bounds, labels to be right wherever the margin exceeds them, and mean IoU to nothing here but in
# test_trained_precision.py (docs/precision.md).
UNDECIDED = {"fp16": 0.07, "bf16": 0.45}  # shares of a golden's pixels at most: a matter of its margins, not of ours


def assert_within_bounds(actual, expected, precision, name):
    rms, high = error_spread(actual, expected)
    largest = float(np.abs(actual - expected).max() / expected.std())
    inside = name != LOGITS
    assert rms <= RMS_BOUNDS[precision], name
    assert high <= (HIGH_INSIDE_BOUNDS if inside else HIGH_BOUNDS)[precision], name
    assert largest <= (INSIDE_BOUNDS if inside else LOGIT_BOUNDS)[precision], name


def assert_labels_within_bounds(labels_of, exported, precision):
    """Labels are the official ones where those are decided, and everywhere such that fp32 has no score beyond reach."""
    fp32 = session_of(exported["tensor"])
    for name in ("e2e_seed0_75x100", "e2e_seed0_120x81"):
        g = golden(name)
        labels = labels_of(g["rgb"])
        images = prepare(g["rgb"], Preprocessing())
        scores = torch.from_numpy(fp32.run(None, {"images": images})[0])
        margin = DECIDED_MARGINS[precision] * float(scores.std())
        assert assert_decided_labels_match_golden(labels, g, margin) <= UNDECIDED[precision]
        for size in (images.shape[2:], labels.shape):
            scores = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
        chosen = np.take_along_axis(scores[0].numpy(), labels[None].astype(np.int64), axis=0)
        assert (scores[0].numpy().max(axis=0) - chosen).max() <= margin


@pytest.mark.parametrize("precision", HALVES)
def test_official_logits_within_the_types_bounds(typed_file, precision):
    expected = golden("segnext_t_seed0_128x128")["logits"]
    (actual,) = emulated_session(typed_file(precision, "tensor")).run(None, {"images": image(128, 128, 0)})
    assert actual.dtype == np.float32
    assert error_spread(actual, expected)[0] > 2.0**-11  # the roundings are really there
    assert_within_bounds(actual, expected, precision, LOGITS)


@pytest.mark.parametrize("precision", HALVES)
def test_every_stage_is_within_the_types_bounds(typed_file, segnext_t, precision):
    probe = Probe(typed_file(precision, "tensor"), kernels="never")
    images, expected = image(128, 128, 0), {}
    handles = [record_stage(segnext_t, stage, expected) for stage in probe.stages]
    with torch.inference_mode(), native.disabled():
        segnext_t(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    found = probe.read({"images": images}, list(probe.stages.values()))
    assert len(expected) == len(probe.stages) == 250
    for stage, value in probe.stages.items():
        assert_within_bounds(found[value], expected[stage], precision, stage)


def test_bounds_count_the_roundings_that_are_in_a_row(typed_file):
    depths = {}
    for node in emulated(typed_file("fp16", "tensor")).graph:
        before = [depths[v.producer()] for v in node.inputs if v is not None and v.producer() is not None]
        depths[node] = max(before, default=0) + node.name.startswith("rounded_")
    assert max(depths.values()) == ROUNDINGS_IN_A_ROW


@pytest.mark.parametrize("precision", HALVES)
def test_official_labels_wherever_the_types_error_leaves_them_decided(typed_file, exported, precision):
    session = emulated_session(typed_file(precision, "image"))
    assert_labels_within_bounds(lambda rgb: session.run(None, {"image": rgb[None]})[0][0], exported, precision)


def test_mean_iou_of_a_set_is_counted_before_it_is_divided():
    first, second = np.array([[0, 0, 1, 1]]), np.array([[0, 1]])
    assert mean_iou_of_set([first, second], [np.array([[0, 1, 1, 1]]), second]) == np.mean([2 / 3, 3 / 4])
    with pytest.raises(ValueError, match=r"label maps differ in size, \(1, 4\) and \(1, 2\)"):
        mean_iou_of_set([first], [second])


@pytest.mark.parametrize("kernels", ["never", "require"])
def test_fp16_runs_in_onnxruntime(typed_file, exported, kernels):
    if kernels == "require" and not library_path().is_file():
        pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
    segmenter = load(typed_file("fp16", "image"), kernels=kernels)
    assert_labels_within_bounds(lambda rgb: segmenter.predict(rgb).labels, exported, "fp16")
    library = library_path() if kernels == "require" else None
    session = session_of(typed_file("fp16", "tensor"), library)
    for size in ((128, 128), (64, 96)):  # dynamic as ever
        (logits,) = session.run(None, {"images": image(*size, 0)})
        assert logits.shape == (1, 150, size[0] // 8, size[1] // 8)
    expected = golden("segnext_t_seed0_128x128")["logits"]
    (logits,) = session.run(None, {"images": image(128, 128, 0)})
    assert_within_bounds(logits, expected, "fp16", LOGITS)


def test_bf16_in_onnxruntime_is_refused_with_what_to_do(typed_file):
    with pytest.raises(ModelFileError, match=r"no kernel on CPUExecutionProvider.*export it as fp32, fp16 or int8"):
        load(typed_file("bf16", "tensor"))


@pytest.mark.parametrize("precision", HALVES)
def test_interface_bodies_and_manifest_are_kept(exported, typed_file, precision):
    for interface in ("tensor", "image"):
        fp32, half = onnx.load(exported[interface]), onnx.load(typed_file(precision, interface))
        onnx.checker.check_model(half, full_check=True)
        assert half.graph.input == fp32.graph.input
        assert half.graph.output == fp32.graph.output
        assert {f.name for f in half.functions} == {f.name for f in fp32.functions}
        text = {p.key: p.value for p in half.metadata_props}[METADATA_KEY]
        manifest = Manifest.from_json(text)
        assert manifest.precision == precision
        assert manifest.opset == {o.domain: o.version for o in half.opset_import}[""]
        marked = [p.value for node in half.graph.node for p in node.metadata_props if p.key == ISLAND_KEY]
        assert {island.name: island.nodes for island in manifest.islands} == {
            name: marked.count(name) for name in set(marked)
        }
        assert all(island.reason for island in manifest.islands)
        assert json.loads(typed_file(precision, interface).with_suffix(".json").read_text())["precision"] == precision


def test_casts_are_few_and_none_undoes_another(typed_file):
    model = ir.load(typed_file("fp16", "tensor"))
    assert count_casts(list(model.graph)) == 18  # of 765 nodes; one each where an island begins and where it ends
    for node in model.graph:
        producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        assert not (CAST_KEY in node.metadata_props and producer is not None and CAST_KEY in producer.metadata_props)
    halves = sum(value.dtype == ir.DataType.FLOAT16 for node in model.graph for value in node.outputs)
    assert halves > 500


def test_the_file_is_half_as_large(exported, typed_file):
    ratio = typed_file("fp16", "tensor").stat().st_size / exported["tensor"].stat().st_size
    assert 0.45 < ratio < 0.6


SMALL = Preprocessing(long_side=128, short_side=64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures, one of which is none."""
    folder = tmp_path_factory.mktemp("calibration")
    for index in range(2):
        values = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_values_beyond_the_type_are_found_by_calibration(exported, pictures):
    calibration = read_calibration(pictures)
    assert [path.name for path in calibration.pictures] == ["0.png", "1.png"]
    ((name, reason),) = calibration.skipped
    assert name == "broken.png"
    assert "not a picture" in reason
    # 2 ** 14 and 2 ** -14 are numbers of fp16 themselves; what they multiply is in the tens, and a sigmoid below 1.
    for node, factor, word in (("node_mul_1305", 2.0**14, "overflow"), ("node_sigmoid", 2.0**-14, "underflow")):
        model = scaled(exported["tensor"], node, factor)
        kept = assignment.assign_half(model, "fp16", calibration=calibration, preprocessing=SMALL)
        (island,) = [island for island in kept if island.name == RANGE]
        (finding,) = island.found
        assert finding.startswith(f"enlarged: {word}, largest magnitude")
        # The value, and what reads it: a reader in half would be handed the overflow by a cast.
        assert {node.name for node in model.graph if node.metadata_props.get(ISLAND_KEY) == RANGE} == {
            "enlarged",
            "restored",
        }
    kept = assignment.assign_half(ir.load(exported["tensor"]), "fp16", calibration=calibration, preprocessing=SMALL)
    assert RANGE not in {island.name for island in kept}


def test_equal_pictures_have_an_equal_hash(pictures, tmp_path):
    for path in pictures.glob("?.png"):
        (tmp_path / f"copy{path.name}").write_bytes(path.read_bytes())
    assert read_calibration(tmp_path).sha256 == read_calibration(pictures).sha256


def test_calibration_folders_that_are_none(tmp_path):
    with pytest.raises(CalibrationError, match="absent does not exist"):
        read_calibration(tmp_path / "absent")
    with pytest.raises(CalibrationError, match="holds no picture"):
        read_calibration(tmp_path)
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(CalibrationError, match=r"none of the 1 pictures .* can be read; the first: .*a.png"):
        read_calibration(tmp_path)
    with pytest.raises(CalibrationError, match="is a file"):
        read_calibration(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp17"}, "precision must be one of fp32, fp16, bf16, int8, fp8, got 'fp17'"),
        ({"keep_fp32": ["backbone*"]}, "an fp32 file has nothing to keep in fp32"),
        ({"precision": "fp16", "keep_fp32": ["nose"]}, "no node, module or stage is called 'nose'"),
    ],
)
def test_requests_that_cannot_be_met(segnext_t, traced_segnext, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export(segnext_t, tmp_path / "model.onnx", traced=traced_segnext, **options)
    assert not list(tmp_path.iterdir())


def test_a_half_typed_file_that_is_too_far_off_is_not_kept(segnext_t, traced_segnext, tmp_path, monkeypatch):
    from freqfusion_export.verification import segmenter_file

    monkeypatch.setattr(segmenter_file, "LOGIT_BOUNDS", {"fp16": 1e-4})
    with pytest.raises(VerificationError, match=r"off by .* allowed 1e-04 for fp16; calibrate .* --keep-fp32"):
        export(segnext_t, tmp_path / "m.onnx", traced=traced_segnext, interface="tensor", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_preprocessing_of_calibration_is_the_official_one(exported, pictures):
    calibration = read_calibration(pictures)
    (feed, _) = calibration.feeds(ir.load(exported["tensor"]).graph, SMALL)
    picture = np.asarray(Image.open(pictures / "0.png"))
    np.testing.assert_array_equal(feed["images"], prepare(picture, SMALL))
    (feed, _) = calibration.feeds(ir.load(exported["image"]).graph, SMALL)
    np.testing.assert_array_equal(feed["image"][0], picture)
