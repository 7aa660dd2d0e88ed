# SPDX-License-Identifier: Apache-2.0
"""A manifest is held against its network when it is opened, not when a request fails."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import small_detectors
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.manifest import TensorSpec
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.graph_check import check_graph
from onnx import TensorProto, helper
from small_detectors import write_detector
from small_models import image_manifest, tensor_manifest, write_image_model, write_tensor_model

FREE = TensorSpec("image", "uint8", ("batch", "height", "width", 3))


@pytest.mark.parametrize("task", small_detectors.TASKS)
@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_sound_files_are_opened(tmp_path, task, interface):
    assert open_session(write_detector(tmp_path / "net.onnx", task, interface)).manifest.task == task


def test_two_classes_on_a_network_of_four_are_refused(tmp_path):
    manifest = tensor_manifest(num_classes=2, classes=(), palette=())
    with pytest.raises(
        ModelFileError,
        match=r"net\.onnx: the manifest has 2 classes, so 'logits' must have 2 maps, and it has 4\. Write",
    ):
        open_session(write_tensor_model(tmp_path / "net.onnx", manifest))


def test_panoptic_maps_are_those_of_stuff_and_one_of_things(tmp_path):
    path = write_detector(tmp_path / "net.onnx", "panoptic_segmentation", num_classes=6, classes=())
    with pytest.raises(
        ModelFileError, match="the manifest has 6 classes, so 'semantic' must have 4 maps, and it has 3"
    ):
        open_session(path)


def changed(kind, **change):
    manifest = tensor_manifest() if kind == "outputs" else image_manifest()
    return replace(manifest, **{kind: (replace(getattr(manifest, kind)[0], **change),)})


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (changed("outputs", name="scores"), r"names the outputs \['scores'\], the graph has \['logits'\]"),
        (
            changed("outputs", dtype="float16"),
            r"says that 'logits' is float16 \(batch, 4, height/8, width/8\), in the graph it is float32 \(batch, 4,",
        ),
        (changed("outputs", shape=("n", 4, "h")), r"says that 'logits' is float32 \(n, 4, h\), in the graph it is"),
        (changed("outputs", shape=("n", 7, "h", "w")), r"says that 'logits' is float32 \(n, 7, h, w\)"),
    ],
)
def test_a_tensor_that_is_another_one_is_named(tmp_path, manifest, message):
    with pytest.raises(ModelFileError, match=rf"net\.onnx: the manifest {message}.*Write the model again"):
        open_session(write_tensor_model(tmp_path / "net.onnx", manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, r"says that 'image' is float32 \(batch, height, width, 3\), in the graph it is uint8"),
        ({"shape": ("n", "h", "w", 4)}, r"says that 'image' is uint8 \(n, h, w, 4\), in the graph it is uint8"),
    ],
)
def test_an_input_that_is_another_one_is_named(tmp_path, change, message):
    with pytest.raises(ModelFileError, match=message):
        open_session(write_image_model(tmp_path / "net.onnx", changed("inputs", **change)))


def test_inputs_that_a_task_does_not_have_are_refused():
    manifest = small_detectors.manifest("detection")
    with pytest.raises(ModelFileError, match="detection with the tensor interface has 2 inputs, this one has 1"):
        check_graph("net.onnx", replace(manifest, inputs=manifest.inputs[:1]), manifest.inputs[:1], manifest.outputs)
    both = (FREE, replace(FREE, name="other"))
    manifest = image_manifest(inputs=both)
    with pytest.raises(ModelFileError, match="with the image interface has 1 input, this one has 2"):
        check_graph("net.onnx", manifest, both, manifest.outputs)


@pytest.mark.parametrize("change", [{"dtype": "int64"}, {"shape": (1, 3, 4)}, {"shape": (1, 2, 3, 4)}])
def test_an_input_that_takes_no_pictures_is_refused(change):
    spec = replace(FREE, **change)
    manifest = image_manifest(inputs=(spec,))
    message = r"the input of the image interface is uint8 \(n, height, width, 3\), this one's 'image' is "
    with pytest.raises(ModelFileError, match=message):
        check_graph("net.onnx", manifest, (spec,), manifest.outputs)
    with pytest.raises(ModelFileError, match=r"the tensor interface is float32 or float16 or bfloat16 \(n, 3, height"):
        check_graph("net.onnx", replace(manifest, interface="tensor"), (spec,), manifest.outputs)


def test_a_graph_that_does_not_tell_its_sides_is_taken_and_may_have_further_outputs(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert open_session(path).manifest == tensor_manifest()


def test_messages_stay_short():
    manifest = tensor_manifest(inputs=tuple(TensorSpec(f"{n}" + "x" * 9999, "float32", (1,) * 99) for n in range(99)))
    with pytest.raises(ModelFileError, match=r"and 89 more, the graph has \['image'\]") as caught:
        check_graph("net.onnx", manifest, tensor_manifest().inputs, manifest.outputs)
    assert len(str(caught.value)) < 1500
