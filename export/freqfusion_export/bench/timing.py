# SPDX-License-Identifier: Apache-2.0
"""Times a network in several forms, interleaved in one process, and takes each form's memory apart."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from freqfusion import create_model
from freqfusion.detection import Detector
from freqfusion_runtime.commands.json_output import versions
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.sessions.fast_convolutions import FOLDER_ENTRY, with_fast_convolutions
from freqfusion_runtime.sessions.fast_convolutions import OPERATOR as CONVOLUTION
from freqfusion_runtime.sessions.kernel_library import library_path
from freqfusion_runtime.sessions.onnxruntime_session import LEFT_OUT_ON_CPU, OnnxRuntimeSession
from numpy.typing import NDArray

from freqfusion_export.bench.naive import naive_operators
from freqfusion_export.bench.official_mask2former import official_formulation
from freqfusion_export.parity import mmcv_peer
from freqfusion_export.passes.add_function_bodies import OPERATORS

Run = Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """One form of the network.

    Attributes:
        name: In tables and results.
        kind: ``eager``, ``eager-kernels``, ``eager-official`` (Mask2Former), ``eager-mmcv`` (CUDA), ``onnx``,
            ``onnx-kernels`` or ``openvino``.
        path: Of its ONNX file, if it has one.
        input_shape: Of its one input.
        is_picture: Whether that input is uint8.
        model: The network, for eager forms.
        weights: File with its state_dict, for eager forms; random weights if None.
    """

    name: str
    kind: str
    path: str | None
    input_shape: tuple[int, ...]
    is_picture: bool = False
    model: str = "segnext_t"
    weights: str | None = None

    def example(self) -> NDArray[Any]:
        """A fixed random input."""
        generator = np.random.Generator(np.random.PCG64(0))
        if self.is_picture:
            return generator.integers(0, 256, self.input_shape, dtype=np.uint8)
        return generator.standard_normal(self.input_shape).astype(np.float32)


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def prepare(entry: Entry, threads: int) -> Run:
    """Loads one form and returns a function that runs it once."""
    example = entry.example()
    if entry.kind.startswith("eager"):
        return _eager(entry, example, threads)
    if entry.kind == "openvino":
        return _openvino(entry, example, threads)
    session = open_onnx(entry, threads)
    feed = feed_for(session, example)
    return lambda: session.run(None, feed)


def open_onnx(entry: Entry, threads: int, profile_prefix: str | None = None) -> Any:
    """Opens an ONNX form on ONNX Runtime's CPU provider."""
    assert entry.path is not None
    options = session_options(threads)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if entry.kind == "onnx-kernels":
        return open_with_kernels(entry.path, options)
    return ort.InferenceSession(entry.path, options, providers=["CPUExecutionProvider"])


def open_with_kernels(path: str | Path, options: Any) -> Any:
    """Opens a file with the options of ONNX Runtime given and the kernels, as the runtime's own session does."""
    options.register_custom_ops_library(str(library_path()))
    options.add_session_config_entry(*LEFT_OUT_ON_CPU)
    model: str | bytes = str(path)
    if rewritten := with_fast_convolutions(path):
        options.add_session_config_entry(FOLDER_ENTRY, rewritten.folder)
        model = rewritten.content
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def session_options(threads: int) -> Any:
    """Options of a session that is timed beside others."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle workers of one session must not take the cores from the next form's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def feed_for(session: Any, example: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Names the inputs; detectors' images are taken to have no padding."""
    names = [tensor.name for tensor in session.get_inputs()]
    return dict(zip(names, (example, image_sizes_of(example)), strict=False))


def image_sizes_of(images: NDArray[Any]) -> NDArray[np.int64]:
    """Height and width of each of a batch of images."""
    return np.array([images.shape[2:]] * len(images), np.int64)


def _eager(entry: Entry, example: NDArray[Any], threads: int) -> Run:
    torch.set_num_threads(threads)
    network = create_model(entry.model)
    if entry.weights is not None:
        network.load_state_dict(torch.load(entry.weights, weights_only=True))
    inputs = [torch.from_numpy(example)]
    if isinstance(network, Detector):
        inputs.append(torch.from_numpy(image_sizes_of(example)))
    if entry.kind == "eager-mmcv":
        network, inputs = network.cuda(), [tensor.cuda() for tensor in inputs]

    def infer() -> Any:
        with torch.inference_mode():
            if entry.kind == "eager-kernels":
                return network(*inputs)
            if entry.kind == "eager-mmcv":
                with mmcv_peer.mmcv_operators():
                    return network(*inputs).cpu()
            with official_formulation() if entry.kind == "eager-official" else naive_operators():
                return network(*inputs)

    return infer


def _openvino(entry: Entry, example: NDArray[Any], threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(entry.path, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: example})


def time_interleaved(
    entries: Sequence[Entry], threads: int, rounds: int, step: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Runs all forms in turn, as :func:`time_in_turn`; returns milliseconds by name."""
    return time_in_turn({entry.name: prepare(entry, threads) for entry in entries}, rounds, step)


def time_in_turn(
    runs: Mapping[str, Run], rounds: int, step: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Does all runs in turn, ``rounds`` times, after two of each to warm up; returns milliseconds by name."""
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
        step()
    return times


def peak_memory_mb(entry: Entry, threads: int) -> float:
    """Loads and runs one form in a process of its own; returns how far its peak resident memory rose meanwhile."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_peak_of, (entry, threads)))


def _peak_of(entry: Entry, threads: int) -> float:
    if entry.kind == "openvino":
        import openvino  # noqa: F401  (its import is not the network's memory)
    before = _memory_mb("VmRSS")
    run = _as_users_run_it(entry, threads) if entry.kind == "onnx-kernels" else prepare(entry, threads)
    for _ in range(3):
        run()
    # Not getrusage's ru_maxrss: it survives exec, so a child starts with its parent's peak.
    return _memory_mb("VmHWM") - before


def _as_users_run_it(entry: Entry, threads: int) -> Run:
    assert entry.path is not None
    session = OnnxRuntimeSession(entry.path, threads=threads, kernels="require")
    example = entry.example()
    names = [spec.name for spec in session.manifest.inputs]
    feed = dict(zip(names, (example, image_sizes_of(example)), strict=False))
    return lambda: session.run(feed)


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def operator_share(entry: Entry, threads: int, folder: Path) -> dict[str, float]:
    """Share of a profiled run that each FreqFusion operator's kernels take, of all nodes' time."""
    session = open_onnx(entry, threads, str(folder / "profile"))
    feed = feed_for(session, entry.example())
    for _ in range(6):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    total = sum(e["dur"] for e in nodes)
    shares: dict[str, float] = defaultdict(float)
    for event in nodes:
        if event["args"]["op_name"] in _OPERATORS:
            shares[event["args"]["op_name"]] += event["dur"] / total
    return dict(shares)


_OPERATORS = frozenset({*OPERATORS, CONVOLUTION})


def record(entry: Entry, times_ms: Sequence[float], peak_mb: float | None) -> dict[str, Any]:
    """One line of results."""
    return {
        "entry": entry.name,
        "p50_ms": float(np.percentile(times_ms, 50)),
        "p99_ms": float(np.percentile(times_ms, 99)),
        "runs": len(times_ms),
        "peak_mb": peak_mb,
        "input_shape": list(entry.input_shape),
        "onnx_sha256": None if entry.path is None else model_sha256(entry.path),
    }


def ratios(records: Sequence[Mapping[str, Any]], pairs: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Ratios of medians by name: of a form to the fastest of those named behind it, as far as they were run."""
    p50 = {r["entry"]: r["p50_ms"] for r in records}
    found = {}
    for name, (form, *bases) in pairs.items():
        run = [p50[base] for base in bases if base in p50]
        if form in p50 and run:
            found[name] = p50[form] / min(run)
    return found


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": threads, "git": _revision(), "versions": versions()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
