# SPDX-License-Identifier: Apache-2.0
"""Score checkpoints, ONNX files and engines on pictures with known answers, side by side.

  freqfusion evaluate demo.safetensors demo.onnx --dataset emoji-scenes --output scores
  freqfusion evaluate segnext.onnx --dataset ade20k --data ADEChallengeData2016
  freqfusion evaluate mask_rcnn.pth mask_rcnn.onnx --task instance --dataset coco --data coco

Intervals are 95 % bootstrap intervals over the pictures. With --output writes, for label maps, the confusion matrix of
each model and the pictures on which the first two differ most; for objects, COCO results files; for panoptic maps,
COCO's PNGs and JSON, and the photos with the maps over them. The paper's numbers stand beside those of its own
models on all of its own data sets. A picture that cannot be read does not stop the others: it is counted and named.
Exit status 1 if there is one, or if --max-drop is given and a model falls further than that behind the first; 2 if
there is nothing to score.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from freqfusion_runtime.commands.arguments import not_negative, not_negative_number, positive
from freqfusion_runtime.commands.json_output import add_json_argument

from freqfusion_export.commands.settings import add_setting_arguments, check_is_about_checkpoints, overrides_of

# Task -> module with add_arguments(parser) for options of its own and evaluate(args) -> exit status. Nothing heavy at
# their tops: all of them are imported for --help.
TASKS = {
    "semantic": "freqfusion_export.evaluation.semantic",
    "detection": "freqfusion_export.evaluation.detection",
    "instance": "freqfusion_export.evaluation.instance",
    "panoptic": "freqfusion_export.evaluation.panoptic",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments, then each task's."""
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL", help="checkpoints (PyTorch), .onnx files, engines"
    )
    parser.add_argument("--task", choices=TASKS, default="semantic", help="what to score")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="see the tasks below")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="which part of it; coco: val2017, with pictures in DIR/NAME and annotations in "
        "DIR/annotations/*_NAME.json; ade20k: validation, a subfolder of images/ and annotations/; cityscapes: val",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")
    parser.add_argument("--model", metavar="NAME", help="name of the checkpoints' model, where the keys do not tell")
    parser.add_argument("--weights", choices=("model", "ema"), help="of checkpoints with both, as for `export`")
    parser.add_argument(
        "--max-drop", type=not_negative_number, metavar="POINTS", help="fail if a model is further below the first"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for pictures of the results")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where to run; never another place")
    parser.add_argument("--threads", type=not_negative, default=0, metavar="N", help="cores to use, 0 for all")
    parser.add_argument(
        "--kernels", choices=("auto", "never", "require"), default="auto", help="native kernels, as for `run`"
    )
    for name, module in _modules().items():
        module.add_arguments(parser.add_argument_group(f"--task {name}", module.__doc__))
    add_setting_arguments(parser)
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_export.evaluation.drop_gate import check_has_opponent

    check_has_opponent(args)
    check_is_about_checkpoints(args, args.models)
    args.overrides = overrides_of(args)
    return int(_modules()[args.task].evaluate(args))


def _modules() -> dict[str, Any]:
    return {name: importlib.import_module(path) for name, path in TASKS.items()}
