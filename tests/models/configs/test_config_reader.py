# SPDX-License-Identifier: Apache-2.0
"""Configs are read as data: what Python would make of plain assignments, and nothing else is carried out."""

from __future__ import annotations

import pytest
from freqfusion.configs.findings import shown
from freqfusion.configs.reader import MAX_CHARACTERS, Unread, read_config, read_config_file


def test_variables_dictionaries_and_updates_come_out_as_python_makes_them():
    text = """
norm = dict(mean=[1, 2, 3], to_rgb=not True)
size = (2048, 512)
steps = [dict(type='Normalize', **norm), {'type': 'Resize', 'scale': size[::-1]}, *[dict(type='A')]]
steps += [dict(type='Pad', size=size[0] // 4 * 2)]
data = dict(test=dict(pipeline=steps))
data['test']['times'] = -1
data.update(val=dict(pipeline=data.test.pipeline))
steps.append(dict(type='Last'))
width, height = size
loose = norm['mean'] if norm['to_rgb'] else float('inf')
"""
    found = read_config(text)
    expected: dict = {}
    exec(text.replace("data.test.pipeline", "data['test']['pipeline']"), {}, expected)
    assert found.values == expected
    assert found.is_whole
    assert read_config("size: tuple = (1, 2)").values == {"size": (1, 2)}


def test_dumped_json_and_dictionaries_are_read_too():
    assert read_config('{"model": {"test_cfg": null}}').values == {"model": {"test_cfg": None}}
    assert read_config({"model": {"size": (1, 2), "made": object()}}).values["model"]["size"] == (1, 2)
    assert read_config({"made": object()}).values == {"made": Unread("object")}
    assert read_config(None).values == {}


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch executed')",
        "open('executed', 'w')",
        "[i for i in range(3)]",
        "9 ** 9 ** 9",
        "[0] * 10 ** 9",
        "'x' * 10 ** 9",
        "f'{size}'",
        "(lambda: 1)()",
        "_base_.model",
        "{{_base_.model}}",
        "size['width']",
        "1 / 0",
        "-'text'",
        "dict(3)",
    ],
)
def test_what_only_execution_could_tell_is_marked(expression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_config(f"size = (2, 3)\nbefore = 1\nvalue = {expression}\nafter = [value, size]").values
    assert isinstance(found["value"], Unread)
    assert (found["before"], found["after"][1]) == (1, (2, 3))
    assert not list(tmp_path.iterdir())


def test_names_that_code_changes_are_marked():
    found = read_config("a = [1]\nb = dict(c=1)\nfor i in [1]:\n    a = i\nb.popitem()\ndel missing\nimport os").values
    assert all(isinstance(found[name], Unread) for name in ("a", "b", "i", "os"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("<html>Not found</html>", r"it is not Python \(line 1: invalid syntax\)"),
        ("x = " + "(" * 1000, "it is not Python"),
        ("x = a" + ".b" * 100_000, "it cannot be parsed .RecursionError|it cannot be parsed .MemoryError"),
        ("x = " + "-" * 100_000 + "1", "it cannot be parsed .RecursionError|it cannot be parsed .MemoryError"),
        ("x = 1\0", "it is not Python|it cannot be parsed"),
        ("{]", "it is not JSON"),
        ('{"a":' * 100_000, "it cannot be parsed|it is not JSON"),
        (" " * (MAX_CHARACTERS + 1), f"it has {MAX_CHARACTERS + 1} characters, at most {MAX_CHARACTERS} are read"),
        (3, "it is a int, not text"),
    ],
)
def test_what_is_no_config_is_said(content, problem):
    assert_matches(read_config(content).problem, problem)


def test_what_lies_too_deep_in_a_dictionary_is_said():
    nested: dict = {}
    for _ in range(1000):
        nested = {"a": nested}
    assert "nested more than 100 deep" in read_config(nested).problem


def test_bases_and_lazy_imports_are_named():
    assert read_config("_base_ = ['a.py', 'b.py']").bases == ("a.py", "b.py")
    assert read_config("_base_ = 'a.py'\nx = 1").bases == ("a.py",)
    lazy = read_config("with read_base():\n    from .._base_.models import *\nmodel.update(a=1)")
    assert lazy.bases == ("from .._base_.models import *",)
    assert not lazy.is_whole


def test_a_file_is_merged_with_its_bases_as_mm_does(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "model.py").write_text("model = dict(head=dict(a=1, b=2), neck=dict(c=3))\nnumber = 1")
    (tmp_path / "bases" / "data.py").write_text("_base_ = ['missing.py', '../config.py']\nsize = (1, 2)")
    path = tmp_path / "config.py"
    path.write_text(
        "_base_ = ['bases/model.py', 'bases/data.py']\nmodel = dict(head=dict(b=5), neck=dict(_delete_=True, d=4))"
    )
    found = read_config_file(path)
    assert found.values == {"model": {"head": {"a": 1, "b": 5}, "neck": {"d": 4}}, "number": 1, "size": (1, 2)}
    assert found.bases == ("missing.py", "../config.py")


def assert_matches(text, patterns):
    import re

    assert re.search(patterns, text), text


def test_lines_that_copy_what_is_large_come_to_an_end():
    text = "a = [0] * 100000\n" + "\n".join(f"b{number} = a + []" for number in range(2000))
    assert "have more than 5000000 items in all" in read_config(text).problem
    text = "a = 'x' * 100000\n" + "\n".join(f"b{number} = a[1:]" for number in range(2000))
    assert "have more than 5000000 items in all" in read_config(text).problem


def test_lists_that_hold_each_other_or_themselves_are_shown_in_a_line():
    doubled = "\n".join(
        ["a0 = [0] * 9", *[f"a{n + 1} = [a{n}, a{n}]" for n in range(80)], "x = {'a': 1, **{'b': a80}}"]
    )
    assert len(shown(read_config(doubled).values["x"])) == 80
    assert "nested more than 200 deep" in read_config("a = []\na.append(a)").problem
    deep = "\n".join(["a0 = []", *[f"a{n + 1} = [a{n}]" for n in range(5000)]])
    assert "nested more than 200 deep" in read_config(deep).problem


def test_a_pickled_config_that_would_be_copied_without_end_is_said():
    value: list = []
    for _ in range(60):
        value = [value, value]
    assert "has more than 1000000 parts, those that are shared counted each time" in read_config({"a": value}).problem


def test_a_base_that_is_no_name_of_a_file_is_missing(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = ['a\\x00b', '{'x' * 5000}']\nx = 1")
    config = read_config_file(path)
    assert (len(config.bases), config.values) == (2, {"x": 1})
