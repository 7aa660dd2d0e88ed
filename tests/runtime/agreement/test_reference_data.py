# SPDX-License-Identifier: Apache-2.0
"""PyTorch's answers in a file: written whole, read back, and refused where they are damaged or another model's."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from freqfusion_runtime.agreement.noise import NoiseEntry, noise_lines
from freqfusion_runtime.agreement.reference_data import (
    RecordedSession,
    ReferenceData,
    ReferenceFacts,
    ReferenceOperator,
    ReferencePicture,
    write_reference_data,
)
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import OutputError, ReferenceDataError
from freqfusion_runtime.files import sha256_of
from small_models import tensor_manifest

FLOOR = (NoiseEntry("TF32", "a.png", 2e-3, 1e-4, {"label_agreement": 0.9995, "miou": 0.98}),)
FACTS = ReferenceFacts(
    onnx_file="net.onnx",
    onnx_sha256="a" * 64,
    checkpoint_file="net.pth",
    checkpoint_sha256="b" * 64,
    manifest=tensor_manifest().to_json(),
    operators=(ReferenceOperator("node", "Carafe", ("x", "m"), "y/z"),),
    noise_floor=FLOOR,
)


def picture(name: str) -> ReferencePicture:
    generator = np.random.default_rng(len(name))
    arrays = {key: generator.normal(size=(1, 2, 3, 4)).astype(np.float32) for key in ("x", "m", "y/z")}
    photo = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    labels = generator.integers(0, 4, (5, 7), dtype=np.int32)
    return ReferencePicture(name, photo, arrays, {"node": arrays["x"]}, {"logits": arrays["m"]}, labels)


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "reference.npz"
    write_reference_data(path, FACTS, b"model", [picture("a.png"), picture("longer.png")])
    return path


def test_what_was_written_is_read_back(path):
    data = ReferenceData(path)
    assert (data.facts, data.names, data.operator_model) == (FACTS, ("a.png", "longer.png"), b"model")
    for place, name in enumerate(data.names):
        found, expected = data.picture(place), picture(name)
        assert found.name == name
        np.testing.assert_array_equal(found.photo, expected.photo)
        np.testing.assert_array_equal(data.photo(place), expected.photo)
        np.testing.assert_array_equal(found.labels, expected.labels)
        for group in ("values", "alone", "outputs"):
            arrays = getattr(found, group)
            assert arrays.keys() == getattr(expected, group).keys()
            for key, array in getattr(expected, group).items():
                np.testing.assert_array_equal(arrays[key], array)
                assert arrays[key].dtype == array.dtype


def test_it_is_a_plain_archive_without_pickles(path):
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["0/photo"], picture("a.png").photo)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("facts.json"))["onnx_sha256"] == "a" * 64


def test_it_appears_whole_or_not_at_all(tmp_path):
    def broken_off():
        yield picture("a.png")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_reference_data(tmp_path / "reference.npz", FACTS, b"model", broken_off())
    assert list(tmp_path.iterdir()) == []


def test_it_belongs_to_one_onnx_file(path):
    data = ReferenceData(path)
    data.check_belongs(Path("net.onnx"), "a" * 64)
    message = r"holds what PyTorch computed for net\.onnx with sha256 aaaaaaaaaaaa\.\.\., and other\.onnx has cccccc"
    with pytest.raises(ReferenceDataError, match=message):
        data.check_belongs(Path("other.onnx"), "c" * 64)


def test_bad_files_are_refused(path, tmp_path):
    with pytest.raises(ReferenceDataError, match=r"none\.npz does not exist.*--save-reference"):
        ReferenceData(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ReferenceDataError, match=r"text\.npz is no reference data, or damaged"):
        ReferenceData(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ReferenceDataError, match="is no reference data, or damaged"):
        ReferenceData(tmp_path / "other.npz")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "later.npz", "w") as new:
        new.writestr("operators.onnx", b"")
        new.writestr("facts.json", old.read("facts.json").replace(b'"format_version": 1', b'"format_version": 9'))
    with pytest.raises(ReferenceDataError, match="has reference format 9, this runtime reads 1"):
        ReferenceData(tmp_path / "later.npz")
    data = bytearray(path.read_bytes())
    where = data.index(picture("a.png").photo.tobytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ReferenceDataError, match="or damaged"):
        ReferenceData(path).picture(0)
    with pytest.raises(ReferenceDataError, match="or damaged"):
        ReferenceData(path).photo(0)


def test_other_names_and_places_are_refused(tmp_path):
    with pytest.raises(ReferenceDataError, match=r"reference\.zip does not end in \.npz"):
        write_reference_data(tmp_path / "reference.zip", FACTS, b"", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a file, not a folder"):
        write_reference_data(tmp_path / "file" / "reference.npz", FACTS, b"", [])


def test_recorded_outputs_are_given_whatever_the_inputs(path):
    outputs = ReferenceData(path).picture(0).outputs
    session = RecordedSession(path, tensor_manifest(), outputs)
    found = session.run({})
    np.testing.assert_array_equal(found["logits"], outputs["logits"])
    found["logits"][:] = 0  # a copy
    np.testing.assert_array_equal(session.run({})["logits"], outputs["logits"])


def test_the_noise_floor_is_a_table():
    header, line = noise_lines(FLOOR)
    assert "logits max/std" in header
    assert line.split() == ["TF32", "a.png", "2.0e-03", "1.0e-04", "label_agreement", "0.9995,", "miou", "0.98"]
    assert noise_lines([]) == []


def test_it_can_be_inspected(path, tmp_path, capsys):
    facts = tmp_path / "facts.json"
    assert main(["inspect", str(path), "--json", str(facts)]) == 0
    found = json.loads(facts.read_text())
    assert (found["kind"], found["pictures"]) == ("reference data", ["a.png", "longer.png"])
    assert (found["onnx_sha256"], found["checkpoint_sha256"]) == ("a" * 64, "b" * 64)
    assert found["sha256"] == sha256_of(path)
    out = capsys.readouterr().out
    assert f"for net.onnx, sha256 {'a' * 64}" in out
    assert "* Carafe: 1 nodes" in out
    assert "TF32" in out
