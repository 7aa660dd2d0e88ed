# SPDX-License-Identifier: Apache-2.0
"""The part of `freqfusion export` that is about networks of the user's own."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from freqfusion_export.commands.own_network import adopt_network, example_inputs, open_network
from freqfusion_export.commands.settings import overrides_of
from freqfusion_export.errors import ExportError

if TYPE_CHECKING:
    from freqfusion import Checkpoint
    from freqfusion_runtime.model_files.manifest import Manifest

Write: TypeAlias = "Callable[[Path], Manifest]"


def prepare_network(
    args: argparse.Namespace, options: dict[str, Any], say: Callable[[str], None]
) -> tuple[Path, Write, Checkpoint | None]:
    """Builds the network that ``--network`` names.

    Args:
        args: Of the command.
        options: What ``export`` takes for every network.
        say: Prints a line.

    Returns:
        The file to write, what writes it, and what the weights were read from.

    Raises:
        ExportError: If an argument is missing or says nothing to such a network.
    """
    from freqfusion_runtime.model_files.manifest import Preprocessing

    from freqfusion_export.exporter import export

    overrides = overrides_of(args)
    if overrides is not None and (overrides.config or overrides.network or overrides.ignored):
        raise ExportError(
            "--config, --set and --ignore-setting are about our own models; give --mean, --std and the like"
        )
    if args.task != "semantic_segmentation" and not args.input:
        raise ExportError("a network of one's own needs its inputs' sizes; give --input images=1x3x512x512 or the like")
    weights = args.checkpoint or args.weights_of_network
    name = args.model or args.network.rpartition(":")[2]
    output = args.output or Path(f"{name}.onnx")
    network, checkpoint = open_network(args.network, weights, say, args.weights)
    inputs = example_inputs(args.input) or None
    adopt_network(network, inputs, args, say)
    if weights is None:
        say(f"no --checkpoint: the weights are those that {args.network} gives")
    write = functools.partial(
        export,
        network,
        inputs=inputs,
        outputs=args.outputs,
        dynamic=dict(args.dynamic) or None,
        task=args.task,
        classes=args.classes or (),
        preprocessing=Preprocessing(**overrides.preprocessing) if overrides else None,
        name=name,
        checkpoint_path=weights,
        **options,
    )
    return output, write, checkpoint
