# SPDX-License-Identifier: Apache-2.0
"""PrepareImage as detectron2 prepares pictures: kernel, function body and Pillow itself give the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from compiled_libraries import cpu_libraries
from freqfusion_export.operators.image_functions import PrepareImageAsPillow
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import fit
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

pytestmark = pytest.mark.numerics

MEAN = (123.675, 116.28, 103.53)
INVERSE_STD = (0.0171247538, 0.0175070028, 0.0174291939)
LIMITS = (160, 64)  # long side, short side
SHRUNK = [(480, 640), (97, 301), (640, 65), (1000, 3), (129, 128), (65, 64)]
GROWN = [(1, 1), (5, 4), (33, 47), (64, 63), (2, 90), (30, 31), (1, 2)]
KEPT = [(64, 64), (64, 160), (160, 64)]


def shortest_edge(height: int, width: int) -> tuple[int, int]:
    """``ResizeShortestEdge`` of detectron2."""
    factor = LIMITS[1] * 1.0 / min(height, width)
    new_height, new_width = (LIMITS[1], factor * width) if height < width else (factor * height, LIMITS[1])
    if max(new_height, new_width) > LIMITS[0]:
        factor = LIMITS[0] * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * factor, new_width * factor
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def pictures_of(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Noise with stretches of the two extreme levels, where the sums are largest."""
    generator = np.random.default_rng([batch, height, width])
    levels = generator.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    return np.where(generator.random((batch, height, width, 1)) < 0.2, np.uint8(255), levels)


def expected_images(pictures: NDArray[np.uint8], height: int, width: int, is_bgr: bool) -> NDArray[np.float32]:
    """By Pillow, the width first; numbers in fp32 as the operator defines them."""
    across = [
        Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.BILINEAR) for picture in pictures
    ]
    levels = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in across])
    images = (levels[..., ::-1] if is_bgr else levels).astype(np.float32)
    images = (images - np.array(MEAN, np.float32)) * np.array(INVERSE_STD, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def model(**attributes: int) -> bytes:
    text = """<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g (uint8[n, h, w, c] x) => (float[i, j, k, l] o) { o = freqfusion.PrepareImage(x) }"""
    proto = ir.to_proto(AddFunctionBodiesPass({"PrepareImage": PrepareImageAsPillow})(ir.from_onnx_text(text)).model)
    numbers: dict[str, Any] = {"long_side": LIMITS[0], "short_side": LIMITS[1], "size_divisor": 1, "exact_height": 0}
    numbers |= {"exact_width": 0, "reverse_channels": 0, "resize_as_pillow": 1, **attributes}
    numbers |= {"mean": [*MEAN], "inverse_std": [*INVERSE_STD]}
    proto.graph.node[0].attribute.extend(helper.make_attribute(name, value) for name, value in numbers.items())
    return proto.SerializeToString()


def open_model(library: Path | None, **attributes: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model(**attributes), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def library() -> Path:
    return cpu_libraries() / "libfreqfusion_onnxruntime.so"


@pytest.fixture(scope="module")
def sessions(library: Path) -> list[onnxruntime.InferenceSession]:
    """With the kernel, and with the body."""
    return [open_model(library), open_model(None)]


def assert_same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("size", [*SHRUNK, *GROWN, *KEPT])
def test_kernel_and_body_give_pillows_bits(size, sessions):
    pictures = pictures_of(2, *size)
    expected = expected_images(pictures, *shortest_edge(*size), is_bgr=False)
    for session in sessions:
        assert_same_bits(session.run(None, {"x": pictures})[0], expected)


@pytest.mark.parametrize("exact", [(70, 90), (300, 41), (1, 5)])
def test_an_exact_size_and_reversed_channels_give_pillows_bits(exact, library):
    attributes = {"exact_height": exact[0], "exact_width": exact[1], "reverse_channels": 1}
    pictures = pictures_of(1, 75, 100)
    for path in (library, None):
        found = open_model(path, **attributes).run(None, {"x": pictures})[0]
        assert_same_bits(found, expected_images(pictures, *exact, is_bgr=True))


def test_random_sizes_give_the_same_bits(sessions):
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in np.exp(generator.uniform(0, np.log(900), 2)))
        pictures = pictures_of(1, height, width)
        kernel, body = (session.run(None, {"x": pictures})[0] for session in sessions)
        assert_same_bits(kernel, expected_images(pictures, *shortest_edge(height, width), is_bgr=False))
        assert_same_bits(body, kernel)


def test_the_runtimes_own_preparation_gives_pillows_levels():
    plan = Preprocessing(long_side=LIMITS[0], short_side=LIMITS[1], size_fit="pad", resizer="pillow")
    for size in (*SHRUNK, *GROWN, *KEPT):
        (picture,) = pictures_of(1, *size)
        assert keep_ratio_size(*size, plan) == shortest_edge(*size)
        across = Image.fromarray(picture).resize((shortest_edge(*size)[1], size[0]), Image.Resampling.BILINEAR)
        expected = across.resize(shortest_edge(*size)[::-1], Image.Resampling.BILINEAR)
        assert np.array_equal(fit(picture, plan), np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *[((480, 640), (640, 853)), ((683, 1024), (640, 960)), ((512, 683), (640, 854)), ((512, 2048), (640, 2560))],
        *[((300, 3000), (256, 2560)), ((3000, 300), (2560, 256)), ((427, 640), (640, 959)), ((1024, 768), (853, 640))],
    ],
)
def test_sizes_are_those_on_record_for_detectron2(size, expected):
    plan = Preprocessing(long_side=2560, short_side=640, size_fit="pad", resizer="pillow")
    assert keep_ratio_size(*size, plan) == expected


def test_a_second_resize_is_refused(library):
    with pytest.raises(Exception, match="size_divisor must be 1 where resize_as_pillow is"):
        open_model(library, size_divisor=32)


def test_tensorrt_rtx_builds_the_body():
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, 32, 32, 3), (1, 480, 640, 3), (2, 1080, 1920, 3))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
