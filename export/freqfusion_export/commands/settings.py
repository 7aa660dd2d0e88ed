# SPDX-License-Identifier: Apache-2.0
"""Options in place of what a checkpoint's config says about testing, and the table of what became of each setting."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion.configs.findings import Settings
    from freqfusion.configs.overrides import Overrides

_EXPORTED = (".onnx", ".ort", ".npz", ".plan", ".engine")
_OPTIONS = (
    "config", "mean", "std", "channel_order", "image_size", "keep_ratio", "size_divisor", "size_fit", "resizer",
    "score_threshold", "set", "ignore_setting",
)  # fmt: skip
_SIZE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")
NETWORK_OPTIONS = (
    "comp_feat_upsample", "semi_conv", "hr_residual", "encoder_dilation", "nmf_rank", "nmf_steps", "style",
    "anchor_scales", "anchor_ratios", "rpn_iou_threshold", "iou_threshold", "class_agnostic", "threshold",
)  # fmt: skip
"""What ``--set`` takes: arguments of models that their weights do not show."""


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group = parser.add_argument_group(
        "test-time settings", "In place of those of the checkpoint's config; the manifest records which were given."
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="mm config (.py) or detectron2 config (.yaml)",
    )
    group.add_argument("--mean", type=float, nargs=3, metavar="M", help="in the network's order of channels, 0 to 255")
    group.add_argument("--std", type=_positive, nargs=3, metavar="S", help="as --mean")
    group.add_argument("--channel-order", choices=("RGB", "BGR"), help="of the network's input")
    group.add_argument(
        "--image-size",
        type=_size,
        metavar="WxH",
        help="limits of long and short side; with --no-keep-ratio the size",
    )
    group.add_argument(
        "--keep-ratio", action=argparse.BooleanOptionalAction, help="scale to --image-size, or stretch to it exactly"
    )
    group.add_argument("--size-divisor", type=_count, metavar="N", help="bring both sides up to multiples of this")
    group.add_argument("--size-fit", choices=("stretch", "pad"), help="how")
    group.add_argument("--resizer", choices=("opencv", "pillow"), help="whose bilinear resize of pictures")
    group.add_argument("--score-threshold", type=_share, metavar="P", help="detectors: of detections")
    group.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"an argument of the network: {', '.join(NETWORK_OPTIONS)}",
    )
    group.add_argument(
        "--ignore-setting",
        action="append",
        default=[],
        metavar="NAME",
        help="give up a setting of the config that is refused, by the name in the message",
    )


def check_is_about_checkpoints(args: argparse.Namespace, files: Iterable[Path]) -> None:
    """Refuses the options where every file was exported, with settings of its own.

    Raises:
        ExportError: If one was given.
    """
    from freqfusion_export.errors import ExportError

    given = [name for name in _OPTIONS if getattr(args, name) not in (None, [])]
    if given and all(file.suffix.lower() in _EXPORTED for file in files):
        raise ExportError(
            f"--{given[0].replace('_', '-')} is about checkpoints, and an exported file has the test-time settings "
            "that it was exported with. Leave it out, or export the checkpoint again with it."
        )


def overrides_of(args: argparse.Namespace) -> Overrides | None:
    """What the options say; None if none was given.

    Raises:
        CheckpointError: If one of them lacks another.
    """
    from freqfusion.configs.overrides import Overrides
    from freqfusion.errors import CheckpointError

    plan: dict[str, Any] = {}
    if args.mean is not None:
        plan["mean"] = tuple(args.mean)
    if args.std is not None:
        plan["std"] = tuple(args.std)
    if args.channel_order is not None:
        plan["color_order"] = args.channel_order
    if args.keep_ratio is not None and args.image_size is None:
        raise CheckpointError("--keep-ratio and --no-keep-ratio are about --image-size; give it too")
    if args.image_size is not None:
        width, height = args.image_size
        if args.keep_ratio is False:
            plan["exact_size"] = (height, width)
        else:
            plan |= {"long_side": max(width, height), "short_side": min(width, height)}
    if args.size_divisor is not None:
        plan["size_divisor"] = args.size_divisor
    if args.size_fit is not None:
        plan["size_fit"] = args.size_fit
    if args.resizer is not None:
        plan["resizer"] = args.resizer
    network = dict(args.set)
    if args.score_threshold is not None:
        network["score_threshold"] = args.score_threshold
    given = Overrides(args.config, plan, network, tuple(args.ignore_setting))
    return None if given == Overrides() else given


def settings_table(settings: Settings) -> list[str]:
    """Writes what became of each setting, under a headline."""
    from freqfusion_runtime.model_files.manifest import SettingRecord
    from freqfusion_runtime.model_files.setting_table import setting_lines

    rows = [SettingRecord(**asdict(setting)) for setting in settings.table]
    return ["test-time settings:", *(f"  {line}" for line in setting_lines(rows))]


def setting_facts(settings: Settings) -> list[dict[str, str]]:
    """The table for JSON."""
    return [asdict(setting) for setting in settings.table]


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT such as 2048x512, got {text!r}")
    return int(match[1]), int(match[2])


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return number


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return number


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or name not in NETWORK_OPTIONS:
        names = ", ".join(NETWORK_OPTIONS)
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a name of {names}, got {text!r}")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
