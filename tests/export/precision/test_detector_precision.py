# SPDX-License-Identifier: Apache-2.0
"""A detector in fp16: official detections of a golden with every rounding, as ONNX Runtime takes it, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from freqfusion_export import export
from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import form_of
from freqfusion_export.parity.detector_parity import DetectorParity
from freqfusion_export.passes.assign_precision import CAST_KEY, ISLAND_KEY
from freqfusion_export.precision.calibration import CalibrationError, read_calibration
from freqfusion_export.precision.emulation import emulated
from freqfusion_runtime.agreement.object_agreement import box_ious
from freqfusion_runtime.agreement.tolerances import BOX_IOU, OBJECT_BOUNDS, RMS_BOUNDS
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.predictors.loading import load
from freqfusion_runtime.sessions.kernel_library import library_path
from mmdet_reference import Golden
from onnx_sessions import session_of
from PIL import Image
from places import EXAMPLES

NAME = "mask_rcnn_r50"
COFFEE = EXAMPLES / "coffee.jpg"
FP16 = ir.DataType.FLOAT16


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "coffee.png"
    with Image.open(COFFEE) as picture:
        picture.resize((150, 96)).save(path)
    return path


@pytest.fixture(scope="module")
def fp16_file(detector_files, photo, tmp_path_factory):
    """Calibrated, so that the search for what leaves fp16's range runs on both inputs."""
    network = detector_files.network(NAME)
    small = replace(form_of(network).preprocessing, long_side=160, short_side=96)
    path = tmp_path_factory.mktemp("fp16") / f"{NAME}.onnx"
    export(
        network,
        path,
        name=NAME,
        interface="tensor",
        traced=detector_files.traced(NAME),
        preprocessing=small,
        precision="fp16",
        calibration=read_calibration(photo.parent),
    )
    return path


@pytest.mark.long
@pytest.mark.parametrize("how", ["every rounding", "as ONNX Runtime takes it", "on our kernels"])
def test_finds_the_official_detections_within_the_types_bounds(fp16_file, how):
    """Rounding decides which of two boxes stays, and so a part of the objects: of 100, 96 to 99 in eight roundings."""
    if how == "on our kernels" and not library_path().is_file():
        pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
    g = Golden("goldens/mask_r50_seed0_128x192")
    images, sizes = g.network_input()
    content = ir.to_proto(emulated(fp16_file)).SerializeToString() if how == "every rounding" else fp16_file
    session = session_of(content, library_path() if how == "on our kernels" else None)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": images, "image_sizes": sizes}), strict=True))
    assert all(outputs[name].dtype == np.float32 for name in ("boxes", "scores", "masks"))
    count = int(outputs["num"][0])
    expected, labels = g["dets_0"], g["labels_0"]
    ious = box_ious(outputs["boxes"][0, :count], expected[:, :4])
    ious[outputs["labels"][0, :count, None] != labels[None]] = 0
    is_there = ious >= BOX_IOU["fp16"]
    share = (is_there.any(axis=0).sum() + is_there.any(axis=1).sum()) / (count + len(expected))
    assert share >= OBJECT_BOUNDS["fp16"]["object_agreement"]
    pairs = [(place, ious[place].argmax()) for place in np.flatnonzero(is_there.any(axis=1))]
    differences = [abs(outputs["scores"][0, a] - expected[e, 4]) for a, e in pairs]
    assert 0 < np.mean(differences) <= OBJECT_BOUNDS["fp16"]["mean_score_difference"]


def test_everything_between_layers_and_boxes_is_fp32(fp16_file):
    graph = ir.load(fp16_file).graph
    halves = {
        node.op_type
        for node in graph
        if CAST_KEY not in node.metadata_props and any(value.dtype == FP16 for value in node.outputs)
    }
    assert {"Conv", "Relu", "Gemm", "AdaptiveFilter", "LocalSimilarity", "OffsetResample", "PyramidRoiAlign"} <= halves
    # Decoding, clipping, thresholds, overlaps, suppression and softmax of scores.
    assert not {"Exp", "Clip", "Sub", "Div", "Min", "Max", "Where", "TopK", "Softmax", "Sqrt"} & halves
    marked = {node.op_type for node in graph if node.metadata_props.get(ISLAND_KEY) == "coordinates"}
    assert {"NonMaxSuppression", "TopK", "GatherND", "Min", "Max", "Clip"} <= marked
    for node in graph:
        if node.op_type == "PyramidRoiAlign":
            assert [value.dtype for value in node.inputs] == [FP16] * 4 + [ir.DataType.FLOAT]  # maps, and boxes
        assert not any(
            value is not None
            and value.producer() is not None
            and CAST_KEY in value.producer().metadata_props
            and CAST_KEY in node.metadata_props
            for value in node.inputs
        )


@pytest.mark.long
def test_parity_holds_every_stage_before_the_choice_of_objects_to_the_types_bounds(detector_files, fp16_file, photo):
    """Of the objects on a photograph rounding loses 6 to 8 % to ties (random weights), so they are not counted here."""
    parity = DetectorParity(fp16_file, detector_files.network(NAME), kernels="never", layers=True)
    result = parity.objects_on(photo)
    assert [c.name for c in result.comparisons if not c.agrees] == []
    stages = [c for c in result.comparisons if c.level in ("layer", "module")]
    assert len(stages) > 100
    assert [c.name for c in stages if c.rel_l2 > RMS_BOUNDS["fp16"]] == []
    assert result.measures.keys() == OBJECT_BOUNDS["fp16"].keys() - {"panoptic_quality"}
    assert 0 < result.measures["mean_score_difference"] <= OBJECT_BOUNDS["fp16"]["mean_score_difference"]


def test_it_runs_in_the_runtime_with_kernels_and_without(fp16_file, photo):
    if not library_path().is_file():
        pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
    for kernels in ("require", "never"):
        found = load(fp16_file, kernels=kernels).predict(photo)
        assert len(found) == len(found.masks) > 0
        assert found.photo.shape == (96, 150, 3)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("bf16", r"bf16 is offered for semantic segmenters, and this is for instance_segmentation: .* fp32 or fp16"),
        ("int8", r"int8 is offered for semantic segmenters, and this is for instance_segmentation: .* fp32 or fp16"),
        ("fp8", r"fp8 is offered for semantic segmenters, and this is for instance_segmentation: .* fp32 or fp16"),
    ],
)
def test_other_types_are_refused(detector_files, photo, tmp_path, precision, message):
    calibration = None if precision == "bf16" else read_calibration(photo.parent)
    with pytest.raises(ExportError, match=message):
        export(detector_files.network(NAME), tmp_path / "m.onnx", precision=precision, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_calibration_names_inputs_that_it_cannot_make(photo):
    graph = ir.Graph([ir.val("x"), ir.val("y")], [], nodes=[])
    with pytest.raises(CalibrationError, match=r"knows networks with the inputs .*, and this one has \('x', 'y'\)"):
        next(read_calibration(photo.parent).feeds(graph, Preprocessing()))
