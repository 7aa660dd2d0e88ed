# SPDX-License-Identifier: Apache-2.0
"""The one reading of a config: every setting that changes an answer, taken, defaulted or refused by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freqfusion.configs import network, official
from freqfusion.configs.detectron2 import SUFFIXES, Detectron2Reader, read_yaml
from freqfusion.configs.findings import Findings, Settings
from freqfusion.configs.pictures import PictureReader
from freqfusion.configs.reader import Config, Unread, read_config_file
from freqfusion.errors import CheckpointError

_STAGE3 = re.compile(r"backbone\.layer3\.(\d+)\.")


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of network: its official test pipeline, and the options that its configs have."""

    official: Mapping[str, Any]
    section: network.Section


def kind_of(state_dict: Collection[str]) -> Kind:
    """Tells detectors, Mask2Former and other segmenters apart by the names of their weights."""
    if any(name.startswith("roi_head.") for name in state_dict):
        return Kind(official.DETECTOR, network.DETECTOR)
    if any(name.startswith("sem_seg_head.") for name in state_dict):
        return Kind(official.MASK2FORMER, network.MASK2FORMER)
    return Kind(official.SEGMENTER, network.SEGMENTER)


def settings_of(
    config: Config, state_dict: Mapping[str, Any], image_size: Any = None, is_strict: bool = False
) -> Settings:
    """Reads what a config says about testing.

    Args:
        config: As read; one without values gives defaults.
        state_dict: The weights, whose names say what kind of network it is; of their values only shapes are looked at.
        image_size: Scale of the test pipeline that a checkpoint gives beside any config, of more authority than that.
        is_strict: Whether what only execution could tell is refused; else it is noted, with what is assumed.
    """
    findings = Findings(is_strict)
    if config.problem:
        findings.wonder("config", f"of {config.source}: {config.problem}", "the official settings")
    for base in config.bases:
        findings.wonder("_base_", Unread(base), "the official settings", "not in the checkpoint")
    kind = kind_of(state_dict)
    plan = PictureReader(config, findings, kind.official, image_size).read()
    arguments = network.NetworkReader(config, findings, kind.section, _shown_by(state_dict)).read()
    return Settings(tuple(findings.table), plan, arguments)


def settings_from_file(path: Path, state_dict: Mapping[str, Any]) -> Settings:
    """Reads a config file as :func:`settings_of` reads a checkpoint's.

    Raises:
        CheckpointError: If it cannot be read, or is no config.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        settings = _of_detectron2(path, kind_of(state_dict)) if path.suffix in SUFFIXES else _of_mm(path, state_dict)
    except OSError as e:
        raise CheckpointError(f"{path}: the config cannot be read: {e.strerror or e}") from e
    return replace(settings, config_file=path.name, config_sha256=digest)


def _of_mm(path: Path, state_dict: Mapping[str, Any]) -> Settings:
    config = read_config_file(path)
    if config.problem:
        raise CheckpointError(
            f"{path} is no config: {config.problem}. Name the .py file that training was started with"
        )
    return settings_of(config, state_dict, is_strict=True)


def _of_detectron2(path: Path, kind: Kind) -> Settings:
    findings = Findings(is_strict=True)
    plan, arguments = Detectron2Reader(read_yaml(path), findings, kind.official, kind.section).read()
    return Settings(tuple(findings.table), plan, arguments)


def _shown_by(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What a config and the weights both say, by the place in the config."""
    shown: dict[str, Any] = {}
    for entry, place, beside in (
        ("decode_head.conv_seg.weight", "model.decode_head.num_classes", 0),
        ("roi_head.bbox_head.fc_cls.weight", "model.roi_head.bbox_head.num_classes", 1),
        ("semantic_head.conv_logits.weight", "model.semantic_head.num_stuff_classes", 1),
    ):
        channels = state_dict[entry].shape[0] if entry in state_dict else 0
        if channels > 1:  # with one, `num_classes` may be 2 and `out_channels` 1
            shown[place] = channels - beside
    blocks = _blocks(state_dict)
    depths = {6: 50, 23: 101, 36: 152}
    if blocks in depths:
        shown["model.backbone.depth"] = depths[blocks]
    return shown


def _blocks(state_dict: Collection[str]) -> int:
    return 1 + max((int(match[1]) for name in state_dict if (match := _STAGE3.match(name))), default=-1)
