# SPDX-License-Identifier: Apache-2.0
"""Triton model repositories, read back with the messages that Triton's own client ships."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from array_networks import write_network
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec, write_sidecar
from freqfusion_runtime.serving.triton import repository
from freqfusion_runtime.serving.triton.text_format import Name, to_text
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE, INTERFACE, library_path
from google.protobuf import text_format
from other_libraries import write_onnxruntime_library
from places import EXAMPLES
from small_models import (
    CLASSES,
    image_manifest,
    keep_weights_outside,
    tensor_manifest,
    write_image_model,
    write_tensor_model,
)
from tritonclient.grpc import model_config_pb2

# ONNX's numbers of dtypes to Triton's names.
DTYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT32: "TYPE_INT32",
}


def config_of(repo: Path, name: str):
    return text_format.Parse((repo / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def triton(model: Path, repo: Path, *options: str) -> int:
    return main(["triton", str(model), "--output", str(repo), *options])


def write_plan(folder: Path, manifest: Manifest | None = None, content: bytes = b"ftrt" + bytes(range(256))) -> Path:
    """A file in a plan's place; nothing here reads inside of it."""
    plan = folder / "net.plan"
    plan.write_bytes(content)
    sidecar = write_sidecar(plan, manifest or image_manifest())
    record = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**record, "engine": {"gpu": "sm_90", "tensorrt": "10.14"}}))
    return plan


@pytest.mark.parametrize("write", [write_image_model, write_tensor_model], ids=["image", "tensor"])
@pytest.mark.parametrize("options", [(), ("--device", "cpu"), ("--max-batch", "4", "--max-delay-us", "500")])
def test_config_says_what_the_graph_has(tmp_path, write, options):
    model = write(tmp_path / "net.onnx")
    assert triton(model, tmp_path / "repo", *options) == 0
    config = config_of(tmp_path / "repo", "net")
    file = tmp_path / "repo" / "net" / "1" / config.default_model_filename
    graph = onnx.load(file).graph
    session = ort.InferenceSession(str(file))  # what Triton's backend compares with
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size >= 1
    for told, real, opened in (
        (config.input, graph.input, session.get_inputs()),
        (config.output, graph.output, session.get_outputs()),
    ):
        assert [t.name for t in told] == [t.name for t in real]
        for tensor, value, node in zip(told, real, opened, strict=True):
            kind = value.type.tensor_type
            assert model_config_pb2.DataType.Name(tensor.data_type) == DTYPES[kind.elem_type]
            assert kind.shape.dim[0].HasField("dim_param")  # what max_batch_size needs
            assert list(tensor.dims) == [side if isinstance(side, int) else -1 for side in node.shape[1:]]
            for side, stored in zip(tensor.dims, kind.shape.dim[1:], strict=True):
                assert side == stored.dim_value or stored.HasField("dim_param")


def test_every_option_lands_in_its_field(tmp_path):
    model = write_image_model(tmp_path / "net.onnx")
    options = ["--name", "city", "--device", "gpu", "--instances", "2", "--max-batch", "16", "--max-delay-us", "700"]
    options += ["--queue", "9", "--threads", "3", "--kernels", "never", "--mount", "/srv/models/"]
    assert triton(model, tmp_path / "repo", *options) == 0
    config = config_of(tmp_path / "repo", "city")
    assert (config.name, config.max_batch_size) == ("city", 16)
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 9
    group = config.instance_group[0]
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU)
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["freqfusion_sha256"].string_value == sha256_of(model)
    assert not config.HasField("model_operations")
    assert config.output[0].label_filename == "labels.txt"
    assert (tmp_path / "repo" / "city" / "labels.txt").read_text().split() == list(CLASSES)


def test_a_warm_up_can_be_run(tmp_path):
    for write, name in ((write_image_model, "image"), (write_tensor_model, "tensor")):
        model = write(tmp_path / f"{name}.onnx")
        assert triton(model, tmp_path / "repo", "--kernels", "never") == 0
        warmup = config_of(tmp_path / "repo", name).model_warmup[0]
        assert warmup.batch_size == 1
        session = ort.InferenceSession(str(tmp_path / "repo" / name / "1" / "model.onnx"))
        dtype = np.uint8 if name == "image" else np.float32
        feeds = {key: np.zeros((1, *value.dims), dtype) for key, value in warmup.inputs.items()}
        assert session.run(None, feeds)[0].shape[0] == 1


def test_on_a_cpu_one_at_a_time(tmp_path):
    assert triton(write_image_model(tmp_path / "net.onnx"), tmp_path / "repo", "--device", "cpu") == 0
    config = config_of(tmp_path / "repo", "net")
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.skipif(not library_path().is_file(), reason="the native library is not built; see `make plugins`")
def test_the_kernels_travel_with_the_model(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    assert triton(model, tmp_path / "repo", "--kernels", "require") == 0
    path = config_of(tmp_path / "repo", "net").model_operations.op_library_filename[0]
    assert path == f"/models/net/{library_path().name}"
    copy = tmp_path / "repo" / Path(path).relative_to("/models")
    assert sha256_of(copy) == sha256_of(library_path())
    assert os.access(copy, os.X_OK)


def test_a_library_that_is_older_than_the_model_does_not_travel_with_it(tmp_path, monkeypatch, capsys):
    model = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    old = write_onnxruntime_library(tmp_path / library_path().name, INTERFACE, attributes="kernel_size")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert triton(model, tmp_path / "repo") == 0
    assert "its kernel of Echo does not know dilation. Function bodies are used instead" in capsys.readouterr().err
    assert not config_of(tmp_path / "repo", "net").HasField("model_operations")
    for options in (("--kernels", "require"), ("--library", str(old))):
        assert triton(model, tmp_path / "other", *options) == 2
        assert "does not know dilation. Build it again with `make plugins`" in capsys.readouterr().err


def test_a_plan_with_its_plugin(tmp_path):
    library = tmp_path / "libfreqfusion_tensorrt.so"
    library.write_bytes(b"\x7fELF")
    plan = write_plan(tmp_path)
    assert triton(plan, tmp_path / "repo", "--library", str(library), "--max-batch", "4") == 0
    config = config_of(tmp_path / "repo", "net")
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert not config.HasField("model_operations")
    assert [list(t.dims) for t in (*config.input, *config.output)] == [[-1, -1, 3], [-1, -1]]
    assert sha256_of(tmp_path / "repo" / "net" / "1" / "model.plan") == sha256_of(plan)
    readme = (tmp_path / "repo" / "README.md").read_text()
    assert "--backend-config=tensorrt,plugins=/models/net/libfreqfusion_tensorrt.so" in readme
    assert "LD_PRELOAD=/models/net/libfreqfusion_tensorrt.so" in readme
    assert (tmp_path / "repo" / "net" / "libfreqfusion_tensorrt.so").read_bytes() == b"\x7fELF"


def test_a_fixed_batch_has_no_batch_size(tmp_path, capsys):
    fixed = replace(
        image_manifest(),
        inputs=(TensorSpec("image", "uint8", (1, 512, 512, 3)),),
        outputs=(TensorSpec("labels", "int32", (1, 512, 512)),),
    )
    plan = write_plan(tmp_path, fixed)
    assert triton(plan, tmp_path / "repo") == 0
    config = config_of(tmp_path / "repo", "net")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == list(config.model_warmup[0].inputs["image"].dims) == [1, 512, 512, 3]
    assert triton(plan, tmp_path / "repo2", "--max-batch", "4") == 2
    assert "takes a batch of 1" in capsys.readouterr().err


def test_a_second_model_joins_and_is_replaced_only_when_asked(tmp_path, capsys):
    repo = tmp_path / "repo"
    assert triton(write_image_model(tmp_path / "a.onnx"), repo) == 0
    assert triton(write_tensor_model(tmp_path / "b.onnx"), repo) == 0
    assert {path.name for path in repo.iterdir()} == {"a", "b", "README.md", "freqfusion.json"}
    readme = (repo / "README.md").read_text()
    assert "## `a`" in readme
    assert "## `b`" in readme
    write_tensor_model(tmp_path / "a.onnx")
    assert triton(tmp_path / "a.onnx", repo) == 2
    assert "--replace was not given" in capsys.readouterr().err
    assert config_of(repo, "a").input[0].data_type == model_config_pb2.TYPE_UINT8
    assert triton(tmp_path / "a.onnx", repo, "--replace") == 0
    assert config_of(repo, "a").input[0].data_type == model_config_pb2.TYPE_FP32
    assert {path.name for path in repo.iterdir()} == {"a", "b", "README.md", "freqfusion.json"}


@pytest.mark.parametrize("place", ["repository", "model"])
def test_what_others_wrote_is_left_alone(tmp_path, capsys, place):
    repo = tmp_path / "repo"
    model = write_image_model(tmp_path / "net.onnx")
    if place == "model":
        assert triton(write_image_model(tmp_path / "first.onnx"), repo) == 0
    foreign = repo / "net" / "1" / "model.onnx"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("theirs")
    assert triton(model, repo, "--replace") == 2
    assert "did not write" in capsys.readouterr().err
    assert foreign.read_text() == "theirs"
    assert not list(tmp_path.rglob("*.partial"))


def test_a_failure_half_way_leaves_nothing(tmp_path, capsys, monkeypatch):
    model = write_image_model(tmp_path / "net.onnx")
    before = sorted(path.name for path in tmp_path.iterdir())
    original = repository._write_text

    def full_disk(path: Path, text: str) -> None:
        if path.name == "labels.txt":
            raise OSError(28, "No space left on device", str(path))
        original(path, text)

    monkeypatch.setattr(repository, "_write_text", full_disk)
    assert triton(model, tmp_path / "repo") == 2
    assert "no space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def other_bytes(folder: Path) -> Path:
    plan = write_plan(folder)
    plan.write_bytes(b"another plan")
    return plan


def without_sidecar(folder: Path) -> Path:
    plan = write_plan(folder)
    plan.with_suffix(".json").unlink()
    return plan


def rtx_plan(folder: Path) -> Path:
    return write_plan(folder, content=b"vtrt" + bytes(12) + (100).to_bytes(8, "little") + bytes(76))


def renamed_output(folder: Path) -> Path:
    told = replace(tensor_manifest(), outputs=(TensorSpec("scores", "float32", ("batch", 4, "h", "w")),))
    return write_tensor_model(folder / "net.onnx", manifest=told)


def weights_lost(folder: Path) -> Path:
    model = keep_weights_outside(write_tensor_model(folder / "net.onnx"))
    (folder / "net.data").unlink()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: write_tensor_model(folder / "net.onnx", metadata=""), "has no FreqFusion manifest"),
        (without_sidecar, "has no manifest"),
        (other_bytes, "belongs to a file with sha256"),
        (other_bytes, "`freqfusion run --trust`, or trust=True in Python"),
        (rtx_plan, "is a plan of TensorRT-RTX, and Triton's backend runs those of TensorRT. Name the .onnx file"),
        (renamed_output, "the manifest tells of scores float32"),
        (weights_lost, "keeps weights in net.data, which is not beside it"),
        (lambda folder: folder / "missing.onnx", "does not exist"),
        (lambda folder: write_tensor_model(folder / "net.pt"), "ends in '.pt'"),
        (lambda folder: write_tensor_model(folder / "a b.onnx"), "cannot be a model's name"),
    ],
    ids=[
        "onnx-without",
        "plan-without",
        "plan-of-another",
        "trust",
        "rtx",
        "other-names",
        "external",
        "missing",
        "suffix",
        "name",
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path, capsys, make, message):
    assert triton(make(tmp_path), tmp_path / "repo") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "repo").exists()
    assert not list(tmp_path.glob(".*"))


def test_weights_beside_a_model_go_with_it(tmp_path):
    model = keep_weights_outside(write_tensor_model(tmp_path / "net.onnx"))
    assert triton(model, tmp_path / "repo") == 0
    model.with_name("net.data").rename(tmp_path / "elsewhere")
    version = tmp_path / "repo" / "net" / "1"
    assert sorted(file.name for file in version.iterdir()) == ["model.onnx", "net.data"]
    session = ort.InferenceSession(str(version / "model.onnx"))
    assert session.run(None, {"image": np.ones((1, 3, 32, 32), np.float32)})[0].any()


def test_commands_hold_where_names_have_spaces(tmp_path):
    model = write_image_model(tmp_path / "net.onnx")
    repo = tmp_path / "my models"
    assert triton(model, repo, "--mount", "/the models", "--image", "registry/triton server:1") == 0
    text = (repo / "README.md").read_text()
    command = re.search(r"```sh\n(docker run.*?)```", text, re.DOTALL).group(1)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[words.index("-v") + 1] == "$PWD/my models:/the models:ro"
    assert "registry/triton server:1" in words
    assert "--model-repository=/the models" in words


def test_strings_survive_the_text_format():
    text = 'quote " backslash \\ newline \n Straße 道'
    written = to_text({"name": text, "input": [{"data_type": Name("TYPE_INT8"), "dims": [1, -1]}]})
    parsed = text_format.Parse(written, model_config_pb2.ModelConfig())
    assert parsed.name == text
    assert list(parsed.input[0].dims) == [1, -1]


def test_the_exported_network(exported, tmp_path):
    """The files of `freqfusion export` themselves, checked as the small ones above."""
    for interface, path in exported.items():
        assert triton(path, tmp_path / "repo") == 0
        config = config_of(tmp_path / "repo", interface)
        graph = onnx.load(path).graph
        assert [t.name for t in config.input] == [t.name for t in graph.input]
        assert [t.name for t in config.output] == [t.name for t in graph.output]
        manifest = next(p.value for p in onnx.load(path).metadata_props if p.key == METADATA_KEY)
        assert config.parameters["freqfusion_model"].string_value == json.loads(manifest)["model"]
        assert config.max_batch_size == 8


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A repository, and our own server, which speaks Triton's protocol, with the same models."""
    folder = tmp_path_factory.mktemp("asked")
    for write, name in ((write_image_model, "colors"), (write_tensor_model, "means")):
        assert triton(write(folder / f"{name}.onnx"), folder / "repo", "--kernels", "never") == 0
    models = [str(folder / "repo" / name / "1" / "model.onnx") for name in ("colors", "means")]
    command = [sys.executable, "-m", "freqfusion_runtime.commands.cli", "serve", "--port", "0", "--no-grpc"]
    command += [f"colors={models[0]}", f"means={models[1]}", "--log-file", str(folder / "log")]
    environment = {**os.environ, "PYTHONPATH": str(Path(repository.__file__).parents[3])}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    port = re.search(r":(\d+)/", server.stdout.readline())[1]
    for _ in models:
        assert server.stdout.readline().endswith("is ready\n")
    yield folder, (folder / "repo" / "README.md").read_text().replace("localhost:8000", f"127.0.0.1:{port}")
    server.terminate()
    server.communicate(timeout=20)


@pytest.mark.parametrize(
    ("language", "number", "size"), [("python", 0, "(1, 400, 600) int32"), ("python", 1, "(1, 4, 64, 64) float32")]
)
def test_the_python_of_the_readme_runs(asked, language, number, size):
    folder, readme = asked
    photo = EXAMPLES / "coffee.jpg"
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    code = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)[number]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == size, done.stderr


@pytest.mark.parametrize(("number", "answer"), [(1, 512 * 512 * 4), (2, 4 * 64 * 64 * 4)])
def test_the_shell_of_the_readme_runs(asked, number, answer):
    folder, readme = asked
    code = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)[number]
    done = subprocess.run(["sh", "-ec", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["platform"] == "onnxruntime_onnx", done.stderr
    raw = (folder / "answer.bin").read_bytes()
    assert json.loads(raw[:-answer])["outputs"][0]["parameters"]["binary_data_size"] == answer


def test_a_network_of_arrays_is_warmed_up_at_its_own_sizes_and_has_no_labels(tmp_path):
    model = write_network(tmp_path / "pair.onnx")
    assert triton(model, tmp_path / "repo", "--kernels", "never") == 0
    config = config_of(tmp_path / "repo", "pair")
    assert [(spec.name, list(spec.dims)) for spec in config.input] == [("image", [3, -1, -1]), ("depth", [1, -1, -1])]
    assert [spec.label_filename for spec in config.output] == ["", ""]
    assert {name: list(value.dims) for name, value in config.model_warmup[0].inputs.items()} == {
        "image": [3, 32, 48],
        "depth": [1, 16, 24],
    }
    assert not (tmp_path / "repo" / "pair" / "labels.txt").exists()
    readme = (tmp_path / "repo" / "README.md").read_text()
    assert '"depth": np.zeros([1, 1, 16, 24], np.float32),' in readme
    assert f"head -c {4 * (3 * 32 * 48 + 16 * 24)} /dev/zero" in readme
