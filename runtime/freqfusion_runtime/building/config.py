# SPDX-License-Identifier: Apache-2.0
"""TensorRT's builder configuration from our options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion_runtime.building.network import ParsedNetwork
from freqfusion_runtime.engines.cache import TimingCache
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.profiles import Profile


def build_config(
    flavour: Flavour,
    parsed: ParsedNetwork,
    profiles: Sequence[Profile],
    options: BuildOptions,
    plugin: Path | None,
    timing: TimingCache,
) -> Any:
    """Makes TensorRT's configuration of a build.

    Args:
        flavour: What builds.
        parsed: The network.
        profiles: At least one.
        options: See there.
        plugin: The plugin library that is loaded, to be put into the plan where that was asked for.
        timing: Measurements of earlier builds.
    """
    api = flavour.api
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
    if options.hardware_compatible and flavour.binds_to_gpu:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.serialize_plugins:
        libraries = dict.fromkeys((*parsed.plugin_libraries, *([str(plugin)] if plugin else [])))
        config.plugins_to_serialize = list(libraries)
    for profile in profiles:
        built = parsed.builder.create_optimization_profile()
        for name, shapes in profile.ranges.items():
            built.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(built)
    if flavour.has_timing_cache:
        cache = config.create_timing_cache(timing.read())
        # A file of another GPU or version never has this name; a damaged one is refused here and made anew.
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config
