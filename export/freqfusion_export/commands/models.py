# SPDX-License-Identifier: Apache-2.0
"""List the models that can be built, loaded and exported."""

from __future__ import annotations

import argparse

from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion import describe_model, list_models

    say = printer(args.json)
    models = {name: describe_model(name) for name in list_models()}
    width = max(map(len, models))
    for name, description in models.items():
        say(f"{name:<{width}}  {description}")
    write_json(args.json, {"models": models})
    return 0
