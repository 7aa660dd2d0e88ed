# SPDX-License-Identifier: Apache-2.0
"""`freqfusion evaluate` opens checkpoints and files of real detectors, and gives both the same score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_sets import CATEGORY_IDS, CocoSet, write_coco_set
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.model_files.classes import coco

MODELS = {"detection": "faster_rcnn_r50", "instance": "mask_rcnn_r50", "panoptic": "panoptic_fpn_r50"}
SKY = 187


@pytest.fixture
def coco_set(tmp_path: Path) -> CocoSet:
    """Two pictures whose categories are all of COCO's."""
    made = write_coco_set(tmp_path / "coco", count=2)
    everything = [
        {"id": identity, "name": name, "isthing": int(label < coco.NUM_THINGS)}
        for label, (identity, name) in enumerate(zip(coco.CATEGORY_IDS, coco.CLASSES, strict=True))
    ]

    def extend(content: Any) -> None:
        for entry in content["annotations"]:
            for segment in entry.get("segments_info", []):
                if segment["category_id"] == CATEGORY_IDS["sky"]:  # the one number that COCO does not have
                    segment["category_id"] = SKY
        content["categories"] = everything

    made.edit(made.instances, extend)
    made.edit(made.panoptic, extend)
    made.edit(made.instances, lambda content: content.update(categories=everything[: coco.NUM_THINGS]))
    return made


@pytest.fixture
def models(request: pytest.FixtureRequest, detector_files: Any, tmp_path: Path) -> list[str]:
    """The task's model as a checkpoint, of the size of the exported file's pictures, and as that file."""
    name = MODELS[request.getfixturevalue("task")]
    classes = coco.CLASSES if name.startswith("panoptic") else coco.CLASSES[: coco.NUM_THINGS]
    meta = {"CLASSES": classes, "image_size": (160, 96), "weights": "random"}
    torch.save({"meta": meta, "state_dict": detector_files.network(name).state_dict()}, tmp_path / "net.pth")
    return [str(tmp_path / "net.pth"), str(detector_files.path(name))]


def evaluate(*arguments: Any) -> list[dict[str, Any]]:
    """Runs the command; returns what its JSON says of each model."""
    *rest, written = arguments
    assert main(["evaluate", *map(str, rest), "--dataset", "coco", "--json", str(written)]) == 0
    models: list[dict[str, Any]] = json.loads(written.read_text())["models"]
    return models


@pytest.mark.parametrize("task", MODELS)
def test_what_the_checkpoint_finds_the_file_finds(task, models, coco_set, tmp_path):
    first = evaluate(*models, "--task", task, "--data", coco_set.folder, "--output", tmp_path, tmp_path / "1.json")
    assert [entry["backend"].split()[0] for entry in first] == ["PyTorch", "CPUExecutionProvider,"]
    kinds = {"detection": ["box AP"], "instance": ["box AP", "mask AP"], "panoptic": ["PQ"]}[task]
    for kind in kinds:
        # The weights are made up, and the answers are wrong alike.
        assert first[0]["scores"][kind] == pytest.approx(first[1]["scores"][kind], abs=0.01)
    # Scored on the checkpoint's own answers, as truth, the checkpoint is perfect, and the file almost.
    truth = ["--pictures", coco_set.pictures, "--annotations", tmp_path / "truth.json"]
    if task == "panoptic":
        write_panoptic_truth(tmp_path / "truth.json", coco_set, tmp_path / "1-net.panoptic.json")
        truth += ["--maps", tmp_path / "1-net.panoptic"]
    else:
        write_truth(tmp_path / "truth.json", coco_set, tmp_path / "1-net.results.json")
    second = evaluate(*models, "--task", task, *truth, tmp_path / "2.json")
    for kind in kinds:
        # An object with an empty mask, as made-up weights give, is never found again.
        assert second[0]["scores"][kind] > 0.9 if kind == "mask AP" else second[0]["scores"][kind] == pytest.approx(1)
        assert second[1]["scores"][kind] == pytest.approx(second[0]["scores"][kind], abs=0.02)


def write_truth(path: Path, coco_set: CocoSet, results: Path) -> None:
    """Makes annotations of a results file."""
    found = json.loads(results.read_text())
    assert len(found) > 20
    entries = [
        {**entry, "id": i, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for i, entry in enumerate(found, 1)
    ]
    images = json.loads(coco_set.instances.read_text())["images"]
    path.write_text(
        json.dumps({"images": images, "annotations": entries, "categories": categories(coco_set.instances)})
    )


def write_panoptic_truth(path: Path, coco_set: CocoSet, results: Path) -> None:
    """Makes panoptic annotations of a results file."""
    entries = json.loads(results.read_text())["annotations"]
    assert sum(len(entry["segments_info"]) for entry in entries) > 4
    images = json.loads(coco_set.panoptic.read_text())["images"]
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories(coco_set.panoptic)}))


def categories(path: Path) -> Any:
    return json.loads(path.read_text())["categories"]
