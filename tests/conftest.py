# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole test suite: the reference model, and its exported files, each made once."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_files import kept, remove_unused
from places import EXAMPLES
from reference_data import filled_model

pytest_plugins = ["progress"]


# What starts servers or other processes and waits for them: two at once on two cores would meet each other's time-outs.
SERIAL = ("tests/runtime/serving/", "tests/runtime/batch/", "tests/runtime/commands/test_build_command.py")
NOT_SERIAL = ("tests/runtime/serving/triton/",)
# ResNet-101 is twice the size of what ResNet-50 shows; of exported detectors, Faster R-CNN shows what all have.
LARGE = ("r101", *(f"tests/export/{place}" for place in ("networks/test_detector_goldens", "precision/test_detector_")))
LARGER_EXPORTS = re.compile(r"tests/export/.*test_(export|evaluate)_detectors\.py::.*\[.*(mask|panoptic|instance)")
# Holds gigabytes: whole detectors, and what TensorRT-RTX builds of any network. One process is given all of them.
HEAVY = re.compile(r"tests/export/.*(detector|tensorrt_rtx)")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if item.nodeid.startswith(SERIAL) and not item.nodeid.startswith(NOT_SERIAL):
            item.add_marker(pytest.mark.serial)
        if any(name in item.nodeid for name in LARGE) or LARGER_EXPORTS.match(item.nodeid):
            item.add_marker(pytest.mark.long)
    yield  # to what leaves out tests by their marks
    items[:] = longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def longest_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Orders tests for processes that begin with equal parts of the list and then help each other out.

    Long tests begin the parts, so that none is left for the end, when the other processes have nothing to do; the heavy
    ones begin the first part, so that no two processes hold networks of that size at one time.
    """
    heavy = [item for item in items if HEAVY.match(item.nodeid)]
    long = [item for item in items if not HEAVY.match(item.nodeid) and item.get_closest_marker("long")]
    short = [item for item in items if not HEAVY.match(item.nodeid) and not item.get_closest_marker("long")]
    first = len(items) // processes - len(heavy)
    if processes == 1 or first < 0:
        return [*heavy, *long, *short]
    return [*heavy, *short[:first], *long, *short[first:]]


@pytest.fixture(scope="module", autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """What a module's networks and sessions held goes back to the system, not to the next module's process."""
    yield
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc alone
        trim(0)


def pytest_sessionstart(session: pytest.Session) -> None:
    remove_unused()


@pytest.fixture(scope="session")
def segnext_t() -> Any:
    """SegNeXt-T with the weights and bases of the goldens (seed 0)."""
    return filled_model("segnext_t", seed=0)


@pytest.fixture(scope="session")
def traced_segnext(request: pytest.FixtureRequest) -> Any:
    """Its traced network, for ``export(segnext_t, ..., traced=traced_segnext)``: tracing takes long."""
    return traced("segnext_t, seed 0", lambda: request.getfixturevalue("segnext_t"))


def traced(name: str, network: Callable[[], Any]) -> Any:
    """What ``trace_network`` makes of a segmenter, kept on disk; the network is built only where it is not."""
    import onnx_ir as ir
    from freqfusion_export.networks.trace import trace_network

    place = kept(f"trace of {name}", lambda folder: ir.save(trace_network(network(), 32), folder / "traced.onnx"))
    return ir.load(place / "traced.onnx")


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Its exported files by interface; to be read only."""
    from freqfusion_export import export

    def make(folder: Path) -> None:
        for interface in ("tensor", "image"):
            network, graph = (request.getfixturevalue(name) for name in ("segnext_t", "traced_segnext"))
            export(network, folder / f"{interface}.onnx", interface=interface, traced=graph)

    place = kept("segnext_t, seed 0, both interfaces", make)
    return {interface: place / f"{interface}.onnx" for interface in ("tensor", "image")}


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """A folder with an mm-style file of its weights, ``segnext.pth``, and what the export command makes of it."""

    def make(folder: Path) -> None:
        import torch
        from freqfusion_runtime.commands.cli import main

        meta = {"CLASSES": tuple(f"thing {i}" for i in range(150)), "weights": "random"}
        state_dict = request.getfixturevalue("segnext_t").state_dict()
        torch.save({"meta": meta, "state_dict": state_dict}, folder / "segnext.pth")
        code = main(["export", str(folder / "segnext.pth"), "--bases-seed", "3", "--json", str(folder / "export.json")])
        assert code == 0

    return kept("segnext_t, seed 0, by the export command", make)


@pytest.fixture(scope="session")
def typed_file(request: pytest.FixtureRequest) -> Any:
    """``typed_file(precision, interface)``: the path of such a file of the same model, written once; to be read only.

    int8 files are calibrated on one small photograph, and may lose any number of labels: random weights lose many.
    """
    from freqfusion_export import export
    from freqfusion_export.precision.calibration import read_calibration
    from freqfusion_export.precision.eight_bits import Options
    from freqfusion_runtime.model_files.manifest import Preprocessing
    from PIL import Image

    def path_of(precision: str, interface: str) -> Path:
        def make(folder: Path) -> None:
            more: dict[str, Any] = {}
            if precision == "int8":
                with Image.open(EXAMPLES / "coffee.jpg") as picture:
                    picture.resize((96, 64)).save(folder / "small.png")
                more = {
                    "calibration": read_calibration(folder),
                    "preprocessing": Preprocessing(long_side=192, short_side=64),
                    "eight_bits": Options(max_drop=1.0),
                }
            network, graph = (request.getfixturevalue(name) for name in ("segnext_t", "traced_segnext"))
            path = folder / f"{interface}.{precision}.onnx"
            export(network, path, interface=interface, traced=graph, precision=precision, **more)

        return kept(f"segnext_t, seed 0, {precision}, {interface}", make) / f"{interface}.{precision}.onnx"

    return path_of


@pytest.fixture(scope="session")
def detector_files() -> Any:
    """Detectors with the goldens' weights, and their exported files; to be read only."""
    from detector_files import DetectorFiles

    return DetectorFiles()


@pytest.fixture(scope="session")
def demo() -> Any:
    """The trained demo checkpoint: network, name and checkpoint."""
    import freqfusion

    return freqfusion.load_model(freqfusion.demo_checkpoint())


@pytest.fixture(scope="session")
def traced_demo(request: pytest.FixtureRequest) -> Any:
    """Its traced network, as ``traced_segnext``."""
    return traced("the demo checkpoint", lambda: request.getfixturevalue("demo")[0])


@pytest.fixture(scope="session")
def emoji_scenes() -> Any:
    """``emoji_scenes(split, count)``: the first pictures of the demo's data."""
    from freqfusion_runtime.evaluation.emoji_scenes import EmojiFontError, EmojiScenes

    def pictures(split: str, count: int) -> list[Any]:
        try:
            scenes = EmojiScenes(split)
        except EmojiFontError:
            pytest.skip("needs the Debian package fonts-noto-color-emoji")
        return [scenes[number].picture for number in range(count)]

    return pictures
