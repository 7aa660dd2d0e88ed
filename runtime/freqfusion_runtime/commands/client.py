# SPDX-License-Identifier: Apache-2.0
"""Sends pictures to a server and writes what it answers.

URL is a server's, such as http://127.0.0.1:8000. Each picture gives a file in --output, or with
`--output -` its answer on standard output. Answers that say "busy" are tried again after the time they name.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json
from freqfusion_runtime.commands.terminal import print_error
from freqfusion_runtime.errors import FreqFusionError

if TYPE_CHECKING:
    from freqfusion_runtime.serving.client import Client

# Kind of answer -> media type asked for, suffix of the file.
KINDS = {
    "labels": ("image/png", ".labels.png"),
    "overlay": ("image/png;view=overlay", ".overlay.png"),
    "jpeg": ("image/jpeg", ".overlay.jpg"),
    "webp": ("image/webp", ".overlay.webp"),
    "json": ("application/json", ".json"),
}
_KEY_VARIABLE = "FREQFUSION_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("url", metavar="URL", help="of the server")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    parser.add_argument(
        "--output", default=".", metavar="DIR", help="for the answers, not the pictures' own; '-': standard output"
    )
    parser.add_argument("--as", dest="kind", choices=tuple(KINDS), default="overlay", help="what to ask for")
    parser.add_argument("--model", help="the server's first by default")
    parser.add_argument("--classes", help="names or numbers, separated by commas: show these only")
    parser.add_argument("--size", type=int, metavar="N", help="let the server reduce the long side to this first")
    parser.add_argument("--timeout-s", type=float, default=30.0, help="for one try")
    parser.add_argument("--retries", type=int, default=3, help="after the first try")
    parser.add_argument("--api-key", default=os.environ.get(_KEY_VARIABLE), help=f"by default ${_KEY_VARIABLE}")
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.files import make_folder
    from freqfusion_runtime.pictures.reading import find_pictures
    from freqfusion_runtime.results.result_names import check_pictures_stay, result_names
    from freqfusion_runtime.serving.client import Client

    if args.output == "-" and args.json == "-":
        raise FreqFusionError("--output - and --json - cannot both have standard output. Write one to a file.")
    pictures = find_pictures(args.pictures)
    names: dict[Path, str] = {}
    if args.output != "-":
        names = result_names(pictures)
        check_pictures_stay(args.pictures, names, Path(args.output))
    client = Client(args.url, api_key=args.api_key, timeout_s=args.timeout_s, retries=args.retries)
    if args.output != "-":
        make_folder(args.output)
    entries, failures = [], []
    say = printer("-" if args.output == "-" else args.json)
    with client:
        for picture in pictures:
            try:
                entries.append(_one(client, picture, names.get(picture), args))
            except FreqFusionError as e:
                failures.append({"picture": str(picture), "error": str(e)})
                print_error(f"freqfusion client: {picture}: {e}")
                continue
            say(f"{picture} -> {entries[-1]['file']}  {entries[-1]['total_ms']:.1f} ms ({entries[-1]['timing']})")
    write_json(args.json, {"url": args.url, "pictures": entries, "failures": failures})
    return 1 if failures else 0


def _one(client: Client, picture: Path, name: str | None, args: argparse.Namespace) -> dict[str, Any]:
    from freqfusion_runtime.files import atomic_path

    media_type, suffix = KINDS[args.kind]
    answer = client.segment(picture, accept=media_type, model=args.model, classes=args.classes, size=args.size)
    facts = {"picture": str(picture), "total_ms": round(answer.total_ms, 3), "timing": answer.timing}
    if name is None:
        sys.stdout.buffer.write(answer.body)
        sys.stdout.buffer.flush()
        return {**facts, "file": "standard output"}
    path = Path(args.output) / f"{name}{suffix}"
    with atomic_path(path) as temporary:
        temporary.write_bytes(answer.body)
    return {**facts, "file": str(path)}
