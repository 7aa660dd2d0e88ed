# SPDX-License-Identifier: Apache-2.0
"""The runtime's way to the TensorRT plugin library, with the real library in a real registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_libraries import cuda_libraries
from freqfusion_runtime.engines.errors import PluginLibraryError
from freqfusion_runtime.engines.plugin_library import (
    LIBRARY_NAME,
    OPERATORS,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    identify,
    plugin_path,
)
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE, INTERFACE
from other_libraries import write_tensorrt_library

IDENTITY = Path(__file__).parents[2] / "plugins" / "plugin_identity.h"

# In a process of its own, since a registry is global to its process.
LOAD = """
import sys
import {module} as trt
from pathlib import Path
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.plugin_library import identify, load_plugins
path = Path(sys.argv[1])
flavour = Flavour("tensorrt", trt)
before = sum(creator.plugin_namespace == "freqfusion" for creator in trt.get_plugin_registry().all_creators)
assert load_plugins(flavour, path) == load_plugins(flavour, path) == identify(path)
names = [c.name for c in trt.get_plugin_registry().all_creators if c.plugin_namespace == "freqfusion"]
print(before, *sorted(names))
"""


@pytest.fixture(scope="module")
def library() -> Path:
    return next(cuda_libraries().rglob(LIBRARY_NAME)).resolve()


def test_names_are_those_of_the_plugins() -> None:
    text = IDENTITY.read_text()
    assert f'kPluginNamespace = "{PLUGIN_NAMESPACE}"' in text
    assert f'kPluginVersion = "{PLUGIN_VERSION}"' in text


@pytest.mark.long
def test_the_library_says_what_it_is(library: Path) -> None:
    identity = identify(library)
    assert (identity.file, identity.version, identity.sha256) == (LIBRARY_NAME, PLUGIN_VERSION, sha256_of(library))
    major, minor, patch = map(int, identity.headers.split("."))
    assert major in (10, 11)
    assert (minor, patch) >= (0, 0)
    assert f"compiled for TensorRT {identity.headers}" in identity.label


@pytest.mark.long
@pytest.mark.parametrize("opened_before", [False, True])
def test_its_plugins_are_registered_once_however_often_it_is_loaded(library: Path, opened_before: bool) -> None:
    pytest.importorskip("tensorrt_lean", reason="pip install tensorrt-lean-cu13")
    program = LOAD.format(module="tensorrt_lean")
    if opened_before:
        program = f"import ctypes; ctypes.CDLL({str(library)!r})\n" + program
    done = subprocess.run(
        [sys.executable, "-c", program, str(library)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", *sorted(OPERATORS)]


def test_a_missing_library_is_told_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(PluginLibraryError, match=r"libfreqfusion_tensorrt\.so does not exist. Build it with"):
        identify(plugin_path())


def test_what_cannot_be_loaded_is_told_with_the_loaders_reason(tmp_path: Path) -> None:
    path = tmp_path / LIBRARY_NAME
    path.write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(PluginLibraryError, match=r"cannot be loaded: .*`ldd .*` shows what is missing"):
        identify(path)


def test_another_library_is_refused(tmp_path: Path) -> None:
    places = ("/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6")
    other = next((place for place in map(Path, places) if place.exists()), None)
    if other is None:
        pytest.skip("no library to take for another")
    path = tmp_path / LIBRARY_NAME
    shutil.copy(other, path)
    with pytest.raises(PluginLibraryError, match="is no FreqFusion plugin library: it has no getCreators"):
        identify(path)


@pytest.mark.parametrize(
    ("interface", "found"), [(None, "it does not say which interface it has"), (0, "it has interface 0")]
)
def test_a_library_of_another_release_is_refused(tmp_path: Path, interface: int | None, found: str) -> None:
    path = write_tensorrt_library(tmp_path / LIBRARY_NAME, interface)
    with pytest.raises(
        PluginLibraryError, match=rf"is of another release: {found}, expected 1\. Build it with `python"
    ):
        identify(path)
    assert identify(write_tensorrt_library(tmp_path / "own.so", INTERFACE)).headers == "10.14.0"
