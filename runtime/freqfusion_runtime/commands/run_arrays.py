# SPDX-License-Identifier: Apache-2.0
"""The part of `freqfusion run` for models of which nobody says what their tensors mean: arrays in, arrays out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.terminal import print_error
from freqfusion_runtime.errors import FreqFusionError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from freqfusion_runtime.predictors.network import Network

SUFFIX = ".npz"


def check_archives(model: Path, paths: list[Path]) -> None:
    """Raises ``InputError`` unless every path is an archive of arrays."""
    for path in paths:
        if path.suffix != SUFFIX or not path.is_file():
            reason = "does not exist" if not path.exists() else f"is no {SUFFIX} file"
            raise InputError(
                f"{path} {reason}, and {model} takes arrays. Write its inputs by name with numpy: "
                "np.savez('inputs.npz', NAME=ARRAY)."
            )


def run_archives(
    network: Network, args: argparse.Namespace, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Runs a network on the inputs in each file, and writes NAME.outputs.npz beside each other.

    Returns:
        What was done, and what could not be, each for ``--json``.
    """
    import numpy as np

    from freqfusion_runtime.files import atomic_path
    from freqfusion_runtime.results.result_names import result_names

    done: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    stems = result_names(args.pictures)
    for path in args.pictures:
        try:
            inputs = read_inputs(path)
            start = time.perf_counter()
            outputs = network.run(inputs)
            milliseconds = 1e3 * (time.perf_counter() - start)
        except FreqFusionError as e:
            failures.append({"archive": str(path), "error": f"{path}: {e}"})
            continue
        target = args.output / f"{stems[path]}.outputs{SUFFIX}"
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
        say(f"{path} -> {target}  {', '.join(f'{name} {_words(value)}' for name, value in outputs.items())}")
        shapes = {name: list(value.shape) for name, value in outputs.items()}
        done.append(
            {"archive": str(path), "outputs_file": str(target), "network_ms": round(milliseconds, 3), "outputs": shapes}
        )
    for failure in failures:
        print_error(f"freqfusion run: {failure['error']}")
    return done, failures


def read_inputs(path: Path) -> Mapping[str, NDArray[Any]]:
    """Reads the arrays of an archive, running nothing that is in it.

    Raises:
        InputError: If it is damaged or holds anything but arrays of numbers.
    """
    from freqfusion_runtime.agreement.array_archive import ArchiveError, ArrayArchive

    try:
        with ArrayArchive(path) as archive:
            return {name: archive.array(name) for name in archive.names}
    except ArchiveError as e:
        raise InputError(f"it is no archive of arrays of numbers: {e}. Write it with numpy.savez.") from e


def _words(value: NDArray[Any]) -> str:
    return f"{value.dtype} {'x'.join(map(str, value.shape)) or '()'}"
