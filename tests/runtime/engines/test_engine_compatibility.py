# SPDX-License-Identifier: Apache-2.0
"""A plan that is not this machine's: each reason is an error of its own, with its remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from freqfusion_runtime.engines.compatibility import check_gpu, check_plugin, check_version, refusal
from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.errors import (
    CorruptPlanError,
    EngineDeviceError,
    EngineMemoryError,
    EnginePluginError,
    EngineVersionError,
    UntrustedPlanError,
)
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.engines.messages import Messages
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.plan_header import PlanHeader, read_plan_header
from freqfusion_runtime.engines.plugin_library import PluginIdentity
from freqfusion_runtime.engines.profiles import Profile, ShapeRange
from freqfusion_runtime.engines.record import EngineRecord, plan_sidecar, read_plan_manifest
from freqfusion_runtime.errors import KernelLibraryError, ManifestError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.predictors import opening
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.protocol import OperatorPath
from small_models import tensor_manifest

PLAN = Path("net.plan")
H100 = GpuIdentity("NVIDIA H100", "9.0", 81559)
PLUGIN = PluginIdentity("libfreqfusion_tensorrt.so", "ab" * 32, "1", "10.14.1")
RECORD = EngineRecord(
    flavour="tensorrt",
    tensorrt_version="11.4.0.106",
    gpu=H100,
    plugin=PLUGIN,
    onnx_file="net.onnx",
    onnx_sha256="cd" * 32,
    profiles=(Profile({"image": ShapeRange((1, 3, 32, 32), (1, 3, 64, 64), (2, 3, 128, 96))}),),
    options=BuildOptions(workspace_mb=512),
    operator_paths=(OperatorPath("fuse", "Carafe", "kernel"),),
    build_s=12.5,
)


def tensorrt(version: str, name: str = "tensorrt") -> Flavour:
    return Flavour(name, SimpleNamespace(__version__=version))


def test_the_same_version_runs():
    check_version(PLAN, RECORD, tensorrt("11.4.0.106"))


@pytest.mark.parametrize("found", [tensorrt("11.5.0.1"), tensorrt("10.14.1"), tensorrt("11.4.0.106", "tensorrt-rtx")])
def test_another_version_or_flavour_does_not(found):
    with pytest.raises(EngineVersionError, match=r"built by TensorRT 11\.4\.0\.106, and this machine .*Install that"):
        check_version(PLAN, RECORD, found)


def test_a_version_compatible_engine_runs_on_later_versions_only():
    record = replace(RECORD, options=BuildOptions(version_compatible=True))
    check_version(PLAN, record, tensorrt("11.5.0.1"))
    with pytest.raises(EngineVersionError):
        check_version(PLAN, record, tensorrt("11.3.0.1"))


def test_another_gpu_is_refused_unless_the_engine_is_made_for_it():
    check_gpu(PLAN, RECORD, H100)
    l4, t4 = GpuIdentity("NVIDIA L4", "8.9", 23034), GpuIdentity("Tesla T4", "7.5", 15360)
    with pytest.raises(EngineDeviceError, match=r"built for NVIDIA H100 .*9\.0.*this machine has NVIDIA L4.*build"):
        check_gpu(PLAN, RECORD, l4)
    check_gpu(PLAN, replace(RECORD, gpu=None), t4)
    compatible = replace(RECORD, options=BuildOptions(hardware_compatible=True))
    check_gpu(PLAN, compatible, l4)
    with pytest.raises(EngineDeviceError):
        check_gpu(PLAN, compatible, t4)


def test_another_build_of_the_plugin_is_refused():
    check_plugin(PLAN, RECORD, PLUGIN)
    with pytest.raises(EnginePluginError, match=r"sha256 abababababab.*, and .*sha256 efefefefefef.*is here. Put that"):
        check_plugin(PLAN, RECORD, replace(PLUGIN, sha256="ef" * 32))


# Messages as TensorRT words them: of its public issues for what needs a GPU, of RTX 1.7 here for the rest.
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible with "
            "this version of TensorRT, expecting library version 10.0.1.6 got 8.6.1.6, please rebuild.)",
            EngineVersionError,
        ),
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == "
            "kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with incompatible serialization version)",
            EngineVersionError,
        ),
        (
            "Cannot deserialize plugin since corresponding IPluginCreatorInterface not found in Plugin Registry",
            EnginePluginError,
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute capability 8.9 got compute "
            "capability 7.5, please rebuild.",
            EngineDeviceError,
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", EngineMemoryError),
        ("Serialization assertion plan.header.size == blobSize failed. In parsePlan", CorruptPlanError),
    ],
)
def test_what_tensorrt_says_of_a_plan_becomes_the_right_error(said, kind):
    messages = Messages()
    messages.errors.append(said)
    error = refusal(PLAN, tensorrt("11.4.0.106"), messages)
    assert type(error) is kind
    assert "net.plan" in str(error)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "net.plan"
    path.write_bytes(b"ftrt" + bytes(100))
    path.with_suffix(".json").write_text(plan_sidecar(tensor_manifest(), RECORD, sha256_of(path)))
    return path


def test_the_record_is_read_as_it_was_written(plan):
    told = read_plan_manifest(plan)
    assert told.engine == RECORD
    assert told.manifest == tensor_manifest()


def test_a_plan_that_is_another_file_is_not_loaded_unless_trusted(plan):
    plan.write_bytes(b"ftrt" + bytes(99) + b"!")
    with pytest.raises(
        UntrustedPlanError, match=r"A plan is code, so this one is not loaded.*`freqfusion run --trust`"
    ):
        open_session(plan)
    assert read_plan_manifest(plan, trust=True).engine == RECORD


def test_commands_that_are_advised_quote_their_paths(tmp_path):
    (tmp_path / "a b.plan").write_bytes(bytes(100))
    with pytest.raises(CorruptPlanError, match=r"`freqfusion build MODEL\.onnx --output '.*/a b\.plan'`"):
        read_plan_header(tmp_path / "a b.plan")


@pytest.mark.parametrize("key", ["flavour", "gpu", "plugin", "profiles", "options", "operator_paths", "build_s"])
def test_a_damaged_record_is_told_of(plan, key):
    sidecar = plan.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    record["engine"][key] = {"nonsense": 1}
    sidecar.write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="what it says of the engine is damaged"):
        read_plan_manifest(plan)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no TensorRT plan: it starts with b''"),
        (b"\x00\x00\x01\x00{json}" + bytes(40), "is no TensorRT plan"),
        (
            b"vtrt" + bytes(12) + (99).to_bytes(8, "little") + bytes(8),
            "is damaged: it has 32 bytes, its header tells of 99",
        ),
    ],
)
def test_a_file_that_is_no_whole_plan_is_refused_before_anything_loads_it(tmp_path, content, message):
    path = tmp_path / "net.plan"
    path.write_bytes(content)
    with pytest.raises(CorruptPlanError, match=message):
        open_session(path)


def test_a_plan_that_is_missing_is_told_so(tmp_path):
    with pytest.raises(CorruptPlanError, match=r"none.plan does not exist. Name a plan"):
        open_session(tmp_path / "none.plan")


def test_the_header_of_a_tensorrt_plan_names_no_version(plan):
    assert read_plan_header(plan) == PlanHeader("tensorrt", None)


def test_required_kernels_are_asked_of_operators_that_have_a_plugin():
    def check(kernels, *paths):
        opening._check_engine_kernels(SimpleNamespace(path=Path("model.plan"), operator_paths=paths), kernels)

    preparation = OperatorPath("prepare", "PrepareImage", "function body")  # has no plugin
    plugin, body = OperatorPath("a", "Carafe", "kernel"), OperatorPath("b", "Carafe", "function body")
    check("require", preparation, plugin)
    with pytest.raises(KernelLibraryError, match=r"1 FreqFusion nodes run by function body.*: b\. "):
        check("require", preparation, plugin, body)
    with pytest.raises(KernelLibraryError, match=r"run by kernel, which kernels='never' forbids: a\. "):
        check("never", preparation, plugin, body)
