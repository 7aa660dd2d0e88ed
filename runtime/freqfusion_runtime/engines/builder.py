# SPDX-License-Identifier: Apache-2.0
"""Builds an engine from an exported file: checks, parses, builds in a thread that can be stopped."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from freqfusion_runtime.engines.cache import BuildKey, TimingCache
from freqfusion_runtime.engines.cuda import GpuIdentity, find_gpu, require_gpu
from freqfusion_runtime.engines.errors import (
    BuildInterruptedError,
    FunctionBodiesError,
    MisreadOperatorError,
    PluginLibraryError,
    UnknownOperatorsError,
    UnsupportedOptionError,
)
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.layers import EngineLayer, layers_of_engine, read_listing
from freqfusion_runtime.engines.messages import Messages, listening, logger_of, silence_s
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.plugin_library import OPERATORS, PluginIdentity, load_plugins, plugin_path
from freqfusion_runtime.engines.profiles import Profile, words
from freqfusion_runtime.engines.progress import Progress
from freqfusion_runtime.engines.record import EngineRecord
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.manifest import Manifest
from freqfusion_runtime.onnx_facts import OnnxFacts
from freqfusion_runtime.onnx_nodes import DOMAIN
from freqfusion_runtime.session import OperatorPath

T = TypeVar("T")

_PEAK = re.compile(r"Peak memory usage of TRT CPU/GPU memory allocators: CPU (\d+) MiB, GPU (\d+) MiB")
_SILENT = 2.0  # seconds without a word after which a thread of TensorRT is taken to be idle
_WORKING = 0.1  # seconds between two looks for Ctrl-C while TensorRT works


@dataclass(frozen=True, eq=False)
class ParsedNetwork:
    """A file inside TensorRT. ``keep`` holds what TensorRT still refers to."""

    network: Any
    builder: Any
    plugin_libraries: tuple[str, ...]
    operator_paths: tuple[OperatorPath, ...]
    parse_s: float
    keep: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """A finished plan, what is to be recorded of it, and what was seen while it was built.

    Attributes:
        plan: Its bytes.
        record: For the manifest.
        layers: Of the engine; empty where TensorRT does not list them.
        memory: In bytes, by what it is for, as far as TensorRT tells.
        warnings: TensorRT's.
    """

    plan: bytes
    record: EngineRecord
    layers: list[EngineLayer]
    parse_s: float
    memory: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class EngineBuilder:
    """One build: a file, profiles, options, a flavour. Everything that can be refused is refused here, at once.

    Args:
        flavour: What builds.
        model: A file written by ``freqfusion export``.
        facts: What is in it.
        profiles: At least one.
        options: See there.
        plugin: The plugin library; where it is looked for by default if None.

    Raises:
        ModelFileError, ManifestError: If the file is none of ours.
        MisreadOperatorError: If TensorRT would compute it wrongly.
        GpuMissingError, PluginLibraryError, UnsupportedOptionError: If it cannot be built so here.
    """

    def __init__(
        self,
        flavour: Flavour,
        model: Path,
        facts: OnnxFacts,
        profiles: Sequence[Profile],
        options: BuildOptions,
        plugin: Path | None = None,
    ) -> None:
        self.flavour, self.model, self.profiles, self.options = flavour, model, tuple(profiles), options
        self.facts = facts
        self.manifest: Manifest = facts.manifest(str(model))
        if misread := facts.misread_nodes():
            raise MisreadOperatorError(model, misread)
        self.gpu: GpuIdentity | None = (
            require_gpu(f"building with {flavour.label}") if flavour.needs_gpu_to_build else find_gpu()
        )
        flavour.check_options(
            version_compatible=options.version_compatible,
            serialize_plugins=options.serialize_plugins,
            refittable=options.refittable or options.strip_weights,
            gpu=self.gpu is not None,
        )
        if plugin is not None and not flavour.has_plugins:
            raise UnsupportedOptionError(
                f"{flavour.label} has no plugins, so {plugin} cannot be used. "
                "Leave --plugin out, or build with --flavour tensorrt."
            )
        self.plugin_path = plugin or plugin_path()
        self.plugin: PluginIdentity | None = self._load_plugins()

    def key(self) -> BuildKey:
        """What a cached engine must agree in to be used."""
        shapes = {
            f"profile {index}": ", ".join(
                f"{name} {words(r.min)}..{words(r.opt)}..{words(r.max)}" for name, r in profile.ranges.items()
            )
            for index, profile in enumerate(self.profiles)
        }
        options = {
            f"--{name.replace('_', '-')}": str(value)
            for name, value in asdict(self.options).items()
            if name != "allow_function_bodies" or self.flavour.has_plugins
        }
        bound = self.gpu if self.flavour.binds_to_gpu else None
        return BuildKey(
            {
                "ONNX file": sha256_of(self.model),
                "TensorRT": f"{self.flavour.name} {self.flavour.version}",
                "plugin": self.plugin.label if self.plugin else "none",
                "GPU": bound.label if bound else "any",
                **shapes,
                **options,
            }
        )

    def parse(self) -> ParsedNetwork:
        """Reads the file into TensorRT.

        Raises:
            UnknownOperatorsError: With all nodes that TensorRT does not know.
            FunctionBodiesError: If a FreqFusion node became no plugin, and the options do not allow that.
            BuildInterruptedError: On Ctrl-C.
        """
        return _in_thread(self._parse, Progress(lambda fraction, phase: None), self.model)

    def build(self, output: Path, report: Callable[[float, str], None] = lambda fraction, phase: None) -> BuiltEngine:
        """Parses and builds.

        Args:
            output: For messages only; nothing is written here.
            report: Called with the fraction done and what is being done, in another thread.

        Raises:
            BuildInterruptedError: On Ctrl-C.
            EngineMemoryError, BuildFailedError: If TensorRT gives up.
            UnknownOperatorsError, FunctionBodiesError: As :meth:`parse`.
        """
        progress = Progress(report)
        return _in_thread(lambda: self._build(output, progress), progress, output)

    def _parse(self) -> ParsedNetwork:
        api, logger = self.flavour.api, logger_of(self.flavour)
        with listening() as messages:
            start = time.perf_counter()
            builder = api.Builder(logger)
            network = builder.create_network(self.flavour.network_flags())
            parser = api.OnnxParser(network, logger)
            parsed = parser.parse_from_file(str(self.model))
            if not parsed:
                raise self._parse_error(parser, messages)
            seconds = time.perf_counter() - start
        paths = find_operator_paths(self.facts, network, api)
        # PrepareImage has no plugin: TensorRT fuses its body of elementwise operators into a few kernels by itself.
        bodies = [entry.node for entry in paths if entry.path != "kernel" and entry.operator in OPERATORS]
        if bodies and self.flavour.has_plugins and not self.options.allow_function_bodies:
            raise FunctionBodiesError(self.model, bodies, self._why_bodies())
        libraries = tuple(parser.get_used_vc_plugin_libraries())
        return ParsedNetwork(network, builder, libraries, paths, seconds, (parser, logger))

    def _build(self, output: Path, progress: Progress) -> BuiltEngine:
        parsed = self._parse()
        timing = TimingCache(self.flavour, self.gpu.label if self.gpu else "no-gpu")
        with listening() as messages:
            config = self._config(parsed, timing)
            config.progress_monitor = monitor = progress.monitor(self.flavour)
            start = time.perf_counter()
            plan = None if progress.is_stopped else parsed.builder.build_serialized_network(parsed.network, config)
            seconds = time.perf_counter() - start
            del monitor  # TensorRT holds no reference of its own
            if plan is None:
                raise messages.failure(
                    f"building {output} from {self.model} with {self.flavour.label}", self.options.workspace_words
                )
            data = bytes(plan)
            if self.flavour.has_timing_cache and not progress.is_stopped:
                timing.write(bytes(config.get_timing_cache().serialize()))
            layers = self._layers(data, messages)
        uses_plugin = any(entry.path == "kernel" for entry in parsed.operator_paths)
        record = EngineRecord(
            flavour=self.flavour.name,
            tensorrt_version=self.flavour.version,
            gpu=self.gpu if self.flavour.binds_to_gpu else None,
            plugin=self.plugin if uses_plugin else None,
            onnx_file=self.model.name,
            onnx_sha256=sha256_of(self.model),
            profiles=self.profiles,
            options=self.options,
            operator_paths=parsed.operator_paths,
            build_s=round(seconds, 3),
        )
        return BuiltEngine(data, record, layers, parsed.parse_s, _memory(messages), messages.warnings)

    def _load_plugins(self) -> PluginIdentity | None:
        if not self.flavour.has_plugins or not any(node.domain == DOMAIN for node in self.facts.main_nodes):
            return None
        try:
            return load_plugins(self.flavour, self.plugin_path)
        except PluginLibraryError:
            if self.options.allow_function_bodies:
                return None
            raise

    def _why_bodies(self) -> str:
        if self.plugin is None:
            return f"No plugin library is loaded ({self.plugin_path})."
        return (
            f"{self.flavour.label} preferred the bodies although {self.plugin.file} is loaded: the nodes must carry "
            "plugin_namespace and plugin_version, which `freqfusion export` writes; export the model again."
        )

    def _parse_error(self, parser: Any, messages: Messages) -> Exception:
        nodes = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            within = " in " + " in ".join(error.local_function_stack()) if error.local_function_stack() else ""
            reason = re.sub(r'^.*&& "(.*)"$', r"\1", error.desc().strip()).rstrip(".?")
            nodes.append(f"{error.node_name() or f'number {error.node()}'} ({error.node_operator()}){within}: {reason}")
        if nodes:
            return UnknownOperatorsError(self.model, self.flavour.label, nodes)
        return messages.failure(f"reading {self.model} with {self.flavour.label}")

    def _config(self, parsed: ParsedNetwork, timing: TimingCache) -> Any:
        api, options = self.flavour.api, self.options
        config = parsed.builder.create_builder_config()
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED  # else the inspector knows no types
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if not options.tf32:
            config.clear_flag(api.BuilderFlag.TF32)
        if options.version_compatible:
            config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        if options.refittable:
            config.set_flag(api.BuilderFlag.REFIT)
        if options.strip_weights:
            config.set_flag(api.BuilderFlag.STRIP_PLAN)
        if options.hardware_compatible and self.flavour.binds_to_gpu:
            config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.serialize_plugins:
            libraries = dict.fromkeys((*parsed.plugin_libraries, *([str(self.plugin_path)] if self.plugin else [])))
            config.plugins_to_serialize = list(libraries)
        for profile in self.profiles:
            built = parsed.builder.create_optimization_profile()
            for name, shapes in profile.ranges.items():
                built.set_shape(name, shapes.min, shapes.opt, shapes.max)
            config.add_optimization_profile(built)
        if self.flavour.has_timing_cache:
            cache = config.create_timing_cache(timing.read())
            # A file of another GPU or version never has this name; a damaged one is refused here and made anew.
            if cache is None or not config.set_timing_cache(cache, False):
                config.set_timing_cache(config.create_timing_cache(b""), False)
        return config

    def _layers(self, plan: bytes, messages: Messages) -> list[EngineLayer]:
        if self.gpu is not None:
            runtime = self.flavour.api.Runtime(logger_of(self.flavour))
            runtime.engine_host_code_allowed = self.options.version_compatible  # our own plan, just built
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                return layers_of_engine(self.flavour, engine)
        return read_listing(messages.details[-1]) if messages.details else []


def find_operator_paths(facts: OnnxFacts, network: Any, api: Any) -> tuple[OperatorPath, ...]:
    """Tells for each FreqFusion node whether the parser made a plugin layer of it.

    A plugin layer's metadata or name holds the node's name; a layer from a function body is ``body node | node (Op)``.
    """
    plugins = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in (api.LayerType.PLUGIN_V3, api.LayerType.PLUGIN_V2):
            plugins |= {layer.name, *re.findall(r"\[ONNX Layer: ([^|\]]+?)\]", layer.metadata)}
    return tuple(
        OperatorPath(node.name, node.operator, "kernel" if node.name in plugins else "function body")
        for node in facts.main_nodes
        if node.domain == DOMAIN
    )


def _in_thread(work: Callable[[], T], progress: Progress, subject: Path) -> T:
    """Runs ``work`` beside this thread, asks it to stop on Ctrl-C, and waits for its end.

    Python raises KeyboardInterrupt in the main thread. Were TensorRT at work there, that would be inside one of its
    calls of our logger, where it gets lost.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as e:
            failures.append(e)

    threads_before = _native_threads()
    thread = threading.Thread(target=run, name="TensorRT")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(_WORKING)
        except KeyboardInterrupt:
            progress.stop()
    if progress.is_stopped:
        # What TensorRT made must go while Python still lives: its destructors call our logger. An error refers to it.
        for failure in failures:
            failure.__traceback__ = None
        results.clear()
        failures.clear()
        gc.collect()
        _wait_for_threads(threads_before)
        raise BuildInterruptedError(subject)
    if failures:
        raise failures.pop()
    return results.pop()


def _wait_for_threads(before: set[str]) -> None:
    """Waits until TensorRT's own threads are gone; one that still logs when Python ends would abort the process.

    RTX 1.7 gives a stopped build back while such threads finish what they are at, for some tenths of a second. Threads
    that stay, as in a pool, are told apart by their silence.
    """
    while _native_threads() - before and silence_s() < _SILENT:
        time.sleep(_WORKING)


def _native_threads() -> set[str]:
    try:
        return set(os.listdir("/proc/self/task"))
    except OSError:  # not Linux
        return set()


def _memory(messages: Messages) -> dict[str, int]:
    said = {
        "activations": messages.number_after("Total Activation Memory:"),
        "weights": messages.number_after("Total Weights Memory:"),
        "scratch": messages.number_after("Max Scratch Memory:"),
    }
    for note in messages.notes:
        if match := re.search(
            r"Peak memory usage of TRT CPU/GPU memory allocators: CPU (\d+) MiB, GPU (\d+) MiB", note
        ):
            said["builder on the host"], said["builder on the GPU"] = int(match[1]) << 20, int(match[2]) << 20
    return {name: value for name, value in said.items() if value is not None}
