# SPDX-License-Identifier: Apache-2.0
"""The ``--json PATH`` option of every command that prints a table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from freqfusion_runtime.commands.terminal import print_line
from freqfusion_runtime.files import atomic_path, json_text

DISTRIBUTION = "freqfusion-deploy"
_REPORTED = (DISTRIBUTION, "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "openvino", "tensorrt")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json`` to a command."""
    parser.add_argument(
        "--json",
        metavar="PATH",
        help="also write the printed facts there as JSON; '-' is standard output, and the table then goes to "
        "standard error",
    )


def printer(destination: str | None) -> Callable[[str], None]:
    """Chooses where a command's lines for people go, given its ``--json`` value: JSON on stdout must stand alone."""
    stream = sys.stderr if destination == "-" else sys.stdout
    return lambda line: print_line(line, stream)


def write_json(destination: str | os.PathLike[str] | None, facts: Mapping[str, Any]) -> None:
    """Writes ``facts`` and the versions behind them to a path, to standard output for ``-``, nowhere for None.

    Numbers that are infinite or not a number become null, see :func:`freqfusion_runtime.files.json_text`.

    Raises:
        OutputError: If the file cannot be written.
    """
    if destination is None:
        return
    text = json_text({**facts, "versions": {**versions(), **facts.get("versions", {})}}, indent=1)
    if destination == "-":
        for line in text.split("\n"):
            print_line(line)
        return
    with atomic_path(destination) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Lists the versions of Python and of those packages that can change a number, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
