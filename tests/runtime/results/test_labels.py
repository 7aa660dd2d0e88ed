# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import references
from freqfusion_runtime.errors import NetworkOutputError
from freqfusion_runtime.model_files.manifest import Preprocessing, TensorSpec
from freqfusion_runtime.results.labels import labels_from_queries, labels_from_scores, labels_of_outputs, resize_matrix
from small_models import tensor_manifest

pytestmark = pytest.mark.numerics

SIZES = [  # classes, scores, network, picture
    pytest.param(5, (4, 6), (32, 48), (20, 31), id="usual"),
    pytest.param(150, (4, 4), (32, 32), (33, 45), id="many-classes"),
    pytest.param(3, (1, 1), (8, 8), (5, 3), id="one-score"),
    pytest.param(4, (4, 12), (32, 96), (1, 1), id="one-pixel"),
    pytest.param(3, (4, 2), (32, 16), (80, 7), id="both-ways"),
    pytest.param(300, (2, 3), (16, 24), (17, 40), id="more-than-a-byte"),
]


def scores_of(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.standard_normal(shape, np.float32)
    # Regions of one clear winner, as trained networks give: most tiles then have one or two candidates.
    classes, height, width = shape
    winner = np.add.outer(np.arange(height) // 2, np.arange(width) // 3) % classes
    return (np.arange(classes)[:, None, None] == winner) * np.float32(4) + rng.random(shape, np.float32)


@pytest.mark.parametrize("kind", ["noise", "regions"])
@pytest.mark.parametrize(("classes", "size", "network", "picture"), SIZES)
def test_matches_the_definition(classes, size, network, picture, kind):
    scores = scores_of(kind, (classes, *size))
    expected = references.resize_argmax(scores[None].astype(np.float64), (*network, *picture), False)[0]
    labels = labels_from_scores(scores, network, picture)
    assert labels.dtype == (np.uint8 if classes <= 256 else np.int32)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("kind", ["noise", "regions"])
def test_matches_torch_but_for_near_ties(kind):
    torch = pytest.importorskip("torch")
    scores = scores_of(kind, (150, 16, 24), seed=1)
    resized = torch.from_numpy(scores)[None]
    for size in ((128, 192), (200, 251)):
        resized = torch.nn.functional.interpolate(resized, size, mode="bilinear", align_corners=False)
    best = resized[0].topk(2, dim=0)
    labels = labels_from_scores(scores, (128, 192), (200, 251))
    differs = labels != best.indices[0].numpy()
    # torch places source positions in float32: up to 251 * 2**-24 pixels off, times slopes of at most 8 a pixel.
    assert (best.values[0] - best.values[1]).numpy()[differs].max(initial=0) < 2e-4
    assert differs.mean() < 1e-3


def test_one_direct_resize_would_give_other_labels():
    scores = scores_of("noise", (20, 16, 24))
    assert (labels_from_scores(scores, (128, 192), (75, 100)) != labels_from_scores(scores, (75, 100), (75, 100))).any()


def test_lowest_class_wins_a_tie():
    scores = np.zeros((7, 4, 4), np.float32)
    scores[0] = -1
    assert (labels_from_scores(scores, (32, 32), (20, 20)) == 1).all()


def test_rows_of_the_matrix_sum_to_one():
    # Two products of float32 rounding each: 4 units in the last place of 1.
    np.testing.assert_allclose(resize_matrix(13, 104, 77).sum(axis=1), 1.0, rtol=0, atol=5e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_overflowed_are_refused(value):
    scores = np.zeros((3, 4, 4), np.float32)
    scores[1, 2, 3] = value
    with pytest.raises(
        NetworkOutputError, match=r"1 of 48 class scores are infinite or not a number\. .*--precision fp32"
    ):
        labels_from_scores(scores, (32, 32), (32, 32))


@pytest.mark.parametrize(
    ("classes", "size", "sizes"),
    [
        pytest.param(5, (4, 6), ((16, 24), (13, 20), (40, 9)), id="usual"),
        pytest.param(300, (2, 3), ((8, 12), (8, 12), (8, 12)), id="more-than-a-byte-and-no-resize"),
        pytest.param(3, (1, 20), ((4, 80), (1, 73), (2, 90)), id="flat"),
    ],
)
def test_labels_of_queries_match_the_definition(classes, size, sizes):
    rng = np.random.default_rng(3)
    masks = 4 * rng.standard_normal((7, *size), np.float32)
    logits = 3 * rng.standard_normal((7, classes + 1), np.float32)
    flat = [side for pair in sizes for side in pair]
    scores = references.query_scores(masks[None].astype(np.float64), logits[None].astype(np.float64), flat)[0]
    labels = labels_from_queries(masks, logits, *sizes)
    assert labels.dtype == (np.uint8 if classes <= 256 else np.int32)
    best = np.sort(scores, axis=0)
    decided = best[-1] - best[-2] > 1e-5
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(labels[decided], scores.argmax(axis=0)[decided])


def query_outputs(**changes):
    outputs = {"mask_logits": np.zeros((1, 7, 4, 4), np.float32), "class_logits": np.zeros((1, 7, 5), np.float32)}
    return {**outputs, **changes}


def query_manifest():
    specs = tuple(TensorSpec(name, "float32", value.shape) for name, value in query_outputs().items())
    plan = Preprocessing(long_side=16, short_side=16, size_fit="pad", size_divisor=16)
    return tensor_manifest(outputs=specs, preprocessing=plan)


def test_outputs_of_queries_become_labels_of_the_picture():
    classes = np.zeros((1, 7, 5), np.float32)
    classes[..., 2] = 3
    labels = labels_of_outputs(query_outputs(class_logits=classes), (20, 12), query_manifest())
    np.testing.assert_array_equal(labels, np.full((20, 12), 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mask_logits": np.zeros((2, 7, 4, 4))},
            r"mask_logits must have shape \(1, queries, h, w\), got \(2, 7, 4, 4\)",
        ),
        ({"class_logits": np.zeros((1, 7, 9))}, r"class_logits must have shape \(1, 7, 5\), got \(1, 7, 9\)"),
        ({"mask_logits": np.full((1, 7, 4, 4), np.nan)}, r"112 of 112 mask logits are infinite or not a number"),
        ({"class_logits": np.full((1, 7, 5), np.inf)}, r"35 of 35 class logits are infinite or not a number"),
    ],
)
def test_outputs_of_queries_that_make_no_labels_are_told(changes, message):
    with pytest.raises(NetworkOutputError, match=message):
        labels_of_outputs(query_outputs(**changes), (20, 12), query_manifest())
