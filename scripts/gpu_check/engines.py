# SPDX-License-Identifier: Apache-2.0
"""The engine stage of the GPU check: builds SegNeXt-T with every TensorRT that is here, checks it, then times it.

Held against the ONNX file on ONNX Runtime's CPU provider, and timed beside PyTorch eager and torch.compile, all in turn
in one process. End to end is a uint8 picture in host memory to a label map in host memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ladder import climb

ROOT = Path(__file__).resolve().parents[2]
SIDE = 512
WARM_UPS, RUNS = 50, 200
# p50 of the engine to that of PyTorch, and milliseconds between end to end and the engine alone.
TARGETS = {"to_eager": 0.25, "to_compile": 0.6, "beyond_engine_ms": 0.5}


def missing() -> str | None:
    """What keeps this stage from running here, None if nothing."""
    for folder in ("models", "export", "runtime", "tests", "tests/data/segnext"):
        sys.path.insert(0, str(ROOT / folder))
    try:
        import cuda.bindings.runtime  # noqa: F401
        import freqfusion_export.exporter  # noqa: F401
        import onnxruntime  # noqa: F401
        from freqfusion_runtime.engines.flavours import is_installed
    except ImportError as error:
        return f"{error.name} is not installed (pip install '.[export,cpu,rtx]')"
    if not any(map(is_installed, ("tensorrt", "tensorrt-rtx"))):
        return "neither tensorrt nor tensorrt_rtx is installed"
    return None


def check_engines(folder: Path, plugin: Path | None, lines: list[dict[str, Any]]) -> list[str]:
    """Builds, checks and times; appends result lines.

    Args:
        folder: For files.
        plugin: The plugin library built by this check; without it TensorRT runs function bodies, and the lines say so.
        lines: Gets one line per flavour and precision.

    Returns:
        What is wrong.
    """
    from freqfusion_export import export
    from freqfusion_runtime.engines.flavours import is_installed, open_flavour
    from reference_data import filled_model

    model, reference = (filled_model("segnext_t", seed=0) for _ in range(2))  # the first is moved and halved below
    failures: list[str] = []
    for precision in ("fp32", "fp16"):
        files = {}
        for interface in ("tensor", "image"):
            files[interface] = folder / f"{interface}.{precision}.onnx"
            export(model, files[interface], interface=interface, precision=precision)
        for name in ("tensorrt", "tensorrt-rtx"):
            if not is_installed(name):
                print(f"engines: {name} is not installed")
                continue
            plans, wrong = {}, []
            for interface, file in files.items():
                plans[interface], builder, built = build(file, open_flavour(name), plugin, folder)
                found = compare(plans[interface], file, precision, plugin)
                found += climb(builder, built, reference, folder)
                wrong += [f"{name} {precision} {interface} {difference}" for difference in found]
            failures += wrong
            if not wrong:  # check, then time
                line = time_engines(plans, model, precision, plugin)
                lines.append({"entry": f"engine {name}", "precision": precision, "side": SIDE, **line})
                print(json.dumps(lines[-1]))
    return failures + missed(lines)


def build(onnx: Path, flavour: Any, plugin: Path | None, folder: Path) -> tuple[Path, Any, Any]:
    """A plan with its manifest, what built it, and what was built."""
    from freqfusion_runtime.building.builder import EngineBuilder
    from freqfusion_runtime.engines.options import BuildOptions
    from freqfusion_runtime.engines.profiles import read_profiles
    from freqfusion_runtime.engines.record import plan_sidecar
    from freqfusion_runtime.files import sha256_of
    from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts

    facts = read_onnx_facts(onnx)
    manifest = facts.manifest(onnx.name)
    profiles = read_profiles(manifest, ["1x64x64"], [f"1x{SIDE}x{SIDE}"], ["2x768x1024"])
    used = plugin if flavour.has_plugins else None
    options = BuildOptions(allow_function_bodies=used is None)
    plan = folder / f"{onnx.stem}.{flavour.name}.plan"
    builder = EngineBuilder(flavour, onnx, facts, profiles, options, used)
    built = builder.build(plan)
    plan.write_bytes(built.plan)
    plan.with_suffix(".json").write_text(plan_sidecar(manifest, built.record, sha256_of(plan)))
    return plan, builder, built


@contextmanager
def opened(plan: Path, **settings: Any) -> Iterator[Any]:
    from freqfusion_runtime.engines.tensorrt_session import TensorRTSession

    with TensorRTSession(plan, **settings) as engine:
        yield engine


def compare(plan: Path, onnx: Path, precision: str, plugin: Path | None) -> list[str]:
    """Runs both on pictures of several sizes, each often enough to meet the graph, and names what disagrees."""
    from freqfusion_runtime.agreement.comparison import compare as compare_arrays
    from freqfusion_runtime.agreement.comparison import label_agreement
    from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
    from freqfusion_runtime.predictors.opening import open_session

    reference = open_session(onnx)
    spec = reference.manifest.inputs[0]
    wrong = []
    with opened(plan, plugin=plugin) as engine:
        for n, h, w in ((1, SIDE, SIDE), (2, 96, 160), (1, 768, 1024)):
            batch = {spec.name: example(spec, n, h, w)}
            expected = next(iter(reference.run(batch).values()))
            for turn in range(3):
                actual = next(iter(engine.run(batch).values()))
                if reference.manifest.interface == "tensor":
                    found = compare_arrays("network", "logits", actual, expected, LOGIT_BOUNDS[precision])
                    agrees, told = found.agrees, f"error {found.max_over_std:.1e} std"
                else:
                    share = label_agreement(actual, expected)
                    agrees, told = share >= TASK_BOUNDS[precision][0], f"label agreement {share:.5f}"
                if not agrees:
                    wrong.append(f"{plan.name} at {n}x{h}x{w}, turn {turn}: {told}")
    return wrong


def example(spec: Any, n: int, h: int, w: int) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(5))
    if spec.dtype == "uint8":
        y, x = np.mgrid[:h, :w]
        waves = 127.5 + 90 * np.sin(0.05 * x + 0.03 * y)[None, :, :, None] + generator.normal(0, 20, (n, h, w, 3))
        return np.clip(waves, 0, 255).astype(np.uint8)
    return generator.standard_normal((n, 3, h, w)).astype(spec.dtype)


def time_engines(plans: dict[str, Path], model: torch.nn.Module, precision: str, plugin: Path | None) -> dict[str, Any]:
    """p50 and p99 in milliseconds of every form, and their ratios."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    network = model.to("cuda", dtype)
    images = torch.randn(1, 3, SIDE, SIDE, device="cuda", dtype=dtype)
    forms: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack, torch.inference_mode():
        compiled = torch.compile(network)
        forms["torch_eager"] = lambda: (network(images), torch.cuda.synchronize())
        forms["torch_compile"] = lambda: (compiled(images), torch.cuda.synchronize())
        for name, graphs in (("engine_graph", 8), ("engine_plain", 0)):
            engine = stack.enter_context(opened(plans["tensor"], contexts=1, graphs=graphs, plugin=plugin))
            spec = engine.manifest.inputs[0]
            given = {spec.name: images.to(getattr(torch, spec.dtype)).contiguous()}
            forms[name] = lambda engine=engine, given=given: stack_run(engine, given)
        picture = stack.enter_context(opened(plans["image"], contexts=1, plugin=plugin))
        spec = picture.manifest.inputs[0]
        photo = {spec.name: example(spec, 1, SIDE, SIDE)}
        on_device = {spec.name: torch.from_numpy(photo[spec.name]).cuda()}
        forms["picture_engine"] = lambda: stack_run(picture, on_device)
        forms["end_to_end"] = lambda: picture.run(photo)
        times = in_turn(forms)
    line: dict[str, Any] = {}
    for name, values in times.items():
        ordered = sorted(values)
        line[f"{name}_p50_ms"] = ordered[len(ordered) // 2]
        line[f"{name}_p99_ms"] = ordered[int(0.99 * len(ordered))]
    line["to_eager"] = line["engine_graph_p50_ms"] / line["torch_eager_p50_ms"]
    line["to_compile"] = line["engine_graph_p50_ms"] / line["torch_compile_p50_ms"]
    line["beyond_engine_ms"] = line["end_to_end_p50_ms"] - line["picture_engine_p50_ms"]
    return {**line, "runs": RUNS, "gpu": torch.cuda.get_device_name(), "provider": picture.provider}


def stack_run(engine: Any, given: dict[str, Any]) -> None:
    """The engine alone: input and output stay on the device; the block's end waits."""
    with engine.run_on_device(given):
        pass


def in_turn(forms: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    for call in forms.values():
        for _ in range(WARM_UPS):
            call()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(RUNS):
        for name, call in forms.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def missed(lines: list[dict[str, Any]]) -> list[str]:
    return [
        f"{line['entry']} {line['precision']}: {name} is {line[name]:.3f}, at most {limit} is wanted"
        for line in lines
        if line["precision"] == "fp16"
        for name, limit in TARGETS.items()
        if line[name] > limit
    ]
