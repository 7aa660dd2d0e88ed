# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import os
import subprocess
import sys

import pytest
from freqfusion_runtime.errors import OutputError
from freqfusion_runtime.files import atomic_path, json_text, make_folder, scratch_folder, sha256_of


def test_json_has_null_for_what_is_no_number():
    text = json_text({"a": [1.5, float("nan")], "b": {"c": (float("inf"), "NaN")}, "d": -float("inf")}, sort_keys=True)
    assert text == '{"a": [1.5, null], "b": {"c": [null, "NaN"]}, "d": null}'
    assert json_text({"name": "grün", "score": 0.1}) == '{"name": "grün", "score": 0.1}'
    assert json.loads(json_text([{"x": 1}], indent=1)) == [{"x": 1}]


def test_file_appears_under_its_name_only_when_done(tmp_path):
    target = tmp_path / "new" / "labels.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert os.listdir(target.parent) == ["labels.png"]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    target = tmp_path / "net.onnx"
    target.write_bytes(b"half a mod")
    script = (
        "import os, sys; from freqfusion_runtime.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n    t.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, target], env=_environment(), check=False).returncode == 9
    assert len(os.listdir(tmp_path)) == 2
    other = tmp_path / ".other.01234567.partial.onnx"
    other.touch()

    with atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")

    assert target.read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path)) == [other.name, "net.onnx"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"


def test_new_files_get_ordinary_permissions(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.touch()
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_says_why_a_place_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OutputError, match=r"file cannot be written: it is a file, not a folder\. Name another place"):
        make_folder(blocked)
    with (
        pytest.raises(OutputError, match=r"deep cannot be written: not a directory\."),
        atomic_path(blocked / "deep" / "x"),
    ):
        pass
    with pytest.raises(OutputError, match=r"cannot be written: it is a folder\."), atomic_path(tmp_path):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that refuses files even for root")
def test_says_when_the_folder_refuses_new_files():
    with pytest.raises(OutputError, match=r"/proc/self/x\.png cannot be written: "), atomic_path("/proc/self/x.png"):
        pass


def test_an_error_about_another_file_is_not_reworded(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


def test_hash_is_that_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_scratch_folder_is_private_and_goes_with_its_block(tmp_path):
    with scratch_folder("gate", tmp_path) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "x").write_bytes(b"x")
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
    with scratch_folder("triton", tmp_path) as folder:
        folder.rename(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_next_scratch_folder_removes_those_of_killed_processes_and_no_others(tmp_path):
    script = (
        "import sys, time; from freqfusion_runtime.files import scratch_folder\n"
        "with scratch_folder('gate') as folder:\n"
        "    (folder / 'half.onnx').write_bytes(b'half'); print(folder.name, flush=True); time.sleep(60)"
    )
    environment = {**_environment(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    dead, alive = (subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        left, used = (process.stdout.readline().strip() for process in (dead, alive))
        dead.kill()
        dead.communicate()
        foreign = tmp_path / "freqfusion-experiments"
        foreign.mkdir()
        link = tmp_path / "freqfusion-gate-01234567.scratch"
        link.symlink_to(foreign)
        assert (tmp_path / left / "half.onnx").is_file()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as third:
            new = third.stdout.readline().strip()
            assert {path.name for path in tmp_path.iterdir()} == {used, new, foreign.name, link.name}
            third.kill()
    finally:
        alive.kill()
        alive.communicate()


def test_a_scratch_folder_that_cannot_be_made_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OutputError, match=r"file cannot be written: not a directory"), scratch_folder("gate", blocked):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_no_room_in_a_scratch_folder_names_it_and_the_bytes_that_are_free(tmp_path):
    def fill():
        with open("/dev/full", "wb") as file:
            file.write(b"x")

    full = rf"{tmp_path} cannot be written: no space left on device while \d+ bytes were free\. Name"
    with pytest.raises(OutputError, match=full), scratch_folder("gate", tmp_path):
        fill()
    with pytest.raises(OutputError, match=r"free; the variable TMPDIR names the folder"), scratch_folder("gate"):
        fill()
    assert list(tmp_path.iterdir()) == []


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
