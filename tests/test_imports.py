# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the three packages, the rooms inside them, and no two files each other."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = {
    "freqfusion": ROOT / "models" / "freqfusion",
    "freqfusion_export": ROOT / "export" / "freqfusion_export",
    "freqfusion_runtime": ROOT / "runtime" / "freqfusion_runtime",
}
# What a package must never import, at its top or inside a function.
FORBIDDEN = {
    "freqfusion": {"freqfusion_export", "freqfusion_runtime", "onnx", "onnxruntime", "mmcv"},
    "freqfusion_runtime": {"freqfusion", "freqfusion_export", "torch", "torchvision"},
}
# From the ground up: a room uses those before it only. What is not named here stands on its own.
FLOORS = {
    "freqfusion_runtime": (
        *("errors", "files", "model_files", "pictures", "sessions", "results", "engines", "predictors", "evaluation"),
        *("agreement", "building", "batch", "serving", "commands"),
    ),
    "freqfusion_runtime.serving": ("operation", "scheduling", "http", "oip", "process"),
    "freqfusion_export": (
        *("errors", "operators", "passes", "networks", "precision", "verification", "weights_beside"),
        *("exporter", "parity", "evaluation", "bench", "commands"),
    ),
}
# result.overlay() is worth an arrow up: who asks a result for arrays does not import what draws.
LATE = {
    ("freqfusion_runtime.results.segmentation", "freqfusion_runtime.results.overlay"),
    ("freqfusion_runtime.results.detections", "freqfusion_runtime.results.detection_overlay"),
}


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for root in PACKAGES.values():
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Every module that ``module`` names in an import anywhere, those for types alone included."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in modules() else str(node.module) for name in whole}
    return frozenset(found)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_one_way(package):
    inside = [name for name in modules() if name.partition(".")[0] == package]
    assert inside
    wrong = [(name, other) for name in inside for other in imports(name)
             if other.partition(".")[0] in FORBIDDEN[package]]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("floor", FLOORS)
def test_rooms_import_downwards(floor):
    order = FLOORS[floor]
    start = f"{floor}."

    def level(name: str) -> int | None:
        room = name.removeprefix(start).partition(".")[0]
        return order.index(room) if name.startswith(start) and room in order else None

    arrows = [(name, other) for name in modules() for other in imports(name)
              if level(name) is not None and level(other) is not None]  # fmt: skip
    assert arrows
    assert [(name, other) for name, other in arrows if level(other) > level(name)] == []


@pytest.mark.parametrize("package", ["freqfusion_runtime", "freqfusion_export"])
def test_every_room_has_a_floor(package):
    rooms = {
        path.stem for path in PACKAGES[package].iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} == set(FLOORS[package])


def test_no_two_files_import_each_other():
    reached: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        seen, waiting = set(), [name]
        while waiting:
            for other in imports(waiting.pop()):
                if other in modules() and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    for name in modules():
        reached[name] = reach(name)
    circles = {(name, other) for name in modules() for other in imports(name)
               if other in modules() and other != name and name in reached[other]}  # fmt: skip
    assert circles == LATE | {(below, above) for above, below in LATE}


@pytest.mark.parametrize(("above", "below"), sorted(LATE))
def test_the_arrow_up_is_taken_late(above, below):
    tree = ast.parse(modules()[above].read_text(encoding="utf-8"))
    at_top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert below not in at_top
