# SPDX-License-Identifier: Apache-2.0
"""Write a model repository for Triton Inference Server.

MODEL is an exported .onnx file of either interface, or a TensorRT .plan with its manifest beside it. The repository
gets config.pbtxt, the model, the names of its classes, our native library where it is found, and a README with the
command that starts the server and examples that ask it. A model's folder appears whole or not at all. An existing
repository of this command gets one model more; any other folder with something in it is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from freqfusion_runtime.commands.arguments import not_negative, positive
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="an exported .onnx, or a .plan")
    parser.add_argument("--output", type=Path, required=True, metavar="REPO", help="folder of the repository")
    parser.add_argument("--name", help="the model's name; the file's stem where it is left out")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="where it runs; auto: on a GPU if there is one"
    )
    parser.add_argument("--instances", type=positive, default=1, help="copies of the model on each device")
    parser.add_argument(
        "--max-batch",
        type=positive,
        help="requests run together (8; 1 on a CPU, where more does not pay, and for a plan, whose profile must allow "
        "what is given)",
    )
    parser.add_argument(
        "--max-delay-us", type=not_negative, default=0, help="how long the first of a batch waits for others"
    )
    parser.add_argument("--queue", type=positive, default=64, help="requests that may wait")
    parser.add_argument("--threads", type=not_negative, default=0, help="cores for one run on a CPU, 0 for all")
    parser.add_argument(
        "--kernels", choices=("auto", "never", "require"), default="auto", help="whether to put our library in"
    )
    parser.add_argument("--library", type=Path, metavar="SO", help="that library, built for the server's machine")
    parser.add_argument("--mount", default="/models", help="where the server will see the repository")
    parser.add_argument(
        "--image", default="nvcr.io/nvidia/tritonserver:25.08-py3", help="container image, for the README"
    )
    parser.add_argument("--replace", action="store_true", help="replace a model of that name written by this command")
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.serving.triton.config import ConfigOptions
    from freqfusion_runtime.serving.triton.repository import RepositoryOptions, write_repository

    config = ConfigOptions(
        device=args.device,
        instances=args.instances,
        max_batch=args.max_batch,
        max_delay_us=args.max_delay_us,
        queue=args.queue,
        threads=args.threads,
    )
    options = RepositoryOptions(
        name=args.name,
        config=config,
        kernels=args.kernels,
        library=args.library,
        mount=args.mount,
        image=args.image,
        replace=args.replace,
    )
    facts = write_repository(args.model, args.output, options)
    say = printer(args.json)
    say(f"{args.output / facts['name']}: {facts['platform']}, batches of up to {max(1, facts['max_batch_size'])}")
    say(f"  native library: {facts['library'] or 'none'}")
    say(f"  {args.output / 'README.md'} has the command that starts the server")
    write_json(args.json, {"model": str(args.model), "repository": str(args.output), **facts})
    return 0
