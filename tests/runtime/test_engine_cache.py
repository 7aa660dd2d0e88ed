# SPDX-License-Identifier: Apache-2.0
"""The store of engines: what counts as the same engine, and what a miss says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from freqfusion_runtime.engines.cache import BuildKey, EngineCache, TimingCache, cache_folder
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
    assert found.plan.read_bytes() == b"ftrt and more"
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
