# SPDX-License-Identifier: Apache-2.0
"""The limits that docs/security.md tells are the server's."""

from __future__ import annotations

import argparse
import re

import pytest
from freqfusion_runtime.commands.serve import add_arguments, settings_of
from freqfusion_runtime.serving.operation.settings import Settings
from places import ROOT

UNITS = {"million": 1e6, "s": 1.0, "MiB": 1.0, "KiB": 1.0, "KiB/s": 1.0}


def table() -> list[tuple[str, str]]:
    """The default and the option of each limit that has one."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.split("\n## Limits\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [(cells[1], match[0]) for cells in rows if (match := re.search(r"--[a-z][a-z-]+", cells[2]))]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made


@pytest.mark.parametrize(("default", "option"), table())
def test_the_table_of_limits_names_options_and_their_defaults(default, option):
    action = next(action for action in parser()._actions if option in action.option_strings)
    if option == "--body-timeout-s" and default.startswith("20"):
        return  # of gRPC: the option if that is shorter
    number, unit = re.match(r"([\d.]+)(?:,? (\S+))?", default).groups()
    told = float(number) * UNITS.get(unit or "", 1.0) * (1000 if action.dest.endswith("_ms") else 1)
    assert told == getattr(Settings(), action.dest)


def test_the_table_is_read():
    assert len(table()) > 15


def test_allowed_hosts_add_up(capsys):
    args = parser().parse_args(["m.onnx", "--allowed-host", "a.example", "--allowed-host", "b.example"])
    assert settings_of(args).allowed_hosts == ("a.example", "b.example")
    assert settings_of(parser().parse_args(["m.onnx"])).allowed_hosts == ()
