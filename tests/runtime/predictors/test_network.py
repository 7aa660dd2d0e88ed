# SPDX-License-Identifier: Apache-2.0
"""Networks of arrays: what goes in and comes out, and that no picture does."""

from __future__ import annotations

import freqfusion_runtime
import numpy as np
import pytest
from array_networks import expected_of, inputs_of, write_network
from freqfusion_runtime.errors import InputError
from places import EXAMPLES


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return freqfusion_runtime.load(write_network(tmp_path_factory.mktemp("network") / "pair.onnx"))


@pytest.mark.parametrize("size", [(1, 32, 48), (3, 4, 6)])
def test_arrays_go_in_and_come_out_by_name(network, size):
    inputs = inputs_of(*size)
    assert isinstance(network, freqfusion_runtime.Network)
    found, expected = network.run(inputs), expected_of(inputs)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)


def test_a_picture_is_refused_with_what_is_wanted(network):
    with pytest.raises(InputError, match=r"so that no picture .* image float32 \(batch, 3, height, width\), depth"):
        network.predict(EXAMPLES / "coffee.jpg")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": np.zeros((1, 3, 34, 48), np.float32)},
            "depth' must be 1/2 of the size height, which is 34",
        ),
        ({"image": np.zeros((1, 3, 32, 48))}, "input 'image' must be float32, got float64"),
        ({"other": np.zeros(1)}, "the inputs are"),
    ],
)
def test_arrays_that_it_does_not_take_are_refused(network, changes, message):
    with pytest.raises(InputError, match=message):
        network.run({**inputs_of(1, 32, 48), **changes})
