# SPDX-License-Identifier: Apache-2.0
"""One stream with what a call needs: contexts, buffers on both sides, and CUDA graphs of the shapes that come often."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.engines.cuda import (
    Capture,
    DeviceMemory,
    Graph,
    PinnedMemory,
    Stream,
    copy_async,
    order_after,
)
from freqfusion_runtime.engines.device_arrays import DeviceArray
from freqfusion_runtime.engines.errors import CudaError, EngineError
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.pool import RecentlyUsed
from freqfusion_runtime.engines.runtime_cache import RuntimeCache

Shape = tuple[int, ...]
# Profile, shapes of all inputs, addresses of those read in place (0 for the host), whether outputs go to the host.
_Key = tuple[int, tuple[Shape, ...], tuple[int, ...], bool]


class LoadedEngine:
    """An engine and what does not change about it.

    Args:
        flavour: What runs it.
        api_engine: TensorRT's object.
        runtime_cache: Kernels compiled earlier, where the flavour compiles any when it runs.
    """

    def __init__(self, flavour: Flavour, api_engine: Any, runtime_cache: RuntimeCache | None = None) -> None:
        self.flavour, self.api_engine, self._runtime_cache = flavour, api_engine, runtime_cache
        api = flavour.api
        names = [api_engine.get_tensor_name(i) for i in range(api_engine.num_io_tensors)]
        modes = {name: api_engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(name for name in names if modes[name] == api.TensorIOMode.INPUT)
        self.outputs = tuple(name for name in names if modes[name] == api.TensorIOMode.OUTPUT)
        self.dtypes = {name: np.dtype(api.nptype(api_engine.get_tensor_dtype(name))).name for name in names}
        self.working_bytes = int(api_engine.device_memory_size_v2)

    def shape(self, name: str) -> Shape:
        """Of a tensor, -1 for a free side."""
        return tuple(self.api_engine.get_tensor_shape(name))

    def profile_shapes(self, name: str, profile: int) -> list[Shape]:
        """Smallest, usual and largest shape of an input."""
        return [tuple(shape) for shape in self.api_engine.get_tensor_profile_shape(name, profile)]

    def new_context(self) -> Any:
        """Makes a context whose working memory is given by its user, so that contexts of one stream share it.

        Raises:
            EngineError: If TensorRT refuses.
        """
        if self._runtime_cache is not None:
            context = self._runtime_cache.new_context(self.api_engine)
        else:
            strategy = self.flavour.api.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self.api_engine.create_execution_context(strategy)
        if context is None:
            raise EngineError("TensorRT could not make an execution context. `freqfusion doctor` checks the GPU.")
        return context

    def close(self) -> None:
        """Gives the engine back and keeps the kernels that were compiled for it; its contexts must be gone."""
        if self._runtime_cache is not None:
            self._runtime_cache.write()
            self._runtime_cache = None
        self.api_engine = None


class _Buffers:
    """Memory for one profile on both sides, as large as its largest shapes."""

    def __init__(self, engine: LoadedEngine, context: Any, profile: int) -> None:
        sizes = {}
        for name in engine.inputs:
            largest = engine.profile_shapes(name, profile)[2]
            context.set_input_shape(name, largest)
            sizes[name] = _bytes(largest, engine.dtypes[name])
        for name in engine.outputs:
            sizes[name] = int(context.get_max_output_size(name))
        self.device = {name: DeviceMemory(size) for name, size in sizes.items()}
        self.pinned = {name: PinnedMemory(size) for name, size in sizes.items()}

    def close(self) -> None:
        for memory in self.device.values():
            memory.close()
        for pinned in self.pinned.values():
            pinned.close()


@dataclass(frozen=True, eq=False)
class _Replay:
    """A shape as a CUDA graph. The graph holds the state of its context, which nobody may change after the capture."""

    context: Any
    graph: Graph
    shapes: dict[str, Shape]

    def close(self) -> None:
        self.graph.close()


class Lane:
    """Runs one call at a time.

    TensorRT: a graph is bound to the state of the context that it was captured from, so every captured shape has a
    context of its own; all share one working memory, since the stream runs them one after the other.

    Args:
        engine: What to run.
        graphs: How many shapes to keep as graphs.
    """

    def __init__(self, engine: LoadedEngine, graphs: int) -> None:
        self._engine = engine
        self.stream = Stream()
        self._working = DeviceMemory(engine.working_bytes)
        self._context = self._new_context()
        self._buffers: dict[int, _Buffers] = {}
        self._graphs: RecentlyUsed[_Key, _Replay] = RecentlyUsed(graphs, _Replay.close)
        self._allocators: dict[str, Any] = {}
        self.replays = 0  # calls that were one graph launch

    def infer(self, profile: int, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Computes all outputs and copies them to the host."""
        shapes = self._queue(profile, inputs, to_host=True)
        self.stream.wait()
        pinned = self._buffers[profile].pinned
        dtypes = self._engine.dtypes
        # Copied once more: the pinned memory is the next call's.
        return {name: pinned[name].array(shape, dtypes[name]).copy() for name, shape in shapes.items()}

    def infer_on_device(self, profile: int, inputs: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Queues the computation of all outputs, and says where they will be."""
        shapes = self._queue(profile, inputs, to_host=False)
        memory = self._buffers[profile].device
        return {
            name: DeviceArray(memory[name].pointer, shape, self._engine.dtypes[name], self.stream.handle, self)
            for name, shape in shapes.items()
        }

    def wait(self) -> None:
        """Waits for everything queued."""
        self.stream.wait()

    def close(self) -> None:
        """Gives everything back, in the order in which it depends on each other."""
        self.stream.wait()
        self._graphs.clear()
        self._context = None
        for buffers in self._buffers.values():
            buffers.close()
        self._buffers.clear()
        self._working.close()
        self.stream.close()

    def _queue(self, profile: int, inputs: Mapping[str, Any], to_host: bool) -> dict[str, Shape]:
        buffers = self._prepare(profile)
        places = {}
        for name, value in inputs.items():
            if isinstance(value, DeviceArray):
                if value.stream not in (0, self.stream.handle):
                    order_after(self.stream.handle, value.stream)
                places[name] = value.pointer
            else:
                np.copyto(buffers.pinned[name].array(value.shape, value.dtype), value)
                places[name] = 0
        order = self._engine.inputs
        key = (profile, tuple(tuple(inputs[n].shape) for n in order), tuple(places[n] for n in order), to_host)
        replay = self._graphs.find(key)
        if replay is None and self._graphs.is_worth_making(key):
            replay = self._capture(key, profile, inputs, places, to_host)
        if replay is not None:
            replay.graph.launch(self.stream)
            self.replays += 1
            return replay.shapes
        return self._enqueue(self._context, profile, inputs, places, to_host)

    def _prepare(self, profile: int) -> _Buffers:
        if self._context.active_optimization_profile != profile:
            self._context.set_optimization_profile_async(profile, self.stream.handle)
        if profile not in self._buffers:
            self._buffers[profile] = _Buffers(self._engine, self._context, profile)
        return self._buffers[profile]

    def _enqueue(
        self, context: Any, profile: int, inputs: Mapping[str, Any], places: Mapping[str, int], to_host: bool
    ) -> dict[str, Shape]:
        """Queues copies in, the network, and copies out."""
        buffers, dtypes = self._buffers[profile], self._engine.dtypes
        for name, value in inputs.items():
            context.set_input_shape(name, tuple(value.shape))
            if not places[name]:
                size = _bytes(tuple(value.shape), dtypes[name])
                copy_async(buffers.device[name].pointer, buffers.pinned[name].pointer, size, self.stream)
            context.set_tensor_address(name, places[name] or buffers.device[name].pointer)
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in self._engine.outputs}
        unknown = [name for name, shape in shapes.items() if min(shape, default=0) < 0]
        for name in self._engine.outputs:
            context.set_tensor_address(name, buffers.device[name].pointer)
        allocators = {name: self._allocator(name, buffers.device[name]) for name in unknown}
        for name, allocator in allocators.items():
            context.set_output_allocator(name, allocator)
        if not context.execute_async_v3(self.stream.handle):
            given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
            raise EngineError(f"{self._engine.flavour.label} failed on {given}. Build the engine again and report it.")
        if unknown:
            self.stream.wait()  # how large these are is known only now
            shapes.update({name: allocators[name].shape for name in unknown})
        if to_host:
            for name, shape in shapes.items():
                size = _bytes(shape, dtypes[name])
                copy_async(buffers.pinned[name].pointer, buffers.device[name].pointer, size, self.stream)
        return shapes

    def _capture(
        self, key: _Key, profile: int, inputs: Mapping[str, Any], places: Mapping[str, int], to_host: bool
    ) -> _Replay | None:
        """Makes a graph of this shape; None where it cannot be one."""
        context = self._new_context()
        if profile:
            context.set_optimization_profile_async(profile, self.stream.handle)
        # Outside the capture first: TensorRT updates what depends on shapes, and RTX compiles kernels.
        shapes = self._enqueue(context, profile, inputs, places, to_host)
        self.stream.wait()
        if any(min(context.get_tensor_shape(name), default=0) < 0 for name in self._engine.outputs):
            return None
        if not self._engine.flavour.can_capture(context, self.stream.handle):
            return None
        try:
            with Capture(self.stream) as capture:
                self._enqueue(context, profile, inputs, places, to_host)
        except (CudaError, EngineError) as e:
            warnings.warn(f"this shape runs without a CUDA graph, which is slower: {e}", stacklevel=2)
            return None
        assert capture.graph is not None
        replay = _Replay(context, capture.graph, shapes)
        self._graphs.keep(key, replay)
        return replay

    def _new_context(self) -> Any:
        context = self._engine.new_context()
        context.set_device_memory(self._working.pointer, self._working.size)
        return context

    def _allocator(self, name: str, memory: DeviceMemory) -> Any:
        if name not in self._allocators:
            self._allocators[name] = _fixed_allocator(self._engine.flavour.api)
        self._allocators[name].memory = memory
        return self._allocators[name]


def _fixed_allocator(api: Any) -> Any:
    """Makes an output allocator that always gives the same memory and notes the shape that was written."""

    class FixedAllocator(api.IOutputAllocator):  # type: ignore[misc]
        memory: DeviceMemory
        shape: Shape = ()

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.memory.pointer if size <= self.memory.size else 0

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self.memory.pointer if size <= self.memory.size else 0

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return FixedAllocator()


def _bytes(shape: Shape, dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
