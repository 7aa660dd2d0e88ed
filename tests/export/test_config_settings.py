# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's test-time settings reach the label map, which is that of OpenCV and PyTorch; or they stop export."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from freqfusion import load_model
from freqfusion.configs.overrides import Overrides
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_of
from freqfusion_export import export
from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import form_of
from freqfusion_runtime import load
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from PIL import Image
from torch.nn.functional import interpolate

OLD = """
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', img_scale={scale}, flip=False,
    transforms=[dict(type='Resize', keep_ratio={keep}), dict(type='ResizeToMultiple', size_divisor=32),
        dict(type='Normalize', mean={mean}, std={std}, to_rgb={rgb}),
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]
data = dict(test=dict(pipeline=test_pipeline))
"""
NEW = """
model = dict(data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={rgb}, test_cfg=dict(size_divisor=32)))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale={scale}, keep_ratio={keep}),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


@dataclass(frozen=True)
class Case:
    """A config's settings, written out in either generation of mm."""

    text: str
    scale: tuple[int, int]
    keep: bool = True
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    rgb: bool = True

    @property
    def config(self):
        return self.text.format(
            scale=self.scale, keep=self.keep, mean=list(self.mean), std=list(self.std), rgb=self.rgb
        )


CASES = {
    "no normalisation, BGR": Case(OLD, (128, 96), mean=(0, 0, 0), std=(1, 1, 1), rgb=False),
    "caffe's means, BGR": Case(OLD, (128, 96), mean=(103.53, 116.28, 123.675), std=(1, 1.5, 2), rgb=False),
    "exactly 160 x 64": Case(OLD, (160, 64), keep=False),
    "exactly 70 x 90, up to multiples, BGR": Case(
        OLD, (70, 90), keep=False, mean=(9, 8, 7), std=(50, 60, 70), rgb=False
    ),
    "padded": Case(NEW, (128, 96)),
    "padded, BGR, other means": Case(NEW, (128, 96), mean=(100, 110, 120), std=(60, 50, 40), rgb=False),
}
SIZES = [(75, 100), (120, 81)]


def photo(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) * np.cos(y / 7), np.sin((x + 2 * y) / 13), np.cos(y / 5 + x / 11)]
    return (127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


def reference_images(rgb, case):
    """What mm's transforms make of a picture, by OpenCV: (1, 3, h, w), and the size without padding."""
    height, width = rgb.shape[:2]
    target = case.scale
    if case.keep:
        factor = min(max(case.scale) / max(height, width), min(case.scale) / min(height, width))
        target = int(width * factor + 0.5), int(height * factor + 0.5)
    bgr = cv2.resize(rgb[:, :, ::-1], target, interpolation=cv2.INTER_LINEAR)
    up = tuple(-(-side // 32) * 32 for side in target)
    if case.text is OLD:
        bgr = cv2.resize(bgr, up, interpolation=cv2.INTER_LINEAR)
        target = up
    levels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) if case.rgb else bgr
    images = levels.astype(np.float32)
    cv2.subtract(images, np.float64([case.mean]), images)
    cv2.multiply(images, 1 / np.float64([case.std]), images)
    padded = np.zeros((up[1], up[0], 3), np.float32)
    padded[: target[1], : target[0]] = images
    return padded.transpose(2, 0, 1)[None], (target[1], target[0])


def reference_labels(network, rgb, case):
    images, (height, width) = reference_images(rgb, case)
    with torch.inference_mode():
        scores = network(torch.from_numpy(images))
        scores = interpolate(scores, images.shape[2:], mode="bilinear", align_corners=False)[:, :, :height, :width]
        scores = interpolate(scores, rgb.shape[:2], mode="bilinear", align_corners=False)
    return scores.argmax(dim=1)[0].numpy()


def write(folder, state_dict, config, **meta):
    path = folder / "segnext.pth"
    torch.save({"state_dict": state_dict, "meta": {"config": config, **meta}}, path)
    return path


@pytest.fixture(scope="module")
def weights(demo):
    return demo[0].state_dict()


@pytest.mark.parametrize(
    ("interface", "name"),
    [
        *(("image", name) for name in CASES),
        pytest.param("tensor", "exactly 70 x 90, up to multiples, BGR", marks=pytest.mark.long),
        pytest.param("tensor", "padded", marks=pytest.mark.long),
    ],
)
def test_label_maps_are_those_of_the_configs_pipeline(interface, name, weights, traced_demo, tmp_path):
    case = CASES[name]
    network, _, checkpoint = load_model(write(tmp_path, weights, case.config))
    path = tmp_path / "segnext.onnx"
    manifest = export(network, path, interface=interface, checkpoint=checkpoint, traced=traced_demo)
    assert {setting.origin for setting in manifest.settings} == {"config"}
    for kernels in ("never", "auto"):
        predictor = load(path, kernels=kernels)
        for size in SIZES:
            assert np.array_equal(predictor.predict(photo(*size)).labels, reference_labels(network, photo(*size), case))


@pytest.mark.parametrize("name", CASES)
def test_the_numpy_preparation_is_opencvs_bit_for_bit(name, weights, tmp_path):
    from freqfusion_runtime.pictures.preparation import prepare

    network, _, checkpoint = load_model(write(tmp_path, weights, CASES[name].config))
    plan = form_of(network, checkpoint).preprocessing
    for size in SIZES:
        assert np.array_equal(prepare(photo(*size), plan), reference_images(photo(*size), CASES[name])[0])


def test_export_inspect_and_the_manifest_tell_what_became_of_the_settings(weights, tmp_path, capsys):
    config = (
        CASES["no normalisation, BGR"].config + "model = dict(decode_head=dict(wonders=3, ham_kwargs=dict(MD_R=8)))"
    )
    path = write(tmp_path, weights, config)
    facts = tmp_path / "facts.json"
    assert main(["export", str(path), "--std", "2", "2", "2", "--json", str(facts)]) == 0
    out = capsys.readouterr().out
    assert "  config          channel_order" in out
    assert "  override        std" in out
    assert "  not understood  model.decode_head.wonders" in out
    rows = {row["name"]: row for row in json.loads(facts.read_text())["settings"]}
    assert (rows["std"]["origin"], rows["std"]["found"], rows["std"]["built"]) == ("override", "(1, 1, 1)", "(2, 2, 2)")
    manifest = Manifest.from_json(read_onnx_facts(path.with_suffix(".onnx")).metadata["freqfusion_manifest"])
    assert [setting.name for setting in manifest.settings] == list(rows)
    assert manifest.preprocessing.std == (2, 2, 2)
    assert manifest.preprocessing.color_order == "BGR"
    assert manifest.network == {"nmf_rank": 8}
    assert main(["inspect", str(path)]) == 0
    assert "config          channel_order" in capsys.readouterr().out
    assert main(["inspect", str(path.with_suffix(".onnx"))]) == 0
    assert "override        std" in capsys.readouterr().out
    picture = tmp_path / "photo.png"
    Image.fromarray(photo(75, 100)).save(picture)
    assert main(["parity", str(path.with_suffix(".onnx")), str(picture), "--checkpoint", str(path)]) == 0


def test_what_is_not_built_stops_export_by_name_and_can_be_given_up(weights, tmp_path, capsys):
    config = "model = dict(test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))"
    path = write(tmp_path, weights, config)
    assert main(["export", str(path)]) == 2
    err = capsys.readouterr().err
    assert "model.test_cfg.mode is slide, crop_size (512, 512), stride (341, 341), and whole is built" in err
    assert "--ignore-setting model.test_cfg.mode" in err
    assert not path.with_suffix(".onnx").exists()
    network, _, checkpoint = load_model(path)
    with pytest.raises(ExportError, match=r"the config asks for what is not built: model\.test_cfg\.mode is slide"):
        form_of(network, checkpoint)
    assert main(["evaluate", str(path), "--dataset", "emoji-scenes", "--limit", "1"]) == 2
    assert "model.test_cfg.mode is slide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "512"], r"must be WIDTHxHEIGHT such as 2048x512, got '512'"),
        (["--std", "1", "0", "1"], "must be positive, got 0"),
        (["--size-divisor", "0"], "must be a positive whole number, got '0'"),
        (["--score-threshold", "2"], "must be from 0 to 1, got 2"),
        (["--set", "wonders=3"], "must be NAME=VALUE with a name of comp_feat_upsample, .*, got 'wonders=3'"),
        (["--no-keep-ratio"], "--keep-ratio and --no-keep-ratio are about --image-size; give it too"),
        (["--ignore-setting", "x"], "no setting 'x' is refused, so it cannot be ignored; refused are: none"),
        (["--set", "style=caffe"], "this network has no setting 'style'; it has threshold, .*nmf_steps"),
        (["--set", "nmf_rank=many"], "nmf_rank cannot be many in this network"),
        (["--size-divisor", "16"], "size_divisor must be a multiple of 32 for this network, got 16"),
    ],
)
def test_options_that_cannot_be_are_named(options, message, weights, tmp_path, capsys):
    import re

    path = write(tmp_path, weights, "")
    try:
        code = main(["export", str(path), *options])
    except SystemExit as e:
        code = e.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.long
def test_options_override_the_config_and_a_config_file_replaces_it(weights, tmp_path):
    path = write(tmp_path, weights, CASES["padded"].config)
    file = tmp_path / "other.py"
    file.write_text(CASES["exactly 160 x 64"].config)
    network, _, checkpoint = load_model(path, None, Overrides(config=file, preprocessing={"color_order": "BGR"}))
    plan = form_of(network, checkpoint).preprocessing
    assert (plan.exact_size, plan.size_fit, plan.color_order) == ((64, 160), "stretch", "BGR")


def test_what_is_not_understood_is_warned_of_with_what_is_assumed(weights, tmp_path):
    config = "_base_ = ['gone.py']\nmodel = dict(decode_head=dict(wonders=3, ham_kwargs=dict(MD_R=8)))"
    network, _, checkpoint = load_model(write(tmp_path, weights, config))
    with pytest.warns(
        UserWarning,
        match=r"^not understood in the config \(2 in all\), .*_base_ is gone\.py \(assumed: the official settings\); "
        r"model\.decode_head\.wonders is 3 \(assumed: it changes nothing\)\. Give the file .* as --config\.$",
    ):
        form_of(network, checkpoint)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("<html>", r"config is of the checkpoint: it is not Python \(line 1: .*\) \(assumed: the official settings\)"),
        ("x = " + "[" * 1000, r"config is of the checkpoint: it is not Python .* \(assumed: the official settings\)"),
        ("model = dict(decode_head=dict(num_classes=150))", r"decode_head\.num_classes is 150 \(assumed: 9\)"),
        ("test_pipeline = [dict(type='Wobble')]", r"Wobble is type Wobble \(assumed: it changes nothing\)"),
        (
            "test_pipeline = __import__('os').system('touch executed')",
            r"test_pipeline is __import__.* \(assumed: not there",
        ),
    ],
    ids=["no Python", "1000 deep", "another class count", "an unknown transform", "asks for execution"],
)
def test_bad_configs_are_warned_of_in_a_sentence_with_what_is_assumed(config, sentence, demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, _, checkpoint = demo
    settings = settings_of(read_config(config), checkpoint.state_dict)
    with pytest.warns(UserWarning, match=rf"^not understood in the config \(1 in all\), .*{sentence}"):
        form_of(network, replace(checkpoint, settings=settings))
    assert not list(tmp_path.iterdir())


def test_evaluate_and_inspect_take_the_options_of_export(weights, tmp_path, capsys):
    path = write(tmp_path, weights, CASES["padded"].config)
    other = tmp_path / "other.py"
    other.write_text(CASES["exactly 160 x 64"].config)
    options = ["--config", str(other), "--channel-order", "BGR", "--set", "nmf_steps=3"]
    assert main(["inspect", str(path), *options, "--json", str(tmp_path / "facts.json")]) == 0
    assert "override  channel_order" in capsys.readouterr().out
    rows = {row["name"]: row["built"] for row in json.loads((tmp_path / "facts.json").read_text())["settings"]}
    assert (rows["image_size"], rows["channel_order"], rows["nmf_steps"]) == ("(160, 64)", "BGR", "3")
    network, *_ = load_model(path, None, Overrides(other, {"color_order": "BGR"}, {"nmf_steps": 3}))
    expected = reference_labels(network, photo(75, 100), replace(CASES["exactly 160 x 64"], rgb=False))
    for folder, array in (("images", photo(75, 100)), ("annotations", expected.astype(np.uint8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    arguments = ["--dataset", "ade20k", "--data", str(tmp_path), "--labels", "from-0"]
    assert main(["evaluate", str(path), *arguments, *options, "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["models"][0]["pixel_accuracy"]["value"] == 1
    assert main(["evaluate", str(path), *arguments, "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["models"][0]["pixel_accuracy"]["value"] < 1


@pytest.mark.parametrize("command", [["inspect"], ["evaluate", "--dataset", "emoji-scenes"]])
def test_settings_are_not_given_for_files_that_have_their_own(command, tmp_path, capsys):
    (tmp_path / "segnext.onnx").touch()
    assert main([*command, str(tmp_path / "segnext.onnx"), "--channel-order", "BGR"]) == 2
    assert "--channel-order is about checkpoints, and an exported file has the test-time" in capsys.readouterr().err


def test_the_manifest_records_which_weights_and_which_config_were_taken(weights, traced_demo, tmp_path, capsys):
    path = tmp_path / "both.pth"
    averaged = {f"ema.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": {**{k: v * 0 for k, v in weights.items()}, **averaged}}, path)
    config = tmp_path / "other.py"
    config.write_text(CASES["padded"].config)
    network, _, checkpoint = load_model(path, None, Overrides(config), which="ema")
    written = export(network, tmp_path / "m.onnx", checkpoint=checkpoint, checkpoint_path=path, traced=traced_demo)
    assert (written.weights_taken, written.config_file) == ("ema", "other.py")
    assert written.config_sha256 == sha256_of(config)
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    out = capsys.readouterr().out
    assert f"from both.pth, averaged weights, sha256 {sha256_of(path)}" in out
    assert f"settings of other.py, sha256 {sha256_of(config)}" in out
    Image.fromarray(photo(75, 100)).save(tmp_path / "photo.png")
    # parity takes the same weights again, unasked
    assert main(["parity", str(tmp_path / "m.onnx"), str(tmp_path / "photo.png"), "--checkpoint", str(path)]) == 0
