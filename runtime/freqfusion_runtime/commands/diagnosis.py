# SPDX-License-Identifier: Apache-2.0
"""Looks at every part that can be there, without needing any of them."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from freqfusion_runtime.commands.json_output import DISTRIBUTION
from freqfusion_runtime.engines import cuda
from freqfusion_runtime.engines.cache import EngineCache, cache_folder
from freqfusion_runtime.engines.errors import BUILD_PLUGIN, INSTALL_DRIVER, INSTALL_TENSORRT, PluginLibraryError
from freqfusion_runtime.engines.flavours import OLDEST_TENSORRT, version_numbers
from freqfusion_runtime.engines.plugin_library import identify, plugin_path
from freqfusion_runtime.sessions.kernel_library import (
    FOLDER_VARIABLE,
    library_fault,
    library_folder,
    library_path,
)

State = Literal["ok", "absent", "broken"]
OLDEST_PYTHON = (3, 10)
_C_LIBRARY = "libfreqfusion_c.so"
_BUILD = "python scripts/build_plugins.py"

# In a process of its own: TensorRT without a driver may end the process, and two flavours do not share one gladly.
_LOAD_PLUGINS = """
import sys
import {module} as trt
from pathlib import Path
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.plugin_library import load_plugins
print(load_plugins(Flavour("tensorrt", trt), Path(sys.argv[1])).version)
"""
# There too: PyTorch takes seconds to import, and only its package knows the interface. Its warning is the fault.
_LOAD_TORCH_KERNELS = """
import warnings
from freqfusion import native
warnings.simplefilter("error", UserWarning)
native.load()
"""


@dataclass(frozen=True)
class Finding:
    """One part.

    Attributes:
        part: Its name.
        state: ``ok``, ``absent`` (not installed, which is no fault) or ``broken``.
        found: What is there.
        remedy: What to do to have it, or have it right.
    """

    part: str
    state: State
    found: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Looks at everything, in the order in which parts build on each other."""
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", _python),
        (DISTRIBUTION, _distribution),
        ("PyTorch", _torch),
        ("ONNX Runtime", _onnxruntime),
        ("CUDA driver", _cuda),
        ("TensorRT", lambda: [_tensorrt("tensorrt", "TensorRT", "gpu")]),
        ("TensorRT-RTX", lambda: [_tensorrt("tensorrt_rtx", "TensorRT-RTX", "rtx")]),
        ("TensorRT lean", lambda: [_tensorrt("tensorrt_lean", "TensorRT lean", "")]),
        ("kernels for ONNX Runtime", _kernels),
        ("kernels for PyTorch", _torch_kernels),
        ("TensorRT plugin", _plugin),
        ("engine cache", _cache),
    ]
    findings: list[Finding] = []
    for part, look in looks:
        try:
            findings += look()
        except Exception as e:  # a broken part may raise anything, and the others are still worth a look
            findings.append(Finding(part, "broken", f"{type(e).__name__}: {_line(e)}", "install it again"))
    return findings


def _python() -> list[Finding]:
    state: State = "ok" if sys.version_info[:2] >= OLDEST_PYTHON else "broken"
    wanted = ".".join(map(str, OLDEST_PYTHON))
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return [Finding("Python", state, found, f"install Python {wanted} or later")]


def _distribution() -> list[Finding]:
    try:
        return [Finding(DISTRIBUTION, "ok", metadata.version(DISTRIBUTION))]
    except metadata.PackageNotFoundError:
        return [Finding(DISTRIBUTION, "absent", "run from its source folder", "`make setup` installs it")]


def _torch() -> list[Finding]:
    torch = _import("torch")
    if torch is None:
        return [_absent("PyTorch", "export", "needed to export and to compare with PyTorch")]
    devices = f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs" if torch.version.cuda else "CPU build"
    return [Finding("PyTorch", "ok", f"{torch.__version__}, {devices}")]


def _onnxruntime() -> list[Finding]:
    ort = _import("onnxruntime")
    if ort is None:
        return [_absent("ONNX Runtime", "cpu", "needed to run ONNX files")]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_distribution(name)]
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
    if len(both) == 2:
        remedy = "pip uninstall both onnxruntime and onnxruntime-gpu, then install one: they overwrite each other"
        return [Finding("ONNX Runtime", "broken", f"{ort.__version__}, both builds installed", remedy)]
    return [Finding("ONNX Runtime", "ok", f"{ort.__version__}, providers: {providers}")]


def _cuda() -> list[Finding]:
    if not _has("cuda.bindings.runtime"):
        missing = [_absent("cuda-python", "gpu", "needed to run engines")]
        driver = _driver_library()
        found = "libcuda is there" if driver else "no libcuda"
        return [*missing, Finding("CUDA driver", "ok" if driver else "absent", found, INSTALL_DRIVER)]
    findings = [
        Finding("cuda-python", "ok", f"{metadata.version('cuda-bindings')}, CUDA runtime {cuda.runtime_version()}")
    ]
    driver_version = cuda.driver_version()
    if driver_version is None:
        return [*findings, Finding("CUDA driver", "absent", "no driver", INSTALL_DRIVER)]
    gpu = cuda.find_gpu()
    findings.append(Finding("CUDA driver", "ok", f"serves CUDA up to {driver_version}"))
    if gpu is None:
        remedy = "check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the driver serves this CUDA runtime"
        return [*findings, Finding("GPU", "broken", "the driver is there, and no GPU can be used", remedy)]
    return [*findings, Finding("GPU", "ok", gpu.label)]


def _tensorrt(module: str, part: str, extra: str) -> Finding:
    if not _has(module):
        remedy = f"pip install 'freqfusion-deploy[{extra}]'" if extra else "pip install tensorrt-lean-cu13"
        purposes = {
            "tensorrt": "needed to build and run engines with plugins",
            "tensorrt_rtx": "builds engines without a GPU, from function bodies",
            "tensorrt_lean": "not needed: a registry to try the plugin library in",
        }
        return Finding(part, "absent", f"not installed; {purposes[module]}", remedy)
    done = _in_process(f"import {module}; print({module}.__version__)")
    if done.returncode != 0:
        return Finding(part, "broken", f"cannot be imported: {_line(done.stderr)}", INSTALL_TENSORRT)
    version = done.stdout.split()[-1]
    if module == "tensorrt" and version_numbers(version)[:2] < OLDEST_TENSORRT:
        wanted = ".".join(map(str, OLDEST_TENSORRT))
        return Finding(
            part, "broken", f"{version} ignores plugins of nodes that have bodies", f"install {wanted} or later"
        )
    return Finding(part, "ok", version)


def _kernels() -> list[Finding]:
    part, path = "kernels for ONNX Runtime", library_path()
    remedy = f"{_BUILD}, or name its folder in {FOLDER_VARIABLE}"
    if not path.is_file():
        return [Finding(part, "absent", f"{path} does not exist; function bodies run instead", remedy)]
    if fault := library_fault(path):
        return [Finding(part, "broken", fault, remedy)]
    ort = _import("onnxruntime")
    if ort is None:
        return [Finding(part, "ok", f"{path}, not tried without ONNX Runtime")]
    try:
        ort.SessionOptions().register_custom_ops_library(str(path))
    except Exception as e:  # ONNX Runtime's errors have no base class of their own
        return [Finding(part, "broken", f"{path} cannot be loaded: {_line(e)}", remedy)]
    return [Finding(part, "ok", str(path))]


def _torch_kernels() -> list[Finding]:
    part, path = "kernels for PyTorch", library_folder() / _C_LIBRARY
    if not path.is_file():
        return [Finding(part, "absent", f"{path} does not exist; plain PyTorch runs instead", _BUILD)]
    try:
        ctypes.CDLL(str(path))
    except OSError as e:
        return [Finding(part, "broken", f"{path} cannot be loaded: {_line(e)}", _BUILD)]
    if not (_has("torch") and _has("freqfusion")):
        return [Finding(part, "ok", f"{path}, not tried without PyTorch")]
    done = _in_process(_LOAD_TORCH_KERNELS)
    if done.returncode != 0:
        return [Finding(part, "broken", _line(done.stderr), _BUILD)]
    return [Finding(part, "ok", str(path))]


def _plugin() -> list[Finding]:
    part, path = "TensorRT plugin", plugin_path()
    if not path.is_file():
        return [Finding(part, "absent", f"{path} does not exist; engines of TensorRT need it", BUILD_PLUGIN)]
    try:
        identity = identify(path)
    except PluginLibraryError as e:
        return [Finding(part, "broken", _line(e), BUILD_PLUGIN)]
    module = next((name for name in ("tensorrt", "tensorrt_lean") if _has(name)), None)
    if module is None:
        return [Finding(part, "ok", f"{identity.label}; not tried without TensorRT")]
    done = _in_process(_LOAD_PLUGINS.format(module=module), str(path))
    if done.returncode != 0:
        return [Finding(part, "broken", f"{identity.label}: {_line(done.stderr)}", BUILD_PLUGIN)]
    return [Finding(part, "ok", f"{identity.label}; its plugins register with {module}")]


def _cache() -> list[Finding]:
    cache = EngineCache()
    plans, size_mb, limit_mb = len(cache.plans()), cache.size_bytes() / 1e6, cache.limit_bytes / 1e6
    return [
        Finding("engine cache", "ok", f"{cache_folder()}, {plans} engines, {size_mb:.0f} of at most {limit_mb:.0f} MB")
    ]


def _absent(part: str, extra: str, purpose: str) -> Finding:
    return Finding(part, "absent", f"not installed; {purpose}", f"pip install 'freqfusion-deploy[{extra}]'")


def _import(module: str) -> Any:
    return importlib.import_module(module) if _has(module) else None


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _is_distribution(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _driver_library() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _in_process(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _line(what: object) -> str:
    lines = [line.strip() for line in str(what).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
