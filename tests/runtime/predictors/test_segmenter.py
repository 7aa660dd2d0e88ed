# SPDX-License-Identifier: Apache-2.0
import os
from dataclasses import replace

import freqfusion_runtime
import numpy as np
import pytest
import references
from freqfusion_runtime.errors import NetworkOutputError, OutputError, PictureTooLargeError
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.model_files.classes.class_table import class_colors, class_names
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.sessions import onnxruntime_session
from PIL import Image
from small_models import (
    BIAS,
    CLASSES,
    PALETTE,
    WEIGHTS,
    image_manifest,
    tensor_manifest,
    write_image_model,
    write_tensor_model,
)

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(10, axis=0).repeat(9, axis=1)


def expected_labels(photo):
    """The official pipeline around :func:`write_tensor_model`, in float64."""
    manifest = tensor_manifest()
    tensor = prepare(photo, manifest.preprocessing).astype(np.float64)
    _, _, height, width = tensor.shape
    means = tensor.reshape(1, 3, height // 8, 8, width // 8, 8).mean(axis=(3, 5))
    scores = np.einsum("kc,nchw->nkhw", WEIGHTS.astype(np.float64), means) + BIAS[:, None, None]
    return references.resize_argmax(scores, (height, width, *photo.shape[:2]), False)[0]


def test_tensor_interface_gives_the_labels_of_the_official_pipeline(tmp_path):
    result = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx")).predict(PHOTO)
    np.testing.assert_array_equal(result.labels, expected_labels(PHOTO))
    assert result.labels.dtype == np.uint8
    assert list(result.timings_ms) == ["decode", "preprocess", "network", "postprocess"]


def test_image_interface_gives_the_models_own_labels(tmp_path):
    result = freqfusion_runtime.load(write_image_model(tmp_path / "net.onnx")).predict(PHOTO)
    plan = image_manifest().preprocessing
    scores = np.einsum("hwc,kc->khw", (PHOTO - np.array(plan.mean)) / np.array(plan.std), WEIGHTS.astype(np.float64))
    scores += BIAS[:, None, None]
    expected = scores.argmax(axis=0)
    # The model computes in float32; a pixel may tie.
    assert (result.labels == expected).mean() > 0.999
    assert (result.labels.shape, result.labels.dtype) == ((60, 72), np.uint8)


def test_path_pillow_image_and_array_give_the_same(tmp_path):
    segmenter = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx"))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    expected = segmenter.predict(PHOTO).labels
    for image in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(PHOTO)):
        np.testing.assert_array_equal(segmenter.predict(image).labels, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (70, 1)])
def test_the_smallest_pictures_work(tmp_path, size):
    segmenter = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx"))
    result = segmenter.predict(np.full((*size, 3), 200, np.uint8))
    assert result.labels.shape == size
    assert result.overlay().size[0] > size[1]


def test_shares_are_sorted_and_sum_to_one(tmp_path):
    result = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx")).predict(PHOTO)
    shares = result.shares()
    assert sum(share.pixels for share in shares) == 60 * 72
    assert [share.pixels for share in shares] == sorted((share.pixels for share in shares), reverse=True)
    for share in shares:
        assert share.pixels == (result.labels == share.label).sum()
        assert (share.name, share.color) == (CLASSES[share.label], PALETTE[share.label])
        assert share.share == share.pixels / (60 * 72)


def test_saved_labels_come_back_with_their_colours(tmp_path):
    result = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx")).predict(PHOTO)
    files = result.save(tmp_path / "out", "photo", overlay_format="jpg")
    labels, overlay = files["labels"], files["overlay"]
    with Image.open(labels) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), result.labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(PALETTE)[result.labels])
    assert (
        sorted(os.listdir(tmp_path / "out")) == [labels.name, overlay.name] == ["photo.labels.png", "photo.overlay.jpg"]
    )
    (tmp_path / "blocked").touch()
    with pytest.raises(OutputError, match="it is a file, not a folder"):
        result.save(tmp_path / "blocked", "photo")


def test_more_than_256_classes_are_written_as_16_bits(tmp_path):
    result = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx")).predict(PHOTO)
    wide = replace(result, labels=result.labels.astype(np.int32) + 300)
    wide.label_image().save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), wide.labels)


def test_the_pixel_limit_is_the_callers(tmp_path):
    segmenter = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx"), max_pixels=1000)
    with pytest.raises(PictureTooLargeError, match=r"more than the limit of 0\.0"):
        segmenter.predict(PHOTO)


@pytest.fixture
def graph_without_sides(monkeypatch):
    """As an engine opens it that does not tell the sides of its outputs: only the answer shows them."""
    monkeypatch.setattr(onnxruntime_session, "check_graph", lambda *_: None)


def test_scores_of_another_class_count_are_refused(tmp_path, graph_without_sides):
    manifest = tensor_manifest(num_classes=5, classes=(), palette=())
    segmenter = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx", manifest))
    with pytest.raises(NetworkOutputError, match=r"scores must have shape \(1, 5, h, w\), got \(1, 4, 64, 80\)"):
        segmenter.predict(PHOTO)


def test_a_label_that_the_manifest_has_no_class_for_is_refused(tmp_path):
    manifest = image_manifest(num_classes=2, classes=(), palette=())
    segmenter = freqfusion_runtime.load(write_image_model(tmp_path / "net.onnx", manifest))
    picture = np.array([[[255, 255, 255], [255, 0, 0]]], np.uint8)
    with pytest.raises(
        NetworkOutputError, match=r"net\.onnx: the labels go from 0 to 3, and the manifest has 2 classes"
    ):
        segmenter.predict(picture)


def test_a_label_map_of_another_size_is_refused(tmp_path):
    segmenter = freqfusion_runtime.load(write_image_model(tmp_path / "net.onnx", upscale=2))
    with pytest.raises(NetworkOutputError, match=r"label map must have shape \(1, 60, 72\), got \(1, 120, 144\)"):
        segmenter.predict(PHOTO)


def test_names_and_colours_default_to_ade20k_for_150_classes():
    unnamed = tensor_manifest(num_classes=150, classes=(), palette=())
    assert class_names(unnamed) == ade20k.CLASSES
    assert class_colors(unnamed) == ade20k.PALETTE
    assert (ade20k.CLASSES[0], ade20k.PALETTE[0]) == ("wall", (120, 120, 120))
    assert (ade20k.CLASSES[149], ade20k.PALETTE[149]) == ("flag", (92, 0, 255))
    assert len(set(ade20k.CLASSES)) == 150


def test_other_class_counts_get_numbers_and_distinct_colours():
    unnamed = tensor_manifest(num_classes=255, classes=(), palette=())
    assert class_names(unnamed)[7] == "class 7"
    assert len(set(class_colors(unnamed))) == 255


def test_several_threads_share_one_segmenter(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    segmenter = freqfusion_runtime.load(write_tensor_model(tmp_path / "net.onnx"), threads=1)
    photos = [np.roll(PHOTO, shift, axis=1) for shift in range(8)]
    expected = [segmenter.predict(photo).labels for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        for labels, result in zip(expected, pool.map(segmenter.predict, photos), strict=True):
            np.testing.assert_array_equal(result.labels, labels)
