# SPDX-License-Identifier: Apache-2.0
"""The few calls of the CUDA runtime that engines need, with errors that say what to do; cuda-python, not torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from freqfusion_runtime.engines.errors import CudaError, EngineMemoryError, GpuMissingError


@dataclass(frozen=True)
class GpuIdentity:
    """What an engine is bound to. Two GPUs are alike if these are equal.

    Attributes:
        name: The driver's.
        compute_capability: Such as ``9.0``.
        memory_mb: Of the device, in MiB.
    """

    name: str
    compute_capability: str
    memory_mb: int

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.name} (compute capability {self.compute_capability}, {self.memory_mb} MiB)"


def runtime() -> Any:
    """The module of CUDA runtime calls.

    Raises:
        ModuleNotFoundError: If cuda-python is not installed; the command line knows the remedy.
    """
    from cuda.bindings import runtime as cudart

    return cudart


def driver_version() -> str | None:
    """The newest CUDA that the driver can serve, None without a driver."""
    status, number = runtime().cudaDriverGetVersion()
    return _version(number) if int(status) == 0 and number else None


def runtime_version() -> str:
    """The CUDA of cuda-python."""
    return _version(call("cudaRuntimeGetVersion"))


def find_gpu() -> GpuIdentity | None:
    """Describes the current device, None where there is no driver or no device."""
    try:
        status, count = runtime().cudaGetDeviceCount()
    except ModuleNotFoundError:
        return None
    if int(status) != 0 or not count:
        return None
    properties = call("cudaGetDeviceProperties", call("cudaGetDevice"))
    return GpuIdentity(
        bytes(properties.name).split(b"\0")[0].decode() if isinstance(properties.name, bytes) else properties.name,
        f"{properties.major}.{properties.minor}",
        int(properties.totalGlobalMem) >> 20,
    )


def require_gpu(purpose: str) -> GpuIdentity:
    """Describes the current device.

    Raises:
        GpuMissingError: If there is none; ``purpose`` says what it is needed for.
    """
    cudart = runtime()
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0:
        raise GpuMissingError(purpose, f"CUDA cannot be started here ({_text(cudart, status)})")
    if not count:
        raise GpuMissingError(purpose, "the driver finds none")
    gpu = find_gpu()
    assert gpu is not None
    return gpu


def call(name: str, *arguments: Any) -> Any:
    """Makes one call of the CUDA runtime.

    Args:
        name: Of the function, such as ``cudaMalloc``.
        arguments: As the function takes them.

    Returns:
        Its one result, a tuple of several, or None.

    Raises:
        EngineMemoryError: If memory is short.
        CudaError: If it fails otherwise.
    """
    cudart = runtime()
    status, *results = getattr(cudart, name)(*arguments)
    if int(status) != 0:
        text = f"{name} failed: {_text(cudart, status)}"
        if status == cudart.cudaError_t.cudaErrorMemoryAllocation:
            raise EngineMemoryError(
                f"{text}. Free memory on the GPU (`nvidia-smi` shows who has it), use fewer contexts, or build the "
                "engine with a smaller --max."
            )
        raise CudaError(f"{text}. `freqfusion doctor` checks driver and libraries; a broken context needs a restart.")
    return results[0] if len(results) == 1 else tuple(results) or None


class Stream:
    """A stream of the current device that does not wait for the legacy default stream."""

    def __init__(self) -> None:
        self.handle: int = int(call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking))

    def wait(self) -> None:
        """Blocks until everything on the stream is done."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Gives the stream back."""
        if self.handle:
            call("cudaStreamDestroy", self.handle)
            self.handle = 0


def order_after(reader: int, writer: int) -> None:
    """Makes what follows on stream ``reader`` come after what is on ``writer`` now; the host does not wait."""
    event = call("cudaEventCreateWithFlags", runtime().cudaEventDisableTiming)
    try:
        call("cudaEventRecord", event, writer)
        call("cudaStreamWaitEvent", reader, event, 0)
    finally:
        call("cudaEventDestroy", event)


class DeviceMemory:
    """Bytes on the device."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointer: int = int(call("cudaMalloc", max(size, 1)))

    def close(self) -> None:
        """Gives the bytes back."""
        if self.pointer:
            call("cudaFree", self.pointer)
            self.pointer = 0


class PinnedMemory:
    """Page-locked bytes of the host, which the device copies without a detour."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointer: int = int(call("cudaMallocHost", max(size, 1)))

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Shows the first bytes as an array."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        buffer: Any = (ctypes.c_char * count).from_address(self.pointer)
        array: NDArray[Any] = np.frombuffer(buffer, dtype=dtype).reshape(shape)
        return array

    def close(self) -> None:
        """Gives the bytes back; arrays made of them must be gone."""
        if self.pointer:
            call("cudaFreeHost", self.pointer)
            self.pointer = 0


def copy_async(target: int, source: int, size: int, stream: Stream) -> None:
    """Copies between any two places that CUDA knows."""
    call("cudaMemcpyAsync", target, source, size, runtime().cudaMemcpyKind.cudaMemcpyDefault, stream.handle)


class Graph:
    """What was queued on a stream during a capture, to be queued again by one call."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Queues it."""
        call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Gives it back."""
        if self._handle is not None:
            call("cudaGraphExecDestroy", self._handle)
            self._handle = None


class Capture:
    """Records what is queued on ``stream`` inside the block; ``graph`` holds it afterwards."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.graph: Graph | None = None

    def __enter__(self) -> Capture:
        # Other threads may allocate meanwhile: only this thread's calls are held to the rules of a capture.
        mode = runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self._stream.handle, mode)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            runtime().cudaStreamEndCapture(self._stream.handle)  # its status only repeats the error on its way
            return
        captured = call("cudaStreamEndCapture", self._stream.handle)
        try:
            self.graph = Graph(call("cudaGraphInstantiate", captured, 0))
        finally:
            call("cudaGraphDestroy", captured)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(cudart: Any, status: Any) -> str:
    _, text = cudart.cudaGetErrorString(status)
    return f"{text.decode() if isinstance(text, bytes) else text}, error {int(status)}"
