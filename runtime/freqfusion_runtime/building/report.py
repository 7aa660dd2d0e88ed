# SPDX-License-Identifier: Apache-2.0
"""What a build tells people and programs of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from freqfusion_runtime.building.builder import BuiltEngine
from freqfusion_runtime.building.layers import count_layers, reformats_around_plugins
from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.profiles import Profile, words
from freqfusion_runtime.sessions.protocol import OperatorPath

_PATHS = {"kernel": "plugin", "function body": "function body"}  # how an engine calls a session's paths
_SHOWN_LAYERS = 12  # kinds on the screen; the JSON has all


def profile_lines(profiles: Sequence[Profile]) -> list[str]:
    """Words every profile."""
    return [
        f"  profile {index}: "
        + ", ".join(f"{name} {words(r.min)} .. {words(r.opt)} .. {words(r.max)}" for name, r in p.ranges.items())
        for index, p in enumerate(profiles)
    ]


def path_lines(paths: Sequence[OperatorPath]) -> list[str]:
    """Words how FreqFusion nodes run, in an engine's terms."""
    counts = Counter((entry.operator, _PATHS[entry.path]) for entry in paths)
    return [f"  {operator}: {count} x {path}" for (operator, path), count in sorted(counts.items())]


def memory_lines(built: BuiltEngine, gpu: GpuIdentity | None) -> list[str]:
    """Warns of an engine whose working memory this machine's GPU, if there is one, does not have."""
    needed_mb = built.memory.get("activations", 0) / 2**20
    if gpu is None or needed_mb <= gpu.memory_mb:
        return []
    return [
        f"  WARNING: one context needs {needed_mb:.0f} MiB of working memory at the largest size, {gpu.name} has "
        f"{gpu.memory_mb} MiB: it cannot run here. Build it with a smaller --max, or a larger --min."
    ]


def build_lines(built: BuiltEngine) -> list[str]:
    """Words a build that was done now."""
    lines = [f"  parsed in {built.parse_s:.1f} s, built in {built.record.build_s:.1f} s"]
    if built.memory:
        told = ", ".join(f"{name} {value / 2**20:.0f} MiB" for name, value in built.memory.items())
        lines.append(f"  memory: {told}")
    counts = count_layers(built.layers).most_common()
    if counts:
        shown = ", ".join(f"{count} {kind} {precision}".rstrip() for (kind, precision), count in counts[:_SHOWN_LAYERS])
        rest = sum(count for _, count in counts[_SHOWN_LAYERS:])
        lines.append(f"  {len(built.layers)} layers: {shown}{f' and {rest} more' if rest else ''}")
    around = reformats_around_plugins(built.layers)
    if any(layer.is_plugin for layer in built.layers):
        lines.append(f"  reformat layers around FreqFusion plugins: {len(around)}")
        lines += [f"    {layer.name}" for layer in around]
    return lines


def build_facts(built: BuiltEngine) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "parse_s": round(built.parse_s, 3),
        "build_s": built.record.build_s,
        "memory_bytes": built.memory,
        "layers": [
            {"type": kind, "precision": precision, "count": count}
            for (kind, precision), count in count_layers(built.layers).most_common()
        ],
        "reformats_around_plugins": [layer.name for layer in reformats_around_plugins(built.layers)],
        "warnings": built.warnings,
    }
