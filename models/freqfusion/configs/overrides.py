# SPDX-License-Identifier: Apache-2.0
"""What the user says in place of a checkpoint's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from freqfusion.configs.findings import Setting, Settings, shown
from freqfusion.configs.network import arguments_in
from freqfusion.configs.settings import Kind, kind_of, settings_from_file
from freqfusion.errors import CheckpointError

# What the names in configs, by their last part, are about. An override of the one answers the others.
_ABOUT = {
    "image_size": ("img_scale", "scale", "keep_ratio", "img_ratios", "image_size"),
    "channel_order": ("to_rgb", "channel_order"),
    "size_divisor": ("size_divisor", "pad_size_divisor", "size", "Pad", "size_fit"),
    "score_threshold": ("score_thr", "SCORE_THRESH_TEST"),
    "iou_threshold": ("iou_threshold", "iou_thr", "NMS_THRESH_TEST"),
    "rpn_iou_threshold": ("nms_thr",),
    "nmf_rank": ("MD_R",),
    "nmf_steps": ("EVAL_STEPS", "eval_steps"),
    "anchor_scales": ("scales",),
    "anchor_ratios": ("ratios",),
}


@dataclass(frozen=True)
class Overrides:
    """Settings of the user's own.

    Attributes:
        config: A config file to read in place of the checkpoint's; parsed, never executed.
        preprocessing: As ``Settings.preprocessing``.
        network: As ``Settings.network``.
        ignored: Names of settings whose wish is not built, and which the user gives up.
    """

    config: Path | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def applied(self, settings: Settings, state_dict: Mapping[str, Any]) -> Settings:
        """Puts the user's settings over those of the config.

        Args:
            settings: Of the checkpoint.
            state_dict: Its weights.

        Raises:
            CheckpointError: If the config file cannot be read, no setting of a name is refused, or a value is none that
                the network can have.
        """
        kind = kind_of(state_dict)
        self._check(kind)
        if self.config is not None:
            settings = settings_from_file(self.config, state_dict)
        table = list(settings.table)
        for name in self.ignored:
            table = _ignored(table, name)
        for name, value in self._named().items():
            table = _overridden(table, name, value)
        plan = dict(settings.preprocessing)
        fit = {**kind.official, **plan, **self.preprocessing}
        if fit.get("resizer") == "pillow" and fit["size_fit"] != "pad":
            raise CheckpointError(
                "the resizer pillow goes with size_fit pad, as in detectron2, and this network's pictures are "
                "stretched to multiples; give --size-fit pad too, or another --resizer"
            )
        if {"long_side", "exact_size"} & set(self.preprocessing):
            for side in ("long_side", "short_side", "exact_size"):
                plan.pop(side, None)
        return replace(
            settings,
            table=tuple(table),
            preprocessing={**plan, **self.preprocessing},
            network={**settings.network, **self.network},
        )

    def _check(self, kind: Kind) -> None:
        divisor, needed = self.preprocessing.get("size_divisor", 0), kind.official["size_divisor"]
        if divisor % needed:
            raise CheckpointError(f"size_divisor must be a multiple of {needed} for this network, got {divisor}")
        if self.preprocessing.get("size_fit") == "stretch" and kind.official["size_fit"] == "pad":
            raise CheckpointError("size_fit must be pad for this network, got stretch; its pictures keep their ratio")
        known = arguments_in(kind.section)
        for name, value in self.network.items():
            if name not in known:
                raise CheckpointError(f"this network has no setting {name!r}; it has {', '.join(known)}")
            if not known[name].accepts(value):
                raise CheckpointError(f"{name} cannot be {shown(value)} in this network; give another value")

    def _named(self) -> dict[str, Any]:
        """The settings under the names of the table."""
        plan = self.preprocessing
        named = {key: plan[key] for key in ("mean", "std", "size_divisor", "size_fit", "resizer") if key in plan}
        if "color_order" in plan:
            named["channel_order"] = plan["color_order"]
        if "long_side" in plan:
            named["image_size"] = plan["long_side"], plan["short_side"]
        if "exact_size" in plan:
            named["image_size"] = tuple(reversed(plan["exact_size"]))
        return {**named, **self.network}


def _ignored(table: list[Setting], name: str) -> list[Setting]:
    refused = [setting.name for setting in table if setting.origin == "refused"]
    if name not in refused:
        raise CheckpointError(
            f"no setting {name!r} is refused, so it cannot be ignored; refused are: {', '.join(refused) or 'none'}"
        )
    return [
        replace(setting, origin="override", remark="ignored") if setting.name == name else setting for setting in table
    ]


def _overridden(table: list[Setting], name: str, value: Any) -> list[Setting]:
    about = {name, *_ABOUT.get(name, ())}
    old = [setting for setting in table if setting.name.rpartition(".")[2] in about]
    found = next((setting.found for setting in old if setting.found), "")
    kept = [setting for setting in table if setting not in old]
    return [*kept, Setting(name, "override", found, shown(value))]
