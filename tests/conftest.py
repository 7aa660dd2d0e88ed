# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole test suite: the reference model, and its exported files, each made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from places import EXAMPLES
from reference_data import filled_model


@pytest.fixture(scope="session")
def segnext_t() -> Any:
    """SegNeXt-T with the weights and bases of the goldens (seed 0)."""
    return filled_model("segnext_t", seed=0)


@pytest.fixture(scope="session")
def traced_segnext(segnext_t: Any) -> Any:
    """Its traced network, for ``export(segnext_t, ..., traced=traced_segnext)``: tracing takes long."""
    from freqfusion_export.networks.trace import trace_network

    return trace_network(segnext_t, 32)


@pytest.fixture(scope="session")
def exported(segnext_t: Any, traced_segnext: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its exported files by interface."""
    from freqfusion_export import export

    folder = tmp_path_factory.mktemp("exported")
    paths = {interface: folder / f"{interface}.onnx" for interface in ("tensor", "image")}
    for interface, path in paths.items():
        export(segnext_t, path, interface=interface, traced=traced_segnext)
    return paths


@pytest.fixture(scope="session")
def checkpoint(segnext_t: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an mm-style file of its weights, ``segnext.pth``, and what the export command makes of it."""
    import torch
    from freqfusion_runtime.commands.cli import main

    folder = tmp_path_factory.mktemp("checkpoint")
    meta = {"CLASSES": tuple(f"thing {i}" for i in range(150)), "weights": "random"}
    torch.save({"meta": meta, "state_dict": segnext_t.state_dict()}, folder / "segnext.pth")
    code = main(["export", str(folder / "segnext.pth"), "--bases-seed", "3", "--json", str(folder / "export.json")])
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def typed_file(segnext_t: Any, traced_segnext: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``typed_file(precision, interface)``: the path of such a file of the same model, written once.

    int8 files are calibrated on one small photograph, and may lose any number of labels: random weights lose many.
    """
    from freqfusion_export import export
    from freqfusion_export.precision.calibration import read_calibration
    from freqfusion_export.precision.eight_bits import Options
    from freqfusion_runtime.model_files.manifest import Preprocessing
    from PIL import Image

    folder = tmp_path_factory.mktemp("typed")

    def path_of(precision: str, interface: str) -> Path:
        path = folder / f"{interface}.{precision}.onnx"
        more: dict[str, Any] = {}
        if not path.is_file():
            if precision == "int8":
                photo = folder / "small.png"
                with Image.open(EXAMPLES / "coffee.jpg") as picture:
                    picture.resize((96, 64)).save(photo)
                more = {
                    "calibration": read_calibration(folder),
                    "preprocessing": Preprocessing(long_side=192, short_side=64),
                    "eight_bits": Options(max_drop=1.0),
                }
            export(segnext_t, path, interface=interface, traced=traced_segnext, precision=precision, **more)
        return path

    return path_of


@pytest.fixture(scope="session")
def detector_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Detectors with the goldens' weights, and their exported files."""
    from detector_files import DetectorFiles

    return DetectorFiles(tmp_path_factory.mktemp("detectors"))


@pytest.fixture(scope="session")
def demo() -> Any:
    """The trained demo checkpoint: network, name and checkpoint."""
    import freqfusion

    return freqfusion.load_model(freqfusion.demo_checkpoint())


@pytest.fixture(scope="session")
def traced_demo(demo: Any) -> Any:
    """Its traced network, as ``traced_segnext``."""
    from freqfusion_export.networks.trace import trace_network

    return trace_network(demo[0], 32)


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
