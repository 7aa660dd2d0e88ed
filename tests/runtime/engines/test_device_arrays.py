# SPDX-License-Identifier: Apache-2.0
"""Arrays exchanged without a copy. DLPack is tried in host memory, where numpy and torch can be the other side."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from freqfusion_runtime.engines import device_arrays
from freqfusion_runtime.engines.device_arrays import CPU, CUDA, DeviceArray, from_dlpack, read_device_array
from freqfusion_runtime.errors import InputError

torch = pytest.importorskip("torch")
DTYPES = ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"]


def shown(array: np.ndarray) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype.name, owner=array, device=(CPU, 0))


@pytest.mark.parametrize("take", [np.from_dlpack, torch.from_dlpack])
@pytest.mark.parametrize("dtype", DTYPES)
def test_others_see_our_memory_and_let_go_of_it(take, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    taken = take(shown(array))
    array[1, 2] = 0
    np.testing.assert_array_equal(np.asarray(taken), array)
    del taken
    gc.collect()
    assert not device_arrays._alive


def test_a_capsule_that_nobody_takes_lets_go_too():
    capsule = shown(np.zeros(3)).__dlpack__()
    assert len(device_arrays._alive) == 1
    del capsule
    gc.collect()
    assert not device_arrays._alive


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_see_the_memory_of_others(dtype):
    tensor = torch.arange(6).reshape(1, 2, 3).to(getattr(torch, dtype))[:, 1:]
    array = from_dlpack(tensor, "image")
    assert (array.pointer, array.shape, array.dtype) == (tensor.data_ptr(), (1, 1, 3), dtype)
    assert array.size_bytes == 3 * tensor.element_size()


def test_what_is_not_contiguous_is_refused():
    with pytest.raises(InputError, match=r"input 'image' of shape \(3, 2\) is not contiguous .*ascontiguousarray"):
        from_dlpack(torch.zeros(2, 3).T, "image")


def test_a_type_that_numpy_does_not_know_is_refused():
    with pytest.raises(InputError, match="input 'image' has a type that numpy has no name for"):
        from_dlpack(torch.zeros(2, dtype=torch.bfloat16), "image")


class OnDevice:
    """An array as torch and CuPy describe one on a GPU."""

    def __init__(self, **changes):
        self.__cuda_array_interface__ = {
            "shape": (1, 4, 5, 3),
            "typestr": "|u1",
            "data": (4096, False),
            "strides": None,
            "stream": 7,
            "version": 3,
            **changes,
        }


def test_an_array_on_a_gpu_is_read_where_it_is():
    value = OnDevice()
    array = read_device_array(value, "image", 0)
    assert (array.pointer, array.shape, array.dtype, array.stream) == (4096, (1, 4, 5, 3), "uint8", 7)
    assert array.owner is value  # else it could be freed while it is read
    assert read_device_array(OnDevice(strides=(60, 15, 3, 1)), "image", 0).shape == (1, 4, 5, 3)
    with pytest.raises(InputError, match="not contiguous"):
        read_device_array(OnDevice(strides=(60, 1, 4, 20)), "image", 0)


def test_what_lies_on_the_host_is_none_of_these():
    assert read_device_array(np.zeros(3), "image", 0) is None
    assert read_device_array(torch.zeros(3), "image", 0) is None


def test_ours_describe_themselves_to_cupy_and_torch():
    array = DeviceArray(4096, (2, 3), "float16", stream=9)
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<f2",
        "data": (4096, False),
        "strides": None,
        "stream": 9,
        "version": 3,
    }
    assert array.__dlpack_device__() == (CUDA, 0)
