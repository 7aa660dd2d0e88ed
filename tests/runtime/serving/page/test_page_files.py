# SPDX-License-Identifier: Apache-2.0
"""The files of the page, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import freqfusion_runtime
import pytest
from places import EXAMPLES

PAGE = Path(freqfusion_runtime.__file__).parent / "serving" / "page"
TEXTS = sorted(path for path in PAGE.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    assert "SPDX-License-Identifier: Apache-2.0" in text
    outside = [
        url for url in re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", text) if "www.w3.org" not in url
    ]
    assert outside == []
    assert "innerHTML" not in text


def test_the_document_needs_no_exception_in_the_security_policy():
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", text) == []


def test_every_file_that_is_named_exists():
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"(?:src|href|data-sample)=\"([^\"#]+)\"", text) if name != "./"}
    for module in PAGE.glob("*.js"):
        named |= set(re.findall(r"from \"\./([^\"]+)\"", module.read_text(encoding="utf-8")))
    assert {"main.js", "style.css", "icon.svg", "photos/coffee.jpg", "label_png.js"} <= named
    assert [name for name in sorted(named) if not (PAGE / name).is_file()] == []


def test_the_sample_photos_are_the_examples():
    for photo in (PAGE / "photos").iterdir():
        assert photo.read_bytes() == (EXAMPLES / photo.name).read_bytes()
