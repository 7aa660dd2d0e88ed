# SPDX-License-Identifier: Apache-2.0
"""The store of engines: what counts as the same engine, and what a miss says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.engines.cache import BuildKey, EngineCache, TimingCache, cache_folder, cache_limit_bytes
from freqfusion_runtime.engines.errors import CacheLimitError
from freqfusion_runtime.engines.flavours import Flavour

PARTS = {"ONNX file": "a" * 64, "TensorRT": "tensorrt 11.4", "plugin": "none", "GPU": "H100", "--workspace-mb": "None"}
KEY = BuildKey(PARTS)


@pytest.fixture
def cache(tmp_path):
    cache = EngineCache(tmp_path)
    plan = tmp_path / "net.plan"
    plan.write_bytes(b"ftrt and more")
    cache.store(KEY, plan, {"flavour": "tensorrt"})
    return cache


def test_the_same_key_finds_the_same_bytes(cache):
    found, reason = cache.find(BuildKey(dict(reversed(PARTS.items()))))
    assert found is not None
    with found:
        found.copy_to(cache.folder / "copy")
    assert (cache.folder / "copy").read_bytes() == b"ftrt and more"
    assert found.record == {"flavour": "tensorrt"}
    assert "are the same" in reason


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_key_makes_another_engine_and_the_miss_names_it(cache, part):
    found, reason = cache.find(BuildKey({**PARTS, part: "another"}))
    assert found is None
    old = PARTS[part] if part != "ONNX file" else "aaaaaaaaaaaa..."
    assert reason == f"other than the nearest engine there: {part}: {old} -> another"


def test_an_empty_cache_says_so(tmp_path):
    assert EngineCache(tmp_path / "none").find(KEY) == (None, "the cache is empty")


def test_a_damaged_plan_is_removed_and_not_used(cache):
    found, _ = cache.find(KEY)
    found.close()
    found.plan.write_bytes(b"ftrt and less")
    assert cache.find(KEY) == (None, "the cached plan was damaged and has been removed")
    assert cache.find(KEY) == (None, "the cache is empty")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": {}}'])
def test_a_damaged_record_is_no_entry(cache, text):
    (cache.folder / f"{KEY.digest}.json").write_text(text)
    assert cache.find(KEY)[0] is None


def test_an_engine_that_the_gate_refused_is_forgotten(cache):
    cache.remove(KEY)
    assert cache.find(KEY)[0] is None
    assert cache.size_bytes() == 0


def test_the_folder_is_the_users_to_choose(monkeypatch, tmp_path):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FREQFUSION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "all"))
    assert cache_folder() == tmp_path / "all" / "freqfusion"


def test_measurements_are_kept_apart_by_version_and_gpu(tmp_path):
    old, new = (Flavour("tensorrt", SimpleNamespace(__version__=version)) for version in ("10.14.1", "11.4.0"))
    caches = [TimingCache(flavour, gpu, tmp_path) for flavour in (old, new) for gpu in ("H100 (9.0)", "L4 (8.9)")]
    assert len({cache.path for cache in caches}) == 4
    assert caches[0].read() == b""
    caches[0].write(b"measured")
    assert [cache.read() for cache in caches] == [b"measured", b"", b"", b""]


def key(number: int) -> BuildKey:
    return BuildKey({**PARTS, "ONNX file": str(number) * 64})


def filled(tmp_path: Path, limit_bytes: int, sizes: list[int]) -> tuple[EngineCache, list[list[str]]]:
    """A cache that plans of these sizes were stored in, a second apart, and what each of them pushed out."""
    cache, evicted = EngineCache(tmp_path, limit_bytes), []
    for number, size in enumerate(sizes):
        plan = tmp_path / "net.plan"
        plan.write_bytes(bytes([number]) * size)
        evicted.append([path.stem for path in cache.store(key(number), plan, {})])
        stored = cache.folder / f"{key(number).digest}.plan"
        os.utime(stored, (1e9 + number, 1e9 + number))
    return cache, evicted


def kept(cache: EngineCache, count: int) -> list[int]:
    return [number for number in range(count) if (cache.folder / f"{key(number).digest}.plan").exists()]


def test_the_least_recently_used_make_room(tmp_path):
    cache, evicted = filled(tmp_path, 250, [100, 100])
    assert evicted == [[], []]
    found, _ = cache.find(key(0))  # used now, and so later than the second
    found.close()
    (tmp_path / "net.plan").write_bytes(b"x" * 100)
    assert [path.stem for path in cache.store(key(2), tmp_path / "net.plan", {})] == [key(1).digest]
    assert kept(cache, 3) == [0, 2]
    assert cache.size_bytes() == 200
    assert cache.find(key(1))[0] is None
    assert len(list(cache.folder.iterdir())) == 4  # two plans, two records


def test_as_many_go_as_have_to(tmp_path):
    cache, evicted = filled(tmp_path, 250, [100, 20, 100, 240])
    assert evicted[3] == [key(0).digest, key(1).digest, key(2).digest]
    assert kept(cache, 4) == [3]


def test_an_engine_larger_than_the_limit_stays_alone(tmp_path):
    cache, evicted = filled(tmp_path, 50, [40, 100])
    assert evicted[1] == [key(0).digest]
    assert kept(cache, 2) == [1]


def test_an_engine_in_use_is_never_evicted(tmp_path):
    cache, _ = filled(tmp_path, 250, [100, 100])
    os.utime(cache.folder / f"{key(0).digest}.plan", (1e9, 1e9))
    program = (
        "import sys; from pathlib import Path; from freqfusion_runtime.engines.cache import *\n"
        f"found, _ = EngineCache(Path(sys.argv[1])).find(BuildKey({dict(key(0).parts)!r}))\n"
        "import os; os.utime(found.plan, (1, 1)); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "open\n"
        (tmp_path / "net.plan").write_bytes(b"x" * 100)
        assert [path.stem for path in cache.store(key(2), tmp_path / "net.plan", {})] == [key(1).digest]
        assert kept(cache, 3) == [0, 2]
        reader.stdin.close()
    (tmp_path / "net.plan").write_bytes(b"y" * 100)
    assert [path.stem for path in cache.store(key(3), tmp_path / "net.plan", {})] == [key(0).digest]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    cache, _ = filled(tmp_path, 250, [100])
    leftover = cache.folder / ".name.0123abcd.partial.plan"
    leftover.write_bytes(b"half")
    assert len(cache.plans()) == 1
    cache.store(key(1), tmp_path / "net.plan", {})
    assert not leftover.exists()
    assert kept(cache, 2) == [0, 1]


def test_the_limit_is_the_users_to_choose(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("FREQFUSION_CACHE_MB", raising=False)
    assert cache_limit_bytes() == 8192e6
    monkeypatch.setenv("FREQFUSION_CACHE_MB", "12")
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path))
    assert EngineCache().limit_bytes == 12e6
    main(["doctor"])
    assert f"{tmp_path}, 0 engines, 0 of at most 12 MB" in capsys.readouterr().out
    monkeypatch.setenv("FREQFUSION_CACHE_MB", "2 GB")
    with pytest.raises(CacheLimitError, match=r"FREQFUSION_CACHE_MB must be a whole number of megabytes, got '2 GB'"):
        EngineCache()
