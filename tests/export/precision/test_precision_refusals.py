# SPDX-License-Identifier: Apache-2.0
"""What `freqfusion export --precision` refuses as users type it, before it traces anything, and leaves no file."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_export.precision import calibration
from freqfusion_export.precision.calibration import CalibrationError, read_calibration
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import PictureError
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """By what is in them."""
    made = {name: tmp_path / name for name in ("empty", "broken", "good")}
    for folder in made.values():
        folder.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    picture.save(made["good"] / "a.png")
    whole = (made["good"] / "a.png").read_bytes()
    (made["broken"] / "half.png").write_bytes(whole[: len(whole) // 2])
    (made["broken"] / "text.jpg").write_text("no picture")
    (made["broken"] / "none.png").write_bytes(b"")
    (made["empty"] / "notes.txt").write_text("no picture either")
    return {**made, "absent": tmp_path / "absent"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "int8 takes its scales from pictures: name a folder of typical ones (--calibration)"),
        (["--precision", "fp8"], "fp8 takes its scales from pictures: name a folder of typical ones (--calibration)"),
        (["--precision", "int8", "--calibration", "{absent}"], "absent does not exist. Name a folder of pictures."),
        (["--precision", "int8", "--calibration", "{empty}"], "empty holds no picture (.jpg, "),
        (["--precision", "int8", "--calibration", "{broken}"], "none of the 3 pictures in the calibration folder"),
        (["--precision", "bf16", "--calibration", "{broken}"], "none of the 3 pictures in the calibration folder"),
        (
            ["--precision", "int8", "--calibration", "{good}", "--max-drop", "1.5"],
            "the label drop allowed must be from 0 to 1, got 1.5",
        ),
        (
            ["--calibration", "{good}"],
            "an fp32 file has nothing to keep in fp32 or to calibrate; name another precision",
        ),
        (["--keep-fp32", "backbone*"], "an fp32 file has nothing to keep in fp32 or to calibrate"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(checkpoint, folders, tmp_path, capsys, arguments, message):
    output = tmp_path / "out" / "net.onnx"
    filled = [argument.format(**folders) for argument in arguments]
    assert main(["export", str(checkpoint / "segnext.pth"), "--output", str(output), *filled]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not output.parent.exists()


@pytest.mark.parametrize("max_drop", ["much", ""])
def test_a_drop_that_is_no_number_is_refused_with_the_usage(checkpoint, capsys, max_drop):
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(checkpoint / "segnext.pth"), "--max-drop", max_drop])
    assert f"--max-drop: invalid float value: '{max_drop}'" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_named(folders, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(calibration, "find_pictures", refuse)
    with pytest.raises(CalibrationError, match=r"good cannot be read: Permission denied\. Allow it\."):
        read_calibration(folders["good"])


@pytest.mark.parametrize("error", [PictureError("b.png is damaged"), PermissionError(13, "Permission denied")])
def test_a_picture_that_may_not_be_read_is_listed_and_skipped(folders, monkeypatch, error):
    (folders["good"] / "b.png").write_bytes((folders["good"] / "a.png").read_bytes())
    read = calibration.read_picture

    def refuse(path):
        if path.name == "b.png":
            raise error
        return read(path)

    monkeypatch.setattr(calibration, "read_picture", refuse)
    found = read_calibration(folders["good"])
    assert [path.name for path in found.pictures] == ["a.png"]
    assert found.skipped == (("b.png", str(error)),)
