# SPDX-License-Identifier: Apache-2.0
"""Builds an engine from an exported file: checks, parses, builds in a thread that can be stopped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from freqfusion_runtime.building.config import build_config
from freqfusion_runtime.building.interruption import in_thread
from freqfusion_runtime.building.layers import EngineLayer, layers_of_engine, read_listing
from freqfusion_runtime.building.network import ParsedNetwork, parse_network
from freqfusion_runtime.building.progress import Progress
from freqfusion_runtime.engines.cache import BuildKey, TimingCache
from freqfusion_runtime.engines.cuda import GpuIdentity, find_gpu, require_gpu
from freqfusion_runtime.engines.errors import (
    FunctionBodiesError,
    MisreadOperatorError,
    PluginLibraryError,
    UnsupportedOptionError,
)
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.messages import Messages, listening, logger_of
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.plugin_library import OPERATORS, PluginIdentity, load_plugins, plugin_path
from freqfusion_runtime.engines.profiles import Profile, words
from freqfusion_runtime.engines.record import EngineRecord
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.model_files.onnx_facts import OnnxFacts
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN

_PEAK = re.compile(r"Peak memory usage of TRT CPU/GPU memory allocators: CPU (\d+) MiB, GPU (\d+) MiB")


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
        further_outputs: Values inside the network that become outputs too, for the gate. TensorRT may fuse less around
            them, so this is another engine than without.

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
        further_outputs: Sequence[str] = (),
    ) -> None:
        self.flavour, self.model, self.profiles, self.options = flavour, model, tuple(profiles), options
        self.further_outputs = tuple(further_outputs)
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
                "ONNX file": model_sha256(self.model),
                "TensorRT": f"{self.flavour.name} {self.flavour.version}",
                "plugin": self.plugin.label if self.plugin else "none",
                "GPU": bound.label if bound else "any",
                **shapes,
                **options,
                **({"further outputs": ", ".join(self.further_outputs)} if self.further_outputs else {}),
            }
        )

    def parse(self) -> ParsedNetwork:
        """Reads the file into TensorRT.

        Raises:
            UnknownOperatorsError: With all nodes that TensorRT does not know.
            FunctionBodiesError: If a FreqFusion node became no plugin, and the options do not allow that.
            BuildInterruptedError: On Ctrl-C.
        """
        return in_thread(self._parse, Progress(lambda fraction, phase: None), self.model)

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
        return in_thread(lambda: self._build(output, progress), progress, output)

    def _parse(self) -> ParsedNetwork:
        parsed = parse_network(self.flavour, self.model, self.facts, self.further_outputs)
        # Two operators have no plugin: TensorRT fuses PrepareImage's elementwise body into a few kernels by itself,
        # and for the RoiAlign in that of PyramidRoiAlign it has a layer.
        bodies = [e.node for e in parsed.operator_paths if e.path != "kernel" and e.operator in OPERATORS]
        if bodies and self.flavour.has_plugins and not self.options.allow_function_bodies:
            raise FunctionBodiesError(self.model, bodies, self._why_bodies())
        return parsed

    def _build(self, output: Path, progress: Progress) -> BuiltEngine:
        parsed = self._parse()
        timing = TimingCache(self.flavour, self.gpu.label if self.gpu else "no-gpu")
        with listening() as messages:
            library = self.plugin_path if self.plugin else None
            config = build_config(self.flavour, parsed, self.profiles, self.options, library, timing)
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
            onnx_sha256=model_sha256(self.model),
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

    def _layers(self, plan: bytes, messages: Messages) -> list[EngineLayer]:
        if self.gpu is not None:
            runtime = self.flavour.api.Runtime(logger_of(self.flavour))
            runtime.engine_host_code_allowed = self.options.version_compatible  # our own plan, just built
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                return layers_of_engine(self.flavour, engine)
        return read_listing(messages.details[-1]) if messages.details else []


def _memory(messages: Messages) -> dict[str, int]:
    said = {
        "activations": messages.number_after("Total Activation Memory:"),
        "weights": messages.number_after("Total Weights Memory:"),
        "scratch": messages.number_after("Max Scratch Memory:"),
    }
    for note in messages.notes:
        if match := _PEAK.search(note):
            said["builder on the host"], said["builder on the GPU"] = int(match[1]) << 20, int(match[2]) << 20
    return {name: value for name, value in said.items() if value is not None}
