# SPDX-License-Identifier: Apache-2.0
"""libfreqfusion_c.so behind torch.ops.freqfusion: right results on any tensor, gradients, threads and forks."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import freqfusion.ops  # noqa: F401  (defines torch.ops.freqfusion)
import numpy as np
import pytest
import torch
from compiled_libraries import cpu_libraries
from freqfusion import native
from freqfusion.ops.adaptive_filter import filter_features
from freqfusion.ops.carafe import reassemble
from operator_cases import CASES, DTYPES, TORCH_NAMES, assert_matches_golden, golden_calls, reassembly

pytestmark = pytest.mark.numerics

C_ABI = Path(__file__).resolve().parents[2] / "plugins" / "torch" / "c_abi.h"


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here runs on the library built from this tree."""
    libraries = cpu_libraries()
    monkeypatch.setenv("FREQFUSION_LIBRARY_DIR", str(libraries))
    monkeypatch.delenv("FREQFUSION_NATIVE", raising=False)
    native.load.cache_clear()
    assert native.find_library() == libraries / native.LIBRARY
    yield
    native.load.cache_clear()


def call(operator: str, tensors: list[torch.Tensor], attributes: dict) -> torch.Tensor | None:
    """The native kernel itself; ``None`` where it leaves the tensors to PyTorch."""
    return getattr(native, TORCH_NAMES[operator])(*tensors, *attributes.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_float64_loops(case, dtype):
    tensors = case.tensors(dtype)
    case.check(call(case.operator, tensors, case.attributes), tensors)


@pytest.mark.parametrize(("operator", "tensors", "attributes", "expected"), golden_calls())
def test_matches_the_official_code(operator, tensors, attributes, expected):
    assert_matches_golden(call(operator, tensors, attributes), expected)


@pytest.mark.parametrize("case", CASES)
def test_reads_tensors_that_are_not_contiguous(case):
    tensors = case.tensors(torch.float32)
    strided = [torch.empty((*tensor.shape[:-1], 2 * tensor.shape[-1]))[..., ::2].copy_(tensor) for tensor in tensors]
    strided[0] = strided[0].transpose(2, 3).contiguous().transpose(2, 3)
    assert any(not tensor.is_contiguous() for tensor in strided) or tensors[0].numel() < 4
    case.check(call(case.operator, strided, case.attributes), tensors)
    last = [tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in tensors]
    case.check(call(case.operator, last, case.attributes), tensors)


@pytest.mark.parametrize("case", CASES)
def test_the_torch_operator_takes_the_native_kernel(case, monkeypatch):
    tensors = case.tensors(torch.float32)
    operator = getattr(torch.ops.freqfusion, TORCH_NAMES[case.operator])
    result = operator(*tensors, *case.attributes.values())
    assert torch.equal(result, call(case.operator, tensors, case.attributes))

    monkeypatch.setenv("FREQFUSION_NATIVE", "0")
    native.load.cache_clear()
    assert call(case.operator, tensors, case.attributes) is None
    case.check(operator(*tensors, *case.attributes.values()), tensors)


def test_leaves_other_dtypes_to_pytorch():
    tensors = [tensor.double() for tensor in reassembly(1, 4, 5, 7, 3, 1, 1).tensors(torch.float32)]
    assert native.carafe(*tensors, 3, 1, 1) is None
    assert torch.ops.freqfusion.carafe(*tensors, 3, 1, 1).dtype == torch.float64


GRADIENTS = [
    reassembly(1, 4, 3, 5, 3, 2, 2, mode=0),
    reassembly(2, 6, 4, 19, 5, 1, 2, mode=0, padding=1),
    reassembly(1, 5, 6, 33, 3, 1, 1, mode=2, padding=1),
    reassembly(1, 4, 5, 7, 5, 2, 1, mode=1),
    reassembly(1, 6, 4, 3, 3, 3, 3),
    reassembly(2, 3, 4, 6, 7, 1, 2, padding=1),
]


@pytest.mark.parametrize("case", GRADIENTS, ids=lambda case: f"{case.operator}-{case.attributes}")
@pytest.mark.parametrize("with_library", [True, False])
def test_gradients_are_those_of_the_unfold_formulation(case, with_library, monkeypatch):
    if not with_library:
        monkeypatch.setenv("FREQFUSION_NATIVE", "0")
        native.load.cache_clear()
    operator = getattr(torch.ops.freqfusion, TORCH_NAMES[case.operator])
    definition = {"Carafe": reassemble, "AdaptiveFilter": filter_features}[case.operator]

    def gradients(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in case.tensors(torch.float32)]
        function(*leaves, *case.attributes.values()).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for ours, exact in zip(gradients(operator, torch.float32), gradients(definition, torch.float64), strict=True):
        assert exact.abs().max() > 0
        # Sums of at most 100 products of numbers below 4, in fp32.
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=2e-5)


def test_any_number_of_threads_gives_the_same_bits():
    case = reassembly(1, 24, 31, 29, 5, 1, 2, mode=0)
    tensors = case.tensors(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(call(case.operator, tensors, case.attributes))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], result) for result in results[1:])
    case.check(results[0], tensors)


def test_eight_python_threads_share_the_pool():
    case = reassembly(1, 8, 17, 13, 5, 1, 2)
    inputs = [case.tensors(torch.float32, seed) for seed in range(4)]
    expected = [call(case.operator, tensors, case.attributes) for tensors in inputs]

    def work(thread: int) -> bool:
        turns = [(thread + turn) % len(inputs) for turn in range(200)]
        return all(torch.equal(call(case.operator, inputs[i], case.attributes), expected[i]) for i in turns)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_forked_child_gets_threads_of_its_own():
    case = reassembly(1, 8, 17, 13, 5, 1, 2)
    tensors = case.tensors(torch.float32)  # made here: GNU OpenMP, which PyTorch computes with, does not survive a fork
    expected = call(case.operator, tensors, case.attributes).numpy()  # and the parent's pool has its threads by now
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)

    def work() -> None:
        result = call(case.operator, tensors, case.attributes).numpy()
        threads = len(list(Path("/proc/self/task").iterdir()))
        sender.send((result, threads))

    child = fork.Process(target=work)
    child.start()
    try:
        assert receiver.poll(60), "the child hangs"
        result, threads = receiver.recv()
    finally:
        child.kill()
        child.join()
    assert np.array_equal(result, expected)
    assert threads >= min(2, torch.get_num_threads())


@pytest.mark.parametrize(
    ("shapes", "attributes", "reason"),
    [
        ([(1, 4, 8, 8), (1, 9, 16, 16)], (4, 1, 2), "kernel_size"),
        ([(1, 4, 8, 8), (1, 9, 8, 8)], (3, 1, 2), "mask"),
        ([(1, 4, 8, 8), (1, 27, 16, 16)], (3, 3, 2), "group"),
    ],
)
def test_the_library_checks_sizes_by_itself(shapes, attributes, reason):
    with pytest.raises(ValueError, match=f"carafe: .*{reason}"):
        native.carafe(*(torch.rand(shape) for shape in shapes), *attributes)


def test_the_library_checks_what_python_never_passes():
    library = native.load()
    tensor = torch.zeros(1, 2, 3, 3)
    good, place = native._describe(tensor), native._Place(0, 1, 0, None)

    def reason(features: native._Tensor, output: native._Tensor, place: native._Place) -> str:
        return library.freqfusion_local_similarity(
            ctypes.byref(features), ctypes.byref(output), 3, 2, ctypes.byref(place)
        ).decode()

    output = native._describe(torch.zeros(1, 8, 3, 3))
    assert "output must be" in reason(good, good, place)
    assert "one dtype" in reason(good, native._describe(torch.zeros(1, 8, 3, 3).half()), place)
    assert "no data" in reason(native._Tensor(None, good.size, 0), output, place)
    assert "float32, float16 or bfloat16" in reason(
        native._Tensor(good.data, good.size, 9), native._Tensor(output.data, output.size, 9), place
    )
    assert "2^31" in reason(native._Tensor(good.data, (ctypes.c_int64 * 4)(1, 2, 2**40, 3), 0), output, place)
    assert "between 0" in reason(native._Tensor(good.data, (ctypes.c_int64 * 4)(1, -2, 3, 3), 0), output, place)
    assert "without CUDA" in reason(good, output, native._Place(1, 1, 0, None))
    assert "channels last" in reason(good, output, native._Place(0, 1, 1, None))
    assert not native.is_available("cuda")


def test_warns_about_a_library_of_another_interface(monkeypatch, tmp_path):
    broken = tmp_path / native.LIBRARY
    broken.write_bytes(b"not a library")
    monkeypatch.setenv("FREQFUSION_LIBRARY_DIR", str(tmp_path))
    native.load.cache_clear()
    with pytest.warns(UserWarning, match=r"cannot be loaded .* using the PyTorch operators instead"):
        assert native.load() is None

    monkeypatch.undo()
    native.load.cache_clear()
    monkeypatch.setattr(native, "ABI_VERSION", native.ABI_VERSION + 1)
    with pytest.warns(UserWarning, match="Rebuild it with `make plugins`"):
        assert native.load() is None


def test_python_and_c_agree_on_the_interface():
    header = C_ABI.read_text()
    assert int(re.search(r"#define FREQFUSION_ABI_VERSION (\d+)", header).group(1)) == native.ABI_VERSION
    names = {"Float32": torch.float32, "Float16": torch.float16, "BFloat16": torch.bfloat16, "Int32": torch.int32}
    numbers = {names[name]: int(value) for name, value in re.findall(r"kFreqFusion(\w+) = (\d)", header)}
    assert numbers == native.DTYPES
