# SPDX-License-Identifier: Apache-2.0
"""Exported Mask2Former: equal to PyTorch at every batch and size, with dead rows and one-pixel-high windows."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
import torch
from freqfusion import native
from freqfusion.ops.query_argmax import query_argmax
from freqfusion_export import export
from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.networks.forms import form_of
from freqfusion_export.parity.segmenter_parity import Parity, read_manifest
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.verification.query_segmenter_file import QuerySegmenterFile
from freqfusion_export.verification.sample_pictures import smooth_pictures
from freqfusion_runtime import load
from freqfusion_runtime.errors import InputError
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.sessions.kernel_library import library_path
from mask2former_files import small_file, small_network, small_trace
from mask2former_reference import SMALL, error, weights_spec
from onnx_sessions import session_of

pytestmark = [pytest.mark.numerics, pytest.mark.long]  # tracing alone takes a minute

# Two runs of the same arithmetic in another order, of the largest logit; no attention mask of these images is
# undecided.
TOLERANCE = 1e-5
# FreqFusion's nodes are those of three modules; attention's are one a layer.
COUNTS = {"AdaptiveFilter": 15, "DeformableAttention": 1, "LocalSimilarity": 6, "OffsetResample": 3}


@pytest.fixture(scope="module")
def small() -> Any:
    return small_network()


@pytest.fixture(scope="module")
def traced() -> Any:
    return small_trace()


@pytest.fixture(scope="module")
def tensor_file() -> Any:
    return small_file("tensor")


@pytest.fixture(scope="module", params=["function bodies", "inlined", "kernels"])
def session(request, tensor_file) -> Any:
    if request.param == "inlined":
        return session_of(onnx.inliner.inline_local_functions(onnx.load(tensor_file)).SerializeToString())
    if request.param == "kernels":
        if not library_path().is_file():
            pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
        return session_of(tensor_file, library_path())
    return session_of(tensor_file)


# Traced at 2 x 96 x 128. Maps are down to one pixel high and one wide, and windows, of 4 x 4 tokens, are of odd counts.
@pytest.mark.parametrize("size", [(1, 32, 32), (1, 32, 288), (3, 96, 64), (2, 160, 224), (1, 352, 32)])
def test_equals_pytorch_at_batches_and_sizes_it_was_not_traced_at(small, session, size):
    n, h, w = size
    images = weights_spec.image(h, w, 11, n)
    with torch.inference_mode(), native.disabled():
        expected = small(torch.from_numpy(images))
    for actual, wanted in zip(session.run(None, {"images": images}), expected, strict=True):
        assert error(actual, wanted.numpy()) < TOLERANCE


def test_a_file_says_what_it_is(tensor_file):
    model = onnx.load(tensor_file)
    manifest = Manifest.from_json({p.key: p.value for p in model.metadata_props}[METADATA_KEY])
    assert (manifest.task, manifest.num_classes) == ("semantic_segmentation", SMALL["num_classes"])
    assert manifest.operators == COUNTS
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [
        ("mask_logits", ("batch", SMALL["num_queries"], "height/4", "width/4")),
        ("class_logits", ("batch", SMALL["num_queries"], SMALL["num_classes"] + 1)),
    ]
    assert manifest.inputs[0].shape == ("batch", 3, "height", "width")
    assert not any(node.op_type in ("NonZero", "GridSample", "If", "Loop", "ScatterND") for node in model.graph.node)


def test_rows_that_are_masked_whole_see_everything(small, traced, tmp_path):
    """Masks that are negative everywhere hide every key of every query, and so none."""
    network = copy.deepcopy(small)
    head, decoder = network.sem_seg_head, "sem_seg_head.pixel_decoder.mask_features."
    torch.nn.init.zeros_(head.pixel_decoder.mask_features.weight)
    torch.nn.init.ones_(head.pixel_decoder.mask_features.bias)
    head.predictor.mask_embed.layers[2].bias.data.sub_(4.0)
    changed = traced.clone()
    for name in (f"{decoder}weight", f"{decoder}bias", "sem_seg_head.predictor.mask_embed.layers.2.bias"):
        changed.graph.initializers[name].const_value = ir.tensor(network.state_dict()[name].numpy(), name=name)
    images = torch.from_numpy(weights_spec.image(64, 96, 3))
    with torch.inference_mode():
        masks, classes = network(images)
        assert (masks < 0).all()
        head.predictor.hidden_keys.forward = lambda logits: torch.zeros_like(logits, dtype=torch.bool)
        assert torch.equal(network(images)[1], classes)
        del head.predictor.hidden_keys.forward
    export(network, tmp_path / "dead.onnx", name="mask2former", interface="tensor", traced=changed)
    found = session_of(tmp_path / "dead.onnx").run(None, {"images": images.numpy()})
    assert error(found[1], classes.numpy()) < TOLERANCE


def test_a_file_that_computes_something_else_is_refused(small, tensor_file, tmp_path):
    other = copy.deepcopy(small)
    other.sem_seg_head.predictor.class_embed.bias.data += 0.01
    file = QuerySegmenterFile(tensor_file, other, "tensor", form_of(small).preprocessing)
    with pytest.raises(
        VerificationError, match=r"off by \d\.\de-\d\d standard deviations of the queries' logits at 1 x"
    ):
        file.compare("fp32", [session_of(tensor_file)])


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_other_precisions_are_refused_with_the_reason(small, tmp_path, precision):
    message = f"{precision} is not offered for Mask2Former: .* convolutions, which do 10 %.*Export it as fp16 or bf16"
    with pytest.raises(ExportError, match=message):
        export(small, tmp_path / "eight.onnx", name="mask2former", precision=precision)


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half_file(request, small, traced, tmp_path_factory) -> Any:
    plan = replace(form_of(small).preprocessing, long_side=128, short_side=60)
    path = tmp_path_factory.mktemp(request.param) / "half.onnx"
    export(small, path, name="mask2former", traced=traced, preprocessing=plan, precision=request.param)
    return path


def test_a_half_type_computes_the_backbone_and_nothing_that_decides_keys(half_file):
    model = ir.load(half_file)
    half = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    typed = [node for node in model.graph if node.op_type != "Cast" and any(v.dtype in half for v in node.outputs)]
    modules = {str(node.metadata_props.get(MODULE_KEY)).partition(".")[0] for node in typed}
    assert "sem_seg_head" not in modules
    assert sum(node.op_type == "MatMul" and MODULE_KEY in node.metadata_props for node in typed) > 20
    # Rounded weights decide keys as well: none of the head's is.
    halves = {name for name, value in model.graph.initializers.items() if value.dtype in half}
    assert halves
    assert not any(name.startswith("sem_seg_head") for name in halves)


def test_parity_of_a_half_type_compares_what_is_computed_given_the_same_keys(small, half_file, tmp_path):
    from PIL import Image

    generator = np.random.Generator(np.random.PCG64(6))
    Image.fromarray(smooth_pictures(generator, 1, 40, 66)[0]).save(tmp_path / "photo.png")
    result = Parity(half_file, small, "never", layers=True).on_picture(tmp_path / "photo.png")
    assert all(c.agrees for c in result.comparisons), result.first_mismatch
    assert sum(c.level == "attention" for c in result.comparisons) == SMALL["decoder_layers"]
    other = copy.deepcopy(small)
    other.sem_seg_head.predictor.mask_embed.layers[2].bias.data.add_(0.5)
    assert Parity(half_file, other, "never").on_picture(tmp_path / "photo.png").first_mismatch is not None


def test_a_half_typed_file_that_hides_other_keys_or_computes_something_else_is_refused(small, half_file):
    precision = read_manifest(half_file).precision
    plan = form_of(small).preprocessing
    for path, change, message in (
        ("mask_embed.layers.2.bias", -1.0, r"hides or shows \d+ of \d+ keys unlike .* decides none of them; keep more"),
        ("class_embed.bias", 3.0 * np.arange(8), r"given the keys it hides, .* is off by .* allowed .*--keep-fp32"),
    ):
        other = copy.deepcopy(small)
        other.sem_seg_head.predictor.get_parameter(path).data.add_(torch.as_tensor(change))
        with pytest.raises(VerificationError, match=message):
            QuerySegmenterFile(half_file, other, "image", plan).compare(precision, [])


def test_sides_that_are_no_multiples_of_32_are_told(tensor_file):
    predictor = load(tensor_file)
    with pytest.raises(InputError, match="32"):
        predictor.session.run({"images": np.zeros((1, 3, 64, 100), np.float32)})


def test_a_picture_of_any_ratio_is_labelled_through_the_tensor_interface(small, traced, tmp_path):
    """300 x 3000 becomes 26 x 256 with these limits, as it becomes 256 x 2560 with the official ones."""
    plan = replace(form_of(small).preprocessing, long_side=256, short_side=64)
    export(small, tmp_path / "long.onnx", name="mask2former", interface="tensor", traced=traced, preprocessing=plan)
    generator = np.random.Generator(np.random.PCG64(2))
    picture = generator.integers(0, 256, (300, 3000, 3), dtype=np.uint8)
    images = prepare(picture, plan)
    assert images.shape == (1, 3, 32, 256)
    with torch.inference_mode():
        expected = query_argmax(*small(torch.from_numpy(images)), [32, 256, 26, 256, 300, 3000])[0].numpy()
    labels = load(tmp_path / "long.onnx").predict(picture).labels
    assert (labels == expected).mean() > 0.9999


@pytest.fixture(scope="module")
def image_file() -> Any:
    return small_file("image")


@pytest.fixture(scope="module")
def image_session(image_file) -> Any:
    return session_of(image_file)


@pytest.mark.parametrize("size", [(1, 45, 70), (2, 90, 61), (1, 30, 300)])
def test_a_picture_becomes_labels_in_the_graph(small, image_file, image_session, size):
    n, h, w = size
    generator = np.random.Generator(np.random.PCG64(4))
    pictures = generator.integers(0, 256, (n, h, w, 3), dtype=np.uint8)
    plan = read_manifest(image_file).preprocessing
    images = np.concatenate([prepare(picture, plan) for picture in pictures])
    sizes = [*images.shape[2:], *keep_ratio_size(h, w, plan), h, w]
    with torch.inference_mode():
        expected = query_argmax(*small(torch.from_numpy(images)), sizes).numpy()
    (labels,) = image_session.run(None, {"image": pictures})
    assert labels.dtype == np.uint8
    assert (labels == expected).mean() > 0.999
    assert len(np.unique(labels)) > 1


def test_parity_holds_from_operators_to_labels(small, tensor_file, image_file, tmp_path):
    from PIL import Image

    generator = np.random.Generator(np.random.PCG64(5))
    Image.fromarray(smooth_pictures(generator, 1, 40, 66)[0]).save(tmp_path / "photo.png")
    result = Parity(image_file, small, "never", layers=True).on_picture(tmp_path / "photo.png")
    assert result.agrees, result.first_mismatch
    levels = Counter(c.level for c in result.comparisons)
    assert levels["operator"] == sum(COUNTS.values())
    assert levels["attention"] == SMALL["decoder_layers"]
    assert levels["network"] == 2
    assert levels["layer"] > 50
    other = copy.deepcopy(small)
    other.sem_seg_head.pixel_decoder.transformer.encoder.layers[0].linear1.bias.data.add_(0.5)
    wrong = Parity(image_file, other, "never", layers=True).on_picture(tmp_path / "photo.png")
    assert wrong.first_mismatch.name == "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1"
