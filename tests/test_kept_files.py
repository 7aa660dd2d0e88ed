# SPDX-License-Identifier: Apache-2.0
"""A kept file is used only while it is what was made, of the sources that are there now."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import kept_files
import pytest
from kept_files import kept, remove_unused


@pytest.fixture
def made():
    """Counts how often ``make`` was asked."""
    return []


@pytest.fixture
def make(made):
    def write(folder):
        made.append(folder)
        (folder / "model.onnx").write_bytes(b"weights" * 100)

    return write


def test_is_made_once_and_read_again(tmp_path, make, made):
    first, second = kept("net", make, tmp_path), kept("net", make, tmp_path)
    assert first == second
    assert len(made) == 1
    assert (first / "model.onnx").read_bytes() == b"weights" * 100
    assert kept("net with options", make, tmp_path) != first
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "more", "its record"])
def test_a_damaged_one_is_made_again(tmp_path, make, made, damage):
    place = kept("net", make, tmp_path)
    file = place / "model.onnx"
    match damage:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        case "changed":
            file.write_bytes(b"x" * file.stat().st_size)
        case "gone":
            file.unlink()
        case "more":
            (place / "model.json").write_text("{}")
        case "its record":
            place.with_suffix(".json").write_text("{")
    kept_files._found_sound.clear()  # as the next process, which trusts nothing

    assert kept("net", make, tmp_path) == place
    assert len(made) == 2
    assert file.read_bytes() == b"weights" * 100
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx"]


def test_changed_sources_make_another(tmp_path, make, made, monkeypatch):
    place = kept("net", make, tmp_path)
    monkeypatch.setattr(kept_files, "sources_key", lambda: "of a changed source")
    assert kept("net", make, tmp_path) != place
    assert len(made) == 2


def test_the_key_is_of_the_sources_content(tmp_path, monkeypatch):
    for place in kept_files.SOURCES:
        (tmp_path / place).mkdir(parents=True)
    source = tmp_path / kept_files.SOURCES[0] / "fusion.py"
    source.write_text("a = 1\n")
    monkeypatch.setattr(kept_files, "ROOT", tmp_path)
    monkeypatch.setattr(kept_files, "__file__", str(tmp_path / "kept_files.py"))
    for name in ("conftest.py", "detector_files.py"):
        (tmp_path / name).write_text("")
    before = kept_files.sources_key.__wrapped__()
    assert kept_files.sources_key.__wrapped__() == before
    source.write_text("a = 2\n")
    assert kept_files.sources_key.__wrapped__() != before


def test_one_that_failed_leaves_nothing(tmp_path, make, made):
    def fail(folder):
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        kept("net", fail, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    kept("net", make, tmp_path)
    assert len(made) == 1


def test_two_at_once_make_one(tmp_path, made):
    def slowly(folder):
        made.append(folder)
        time.sleep(0.2)
        (folder / "model.onnx").write_bytes(b"weights")

    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(lambda _: kept("net", slowly, tmp_path), range(4)))
    assert len(places) == 1
    assert len(made) == 1


def test_what_no_run_has_asked_for_is_removed(tmp_path, make):
    old, new = kept("old", make, tmp_path), kept("new", make, tmp_path)
    week_ago = time.time() - 8 * 86400
    os.utime(old.with_suffix(".json"), (week_ago, week_ago))
    remove_unused(tmp_path)
    assert not old.exists()
    assert new.is_dir()
