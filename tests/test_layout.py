# SPDX-License-Identifier: Apache-2.0
"""The layout that CONTRIBUTING shows is the one on disk, and every package names its rooms as they name themselves."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("models/freqfusion", "export/freqfusion_export", "runtime/freqfusion_runtime")
# Shown without their insides: no packages of ours, or mirrors of them.
WHOLE = {"tests", "scripts/gpu_check", "benchmarks", "docs", "examples", "deploy"}
BUILT = {"__pycache__", "lib", "build", "dist", "demo-output", "site"}

# A floor one can take in at a glance.
MOST_ENTRIES = {
    "runtime/freqfusion_runtime": 14,
    "runtime/freqfusion_runtime/serving": 8,
    "export/freqfusion_export": 12,
}


def listed() -> dict[str, str]:
    """Path -> line, as CONTRIBUTING lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("## Layout")[1].split("```")[1]
    found, above = {}, []
    for line in block.strip("\n").splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+)/ +(\S.*)", line).groups()
        above = [*above[: len(indent) // 2], name]
        found["/".join(above)] = words
    return found


def folders() -> set[str]:
    """Those on disk that hold something which is not built."""
    found = set()
    for place, names, files in os.walk(ROOT):
        here = Path(place).relative_to(ROOT).as_posix()
        names[:] = [name for name in names if name not in BUILT and not name.startswith(".") and "egg" not in name]
        if here in WHOLE:
            names.clear()
        if here != "." and (files or names):
            found.add(here)
    return found


def docstring(package: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))) or ""


def test_contributing_lists_every_folder_and_no_other():
    assert set(listed()) == folders()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_and_contributing_call_its_rooms_what_they_call_themselves(package):
    lines = {path: line for path, line in listed().items() if path.startswith(f"{package}/")}
    rooms = {path: line for path, line in lines.items() if (ROOT / path / "__init__.py").is_file()}
    assert rooms
    for path, line in rooms.items():
        assert line == docstring(path).partition("\n")[0], path
        name = path.removeprefix(f"{package}/")
        assert re.search(rf"^ +{name}/ +{re.escape(line)}$", docstring(package), re.MULTILINE), name


@pytest.mark.parametrize(("floor", "most"), MOST_ENTRIES.items())
def test_a_floor_has_few_rooms(floor, most):
    built = BUILT | {"__init__.py", "py.typed"}
    assert len([entry for entry in (ROOT / floor).iterdir() if entry.name not in built]) <= most


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_lie_in_rooms_of_the_same_names(package):
    storey = package.partition("/")[0]
    inside = [path for path in (ROOT / "tests" / storey).rglob("*") if path.is_dir() and path.name not in BUILT]
    missing = [
        path.relative_to(ROOT).as_posix()
        for path in inside
        if not (ROOT / package / path.relative_to(ROOT / "tests" / storey)).is_dir()
    ]
    assert missing == []
