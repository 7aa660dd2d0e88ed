# SPDX-License-Identifier: Apache-2.0
"""Models on ONNX Runtime: CPU, or CUDA where it is present and asked for."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from freqfusion_runtime.errors import (
    MORE_MEMORY,
    KernelLibraryError,
    ModelFileError,
    NetworkOutputError,
    ProviderError,
    ran_out_of_memory,
)
from freqfusion_runtime.files import kind_of
from freqfusion_runtime.model_files.external_data import are_vouched_for, check_external_files
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest
from freqfusion_runtime.model_files.onnx_growth import check_growth
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN, NodeEntry, list_nodes
from freqfusion_runtime.sessions.fast_convolutions import FOLDER_ENTRY, Rewritten, with_fast_convolutions
from freqfusion_runtime.sessions.graph_check import check_graph, tensors_of
from freqfusion_runtime.sessions.input_checks import check_inputs, check_sides
from freqfusion_runtime.sessions.kernel_library import (
    BODIES_INSTEAD,
    FOLDER_VARIABLE,
    kernels_made,
    library_fault,
    library_path,
)
from freqfusion_runtime.sessions.protocol import Kernels, OperatorPath, Provider

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NOTHING = 4  # ONNX Runtime's log goes to the terminal with names from the file as they are; its errors say the same
_ARENAS = {"cpu": "cpu:0", "cuda": "cpu:0;gpu:0"}
# Of a run's inputs. To reserve memory anew costs a run 4 %, and these are larger than pictures usually are.
_LARGE_BYTES = 16 << 20
_ORT_FORMAT = b"ORTM"  # from the fifth byte on
LEFT_OUT_ON_CPU = ("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
"""The option that leaves out an optimisation which makes models slower: a sum and the normalisation behind it, each on
its own, take two thirds of the time of the one CPU kernel for both (1.32, AVX-512, 8400 x 256)."""


class OnnxRuntimeSession:
    """A model on ONNX Runtime; arguments and errors are those of ``predictors.opening.open_session``."""

    def __init__(
        self, path: str | os.PathLike[str], *, provider: Provider = "cpu", threads: int = 0, kernels: Kernels = "auto"
    ) -> None:
        self._path = Path(path)
        _check_file(self._path)
        check_growth(self._path)
        external = check_external_files(self._path)
        wanted = _provider_name(provider)
        options = ort.SessionOptions()
        options.log_severity_level = _NOTHING
        options.intra_op_num_threads = threads
        if provider == "cpu":
            options.add_session_config_entry(*LEFT_OUT_ON_CPU)
        nodes = _nodes(self._path)
        self.kernel_library = _register_kernels(options, kernels, self._path, nodes)
        self._session, made = self._open(options, wanted)
        self._session.disable_fallback()
        self._was_large, self._giving_back = False, ort.RunOptions()
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS[provider])
        try:
            self._inputs = tensors_of(self._session.get_inputs())
            self._manifest = self._read_manifest()
        except UnicodeDecodeError as e:
            raise ModelFileError(
                f"{self._path} has a name or a text that is not UTF-8 ({e.reason} at byte {e.start} of it). "
                "Write the model again with `freqfusion export`."
            ) from e
        if external and not are_vouched_for(external, self._metadata()):
            _warn_of(self._path, external)
        if self._manifest.precision == "fp8":
            raise ModelFileError(
                f"{self._path} is fp8, which ONNX Runtime computes wrongly: with its optimisations on, 1.32's logits "
                "were off by 130 % of their deviation, 12 % with them off. "
                "It is for TensorRT; export it as fp32, fp16 or int8 to run it here."
            )
        self._operator_paths = _operator_paths(nodes, made)
        if kernels == "require":
            _require_kernels(self._path, self._operator_paths)
        self._check_provider(wanted)

    @property
    def path(self) -> Path:
        """The model file."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What the file says about itself."""
        return self._manifest

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        return str(self._session.get_providers()[0])

    @property
    def operator_paths(self) -> tuple[OperatorPath, ...]:
        """How each FreqFusion node runs, by the kernels that were made as ONNX Runtime opened the file."""
        return self._operator_paths

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes all outputs.

        Args:
            inputs: Every input of the model by name.

        Raises:
            InputError: If a name, dtype or shape is not what the model takes.
            NetworkOutputError: If ONNX Runtime gives up during the computation.
        """
        self._check_inputs(inputs)
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(inputs), self._run_options(inputs))
        except Exception as e:  # ONNX Runtime's errors have no base class of their own
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            if ran_out_of_memory(e):
                raise NetworkOutputError(
                    f"{self._path} ran out of memory on {shapes}: {_first_line(e)} {MORE_MEMORY}"
                ) from e
            raise NetworkOutputError(
                f"{self._path}: ONNX Runtime failed on {shapes}: {_first_line(e)} "
                "Try another size or --kernels never, and report it if that helps."
            ) from e
        return dict(zip(names, values, strict=True))

    def _run_options(self, inputs: Mapping[str, NDArray[Any]]) -> ort.RunOptions | None:
        """Makes ONNX Runtime give back what a large run took, which else it keeps; the next one gives back the rest."""
        was_large, self._was_large = self._was_large, sum(value.nbytes for value in inputs.values()) > _LARGE_BYTES
        return self._giving_back if was_large or self._was_large else None

    def _open(self, options: ort.SessionOptions, provider: str) -> tuple[ort.InferenceSession, Counter[str]]:
        """Opens the file; gives the session and how many kernels of ours it has, by operator."""
        providers = [provider] if provider == _PROVIDERS["cpu"] else [provider, _PROVIDERS["cpu"]]
        model, reason = self._with_fast_convolutions(provider), None
        if model is not None:
            options.add_session_config_entry(FOLDER_ENTRY, model.folder)
            try:
                return self._counted(model.content, options, providers)
            except Exception as e:  # as above; such as a library that is older than this operator
                reason = _first_line(e)
        try:
            opened = self._counted(str(self._path), options, providers)
        except Exception as e:  # as above
            if ran_out_of_memory(e):
                raise ModelFileError(
                    f"{self._path} ran out of memory as it was opened: {_first_line(e)} {MORE_MEMORY}"
                ) from e
            if "NOT_IMPLEMENTED" in str(e):
                raise ModelFileError(
                    f"{self._path} has an operator in a type for which ONNX Runtime {ort.__version__} has no kernel "
                    f"on {provider}: {_first_line(e)} bf16 and fp8 files are for TensorRT; "
                    "export it as fp32, fp16 or int8 to run it here."
                ) from e
            raise ModelFileError(
                f"{self._path} is no ONNX model that this ONNX Runtime ({ort.__version__}) can load: {_first_line(e)} "
                "Write it again with `freqfusion export`."
            ) from e
        if reason is not None:
            warnings.warn(
                f"{self._path} runs with ONNX Runtime's 3 x 3 convolutions, which is slower: {reason} "
                "`make plugins` builds the kernels again.",
                stacklevel=4,
            )
        return opened

    def _counted(
        self, model: str | bytes, options: ort.SessionOptions, providers: list[str]
    ) -> tuple[ort.InferenceSession, Counter[str]]:
        if self.kernel_library is None:
            return ort.InferenceSession(model, options, providers=providers), Counter()
        before = kernels_made(self.kernel_library)
        session = ort.InferenceSession(model, options, providers=providers)
        return session, kernels_made(self.kernel_library) - before

    def _with_fast_convolutions(self, provider: str) -> Rewritten | None:
        if self.kernel_library is None or provider != _PROVIDERS["cpu"]:
            return None
        try:
            return with_fast_convolutions(self._path)
        except ValueError:  # no model, of which ONNX Runtime says more
            return None

    def _check_provider(self, wanted: str) -> None:
        if self.provider != wanted:
            raise ProviderError(
                f"{wanted} could not be started, ONNX Runtime offers {self.provider} instead. "
                "Check the CUDA and cuDNN libraries against the installed onnxruntime-gpu, or use --provider cpu."
            )

    def _metadata(self) -> dict[str, str]:
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def _read_manifest(self) -> Manifest:
        metadata = self._metadata()
        if METADATA_KEY not in metadata:
            raise ModelFileError(
                f"{self._path} is an ONNX model without a FreqFusion manifest "
                f"(metadata key {METADATA_KEY!r}). Use a file written by `freqfusion export`."
            )
        manifest = Manifest.from_json(metadata[METADATA_KEY], source=str(self._path))
        check_graph(self._path, manifest, self._inputs, tensors_of(self._session.get_outputs()))
        return manifest

    def _check_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        check_inputs(self._path, self._inputs, inputs)
        check_sides(self._manifest, inputs)


def _check_file(path: Path) -> None:
    if not path.is_file():
        reason = f"is {kind_of(path.stat().st_mode)}" if path.exists() else "does not exist"
        raise ModelFileError(f"{path} {reason}. Name an ONNX file written by `freqfusion export`.")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty (0 bytes). Write it again with `freqfusion export`.")
    with path.open("rb") as file:
        if file.read(8)[4:] == _ORT_FORMAT:
            raise ModelFileError(
                f"{path} is in ONNX Runtime's own format, which does not say what its nodes were. "
                "Name the .onnx file that it was converted from."
            )


def _nodes(path: Path) -> list[NodeEntry]:
    try:
        return list_nodes(path)
    except ValueError:  # no model, of which ONNX Runtime says more
        return []


def _warn_of(path: Path, external: tuple[Path, ...]) -> None:
    warnings.warn(
        f"{path} keeps weights in {', '.join(file.name for file in external)}, for which the manifest inside it does "
        "not vouch. "
        f"Save it as one file: onnx.save(onnx.load({path.name!r}), {path.name!r}).",
        stacklevel=4,
    )


def _provider_name(provider: Provider) -> str:
    if provider not in _PROVIDERS:
        raise ProviderError(f"there is no provider {provider!r}. Choose one of: {', '.join(_PROVIDERS)}.")
    name, available = _PROVIDERS[provider], ort.get_available_providers()
    if name not in available:
        raise ProviderError(
            f"the installed ONNX Runtime {ort.__version__} has no {name}, only {', '.join(available)}. "
            "For CUDA, replace the package onnxruntime by: pip install 'freqfusion-deploy[gpu]'."
        )
    return name


def _register_kernels(options: ort.SessionOptions, kernels: Kernels, path: Path, nodes: list[NodeEntry]) -> Path | None:
    """Registers the custom-operator library and returns its path, or None where function bodies are to be used."""
    if kernels == "never":
        return None
    library = library_path()
    if not library.is_file():
        if kernels == "require":
            raise KernelLibraryError(
                f"{library} does not exist, and kernels are required. "
                f"Build it with `make plugins`, or name its folder in {FOLDER_VARIABLE}."
            )
        return None
    fault = library_fault(library, nodes)
    if fault is None:
        try:
            options.register_custom_ops_library(str(library))
            return library
        except Exception as e:  # as above
            fault = f"{library} cannot be loaded: {_first_line(e)}"
    remedy = f"Build it again for ONNX Runtime {ort.__version__} with `make plugins`"
    if kernels == "require":
        raise KernelLibraryError(f"{path}: {fault} {remedy}.")
    warnings.warn(f"{path}: {fault} {BODIES_INSTEAD} {remedy}.", stacklevel=4)
    return None


def _operator_paths(nodes: list[NodeEntry], made: Counter[str]) -> tuple[OperatorPath, ...]:
    """Says how each FreqFusion node runs, given how many kernels were made for each operator.

    An operator has a kernel for each type it may have here, so that its nodes run alike; where ONNX Runtime merged some
    that compute the same, the first count as those that are left.
    """
    left, paths = made.copy(), list[OperatorPath]()
    for node in nodes:
        if node.domain == DOMAIN:
            left[node.operator] -= 1
            is_kernel = left[node.operator] >= 0
            paths.append(
                OperatorPath(node.name or node.output, node.operator, "kernel" if is_kernel else "function body")
            )
    return tuple(paths)


def _require_kernels(path: Path, paths: tuple[OperatorPath, ...]) -> None:
    without = [f"{entry.node} ({entry.operator})" for entry in paths if entry.path != "kernel"]
    if without:
        raise KernelLibraryError(
            f"{path}: {len(without)} of {len(paths)} FreqFusion nodes have no kernel in {library_path()}: "
            f"{', '.join(without[:5])}{', ...' if len(without) > 5 else ''}. "
            "Build the library again with `make plugins`, or run with --kernels auto."
        )


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", text)
    return text if text.endswith((".", "!", "?")) else text + "."
