# SPDX-License-Identifier: Apache-2.0
"""Small models and a server of them for the tests of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess
from small_models import write_image_model, write_tensor_model


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "colors": write_image_model(folder / "colors.onnx"),
        "means": write_tensor_model(folder / "means.onnx"),
    }


@pytest.fixture(scope="session")
def server(models, tmp_path_factory) -> Iterator[ServerProcess]:
    """Both small models; limits small enough to be met by tests."""
    started = ServerProcess(
        [models["colors"], models["means"], f"colors:2={models['colors']}"],
        *("--max-body-mb", "2", "--max-image-pixels", "200000"),
        folder=tmp_path_factory.mktemp("server"),
    )
    yield started
    assert started.terminate() == 0


@pytest.fixture(scope="session")
def expected(models):
    """What the runtime itself says of a picture."""
    import freqfusion_runtime

    segmenters = {name: freqfusion_runtime.load(path) for name, path in models.items()}
    return lambda name, picture: segmenters[name].predict(picture).labels
