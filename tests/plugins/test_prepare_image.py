# SPDX-License-Identifier: Apache-2.0
"""PrepareImage: the compiled kernel, the function body and the numpy pre-processing give the same bits."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from compiled_libraries import cpu_libraries, sanitized_libraries
from freqfusion_export.operators.image_functions import PrepareImageOtherwise
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import fit
from freqfusion_runtime.pictures.sizes import network_size
from numpy.typing import NDArray
from one_node_models import kernel_counts
from onnx import helper
from watched_runs import LEVELS, RUN_MODELS, run_program

MEAN = (123.675, 116.28, 103.53)
INVERSE_STD = (0.0171247538, 0.0175070028, 0.0174291939)
OFFICIAL, SMALL, NO_STRETCH, ODD, WIDE = (2048, 512, 32), (256, 64, 32), (128, 96, 1), (111, 75, 7), (1000, 40, 64)
DETECTION, HALVES = (1333, 800, 1), (133, 80, 1)

# (height, width) by limits (long side, short side, divisor).
PAIRS = {
    OFFICIAL: [(480, 640), (512, 683), (512, 704), (1, 300), (3000, 2), (1080, 1920), (1, 1), (1024, 1024), (700, 513)],
    SMALL: [
        *[(1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (300, 2), (2, 400), (2, 2), (3, 3), (5, 4)],
        *[(64, 64), (64, 96), (96, 64), (64, 256), (256, 64), (64, 65), (65, 64), (63, 64), (64, 255), (128, 128)],
        *[
            (128, 192),
            (128, 512),
            (75, 100),
            (120, 81),
            (33, 257),
            (200, 150),
            (400, 3),
            (31, 33),
            (17, 61),
            (640, 480),
        ],
        *[(100, 256), (64, 250), (16, 16), (32, 48), (59, 1024)],
    ],
    NO_STRETCH: [
        (96, 128),
        (96, 96),
        (192, 256),
        (96, 127),
        (1, 1),
        (7, 5),
        (300, 200),
        (10, 1000),
        (95, 127),
        (1, 128),
    ],
    ODD: [(75, 111), (75, 100), (77, 105), (150, 222), (1, 1), (13, 500), (500, 13), (74, 75), (149, 151)],
    # Sides of these come to a half exactly, which floats round up or down.
    DETECTION: [(149, 298)],
    HALVES: [(45, 190), (190, 85), (38, 266), (28, 2)],
    WIDE: [(40, 1000), (40, 999), (20, 500), (80, 2000), (3, 70), (41, 1001), (40, 257), (40, 513), (40, 769)],
}
CASES = [(limits, size) for limits, sizes in PAIRS.items() for size in sizes]


@pytest.fixture(scope="module")
def library() -> Path:
    return cpu_libraries() / "libfreqfusion_onnxruntime.so"


def model(
    limits: tuple[int, int, int],
    shape: str = "n, h, w, c",
    mean: Sequence[float] = MEAN,
    inverse_std: Sequence[float] = INVERSE_STD,
    **special: int,
) -> bytes:
    """One PrepareImage node with its function body, for pictures of ``shape``; ``special`` are further attributes."""
    text = f"""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g (uint8[{shape}] x) => (float[i, j, k, l] o) {{ o = freqfusion.PrepareImage(x) }}"""
    bodies = {"PrepareImage": PrepareImageOtherwise} if special else {}
    proto = ir.to_proto(AddFunctionBodiesPass(bodies)(ir.from_onnx_text(text)).model)
    attributes = dict(zip(("long_side", "short_side", "size_divisor"), limits, strict=True))
    attributes |= {"mean": [*mean], "inverse_std": [*inverse_std], **special}
    proto.graph.node[0].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return proto.SerializeToString()


def open_model(data: bytes, library: Path | None, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@functools.cache
def session(limits: tuple[int, int, int], library: Path | None) -> onnxruntime.InferenceSession:
    return open_model(model(limits), library)


def draw(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Noise with stretches of the two extreme levels, where the sums are largest."""
    generator = np.random.default_rng([batch, height, width])
    levels = generator.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    bright = generator.random((batch, height, width, 1)) < 0.2
    return np.where(bright, np.uint8(255), levels)


def plan(limits: tuple[int, int, int]) -> Preprocessing:
    return Preprocessing(long_side=limits[0], short_side=limits[1], size_divisor=limits[2])


def expected_images(pictures: NDArray[np.uint8], limits: tuple[int, int, int]) -> NDArray[np.float32]:
    """Levels by the numpy pre-processing, numbers in fp32 as the operator defines them."""
    levels = np.stack([fit(picture, plan(limits)) for picture in pictures]).astype(np.float32)
    images = (levels - np.array(MEAN, np.float32)) * np.array(INVERSE_STD, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    assert np.array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize(("limits", "size"), CASES)
def test_kernel_body_and_numpy_give_the_same_bits(limits, size, library):
    pictures = draw(2 if max(size) < 600 else 1, *size)
    (kernel,) = session(limits, library).run(None, {"x": pictures})
    assert_same_bits(kernel, expected_images(pictures, limits))
    (body,) = session(limits, None).run(None, {"x": pictures})
    assert_same_bits(kernel, body)


@pytest.mark.parametrize("reverse_channels", [0, 1])
@pytest.mark.parametrize("exact", [(0, 0), (64, 160), (90, 70), (1, 3), (300, 41)])
@pytest.mark.parametrize("size", [(75, 100), (120, 81), (1, 1), (3, 700), (90, 70)])
def test_an_exact_size_and_reversed_channels_give_the_same_bits(exact, reverse_channels, size, library):
    pictures = draw(2, *size)
    special = {"exact_height": exact[0], "exact_width": exact[1], "reverse_channels": reverse_channels}
    data = model(SMALL, **special)
    settings = replace(plan(SMALL), exact_size=exact if any(exact) else None)
    levels = np.stack([fit(picture, settings) for picture in pictures]).astype(np.float32)
    levels = levels[..., ::-1] if reverse_channels else levels
    images = (levels - np.array(MEAN, np.float32)) * np.array(INVERSE_STD, np.float32)
    for path in (library, None):
        (found,) = open_model(data, path).run(None, {"x": pictures})
        assert_same_bits(found, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_infers_an_exact_size_of_the_images(library):
    data = model(OFFICIAL, "2, 480, 640, 3", exact_height=70, exact_width=90, reverse_channels=1)
    (output,) = open_model(without_output_shape(data), library).get_outputs()
    assert output.shape == [2, 3, 96, 96]


@pytest.mark.parametrize("exact", [(64, 0), (0, 64), (-1, -1), (64, -1)])
def test_half_an_exact_size_is_refused(exact, library):
    data = model(SMALL, exact_height=exact[0], exact_width=exact[1], reverse_channels=0)
    with pytest.raises(Exception, match="exact_height and exact_width must both be positive, or both 0"):
        open_model(data, library)


def test_random_sizes_and_limits_give_the_same_bits(library):
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in np.exp(generator.uniform(0, np.log(700), 2)))
        short, divisor = (int(number) for number in generator.integers(1, [200, 70]))
        limits = (short + int(generator.integers(0, 400)), short, divisor)
        # Beyond this ratio the body rounds the short side to nothing.
        limits = (max(limits[0], max(height, width) // min(height, width) + 1), *limits[1:])
        pictures = draw(1, height, width)
        data = model(limits)
        (kernel,) = open_model(data, library).run(None, {"x": pictures})
        assert_same_bits(kernel, expected_images(pictures, limits))
        (body,) = open_model(data, None).run(None, {"x": pictures})
        assert_same_bits(kernel, body)


@pytest.mark.parametrize("size", [(1, 5000), (9000, 2), (1, 20000)])
def test_a_side_never_becomes_nothing(size, library):
    pictures = draw(1, *size)
    (kernel,) = session(OFFICIAL, library).run(None, {"x": pictures})
    assert kernel.shape[2:] == network_size(*size, plan(OFFICIAL))
    assert_same_bits(kernel, expected_images(pictures, OFFICIAL))


@pytest.mark.parametrize(("limits", "size"), [(SMALL, (64, 96)), (NO_STRETCH, (96, 127)), ((960, 64, 64), (64, 960))])
def test_a_resize_to_the_same_size_changes_no_level(limits, size, library):
    levels = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(1, *size, 3).astype(np.uint8)
    straight = (levels.astype(np.float32) - np.array(MEAN, np.float32)) * np.array(INVERSE_STD, np.float32)
    for path in (library, None):  # the kernel leaves the resize out, the body does the arithmetic
        (images,) = session(limits, path).run(None, {"x": levels})
        assert_same_bits(images, np.ascontiguousarray(straight.transpose(0, 3, 1, 2)))


def test_a_batch_is_its_pictures_one_by_one(library):
    pictures = draw(3, 61, 87)
    (together,) = session(SMALL, library).run(None, {"x": pictures})
    apart = [session(SMALL, library).run(None, {"x": picture[None]})[0] for picture in pictures]
    assert_same_bits(together, np.concatenate(apart))


def test_no_pictures_give_no_images(library):
    (images,) = session(SMALL, library).run(None, {"x": np.empty((0, 75, 100, 3), np.uint8)})
    assert images.shape == (0, 3, *network_size(75, 100, plan(SMALL)))


def test_any_number_of_threads_gives_the_same_bits(library):
    pictures = draw(1, 301, 407)
    data = model(OFFICIAL)
    results = [open_model(data, library, threads).run(None, {"x": pictures})[0] for threads in (1, 2, 5)]
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_gives_the_same_bits(level, library, tmp_path):
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if not LEVELS[level] <= flags:
        pytest.skip(f"this processor lacks {', '.join(sorted(LEVELS[level] - flags))}")
    run_files(library, tmp_path, CASES, FREQFUSION_ISA=level)


@pytest.mark.long
def test_the_kernel_stays_inside_its_tensors(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_file():
        pytest.skip("no libasan.so to load ahead of Python")
    run_files(
        sanitized_libraries() / "libfreqfusion_onnxruntime.so",
        tmp_path,
        [(limits, size) for limits, size in CASES if limits != OFFICIAL],
        LD_PRELOAD=runtime.stdout.strip(),
        ASAN_OPTIONS="detect_leaks=0",  # Python and ONNX Runtime keep what they allocate until the process ends
        PYTHONMALLOC="malloc",
    )


def run_files(
    library: Path, folder: Path, cases: list[tuple[tuple[int, int, int], tuple[int, int]]], **env: str
) -> None:
    """Runs ``cases`` in a process with ``env`` set and compares their results."""
    expected = {}
    for number, (limits, size) in enumerate(cases):
        pictures = draw(1, *size)
        path = folder / f"{number}.onnx"
        path.write_bytes(model(limits))
        np.savez(path.with_suffix(".npz"), x=pictures)
        expected[path.with_suffix(".npy")] = expected_images(pictures, limits)
    printed = run_program(sys.executable, "-c", RUN_MODELS, str(library), str(folder), **env)
    assert printed.split() == ["ran", str(len(cases))]
    for path, images in expected.items():
        assert_same_bits(np.load(path), images)


def test_the_kernel_runs_rather_than_the_body(library):
    before = kernel_counts(library)
    open_model(model(SMALL), library)
    after = kernel_counts(library)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "PrepareImage/cpu": 1
    }


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("2, 480, 640, 3", [2, 3, 512, 704]),
        ("n, 1080, 1920, 3", ["n", 3, 512, 928]),
        ("1, 3000, 2, 3", [1, 3, 2048, 32]),
    ],
)
def test_infers_the_size_of_the_images(shape, expected, library):
    (output,) = open_model(without_output_shape(model(OFFICIAL, shape)), library).get_outputs()
    assert (output.type, output.shape) == ("tensor(float)", expected)


def test_leaves_the_size_of_unknown_pictures_open(library):
    (output,) = open_model(without_output_shape(model(OFFICIAL)), library).get_outputs()
    assert not any(isinstance(extent, int) for extent in output.shape or [])


def without_output_shape(data: bytes) -> bytes:
    proto = onnx.load_from_string(data)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("limits", "wrong", "reason"),
    [
        ((0, 64, 32), {}, "long_side, short_side and size_divisor must be positive"),
        ((256, -1, 32), {}, "long_side, short_side and size_divisor must be positive"),
        ((256, 64, 0), {}, "long_side, short_side and size_divisor must be positive"),
        ((256, 64, 2**31 - 1), {}, "every size must be from 0 to 2.30"),
        ((256, 2**31, 32), {}, "attribute short_side must fit 32 bits, got 2147483648"),
        (SMALL, {"mean": [1.0, 2.0]}, "attribute mean must hold three numbers, got 2"),
        (SMALL, {"inverse_std": [1.0, 2.0, 3.0, 4.0]}, "attribute inverse_std must hold three numbers, got 4"),
        (SMALL, {"inverse_std": [1.0, 0.0, 3.0]}, "inverse_std must hold finite positive numbers"),
        (SMALL, {"inverse_std": [1.0, -2.0, 3.0]}, "inverse_std must hold finite positive numbers"),
        (SMALL, {"inverse_std": [1.0, float("inf"), 3.0]}, "inverse_std must hold finite positive numbers"),
        (SMALL, {"inverse_std": [1.0, float("nan"), 3.0]}, "inverse_std must hold finite positive numbers"),
        (SMALL, {"mean": [1.0, float("-inf"), 3.0]}, "mean must hold finite numbers"),
    ],
)
def test_bad_attributes_are_refused_when_the_session_is_made(limits, wrong, reason, library):
    data = model(limits, **wrong)
    with pytest.raises(Exception, match=f"freqfusion::PrepareImage: {reason}"):
        open_model(data, library)


def test_a_missing_attribute_is_named(library):
    data = model(SMALL).replace(b"short_side", b"short_sidf")
    with pytest.raises(Exception, match="must have an integer attribute short_side, got none"):
        open_model(data, library)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 8, 8, 4), r"pictures must have three channels, the last dimension of \(N, H, W, 3\), got 4"),
        ((1, 3, 8, 8), r"pictures must have three channels, the last dimension of \(N, H, W, 3\), got 8"),
        ((1, 0, 8, 3), "the pictures must have at least one row and column"),
        ((1, 8, 0, 3), "the pictures must have at least one row and column"),
    ],
)
def test_bad_pictures_are_refused(shape, reason, library):
    opened = session(SMALL, library)
    with pytest.raises(Exception, match=f"freqfusion::PrepareImage: {reason}"):
        opened.run(None, {"x": np.zeros(shape, np.uint8)})
    pictures = draw(1, 20, 30)
    assert_same_bits(opened.run(None, {"x": pictures})[0], expected_images(pictures, SMALL))
