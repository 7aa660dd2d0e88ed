# SPDX-License-Identifier: Apache-2.0
"""The paper's number stands beside its own model on its own data, and beside nothing else."""

import pytest
from freqfusion_runtime.evaluation.published import is_ade20k_validation, is_coco_val2017, published_for
from freqfusion_runtime.model_files.classes import ade20k, coco

THINGS = coco.CLASSES[: coco.NUM_THINGS]
ADE, COCO = "ADE20K validation", "COCO val2017"


@pytest.mark.parametrize(
    ("model", "classes", "benchmark", "score", "paper"),
    [
        ("segnext_t", ade20k.CLASSES, ADE, "mIoU", 43.5),
        ("segnext_t_bilinear", ade20k.CLASSES, ADE, "mIoU", 41.1),
        ("mask_rcnn_r50", THINGS, COCO, "mask AP", 36.0),
        ("panoptic_fpn_r50", tuple(f" {name}" for name in coco.CLASSES), COCO, "PQ", 42.7),
    ],
)
def test_own_model_on_own_data(model, classes, benchmark, score, paper):
    assert published_for(model, "checkpoint", classes, benchmark)[score].paper == paper
    assert published_for(model, "random", classes, benchmark) == {}
    assert published_for(model, "checkpoint", classes, None) == {}
    assert published_for(model, "checkpoint", classes[::-1], benchmark) == {}
    assert published_for(model, "checkpoint", (), benchmark) == {}
    assert published_for(model, "checkpoint", classes, COCO if benchmark == ADE else ADE) == {}


def test_a_model_the_paper_does_not_have():
    assert published_for("mine", "checkpoint", THINGS, COCO) == {}


def test_a_benchmark_is_all_of_its_pictures():
    stems = [f"ADE_val_{number:08}" for number in range(1, 2001)]
    assert is_ade20k_validation(stems[::-1])
    assert not is_ade20k_validation(stems[:-1])
    assert not is_ade20k_validation([*stems[:-1], "mine"])
    numbered = [f"{139 + 7 * number:012}" for number in range(5000)]
    everything = dict(zip(coco.CATEGORY_IDS, coco.CLASSES, strict=True))
    things = dict(list(everything.items())[: coco.NUM_THINGS])
    assert is_coco_val2017(numbered, things)
    assert is_coco_val2017(numbered, everything)
    assert not is_coco_val2017(numbered[1:], things)
    assert not is_coco_val2017(numbered, {1: "person"})
    assert not is_coco_val2017([*numbered[1:], "street"], things)
