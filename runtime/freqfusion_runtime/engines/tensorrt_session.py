# SPDX-License-Identifier: Apache-2.0
"""Plans on TensorRT or TensorRT-RTX, behind the session interface of the runtime."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from freqfusion_runtime.engines import compatibility
from freqfusion_runtime.engines.cuda import require_gpu
from freqfusion_runtime.engines.device_arrays import DeviceArray, read_device_array
from freqfusion_runtime.engines.errors import CorruptPlanError, EngineError
from freqfusion_runtime.engines.flavours import Flavour, open_flavour
from freqfusion_runtime.engines.lane import Lane, LoadedEngine
from freqfusion_runtime.engines.messages import listening, logger_of
from freqfusion_runtime.engines.plan_header import read_plan_header
from freqfusion_runtime.engines.plugin_library import identify, load_plugins, plugin_path
from freqfusion_runtime.engines.pool import Pool
from freqfusion_runtime.engines.profiles import Profile, ShapeRange, choose_profile, picture_channels
from freqfusion_runtime.engines.record import EngineRecord, read_plan_manifest
from freqfusion_runtime.engines.runtime_cache import RuntimeCache
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec
from freqfusion_runtime.sessions.graph_check import check_graph
from freqfusion_runtime.sessions.input_checks import check_inputs, check_sides
from freqfusion_runtime.sessions.protocol import OperatorPath

CONTEXTS = 2  # one computes while the other's results are copied and used
GRAPHS = 8  # shapes per context; each holds a few MB


class TensorRTSession:
    """An engine ready to run. Safe to call from several threads; each call takes a context of its own.

    Args:
        path: A plan, with its manifest beside it.
        trust: Load a plan that its manifest does not vouch for. A plan is code.
        contexts: How many calls can be on the GPU at a time. Each has the engine's whole working memory.
        graphs: How many shapes each context keeps as CUDA graphs; 0 for none.
        plugin: The plugin library; where it is looked for by default if None.

    Raises:
        CorruptPlanError, UntrustedPlanError, ManifestError: If the file is no plan, or not the one it should be.
        TensorRTMissingError, EngineVersionError, GpuMissingError, EngineDeviceError, PluginLibraryError,
        EnginePluginError, EngineMemoryError: If it cannot run here.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trust: bool = False,
        contexts: int = CONTEXTS,
        graphs: int = GRAPHS,
        plugin: Path | None = None,
    ) -> None:
        self._path = Path(path)
        header = read_plan_header(self._path)
        told = read_plan_manifest(self._path, trust)
        self._manifest, self._record = told.manifest, told.engine
        flavour = open_flavour(self._record.flavour if self._record else header.flavour)
        library = plugin or plugin_path()
        if self._record is not None:
            compatibility.check_version(self._path, self._record, flavour)
            if self._record.plugin is not None and not self._record.options.serialize_plugins:
                compatibility.check_plugin(self._path, self._record, identify(library))
        gpu = require_gpu(f"running {self._path}")
        if self._record is not None:
            compatibility.check_gpu(self._path, self._record, gpu)
        kernels = RuntimeCache(flavour, gpu, sha256_of(self._path)) if flavour.has_runtime_cache else None
        self._engine = LoadedEngine(flavour, _read_engine(self._path, flavour, self._record, library), kernels)
        self._label = f"{flavour.label} on {gpu.name}"
        self._inputs, self._profiles = _tensors(self._engine, self._engine.inputs), _profiles(self._engine)
        check_graph(self._path, self._manifest, self._inputs, _tensors(self._engine, self._engine.outputs))
        self._pool: Pool[Lane] = Pool(lambda: Lane(self._engine, graphs), contexts, Lane.close)

    @property
    def path(self) -> Path:
        """The plan."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What the file beside it says."""
        return self._manifest

    @property
    def provider(self) -> str:
        """Flavour, version and GPU."""
        return self._label

    @property
    def operator_paths(self) -> tuple[OperatorPath, ...]:
        """How each FreqFusion node runs, as recorded when the engine was built."""
        return self._record.operator_paths if self._record else ()

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The shapes that it takes, as the engine says."""
        return self._profiles

    @property
    def max_batch(self) -> int:
        """The largest batch that every profile takes."""
        return min(profile.ranges[self._inputs[0].name].max[0] for profile in self._profiles)

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width of the input that the first profile is fastest at."""
        spec = self._manifest.inputs[0]
        shape = self._profiles[0].ranges[spec.name].opt
        return (shape[2], shape[3]) if picture_channels(spec) == 1 else (shape[1], shape[2])

    def run(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Computes all outputs, on the host.

        Args:
            inputs: Every input by name: arrays on the host, or on the GPU by ``__cuda_array_interface__`` or DLPack,
                which are read where they are.

        Raises:
            InputError: If a name, dtype or rank is not what the engine takes.
            ProfileError: If a shape lies outside every profile.
        """
        with self._pool.lend() as lane:
            arrays = self._checked(inputs, lane.stream.handle)
            return lane.infer(self._profile(arrays), arrays)

    @contextmanager
    def run_on_device(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, DeviceArray]]:
        """Computes all outputs and leaves them on the GPU, where they stay valid until the block ends.

        Nothing waits for the GPU: an output's reader comes after its writer by the stream that both protocols name.
        """
        with self._pool.lend() as lane:
            arrays = self._checked(inputs, lane.stream.handle)
            try:
                yield lane.infer_on_device(self._profile(arrays), arrays)
            finally:
                lane.wait()  # for readers, too: they were ordered against this stream

    def close(self) -> None:
        """Waits for calls under way and gives everything on the GPU back."""
        if hasattr(self, "_pool"):
            self._pool.close()
            self._engine.close()

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end CUDA may be gone already
            self.close()

    def _checked(self, inputs: Mapping[str, Any], stream: int) -> dict[str, Any]:
        arrays = {name: read_device_array(value, name, stream) or value for name, value in inputs.items()}
        check_inputs(self._path, self._inputs, arrays)
        check_sides(self._manifest, arrays)
        return arrays

    def _profile(self, arrays: Mapping[str, Any]) -> int:
        return choose_profile(self._path, self._profiles, {name: tuple(a.shape) for name, a in arrays.items()})


def _read_engine(path: Path, flavour: Flavour, record: EngineRecord | None, library: Path) -> Any:
    if record is not None and record.plugin is not None and not record.options.serialize_plugins:
        load_plugins(flavour, library)
    with listening() as messages:
        runtime = flavour.api.Runtime(logger_of(flavour))
        # Code that the plan brings along runs on this machine; only a plan whose hash is known, or trusted, gets here.
        options = record.options if record else None
        runtime.engine_host_code_allowed = bool(options and (options.version_compatible or options.serialize_plugins))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise compatibility.refusal(path, flavour, messages)
        if options is not None and options.strip_weights and record is not None:
            _put_weights_back(path, flavour, record, engine)
    return engine


def _put_weights_back(path: Path, flavour: Flavour, record: EngineRecord, engine: Any) -> None:
    onnx = path.parent / record.onnx_file
    if not os.path.isfile(onnx) or model_sha256(onnx) != record.onnx_sha256:
        raise CorruptPlanError(
            f"{path} was built without its weights, and {onnx} with sha256 {record.onnx_sha256[:12]}... is not there. "
            "Put the ONNX file it was built from beside it, or build it without --strip-weights."
        )
    refitter = flavour.api.Refitter(engine, logger_of(flavour))
    parser = flavour.api.OnnxParserRefitter(refitter, logger_of(flavour))
    if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        raise EngineError(f"{path} could not be given the weights of {onnx}. Build it again without --strip-weights.")


def _tensors(engine: LoadedEngine, names: Iterable[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, engine.dtypes[name], tuple("free" if side < 0 else side for side in engine.shape(name)))
        for name in names
    )


def _profiles(engine: LoadedEngine) -> tuple[Profile, ...]:
    return tuple(
        Profile({name: ShapeRange(*engine.profile_shapes(name, index)) for name in engine.inputs})
        for index in range(engine.api_engine.num_optimization_profiles)
    )
