# SPDX-License-Identifier: Apache-2.0
"""Builds what the GPU check loads, with nvcc and g++ alone: no CMake, nothing fetched."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
KERNELS = PLUGINS / "kernels"
OPERATORS = (
    "carafe",
    "adaptive_filter",
    "deformable_attention",
    "local_similarity",
    "offset_resample",
    "resize_argmax",
    "pyramid_roi_align",
    "query_argmax",
)
CXX_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-Wall", "-Wextra", "-Wshadow"]
# Every access through a Pack must be as aligned as it says, and every index within its array.
EMULATION_CHECKS = "-fsanitize=alignment,bounds,signed-integer-overflow,shift"
DEVICE_DEFINITIONS = ["-DFREQFUSION_CUDA=1", f"-I{PLUGINS}", f"-I{KERNELS}"]


class BuildError(RuntimeError):
    """A compiler or a part it needs is missing, or it refused the sources."""


def find_nvcc() -> Path:
    """nvcc of ``CUDACXX``, the path, or the default folder.

    Raises:
        BuildError: If there is none.
    """
    for candidate in (os.environ.get("CUDACXX"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise BuildError("found no nvcc in CUDACXX, PATH or /usr/local/cuda/bin. Install the CUDA toolkit 12.8 or newer.")


def cuda_headers() -> Path:
    """Folder of cuda_runtime.h: of ``CUDA_HOME``, of nvcc, or of the default folder.

    Raises:
        BuildError: If there is none.
    """
    found = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    with contextlib.suppress(BuildError):
        found.append(find_nvcc().resolve().parents[1])
    for root in [*found, Path("/usr/local/cuda")]:
        if (root / "include" / "cuda_runtime.h").is_file():
            return root / "include"
    raise BuildError("found no cuda_runtime.h. Install the CUDA toolkit or set CUDA_HOME to its folder.")


def run_all(commands: Sequence[list[str]], jobs: int | None = None) -> None:
    """Runs compilers side by side.

    Raises:
        BuildError: With the output of the first that fails.
    """

    def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True)

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        for command, result in zip(commands, pool.map(finished, commands), strict=True):
            if result.returncode != 0:
                output = (result.stdout + result.stderr)[-4000:]
                raise BuildError(f"{Path(command[0]).name} failed on {command[-1]}:\n{output}")


def compile_all(compiler: list[str], sources: Sequence[Path], folder: Path, jobs: int | None = None) -> list[str]:
    """Objects of ``sources`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = [str(folder / f"{source.name}.o") for source in sources]
    run_all([[*compiler, "-c", "-o", o, str(s)] for s, o in zip(sources, objects, strict=True)], jobs)
    return objects


def link(command: list[str], objects: Sequence[str], target: Path) -> Path:
    """``target``, whole or not at all."""
    unfinished = target.with_suffix(".unfinished")
    run_all([[*command, *objects, "-o", str(unfinished)]])
    unfinished.replace(target)
    return target


def check_sources() -> list[Path]:
    # The host kernels behind carafe.cpp and its like are not called, and the linker drops what would need them.
    return [*(KERNELS / f"{name}.cpp" for name in OPERATORS), PLUGINS / "gpu_check" / "launchers.cpp"]


def device_sources() -> list[Path]:
    return [KERNELS / f"{name}_cuda.cu" for name in OPERATORS]


def nvcc_command(architecture: str) -> list[str]:
    host = ",".join(CXX_FLAGS[1:])
    code = f"arch=compute_{architecture},code=sm_{architecture}"
    return [str(find_nvcc()), "-std=c++17", "-O3", "-lineinfo", "-gencode", code, f"-Xcompiler={host}"]


def device_objects(folder: Path, architecture: str, jobs: int | None, extra: Sequence[str] = ()) -> list[str]:
    """Objects of the kernels, compiled unless ``folder`` has them."""
    objects = [str(folder / "kernels" / f"{source.name}.o") for source in device_sources()]
    if all(Path(o).is_file() for o in objects):
        return objects
    command = [*nvcc_command(architecture), *DEVICE_DEFINITIONS, *extra]
    return compile_all(command, device_sources(), folder / "kernels", jobs)


def build_check_library(
    folder: Path, architecture: str, jobs: int | None = None, are_warnings_errors: bool = False
) -> Path:
    """The kernels for one GPU architecture, like ``90``, behind C functions."""
    strict = ["-Werror=all-warnings", "-Xcompiler=-Werror"] if are_warnings_errors else []
    command = [*nvcc_command(architecture), *DEVICE_DEFINITIONS, *strict]
    objects = device_objects(folder, architecture, jobs, strict)
    objects += compile_all(command, check_sources(), folder / "objects", jobs)
    linker = [*nvcc_command(architecture), "-shared", "-cudart=static", "-Xlinker=--gc-sections"]
    return link(linker, objects, folder / "libfreqfusion_check.so")


def build_emulation(folder: Path, jobs: int | None = None) -> Path:
    """The kernels as host code, one fiber per CUDA thread: see plugins/tests/cuda_on_host."""
    emulation = PLUGINS / "tests" / "cuda_on_host"
    flags = [*CXX_FLAGS, "-O2", "-fno-strict-aliasing", EMULATION_CHECKS, "-fno-sanitize-recover=all"]
    # The pragmas are nvcc's; CUDA's own headers are not free of warnings; fibers jump out of and into functions.
    flags += ["-Wno-unknown-pragmas", "-Wno-attributes", "-Wno-clobbered", "-isystem", str(cuda_headers())]
    flags += [*DEVICE_DEFINITIONS, "-DFREQFUSION_CUDA_ON_HOST", f"-I{emulation}"]
    compiler = [os.environ.get("CXX", "g++"), *flags, "-x", "c++"]
    sources = [*device_sources(), *check_sources(), emulation / "cuda_on_host.cpp"]
    objects = compile_all(compiler, sources, folder / "objects", jobs)
    linker = [compiler[0], "-shared", EMULATION_CHECKS, "-Wl,--gc-sections", "-Wl,--no-undefined"]
    return link(linker, objects, folder / "libfreqfusion_check_on_host.so")


def build_tensorrt(folder: Path, architecture: str, headers: Path) -> tuple[Path, Path]:
    """The TensorRT plugin and the program that runs its ``enqueue``.

    Raises:
        BuildError: If ``headers`` does not hold NvInferRuntime.h, or a compiler refuses the sources.
    """
    if not (headers / "NvInferRuntime.h").is_file():
        raise BuildError(f"{headers} does not hold NvInferRuntime.h. Give the folder of TensorRT's headers.")
    plugin = PLUGINS / "tensorrt"
    command = [*nvcc_command(architecture), *DEVICE_DEFINITIONS, "-isystem", str(headers)]
    kernels = device_objects(folder, architecture, None)
    host = [*sorted(KERNELS.glob("*.cpp"))]
    level = ["-DFREQFUSION_SIMD_LEVEL=baseline"]
    kernels += compile_all([*command, *level], host, folder / "host_objects")
    objects = compile_all(command, sorted(plugin.glob("*.cpp")), folder / "tensorrt_objects")
    linker = [*nvcc_command(architecture), "-shared", "-cudart=static", "-ldl"]
    linker += [f"-Xlinker=--version-script={plugin / 'exports.map'},-z,nodelete,--gc-sections"]
    library = link(linker, [*objects, *kernels], folder / "libfreqfusion_tensorrt.so")
    client = compile_all(command, [plugin / "tests" / "enqueue_check.cpp"], folder / "client_objects")
    table = str(folder / "tensorrt_objects" / "nvinfer_library.cpp.o")
    program = link(
        [*nvcc_command(architecture), "-cudart=static", "-ldl"],
        [*client, table, *kernels],
        folder / "freqfusion_tensorrt_enqueue",
    )
    return library, program
