# SPDX-License-Identifier: Apache-2.0
import json
import os

import pytest
from freqfusion_runtime.errors import ManifestError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import (
    Manifest,
    Preprocessing,
    SettingRecord,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from freqfusion_runtime.model_files.setting_table import setting_lines
from growth import assert_linear
from small_models import tensor_manifest


def test_comes_back_equal_from_json():
    manifest = tensor_manifest(
        nmf_bases_seed=3,
        weights="checkpoint",
        weights_file="segnext.pth",
        weights_sha256="ab" * 32,
        operators={"Carafe": 4},
        versions={"torch": "2.13.0"},
        preprocessing=Preprocessing(mean=(1, 2, 3), std=(1, 1, 1), color_order="BGR"),
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, r"has manifest format 1, this runtime reads 2\. Install"),
        ({"format_version": None}, "has manifest format None"),
        ({"task": "poetry"}, "task: must be one of semantic_segmentation, detection, .*, got 'poetry'"),
        ({"interface": 1}, "interface: must be one of tensor, image, got 1"),
        ({"num_classes": "4"}, "num_classes: must be int, got '4'"),
        ({"opset": True}, "opset: must be int, got True"),
        ({"palette": [[1, 2]]}, r"palette\[0\]: must be tuple\[int, int, int\], got \[1, 2\]"),
        ({"palette": [[1, 2, 3]]}, r"palette must have 4 entries \(num_classes\) or none, got 1"),
        ({"palette": [[1, 2, 300]] * 4}, "palette must hold levels from 0 to 255"),
        ({"num_things": 2}, "num_things must be given for panoptic_segmentation and for nothing else, got 2"),
        ({"task": "panoptic_segmentation"}, "num_things must be given .* got None for panoptic_segmentation"),
        ({"task": "panoptic_segmentation", "num_things": 5}, r"num_things must be from 1 to 4 \(num_classes\), got 5"),
        ({"classes": ["a"]}, r"classes must have 4 entries \(num_classes\) or none, got 1"),
        ({"classes": [1, 2, 3, 4]}, r"classes\[0\]: must be str, got 1"),
        ({"nmf_bases_seed": "0"}, r"nmf_bases_seed: must be int \| None, got '0'"),
        ({"inputs": []}, "inputs and outputs must name at least one tensor each"),
        ({"inputs": [{"name": "x"}]}, r"inputs\[0\]: missing keys: dtype, shape"),
        ({"operators": {"Carafe": "4"}}, r"operators\.Carafe: must be int, got '4'"),
        ({"colour": 1}, "missing keys: none; unknown keys: colour"),
        ({"preprocessing": 3}, "preprocessing: must be an object, got 3"),
    ],
)
def test_names_what_is_wrong(change, message):
    record = {**json.loads(tensor_manifest().to_json()), **change}
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [0, 1, 1]}, "std must be positive"),
        ({"size_divisor": 0}, "must be positive"),
        ({"exact_size": [64, 0]}, r"so must exact_size, got \(64, 0\)"),
        ({"exact_size": [64]}, r"preprocessing\.exact_size: must be tuple\[int, int\], got \[64\]"),
        ({"exact_size": "64"}, r"preprocessing\.exact_size: must be tuple\[int, int\] \| None, got '64'"),
        ({"resizer": "pillow"}, "size_fit must be pad where resizer is pillow, got stretch"),
        ({"resizer": "pil"}, r"preprocessing\.resizer: must be one of opencv, pillow, got 'pil'"),
        ({"size_fit": "crop"}, r"preprocessing\.size_fit: must be one of stretch, pad, got 'crop'"),
        ({"mean": ["a", 0, 0]}, r"preprocessing\.mean\[0\]: must be float, got 'a'"),
    ],
)
def test_names_what_is_wrong_in_preprocessing(change, message):
    record = json.loads(tensor_manifest().to_json())
    record["preprocessing"].update(change)
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(record))


def test_levels_that_are_no_numbers_are_refused():
    with pytest.raises(ManifestError, match=r"std must be positive, got \(nan, 1, 1\)"):
        tensor_manifest(preprocessing=Preprocessing(std=(float("nan"), 1, 1)))
    with pytest.raises(ManifestError, match="mean must be finite"):
        tensor_manifest(preprocessing=Preprocessing(mean=(0, float("nan"), 0)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_refuses_what_is_no_record(text):
    with pytest.raises(ManifestError, match=r"net\.onnx: (the manifest cannot be read: |must be a JSON object)"):
        Manifest.from_json(text, source="net.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"net\.onnx: the manifest is nested too deeply: 100000 lists"),
        ('{"network": ' + '{"a":' * 40 + "1" + "}" * 41, "the manifest is nested too deeply: 41 lists and objects"),
        ('{"task": 1, "task": 2}', "the manifest has the field 'task', which is there twice"),
        (" " * (65 << 20), "the manifest has 68157440 bytes, the limit is 67108864"),
        ("1" * 5000, "the manifest has a number of more than 64 digits"),
        ('{"std": NaN}', "the manifest cannot be read: NaN is no JSON number"),
    ],
    ids=["lists", "objects", "twice", "blanks", "digits", "nan"],
)
def test_hostile_text_ends_in_a_sentence(text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text, source="net.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be from 1 to 65536, got 0"),
        (
            {"num_classes": 30_000_000, "classes": [], "palette": []},
            "num_classes must be from 1 to 65536, got 30000000",
        ),
        (
            {"classes": ["sky", "x" * 20_000, "a", "b"]},
            r"the name of a class has at most 200 characters, that of class 1 has 20000: 'x{40}'\.\.\. Shorten it",
        ),
        ({"task": ["x"]}, r"task: must be one of semantic_segmentation, .*, got \['x'\]"),
        ({"task": "x" * 10_000}, "task: must be one of .*, got 'x{59}\\."),
        ({f"key {number}": 1 for number in range(1000)}, r"unknown keys: key 0, key 1, .* and 990 more\. Write"),
    ],
)
def test_sizes_and_messages_are_bounded(change, message):
    record = {**json.loads(tensor_manifest().to_json()), **change}
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(record))


def test_a_class_of_200_characters_and_65536_classes_are_taken():
    count = 1 << 16
    manifest = tensor_manifest(num_classes=count, classes=("x" * 200,) * count, palette=((1, 2, 3),) * count)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_reading_grows_with_the_text_and_no_faster():
    def text(count):
        settings = [SettingRecord(f"s{k}", "config", "x", "y", "") for k in range(count)]
        manifest = tensor_manifest(
            num_classes=count,
            classes=tuple(f"class {k}" for k in range(count)),
            palette=((1, 2, 3),) * count,
            settings=tuple(settings),
            operators={f"o{k}": k for k in range(count)},
        )
        return manifest.to_json()

    assert_linear(Manifest.from_json, text, 400)

    def refuse(cut):
        with pytest.raises(ManifestError):
            Manifest.from_json(cut)

    assert_linear(refuse, lambda count: text(count)[:-9], 400)


def test_half_a_character_becomes_the_mark_for_one():
    assert Manifest.from_json(tensor_manifest(model="a\ud800b").to_json()).model == "a\ufffdb"


def test_one_long_setting_does_not_make_every_line_long():
    settings = [SettingRecord("x" * 100_000, "config", "", "y", "z"), SettingRecord("a", "config", "", "b", "c")]
    assert max(map(len, setting_lines(settings)[1:])) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{" * 99, "net.json is nested too deeply"),
        (b"\xff", "net.json is not UTF-8"),
        (b"3", "net.json holds no JSON object but int"),
    ],
)
def test_a_damaged_sidecar_ends_in_a_sentence(tmp_path, content, message):
    (tmp_path / "net.json").write_bytes(content)
    with pytest.raises(ManifestError, match=rf"{message}.*\. Build it\."):
        read_sidecar(tmp_path / "net.json", "Build it.")


def test_a_sidecar_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "net.json")
    with pytest.raises(ManifestError, match=r"net\.json cannot be read: it is a fifo, not a regular file\. Build it\."):
        read_sidecar(tmp_path / "net.json", "Build it.")


def test_a_missing_key_is_an_error_not_a_default():
    record = json.loads(tensor_manifest().to_json())
    del record["preprocessing"]["std"]
    with pytest.raises(ManifestError, match="preprocessing: missing keys: std; unknown keys: none"):
        Manifest.from_json(json.dumps(record))


def test_a_record_written_before_a_key_was_added_has_its_default():
    record = json.loads(tensor_manifest().to_json())
    del record["preprocessing"]["exact_size"], record["settings"], record["network"]
    assert Manifest.from_json(json.dumps(record)) == tensor_manifest()


def test_settings_and_an_exact_size_come_back_from_json():
    manifest = tensor_manifest(
        preprocessing=Preprocessing(exact_size=(64, 160)),
        settings=(SettingRecord("std", "override", "(1, 1, 1)", "(2, 2, 2)", ""),),
        network={"nmf_rank": 8, "anchor_scales": [4.0], "style": "caffe"},
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_table_of_settings_is_sorted_by_what_became_of_them():
    settings = [
        SettingRecord("mode", "not understood", "slid", "whole", "assumed"),
        SettingRecord("std", "override", "(1, 1, 1)", "(2, 2, 2)", ""),
        SettingRecord("mean", "config", "0", "0", "of the pipeline"),
    ]
    assert setting_lines(settings) == [
        "config          mean  0          of the pipeline",
        "override        std   (2, 2, 2)  the config says (1, 1, 1)",
        "not understood  mode  whole      the config says slid; assumed",
    ]


def test_file_beside_the_model_carries_its_hash(tmp_path):
    model = tmp_path / "net.onnx"
    model.write_bytes(b"model")
    path = write_sidecar(model, tensor_manifest())
    record = json.loads(path.read_text())
    assert path == sidecar_path(model) == tmp_path / "net.json"
    assert record.pop("sha256") == sha256_of(model)
    assert Manifest.from_json(json.dumps(record)) == tensor_manifest()
