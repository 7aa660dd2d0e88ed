# SPDX-License-Identifier: Apache-2.0
"""Networks of the user's own on the command line: the code they name, its weights, and what goes in."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_export.errors import ExportError

if TYPE_CHECKING:
    from freqfusion import Checkpoint
    from torch import Tensor, nn

_INPUT = re.compile(r"(?P<name>[A-Za-z_][\w.]*)=(?P<sizes>[1-9]\d*(?:x[1-9]\d*)*)(?::(?P<dtype>\w+))?")
_AXIS = re.compile(r"(?P<axis>\d+):(?P<words>[^,]+)")
_DTYPES = ("float32", "bool", "uint8", "int8", "int16", "int32", "int64")


def add_network_argument(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds ``--network`` and gives the group for what belongs to it."""
    group = parser.add_argument_group(
        "a network of one's own", "Its code is imported and run, because it is named here; no file names any."
    )
    group.add_argument(
        "--network",
        metavar="MODULE:FACTORY",
        help="what makes it, such as mypackage.models:build_unet; looked for in this folder, too",
    )
    return group


def add_adoption_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds what adopting its FreqFusions may have to be told."""
    group.add_argument(
        "--padding",
        choices=("zeros", "reflect"),
        help="what its FreqFusions were trained with, mmcv's or the fallback's; found out by running them if not given",
    )
    group.add_argument("--form", metavar="FORM", help="how they are called, where they cannot run here")


def add_input_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds what `freqfusion export` must be told of such a network."""
    group.add_argument(
        "--input",
        type=_input,
        action="append",
        default=[],
        metavar="NAME=1x3x512x512[:TYPE]",
        help=f"an input and its usual size, in order or by the name that forward has for it; {_DTYPES[0]} if no type",
    )
    group.add_argument(
        "--dynamic",
        type=_dynamic,
        action="append",
        default=[],
        metavar="NAME=0:batch,2:height:32,3:width:32",
        help="its free axes: number, name, and what the size is a multiple of; height/2 for half of it",
    )
    group.add_argument("--outputs", type=_names, metavar="A,B", help="names of its outputs, in order")
    group.add_argument(
        "--task",
        choices=("network", "semantic_segmentation"),
        help="semantic_segmentation: it scores --classes; --mean, --std, --image-size, --size-divisor are of pictures",
    )
    group.add_argument("--classes", type=_names, metavar="A,B", help="names of its classes, in the scores' order")


def refuse_network_arguments(args: argparse.Namespace) -> None:
    """Raises ``ExportError`` for arguments that say something of a network that is not named."""
    for option in ("input", "dynamic", "outputs", "task", "classes"):
        if getattr(args, option):
            raise ExportError(f"--{option} is about a network of one's own; name that with --network, or leave it out")


def open_network(
    text: str, weights: Path | None, say: Callable[[str], None], which: Any = None
) -> tuple[nn.Module, Checkpoint | None]:
    """Imports, builds and loads a network.

    Args:
        text: ``module:factory``.
        weights: A checkpoint with exactly its weights; None for those that the factory gives it.
        say: Told whose code runs.
        which: As ``freqfusion.read_checkpoint`` takes it.

    Raises:
        ExportError: If there is none, or its own code fails.
        CheckpointError: If the weights are none, or another network's.
    """
    import freqfusion

    network = _built(text, say)
    checkpoint = None if weights is None else freqfusion.load_checkpoint(network, weights, which)
    return network.eval(), checkpoint


def _built(text: str, say: Callable[[str], None]) -> nn.Module:
    from torch import nn

    from freqfusion_export.networks.user_code import place_of

    module_name, sign, factory = text.partition(":")
    if not sign or not factory or not module_name:
        raise ExportError(f"--network must be MODULE:FACTORY such as mypackage.models:build_unet, got {text!r}")
    sys.path.insert(0, os.getcwd())  # where the user is, as for `python -m`
    try:
        module = importlib.import_module(module_name)
    except Exception as e:
        if isinstance(e, ModuleNotFoundError) and f"{module_name}.".startswith(f"{e.name}."):
            raise ExportError(
                f"there is no module {e.name!r} in {os.getcwd()} or among the installed ones; start in the folder that "
                "holds it, or install it"
            ) from e
        raise ExportError(f"{module_name} cannot be imported{place_of(e)}: {type(e).__name__}: {e}") from e
    say(f"running the code of {getattr(module, '__file__', module_name)}, as --network asks")
    make: Any = module
    for part in factory.split("."):
        make = getattr(make, part, None)
    if not callable(make):
        raise ExportError(
            f"{module_name} has nothing to call named {factory!r}; name a function or class without arguments"
        )
    try:
        network = make if isinstance(make, nn.Module) else make()
    except Exception as e:
        raise ExportError(
            f"{text} fails{place_of(e)}: {type(e).__name__}: {e}; name a function that makes the network without "
            "arguments"
        ) from e
    if not isinstance(network, nn.Module):
        raise ExportError(
            f"{text} makes {type(network).__name__}, expected a torch.nn.Module; name what makes the network"
        )
    return network


def adopt_network(
    network: nn.Module, inputs: Mapping[str, Tensor] | None, args: argparse.Namespace, say: Callable[[str], None]
) -> None:
    """Puts our operators in place of the network's own FreqFusions, and tells what was done.

    Raises:
        AdoptionError: If that cannot be done. A network that has ours already is left as it is.
    """
    import freqfusion

    from freqfusion_export.networks.own_network import takes_by_keyword

    example: Any = inputs
    if inputs is not None and not takes_by_keyword(network, inputs):
        example = tuple(inputs.values())
    try:
        say(str(freqfusion.adopt(network, example, padding=args.padding, form=args.form)))
    except freqfusion.AdoptionError as e:
        if not any(isinstance(module, freqfusion.FreqFusion) for module in network.modules()):
            raise
        say(str(e))


def example_inputs(specs: list[tuple[str, tuple[int, ...], str]]) -> dict[str, Tensor]:
    """Makes seeded example inputs of the sizes that ``--input`` names: normal numbers, or zeros for other types."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator)
        if dtype == "float32"
        else torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, shape, dtype in specs
    }


def _input(text: str) -> tuple[str, tuple[int, ...], str]:
    match = _INPUT.fullmatch(text)
    if match is None or (match["dtype"] or _DTYPES[0]) not in _DTYPES:
        raise argparse.ArgumentTypeError(
            f"must be NAME=SIZES such as images=1x3x512x512 or ids=1x8:int64 with a type of {', '.join(_DTYPES)}, "
            f"got {text!r}"
        )
    return match["name"], tuple(map(int, match["sizes"].split("x"))), match["dtype"] or _DTYPES[0]


def _dynamic(text: str) -> tuple[str, dict[int, str]]:
    name, sign, axes = text.partition("=")
    matches = [_AXIS.fullmatch(part.strip()) for part in axes.split(",")]
    if not sign or not all(matches):
        raise argparse.ArgumentTypeError(
            f"must be NAME=AXIS:SIZE,... such as images=0:batch,2:height:32,3:width:32, got {text!r}"
        )
    return name, {int(match["axis"]): match["words"] for match in matches if match}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
