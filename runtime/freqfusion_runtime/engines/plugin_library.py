# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugin library: where it lies, what it is, and loading it once."""

from __future__ import annotations

import ctypes
import os
import shlex
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.engines.errors import BUILD_PLUGIN, PluginLibraryError
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE, INTERFACE, library_folder

LIBRARY_NAME = "libfreqfusion_tensorrt.so"
# plugins/plugin_identity.h
PLUGIN_NAMESPACE, PLUGIN_VERSION = "freqfusion", "1"
OPERATORS = ("AdaptiveFilter", "Carafe", "LocalSimilarity", "OffsetResample", "ResizeArgmax")

_loading = threading.Lock()


@dataclass(frozen=True)
class PluginIdentity:
    """One build of the library.

    Attributes:
        file: Its name, without folders.
        sha256: Of the file.
        version: Under which its plugins are registered.
        headers: Version of the TensorRT headers that it was compiled with; empty in records of older libraries.
    """

    file: str
    sha256: str
    version: str
    headers: str

    @property
    def label(self) -> str:
        """For messages."""
        compiled = f", compiled for TensorRT {self.headers}" if self.headers else ""
        return f"{self.file} (plugin version {self.version}, sha256 {self.sha256[:12]}{compiled})"


def plugin_path() -> Path:
    """Names the one place where the library is looked for: ``$FREQFUSION_LIBRARY_DIR``, else the package's ``lib``."""
    return library_folder() / LIBRARY_NAME


def identify(path: Path) -> PluginIdentity:
    """Opens the library and asks what it is; needs neither TensorRT nor a GPU.

    Raises:
        PluginLibraryError: If it does not exist, cannot be loaded, is another library, or is of another release.
    """
    if not path.is_file():
        raise PluginLibraryError(
            f"the TensorRT plugin library {path} does not exist. {BUILD_PLUGIN}, or name its folder in "
            f"{FOLDER_VARIABLE}; --allow-function-bodies builds without it."
        )
    try:
        library = ctypes.CDLL(os.fspath(path.resolve()))
    except OSError as e:
        raise PluginLibraryError(
            f"{path} cannot be loaded: {e}. `ldd {shlex.quote(str(path))}` shows what is missing. "
            f"{BUILD_PLUGIN} on this machine."
        ) from e
    if not hasattr(library, "getCreators") or not hasattr(library, "initFreqFusionPlugins"):
        raise PluginLibraryError(f"{path} is no FreqFusion plugin library: it has no getCreators. {BUILD_PLUGIN}.")
    found = int(library.freqFusionInterface()) if hasattr(library, "freqFusionInterface") else None
    if found != INTERFACE:
        told = "it does not say which interface it has" if found is None else f"it has interface {found}"
        raise PluginLibraryError(f"{path} is of another release: {told}, expected {INTERFACE}. {BUILD_PLUGIN}.")
    return PluginIdentity(path.name, sha256_of(path), *_versions(library))


def load_plugins(flavour: Flavour, path: Path) -> PluginIdentity:
    """Makes the library's plugins known to a TensorRT; a second call changes nothing.

    Opening the file registers its plugins with a TensorRT that is loaded already, and ``load_library`` then finds them
    there; both are asked for because neither works in every order (docs/tensorrt-plugin.md).

    Raises:
        PluginLibraryError: If that fails, or other plugins have taken the names.
    """
    identity = identify(path)
    with _loading:
        registry = flavour.api.get_plugin_registry()
        if not _missing(registry):
            return identity
        registry.load_library(os.fspath(path.resolve()))
        if missing := _missing(registry):
            raise PluginLibraryError(
                f"{path} was loaded, but {flavour.label} does not know {', '.join(missing)} "
                f"(namespace {PLUGIN_NAMESPACE!r}, version {PLUGIN_VERSION!r}) afterwards; it was compiled for "
                f"TensorRT {identity.headers or 'of unknown version'}. {BUILD_PLUGIN} against this TensorRT's headers."
            )
    return identity


def _missing(registry: Any) -> list[str]:
    known = {
        creator.name
        for creator in registry.all_creators
        if (creator.plugin_namespace, creator.plugin_version) == (PLUGIN_NAMESPACE, PLUGIN_VERSION)
    }
    return [name for name in OPERATORS if name not in known]


def _versions(library: ctypes.CDLL) -> tuple[str, str]:
    number = int(library.freqFusionTensorRTHeaders())
    library.freqFusionPluginVersion.restype = ctypes.c_char_p
    version = library.freqFusionPluginVersion().decode("ascii")
    return version, f"{number // 10000}.{number // 100 % 100}.{number % 100}"
