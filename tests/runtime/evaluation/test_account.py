# SPDX-License-Identifier: Apache-2.0
"""What was scored, ignored and dropped is said in words and in JSON."""

from freqfusion_runtime.evaluation.account import Account, Dropped, absent_classes


def test_everything_is_counted_and_the_first_few_are_named():
    dropped = (
        Dropped("picture", "a.png", "it is damaged"),
        *(Dropped("ring", f"annotation {i}", "x") for i in range(7)),
    )
    account = Account({"pictures": 3, "pixels": 90}, {"pixels": 10}, dropped, ("look here",))
    lines = account.lines()
    assert lines[0] == "scored: 3 pictures, 90 pixels; ignored: 10 pixels; dropped: 1 pictures, 7 rings"
    assert lines[1] == "  dropped picture a.png: it is damaged"
    assert lines[6:] == ["  and 3 more, all of which --json names", "WARNING: look here"]
    facts = account.facts()
    assert facts["counts"] == {
        "scored": {"pictures": 3, "pixels": 90},
        "ignored": {"pixels": 10},
        "dropped": {"pictures": 1, "rings": 7},
    }
    assert facts["dropped"][0] == {"what": "picture", "name": "a.png", "reason": "it is damaged"}
    assert len(facts["dropped"]) == 8
    assert facts["warnings"] == ["look here"]


def test_nothing_dropped_is_said_too():
    assert Account({"pictures": 1}, {}).lines() == ["scored: 1 pictures; ignored: nothing; dropped: 0 pictures"]


def test_classes_that_never_occur_are_named():
    assert absent_classes(("cat", "dog", "sky"), (4, 0, 0), "pixel") == [
        "2 of 3 classes have no pixel in the truth: dog, sky"
    ]
    assert absent_classes(("cat",), (1,), "object") == []
