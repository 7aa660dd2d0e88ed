# SPDX-License-Identifier: Apache-2.0
"""What is in a file, or is its name, reaches a terminal as text and never as a command to it."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import warnings

import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.commands.json_output import printer, write_json
from freqfusion_runtime.commands.terminal import print_error, print_line
from freqfusion_runtime.files import json_text, printable
from freqfusion_runtime.model_files.classes.class_table import class_names
from PIL import Image
from places import ROOT
from small_models import image_manifest, tensor_manifest, write_image_model

HOSTILE = "a\x1b[2Jb\rc\nd\x9be\x7ff\u202eg\u2028h\x00i\tj"
SHOWN = r"a\x1b[2Jb\rc\nd\x9be\x7ff\u202eg\u2028h\x00i\tj"
# The one module that prints, and one that is below it and prints what it words itself.
PRINTING = {
    "runtime/freqfusion_runtime/commands/terminal.py",
    "runtime/freqfusion_runtime/serving/process/supervisor.py",
}


def test_what_a_terminal_would_obey_is_escaped_as_python_does_it():
    assert printable(HOSTILE) == SHOWN
    assert printable("Zürich 東京 😀 é") == "Zürich 東京 😀 é"
    assert printable("a\udcffb") == r"a\udcffb"  # of a file name that is no UTF-8


def test_lines_are_printed_whole_and_blank_lines_stay_above_them(capsys):
    print_line(HOSTILE)
    print_error("\n\nx\ny")
    printer(None)("\n" + HOSTILE)
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n\n{SHOWN}\n"
    assert err == "\n\nx\\ny\n"


def test_characters_that_an_encoding_lacks_are_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_line("Zürich", stream)
    stream.flush()
    assert stream.buffer.getvalue() == b"Z\\xfcrich\n"


def test_json_has_no_control_characters_and_is_read_back_equal(capsys):
    facts = {HOSTILE: [HOSTILE, "a\udcff", "東京"]}
    text = json_text(facts, indent=1)
    assert printable(text.replace("\n", "")) == text.replace("\n", "")
    assert json.loads(text) == facts
    write_json("-", facts)
    assert json.loads(capsys.readouterr().out)[HOSTILE] == facts[HOSTILE]


def test_names_of_classes_are_one_line_each():
    manifest = tensor_manifest(classes=(HOSTILE, " sky\n", "c", "d"))
    assert class_names(manifest) == (SHOWN, "sky", "c", "d")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_pictures_and_models_of_hostile_names_are_told_of(tmp_path, capsysbinary):
    manifest = image_manifest(classes=("\x1b]0;title\x07", "b", "c", "d"), model="m\x1b[31m")
    model = write_image_model(tmp_path / "net\x1b[2J.onnx", manifest)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a\x1b[1m.png", "b\n.png"):
        Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / name)
    Image.new("RGB", (8, 8)).save(os.fsencode(folder) + b"/\xff.png", "PNG")
    (folder / "bad\x9b.png").write_bytes(b"no picture")
    arguments = [str(model), str(folder), "--output", str(tmp_path / "out"), "--json", "-"]
    assert main(["run", *arguments]) == 1
    assert main(["inspect", str(model)]) == 0
    assert main(["run", str(tmp_path / "gone\x1b[2J.onnx"), *arguments[1:]]) == 2
    with pytest.raises(SystemExit):
        main(["run", *arguments, "--threads", "\x1b[2J"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["run\x1b[2J"]) == 2
    for stream in capsysbinary.readouterr():
        shown = stream.decode()
        assert shown
        assert not [c for c in shown if ord(c) < 32 and c != "\n"]
        assert not [c for c in shown if 0x7F <= ord(c) < 0xA0]


def prints(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


def test_nothing_else_prints():
    packages = [ROOT / place for place in ("runtime", "export", "models")]
    found = {
        path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py") if prints(path)
    }
    assert found == PRINTING
