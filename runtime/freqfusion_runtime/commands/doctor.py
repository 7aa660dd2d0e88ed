# SPDX-License-Identifier: Apache-2.0
"""Say what this machine can do: Python, PyTorch, ONNX Runtime, CUDA, TensorRT, native libraries.

Each line that is not right comes with its remedy. Exit status 1 if something that is installed does not work; what is
merely not installed is no fault.
"""

from __future__ import annotations

import argparse

from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

_MARKS = {"ok": "ok", "absent": "-", "broken": "BROKEN"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from dataclasses import asdict

    from freqfusion_runtime.commands.diagnosis import diagnose

    say = printer(args.json)
    findings = diagnose()
    width = max(len(finding.part) for finding in findings)
    for finding in findings:
        say(f"{_MARKS[finding.state]:<7} {finding.part:<{width}}  {finding.found}")
        if finding.state != "ok" and finding.remedy:
            say(f"{'':<7} {'':<{width}}  -> {finding.remedy}")
    broken = [finding.part for finding in findings if finding.state == "broken"]
    say(f"not working: {', '.join(broken)}" if broken else "everything that is installed works")
    write_json(args.json, {"healthy": not broken, "findings": [asdict(finding) for finding in findings]})
    return 1 if broken else 0
