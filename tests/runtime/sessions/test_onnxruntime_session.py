# SPDX-License-Identifier: Apache-2.0
import errno
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from freqfusion_runtime.errors import (
    InputError,
    KernelLibraryError,
    ManifestError,
    ModelFileError,
    NetworkOutputError,
    ProviderError,
)
from freqfusion_runtime.model_files import onnx_nodes
from freqfusion_runtime.model_files.manifest import FORMAT_VERSION, TensorSpec
from freqfusion_runtime.model_files.onnx_nodes import NodeEntry, list_nodes
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions import onnxruntime_session
from freqfusion_runtime.sessions.fast_convolutions import Rewritten
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE, LIBRARY_NAME, library_path
from freqfusion_runtime.sessions.onnxruntime_session import LEFT_OUT_ON_CPU, _operator_paths
from freqfusion_runtime.sessions.protocol import OperatorPath
from onnx import TensorProto, helper, numpy_helper
from small_models import BIAS, WEIGHTS, image_manifest, tensor_manifest, write_image_model, write_tensor_model

BUILT_LIBRARY = library_path()


@pytest.fixture(autouse=True)
def no_library(monkeypatch, tmp_path):
    """Every test starts without the custom-operator library, whether or not it has been built."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def test_runs_and_tells_what_it_is(tmp_path):
    session = open_session(write_tensor_model(tmp_path / "net.onnx"), threads=1)
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 64), np.float32)
    (logits,) = session.run({"image": image}).values()
    means = image.astype(np.float64).reshape(2, 3, 4, 8, 8, 8).mean(axis=(3, 5))
    expected = np.einsum("kc,nchw->nkhw", WEIGHTS.astype(np.float64), means) + BIAS[:, None, None]
    # 64 + 3 sums of values of at most 4 in float32.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert session.manifest == tensor_manifest()
    assert session.provider == "CPUExecutionProvider"
    assert session.path == tmp_path / "net.onnx"
    assert session.operator_paths == ()


def test_batch_equals_its_images_one_by_one(tmp_path):
    session = open_session(write_tensor_model(tmp_path / "net.onnx"), threads=1)
    image = np.random.default_rng(1).standard_normal((3, 3, 64, 32), np.float32)
    together = session.run({"image": image})["logits"]
    for index in range(3):
        alone = session.run({"image": image[index : index + 1]})["logits"]
        np.testing.assert_array_equal(alone[0], together[index])


def test_says_that_function_bodies_run_without_a_library(tmp_path):
    session = open_session(write_tensor_model(tmp_path / "net.onnx", operator="Echo"))
    assert session.operator_paths == (OperatorPath("echo", "Echo", "function body"),)


@pytest.mark.skipif(not BUILT_LIBRARY.is_file(), reason=f"{BUILT_LIBRARY} has not been built")
def test_says_which_nodes_run_as_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(BUILT_LIBRARY.parent))
    image = np.ones((1, 3, 32, 32), np.float32)
    known = write_tensor_model(tmp_path / "known.onnx", operator="LocalSimilarity")
    session = open_session(known, kernels="require")
    assert session.operator_paths == (OperatorPath("echo", "LocalSimilarity", "kernel"),)
    # The kernel gives eight neighbours, the function body of this model its four input channels: the report is true.
    assert session.run({"image": image})["logits"].shape[1] == 8
    session = open_session(known, kernels="never")
    assert session.operator_paths == (OperatorPath("echo", "LocalSimilarity", "function body"),)
    assert session.run({"image": image})["logits"].shape[1] == 4
    unknown = write_tensor_model(tmp_path / "unknown.onnx", operator="Echo")
    assert open_session(unknown).operator_paths == (OperatorPath("echo", "Echo", "function body"),)
    with pytest.raises(KernelLibraryError, match=r"1 of 1 FreqFusion nodes have no kernel .*: echo \(Echo\)\. Build"):
        open_session(unknown, kernels="require")


@pytest.mark.skipif(not BUILT_LIBRARY.is_file(), reason=f"{BUILT_LIBRARY} has not been built")
def test_opening_and_running_write_no_file(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    script = (
        "import resource, sys, numpy; from freqfusion_runtime.predictors.opening import open_session\n"
        "if sys.argv[2:]: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can grow, as on a full disk\n"
        "session = open_session(sys.argv[1], kernels='require')\n"
        "print(session.run({'image': numpy.ones((1, 3, 32, 32), numpy.float32)})['logits'].shape)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
        FOLDER_VARIABLE: str(BUILT_LIBRARY.parent),
    }
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    for place in ("home", "temporary"):
        (tmp_path / place).mkdir()
    for limit in ([], ["full"]):
        command = [sys.executable, "-W", "error", "-c", script, path, *limit]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("(1, 8, 4, 4)\n", "")
    assert {found.name for found in tmp_path.rglob("*")} == {"home", "temporary", "lib", "net.onnx"}


@pytest.mark.skipif(not BUILT_LIBRARY.is_file(), reason=f"{BUILT_LIBRARY} has not been built")
def test_convolutions_that_cannot_be_ours_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(BUILT_LIBRARY.parent))
    unknown = Rewritten(b"what no library knows", str(tmp_path))
    monkeypatch.setattr(onnxruntime_session, "with_fast_convolutions", lambda path: unknown)
    path = write_tensor_model(tmp_path / "net.onnx")
    with pytest.warns(UserWarning, match=r"net.onnx runs with ONNX Runtime's 3 x 3 convolutions.*`make plugins`"):
        session = open_session(path)
    assert session.run({"image": np.ones((1, 3, 32, 32), np.float32)})["logits"].shape == (1, 4, 4, 4)


def test_a_sum_and_the_normalisation_behind_it_stay_apart_on_the_cpu(tmp_path, monkeypatch):
    opened, real = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, given, **named: opened.append(given) or real(model, given, **named),
    )
    open_session(write_tensor_model(tmp_path / "net.onnx"))
    assert opened[0].get_session_config_entry(LEFT_OUT_ON_CPU[0]) == LEFT_OUT_ON_CPU[1]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in "xyz"]
    ones = numpy_helper.from_array(np.ones(8, np.float32), "ones")
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "ones", "ones"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], [ones])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    found = []
    for entries in ((), (LEFT_OUT_ON_CPU,)):
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 4, str(tmp_path / "optimised.onnx")
        for entry in entries:
            options.add_session_config_entry(*entry)
        real(model, options, providers=["CPUExecutionProvider"])
        found.append([node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node])
    assert found == [["SkipLayerNormalization"], ["Add", "LayerNormalization"]]


def test_as_many_nodes_run_as_kernels_as_were_made():
    nodes = [
        NodeEntry("a", "Carafe", "freqfusion", "x"),
        NodeEntry("", "Carafe", "freqfusion", "y"),
        NodeEntry("s", "LocalSimilarity", "freqfusion", "w"),
        NodeEntry("c", "Conv", "", "v"),
    ]
    paths = _operator_paths(nodes, Counter({"Carafe": 1, "Convolve3x3": 1}))
    assert [(entry.node, entry.path) for entry in paths] == [
        ("a", "kernel"),
        ("y", "function body"),
        ("s", "function body"),
    ]


def test_names_that_are_no_text_are_refused(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx")
    whole = path.read_bytes()
    for name in (b"means", b"freqfusion_manifest", b"height"):  # of a value, of the metadata, and of a side
        path.write_bytes(whole.replace(name, b"\xff" + name[1:]))
        with pytest.raises(
            ModelFileError, match=r"net\.onnx (is no ONNX model \('utf-8' codec|has a name or a text that is)"
        ):
            open_session(path)


def test_nodes_are_listed_as_onnx_lists_them(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    expected = [
        NodeEntry(n.name, n.op_type, n.domain, n.output[0], tuple(attribute.name for attribute in n.attribute))
        for n in onnx.load(path).graph.node
    ]
    assert list_nodes(path) == expected


def test_damaged_protobuf_is_no_node_list(tmp_path):
    whole = write_tensor_model(tmp_path / "net.onnx").read_bytes()
    (tmp_path / "net.onnx").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="is not a protobuf message"):
        list_nodes(tmp_path / "net.onnx")


def test_a_required_library_that_is_missing_is_named(tmp_path, no_library):
    path = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    message = rf"{LIBRARY_NAME} does not exist, and kernels are required\. Build it .*{FOLDER_VARIABLE}"
    with pytest.raises(KernelLibraryError, match=message):
        open_session(path, kernels="require")


def test_a_library_that_cannot_be_loaded_is_never_used_silently(tmp_path, no_library):
    path = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    (no_library / LIBRARY_NAME).write_bytes(b"garbage")
    with pytest.raises(KernelLibraryError, match=rf"{LIBRARY_NAME} cannot be loaded: .* Build it again"):
        open_session(path, kernels="require")
    with pytest.warns(UserWarning, match=r"cannot be loaded: .*Function bodies are used instead"):
        session = open_session(path)
    assert session.operator_paths[0].path == "function body"
    assert open_session(path, kernels="never").operator_paths[0].path == "function body"


def test_the_package_folder_is_searched_without_the_variable(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert library_path().parts[-3:] == ("freqfusion_runtime", "lib", LIBRARY_NAME)


def test_an_empty_or_missing_file_is_named(tmp_path):
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelFileError, match=r"empty\.onnx is empty \(0 bytes\)\. Write it again"):
        open_session(tmp_path / "empty.onnx")
    with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist\. Name an ONNX file"):
        open_session(tmp_path / "gone.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        open_session(tmp_path)


def test_memory_that_runs_out_is_told_as_such(tmp_path, monkeypatch):
    path = write_tensor_model(tmp_path / "net.onnx")
    session = open_session(path)

    class Full:
        def __init__(self, *_, **__):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

        def get_outputs(self=None):
            return []

        def run(*_):
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(session, "_session", Full)
    message = r"net\.onnx ran out of memory on image \(1, 3, 32, 32\): .* of size 9\. Give it smaller pictures"
    with pytest.raises(NetworkOutputError, match=message):
        session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    with monkeypatch.context() as change:
        change.setattr(onnxruntime, "InferenceSession", Full)
        with pytest.raises(ModelFileError, match=r"ran out of memory as it was opened: .*bad_alloc.* more\.$"):
            open_session(path)
    monkeypatch.setattr(onnx_nodes.mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOMEM, "no")))
    with pytest.raises(ModelFileError, match=r"cannot be opened: the machine ran out of memory\. Give it smaller"):
        open_session(path)


def test_a_file_in_onnxruntimes_own_format_is_named(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "net.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    model = write_tensor_model(tmp_path / "net.onnx")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with pytest.raises(ModelFileError, match=r"net\.ort is in ONNX Runtime's own format, .* Name the \.onnx file that"):
        open_session(tmp_path / "net.ort")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: b[: len(b) // 2], r"\(is not a protobuf message: it ends inside a field\)\. Write it again"),
        (lambda b: b"\x00" * 500, r"that this ONNX Runtime .* can load: .*Write it"),
        (lambda b: b"<html>" * 99, r"\(is not a protobuf message: wire type .*\)\. Write it again"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path, damage, reason):
    path = write_tensor_model(tmp_path / "net.onnx")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelFileError, match=rf"net\.onnx is no ONNX model {reason}"):
        open_session(path)


def test_somebody_elses_model_is_refused(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx", metadata="")
    with pytest.raises(ModelFileError, match=r"without a FreqFusion manifest \(metadata key 'freqfusion_manifest'\)"):
        open_session(path)


def test_fp8_is_refused_with_what_was_measured(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx", tensor_manifest(precision="fp8"))
    with pytest.raises(
        ModelFileError, match=r"net\.onnx is fp8, .* off by 130 % of their deviation, 12 % with them off\. It is for"
    ):
        open_session(path)


def test_a_damaged_manifest_is_refused(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx", metadata='{"format_version": 99}')
    with pytest.raises(ManifestError, match=rf"net\.onnx: has manifest format 99, .* reads {FORMAT_VERSION}\."):
        open_session(path)


def test_a_manifest_of_another_graph_is_refused(tmp_path):
    manifest = tensor_manifest(inputs=(TensorSpec("pixels", "float32", ("n", 3, "h", "w")),))
    path = write_tensor_model(tmp_path / "net.onnx", manifest)
    with pytest.raises(ModelFileError, match=r"the manifest names the inputs \['pixels'\], the graph has \['image'\]"):
        open_session(path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"the inputs are \['image'\], got \[\]"),
        ({"picture": np.zeros((1, 3, 32, 32), np.float32)}, r"the inputs are \['image'\], got \['picture'\]"),
        ({"image": np.zeros((1, 3, 32, 32))}, r"must be float32, got float64\. Convert it with \.astype\('float32'\)"),
        ({"image": np.zeros((1, 3, 32, 32), np.uint8)}, "must be float32, got uint8"),
        (
            {"image": np.zeros((3, 32, 32), np.float32)},
            r"must have shape \(batch, 3, height, width\), got \(3, 32, 32\)",
        ),
        ({"image": np.zeros((1, 4, 32, 32), np.float32)}, r"got \(1, 4, 32, 32\)"),
        ({"image": np.zeros((0, 3, 32, 32), np.float32)}, r"got \(0, 3, 32, 32\)"),
        (
            {"image": np.zeros((1, 3, 32, 50), np.float32)},
            r"a width that are multiples of 32, got 32 x 50\. .*or resize to 32 x 64",
        ),
    ],
)
def test_says_what_input_it_wanted(tmp_path, inputs, message):
    session = open_session(write_tensor_model(tmp_path / "net.onnx"))
    with pytest.raises(InputError, match=message):
        session.run(inputs)


def test_the_image_interface_takes_any_sides(tmp_path):
    session = open_session(write_image_model(tmp_path / "net.onnx"))
    assert session.manifest == image_manifest()
    assert session.run({"image": np.zeros((1, 5, 7, 3), np.uint8)})["labels"].shape == (1, 5, 7)
    with pytest.raises(InputError, match=r"must have shape \(batch, height, width, 3\), got \(1, 3, 5, 7\)"):
        session.run({"image": np.zeros((1, 3, 5, 7), np.uint8)})


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_is_never_replaced_silently(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx")
    message = r"has no CUDAExecutionProvider, only .*CPUExecutionProvider.*freqfusion-deploy\[gpu\]"
    with pytest.raises(ProviderError, match=message):
        open_session(path, provider="cuda")


def test_a_provider_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    # A CUDA build without a driver lists CUDA, then falls back to the CPU with no more than a log line.
    path = write_tensor_model(tmp_path / "net.onnx")
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, providers: real(*a, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider could not be started, .*CPUExecutionProvider instead"
    ):
        open_session(path, provider="cuda")


def test_an_unknown_provider_is_named(tmp_path):
    with pytest.raises(ProviderError, match=r"there is no provider 'tpu'\. Choose one of: cpu, cuda"):
        open_session(write_tensor_model(tmp_path / "net.onnx"), provider="tpu")


def test_a_copy_of_the_file_runs_elsewhere(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx")
    copy = shutil.copy(path, tmp_path / "other name.onnx")
    image = np.ones((1, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(
        open_session(path).run({"image": image})["logits"], open_session(copy).run({"image": image})["logits"]
    )
