# SPDX-License-Identifier: Apache-2.0
"""Sizes that inputs share by name, and what ties them to each other."""

from __future__ import annotations

import pytest
from array_networks import network_manifest
from freqfusion_runtime.errors import ManifestError
from freqfusion_runtime.model_files.free_sizes import sizes_fault, usual_shapes
from freqfusion_runtime.model_files.manifest import FreeSize, Manifest


@pytest.mark.parametrize(
    ("image", "depth", "fault"),
    [
        ((1, 3, 32, 48), (1, 1, 16, 24), None),
        ((5, 3, 4, 2), (5, 1, 2, 1), None),
        ((1, 3, 32, 48), (2, 1, 16, 24), "axis 0 of input 'depth' must be the size batch, which is 1 by axis 0 of "
         "'image', got 2. Give tensors of one picture."),
        ((1, 3, 32, 48), (1, 1, 16, 23), "axis 3 of input 'depth' must be 1/2 of the size width, which is 48 by axis 3 "
         "of 'image', got 23. Give tensors of one picture."),
        ((1, 3, 30, 48), (1, 1, 15, 24), "the size height must be a multiple of 4, got 30 by axis 2 of input 'image'. "
         "Resize or pad it to 28 or 32."),
        ((1, 3, 2, 48), (1, 1, 1, 24), "the size height must be a multiple of 4, got 2 by axis 2 of input 'image'. "
         "Resize or pad it to 4."),
    ],
)  # fmt: skip
def test_one_name_is_one_size_and_a_multiple(image, depth, fault):
    manifest = network_manifest()
    assert sizes_fault(manifest.inputs, manifest.sizes, {"image": image, "depth": depth}) == fault


def test_names_that_the_manifest_does_not_know_are_each_of_their_own_size():
    """Operators that are compared alone have n, c, h, w, whatever these are in each input."""
    shapes = {"image": (1, 3, 5, 7), "depth": (2, 1, 9, 9)}
    assert sizes_fault(network_manifest().inputs, {}, shapes) is None


def test_usual_shapes_are_those_of_the_export():
    assert usual_shapes(network_manifest()) == {"image": (1, 3, 32, 48), "depth": (1, 1, 16, 24)}
    assert usual_shapes(network_manifest(), 2) == {"image": (1, 3, 64, 96), "depth": (1, 1, 32, 48)}
    assert usual_shapes(network_manifest(sizes={})) == {"image": (1, 3, 1, 1), "depth": (1, 1, 1, 1)}


@pytest.mark.parametrize("size", [FreeSize(0, 4), FreeSize(4, 0), FreeSize(4, 6)])
def test_a_size_that_is_none_of_its_own_multiples_is_no_manifest(size):
    with pytest.raises(ManifestError, match="the size 'height' must be a positive multiple of a positive number"):
        network_manifest(sizes={"height": size})


def test_sizes_are_read_as_they_were_written():
    manifest = network_manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest
