# SPDX-License-Identifier: Apache-2.0
"""The names the exporter writes and the names the compiled plugins answer to are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from freqfusion_export.passes import name_tensorrt_plugins

HEADER = Path(__file__).parents[2] / "plugins" / "plugin_identity.h"


@pytest.mark.parametrize(
    ("constant", "written_by_exporter"),
    [
        ("kDomain", name_tensorrt_plugins.DOMAIN),
        ("kPluginNamespace", name_tensorrt_plugins.PLUGIN_NAMESPACE),
        ("kPluginVersion", name_tensorrt_plugins.PLUGIN_VERSION),
    ],
)
def test_exporter_and_header_say_the_same(constant: str, written_by_exporter: str) -> None:
    values = re.findall(rf'constexpr char const\* {constant} = "([^"]*)";', HEADER.read_text())
    assert values == [written_by_exporter]
