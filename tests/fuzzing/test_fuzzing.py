# SPDX-License-Identifier: Apache-2.0
"""A small share of `make fuzz` with every run of the tests, a larger one with the long tests."""

from __future__ import annotations

import random

import pytest
from fuzzing.campaign import run
from fuzzing.entry_points import ENTRY_POINTS, open_point
from fuzzing.mutations import mutated, mutated_json

SERVED = ("http_json", "http_binary", "http_image", "grpc")
FILES = [name for name in ENTRY_POINTS if name not in SERVED]
WITH_TORCH = ("checkpoint", "training_config")


@pytest.mark.parametrize("name", [name for name in FILES if name not in WITH_TORCH])
def test_hostile_files_are_taken_or_refused_with_a_sentence(name, tmp_path):
    point = open_point(ENTRY_POINTS[name], tmp_path)
    given = [point.give(point.make(random.Random(f"{name}/0/{number}"))) for number in range(120)]
    assert set(given) >= {False}


@pytest.mark.parametrize("name", WITH_TORCH)
def test_hostile_checkpoints_are_taken_or_refused_with_a_sentence(name, tmp_path):
    point = open_point(ENTRY_POINTS[name], tmp_path)
    given = [point.give(point.make(random.Random(f"{name}/0/{number}"))) for number in range(120)]
    assert set(given) == {False, True}


@pytest.mark.long
@pytest.mark.serial
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_nothing_crashes_hangs_or_grows(name):
    outcome = run(name, 1500, seed=2)
    assert outcome.is_right, outcome.facts()
    assert outcome.taken + outcome.refused == outcome.cases
    assert outcome.taken
    assert outcome.refused


@pytest.mark.parametrize(
    ("place", "fault"),
    [("Raising", "RuntimeError: not a sentence"), ("Hanging", "no answer within 1 s"), ("Dying", "with status 11")],
)
def test_a_fault_is_found_and_the_rest_goes_on(place, fault):
    outcome = run("faulty", 2, seed=0, place=f"faulty.{place}", hang_s=1.0)
    assert outcome.fault_count == 2
    assert [case for case, _ in outcome.faults] == [0, 1]
    assert all(fault in what for _, what in outcome.faults)
    assert not outcome.is_right


def test_growth_is_a_fault():
    outcome = run("faulty", 10, seed=0, place="faulty.Growing")
    assert (outcome.taken, outcome.fault_count) == (10, 0)
    assert outcome.growth_mb > 200
    assert not outcome.is_right


def test_the_same_seed_makes_the_same_inputs():
    seeds = [b"abcdefgh" * 9, b"12345678" * 5]
    one, other = ([mutated(random.Random(f"x/{n}"), seeds) for n in range(200)] for _ in range(2))
    assert one == other
    assert len(set(one)) > 150
    values = {"a": [1, {"b": "c"}], "d": 2.5}
    texts = [mutated_json(random.Random(f"y/{n}"), values) for n in range(200)]
    assert texts == [mutated_json(random.Random(f"y/{n}"), values) for n in range(200)]
    assert values == {"a": [1, {"b": "c"}], "d": 2.5}
