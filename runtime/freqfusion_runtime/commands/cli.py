# SPDX-License-Identifier: Apache-2.0
"""The ``freqfusion`` command: a table of subcommands, each imported only when it is asked for.

A command is a module with ``add_arguments(parser)`` and ``execute(args) -> int``; its docstring is its help. It imports
nothing heavy at its top, so that help is instant and a machine without torch can run what needs none.
Exit status: 0 done and right, 1 done and wrong, 2 cannot be done.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from freqfusion_runtime.commands.terminal import print_error, print_line
from freqfusion_runtime.errors import MORE_MEMORY, ran_out_of_memory
from freqfusion_runtime.files import printable

# Names only: this package imports nothing of the packages above it.
COMMANDS = {
    "models": "freqfusion_export.commands.models",
    "export": "freqfusion_export.commands.export",
    "run": "freqfusion_runtime.commands.run",
    "parity": "freqfusion_export.commands.parity",
    "bench": "freqfusion_export.commands.bench",
    "build": "freqfusion_runtime.commands.build",
    "inspect": "freqfusion_export.commands.inspect",
    "inline": "freqfusion_runtime.commands.inline",
    "doctor": "freqfusion_runtime.commands.doctor",
    "evaluate": "freqfusion_export.commands.evaluate",
    "serve": "freqfusion_runtime.commands.serve",
    "client": "freqfusion_runtime.commands.client",
    "batch": "freqfusion_runtime.commands.batch",
    "triton": "freqfusion_runtime.commands.triton",
}

# Top-level module -> extra of the distribution that brings it.
EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "export",
    "onnx": "inline",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "openvino": "bench",
    "tensorrt": "gpu",
    "tensorrt_rtx": "rtx",
    "cuda": "gpu",
    "fastapi": "serve",
    "starlette": "serve",
    "pydantic": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "grpc": "serve",
    "google": "serve",
    "tritonclient": "serve",
    "ray": "ray",
    "pyarrow": "ray",
    "faster_coco_eval": "evaluate",
    "cv2": "dev",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        for line in overview().split("\n"):
            print_line(line)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print_line(f"freqfusion {_release()}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        return _fail("freqfusion", f"there is no command {name!r}. {_suggestion(name)}")
    try:
        module = importlib.import_module(COMMANDS[name])
        args = _parser(name, module).parse_args(arguments[1:])
        with _warnings_on_one_line(name):
            return int(module.execute(args))
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _fail(f"freqfusion {name}", _install_hint(package))
    except KeyboardInterrupt:
        print_error("")
        return _fail(f"freqfusion {name}", "interrupted; files already written are whole", status=130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as e:
        if _is_user_error(e):
            return _fail(f"freqfusion {name}", str(e))
        if ran_out_of_memory(e):
            reason = next(iter(str(e).splitlines()), type(e).__name__)
            return _fail(f"freqfusion {name}", f"ran out of memory ({reason}). {MORE_MEMORY}")
        raise


@contextmanager
def _warnings_on_one_line(command: str) -> Iterator[None]:
    """Prints our warnings as errors are printed: they are for the one who typed the command, not for programmers."""

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category is UserWarning:
            print_error(f"freqfusion {command}: {' '.join(str(message).split())}")
        else:
            usual(printable(str(message)), category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def overview() -> str:
    """Words ``freqfusion --help``: every command with the first line of its docstring."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: freqfusion COMMAND [...]",
        "",
        "FreqFusion models: from checkpoint to portable ONNX to pictures.",
        "",
    ]
    for name, path in COMMANDS.items():
        summary = inspect.cleandoc(importlib.import_module(path).__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<{width}}  {summary}")
    lines += ["", "`freqfusion COMMAND --help` explains one command; `freqfusion --version` names the release."]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """Prints as everything else does: an argument can be the name of a file, which a shell put there."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message("\n".join(map(printable, message.split("\n"))), file)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps a docstring's lines, and shows each default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or action.default in (None, False, argparse.SUPPRESS, []) or "%(default)" in text:
            return text
        return text + " (default: %(default)s)"


def _parser(name: str, module: Any) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"freqfusion {name}",
        description=inspect.cleandoc(module.__doc__ or ""),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _is_user_error(error: Exception) -> bool:
    # Each package has a tree of its own under this name, and they do not import each other.
    return any(kind.__name__ == "FreqFusionError" for kind in type(error).__mro__)


def _install_hint(package: str) -> str:
    extra = EXTRAS[package]
    return f"{package} is not installed. Install it with: pip install 'freqfusion-deploy[{extra}]'."


def _release() -> str:
    try:
        return metadata.version("freqfusion-deploy")
    except metadata.PackageNotFoundError:
        return "(run from its source folder, not installed)"


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(COMMANDS)}."


def _fail(prefix: str, message: str, status: int = 2) -> int:
    print_error(f"{prefix}: {' '.join(message.split())}")
    return status


if __name__ == "__main__":
    sys.exit(main())
