# SPDX-License-Identifier: Apache-2.0
"""Optimisation profiles: from the command line's sizes to shapes, and from a request's shapes to a profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from array_networks import network_manifest
from freqfusion_runtime.engines.errors import ProfileError, ProfileOptionError
from freqfusion_runtime.engines.profiles import Profile, ShapeRange, choose_profile, read_profiles
from freqfusion_runtime.errors import InputError
from freqfusion_runtime.model_files.manifest import TensorSpec
from small_models import image_manifest, tensor_manifest

PLAN = Path("net.plan")


@pytest.mark.parametrize(
    ("manifest", "shape"), [(tensor_manifest(), (2, 3, 96, 64)), (image_manifest(), (2, 96, 64, 3))]
)
def test_batch_height_and_width_go_where_the_interface_has_them(manifest, shape):
    (profile,) = read_profiles(manifest, ["1x32x32"], ["2x96x64"], ["4x128x128"])
    assert profile.ranges["image"].opt == shape


def test_every_side_may_be_written_out():
    (profile,) = read_profiles(tensor_manifest(), [], ["1x3x64x96"], [])
    assert profile.ranges["image"] == ShapeRange((1, 3, 64, 96), (1, 3, 64, 96), (1, 3, 64, 96))


def test_a_fixed_batch_is_not_asked_for_again_but_may_be_named():
    fixed = replace(tensor_manifest(), inputs=(TensorSpec("image", "float32", (1, 3, "height", "width")),))
    by_free_sides, by_picture = (read_profiles(fixed, [], [text], [])[0] for text in ("64x96", "1x64x96"))
    assert by_free_sides == by_picture
    assert by_picture.ranges["image"].opt == (1, 3, 64, 96)


def test_other_inputs_are_named():
    two = replace(tensor_manifest(), inputs=(*tensor_manifest().inputs, TensorSpec("boxes", "float32", ("n", 4))))
    (profile,) = read_profiles(two, ["1x32x32,boxes=1"], ["1x64x64,boxes=10"], ["1x64x64,boxes=100x4"])
    assert profile.ranges["boxes"] == ShapeRange((1, 4), (10, 4), (100, 4))


def test_several_profiles_and_the_usual_size_left_out():
    small, large = read_profiles(tensor_manifest(), ["1x32x32", "1x256x256"], [], ["1x64x64", "4x512x512"])
    assert small.ranges["image"].opt == (1, 3, 64, 64)
    assert large.ranges["image"].max == (4, 3, 512, 512)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((["1x32x32"], ["1x64x64"], ["1x64x64", "1x96x96"]), "--min is given 1 times, another .* 2 times"),
        (([], ["512"], []), r"--opt 512 does not fit input 'image' \(batch, 3, height, width\)"),
        (([], ["1x4x64x64"], []), "contradicts input 'image'"),
        (([], ["1x0x64"], []), "'1x0x64' is no size"),
        (([], ["1x64x64,1x3"], []), "'1x3' names no input of the model, or one for a second time"),
        (([], ["1x64x64,mask=1"], []), "'mask=1' names no input"),
        ((["1x64x64"], ["1x32x32"], []), "must not decrease in any side"),
        (([], ["1x100x64"], []), r"multiples of 32, got 1x3x100x64\. Use 1x3x128x64"),
    ],
)
def test_sizes_that_make_no_profile_are_refused(sizes, message):
    with pytest.raises(ProfileOptionError, match=message):
        read_profiles(tensor_manifest(), *sizes)


def test_an_input_without_a_size_is_named():
    two = replace(tensor_manifest(), inputs=(*tensor_manifest().inputs, TensorSpec("boxes", "float32", ("n", 4))))
    with pytest.raises(ProfileOptionError, match=r"--opt does not say the shape of input 'boxes' \(n, 4\)"):
        read_profiles(two, [], ["1x64x64"], [])


def profile(low: int, usual: int, high: int) -> Profile:
    return Profile({"image": ShapeRange(*((1, 3, side, side) for side in (low, usual, high)))})


def test_of_all_that_fit_the_profile_with_the_nearest_usual_size_is_taken():
    profiles = (profile(32, 64, 512), profile(32, 256, 512), profile(600, 700, 800))
    assert choose_profile(PLAN, profiles, {"image": (1, 3, 96, 96)}) == 0
    assert choose_profile(PLAN, profiles, {"image": (1, 3, 480, 256)}) == 1
    assert choose_profile(PLAN, profiles, {"image": (1, 3, 600, 640)}) == 2


def test_a_shape_outside_every_profile_is_told_the_command_that_widens_the_nearest():
    profiles = (profile(32, 64, 96), profile(256, 512, 512))
    with pytest.raises(ProfileError) as raised:
        choose_profile(PLAN, profiles, {"image": (2, 3, 480, 640)})
    message = str(raised.value)
    assert "net.plan: image 2x3x480x640 lies outside every profile" in message
    assert "image 1x3x32x32 to 1x3x96x96; image 1x3x256x256 to 1x3x512x512" in message
    options = "--min 1x3x256x256 --opt 1x3x512x512 --max 2x3x512x640"
    assert f"`freqfusion build MODEL.onnx {options} --output net.plan`" in message
    assert isinstance(raised.value, InputError)  # a bad request, to the server
    words = options.split()
    (wider,) = read_profiles(tensor_manifest(), [words[1]], [words[3]], [words[5]])
    assert choose_profile(PLAN, (wider,), {"image": (2, 3, 480, 640)}) == 0


def test_another_rank_is_outside_every_profile():
    with pytest.raises(ProfileError, match="image 3x64x64 lies outside"):
        choose_profile(PLAN, (profile(32, 64, 96),), {"image": (3, 64, 64)})


def test_a_network_of_arrays_is_built_for_the_sizes_that_it_was_exported_with():
    (profile,) = read_profiles(network_manifest(), [], [], [])
    assert profile.ranges == {
        "image": ShapeRange(*[(1, 3, 32, 48)] * 3),
        "depth": ShapeRange(*[(1, 1, 16, 24)] * 3),
    }


@pytest.mark.parametrize(
    ("most", "message"),
    [
        ("1x34x48,depth=1x17x24", "--max: the size height must be a multiple of 4, got 34"),
        ("2x64x48,depth=2x16x24", "--max: axis 2 of input 'depth' must be 1/2 of the size height, which is 64"),
    ],
)
def test_profiles_of_a_network_of_arrays_keep_to_its_sizes(most, message):
    usual = "1x32x48,depth=1x16x24"
    with pytest.raises(ProfileOptionError, match=message):
        read_profiles(network_manifest(), [usual], [usual], [most])
