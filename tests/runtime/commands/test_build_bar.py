# SPDX-License-Identifier: Apache-2.0
"""The progress bar of a build: on real pseudo-terminals of several widths, and none in a file."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals of Unix", allow_module_level=True)

import fcntl
import pty
import termios

from engine_builds import needs_rtx
from small_models import write_tensor_model

PROGRAM = """
import time
from freqfusion_runtime.commands import build_bar as module
from freqfusion_runtime.commands.build_bar import build_bar
module._TICK_S = 0.2  # so that what is waited for below has been shown
with build_bar("a-rather-long-name-of-a-model.tensorrt-rtx.plan") as report:
    report(0.0, "Building the engine from the network")
    time.sleep(1.5)
    report(0.42, "Compiling a phase with a name longer than any terminal of this test is wide")
    time.sleep(0.6)
    report(1.0, "Done")
print("after")
"""


def frames_on_a_terminal(columns: int, *command: str) -> list[str]:
    """What a command shows, cut where it returns to the start of a line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux ends a terminal so
            break
        if not piece:
            break
        data += piece
    os.close(ours)
    assert process.wait() == 0
    return re.split(r"[\r\n]+", data.decode())


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_the_bar_fits_its_terminal(columns):
    frames = frames_on_a_terminal(columns, sys.executable, "-c", PROGRAM)
    bars = [frame for frame in frames if "%" in frame]
    assert all(len(frame) <= columns for frame in frames)
    assert any(" 42% |" in bar for bar in bars)
    assert all(re.search(r"\|\s*\d\d:\d\d", bar) for bar in bars), bars  # the time is never cut off
    assert any(re.search(r"  0% \|.*00:0[1-9]", bar) for bar in bars)  # the clock goes on while nothing else does
    assert any("Compiling" in bar for bar in bars) == (columns >= 60)
    assert frames[-2] == "after"
    assert frames[-3].strip() == ""  # the bar is wiped away


def test_in_a_file_there_is_no_bar():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("after\n", "")


@needs_rtx
def test_the_commands_output_in_a_file_has_no_control_characters(tmp_path):
    model = write_tensor_model(tmp_path / "net.onnx")
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "build",
        str(model),
        "--flavour",
        "tensorrt-rtx",
    ]
    environment = {**os.environ, "FREQFUSION_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([*command, "--opt", "1x64x64"], capture_output=True, env=environment, check=True)
    for text in (done.stdout, done.stderr):
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text), text
    assert b"net.tensorrt-rtx.plan" in done.stdout
    assert Path(tmp_path / "net.tensorrt-rtx.plan").is_file()
