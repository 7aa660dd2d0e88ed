# SPDX-License-Identifier: Apache-2.0
"""Trains a model on emoji scenes, fresh ones at every step, on a GPU or on a few processor cores.

usage: train.py OUTPUT_FOLDER --model segnext_t --steps 20000
       torchrun --nproc-per-node 2 train.py OUTPUT_FOLDER ...    (two processes: two GPUs, or two cores)

A run that was stopped goes on from its last saved state when the same command is given again. At the end the folder
holds MODEL.safetensors: fp16, official names, with class names, colours and the size of the scenes as metadata.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import freqfusion
import numpy as np
import torch
import torch.nn.functional as F
from freqfusion.ham_head import HamHead, interleave
from freqfusion_runtime.evaluation.emoji_scenes import CLASSES, PALETTE, EmojiScenes
from freqfusion_runtime.files import atomic_path
from freqfusion_runtime.model_files.manifest import Preprocessing
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm


def main() -> None:
    args = parse_arguments()
    rank, processes = join_processes()
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    model = freqfusion.create_model(args.model, num_classes=len(CLASSES)).train()
    initialize(model)
    if args.start_from:
        start_from(model, args.start_from)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.weight_decay), lr=args.lr, fused=True)
    scaler = torch.amp.GradScaler(enabled=device.type == "cuda")
    state_path = args.output / f"{args.model}.state.pt"
    first_step = load_state(state_path, model, optimizer, scaler, args) if state_path.exists() else 0
    network: nn.Module = nn.parallel.DistributedDataParallel(model) if processes > 1 else model

    sides = {side: EmojiScenes("train", side) for side in {args.side, args.final_side}}
    saved_at = time.monotonic()
    bar = tqdm(range(first_step, args.steps), initial=first_step, total=args.steps, desc=args.model, disable=rank > 0)
    for step in bar:
        side = args.final_side if step >= args.steps - args.final_steps else args.side
        numbers = range(step * args.batch + rank, (step + 1) * args.batch, processes)
        scenes = [args.first_scene + (n % args.scenes if args.scenes else n) for n in numbers]
        pictures, labels = (batch.to(device) for batch in draw_batch(sides[side], scenes))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * learning_rate_factor(step, args.steps, args.warm_up)
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            logits = network(pictures)
        full = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(full, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        scaler.step(optimizer)
        scaler.update()
        if rank == 0:
            accuracy = (full.argmax(1) == labels).float().mean().item()
            bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy:.3f}")
            log(args.output / f"{args.model}.jsonl", step=step, loss=loss.item(), pixel_accuracy=accuracy, side=side)
            if time.monotonic() - saved_at > args.save_minutes * 60:
                save_state(state_path, model, optimizer, scaler, step + 1, args)
                saved_at = time.monotonic()
    if rank == 0:
        if first_step < args.steps:
            save_state(state_path, model, optimizer, scaler, args.steps, args)
        export_weights(model, args.model, args.output / f"{args.model}.safetensors", args.final_side)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a model on emoji scenes.")
    parser.add_argument("output", type=Path, help="folder for states, the log and the finished weights")
    parser.add_argument("--model", default="segnext_t", choices=["segnext_t", "segnext_t_bilinear"])
    parser.add_argument("--start-from", type=Path, help="weights to start from: of this model, or of its bilinear twin")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16, help="scenes a step, all processes together")
    parser.add_argument("--side", type=int, default=256, help="height and width of the scenes in pixels")
    parser.add_argument("--final-side", type=int, default=256, help="the same, in the last --final-steps")
    parser.add_argument("--final-steps", type=int, default=0)
    parser.add_argument("--first-scene", type=int, default=0, help="number of the first scene drawn")
    parser.add_argument("--scenes", type=int, default=0, help="only so many scenes, again and again; 0 for always new")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--warm-up", type=int, default=500, help="steps in which the learning rate rises")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, default=5.0, help="largest norm of the gradient")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--save-minutes", type=float, default=3, help="how often the state is saved")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    return parser.parse_args()


def join_processes() -> tuple[int, int]:
    """Returns this process's number and how many there are; those that torchrun started find each other here."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return 0, 1
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = torch.distributed.get_rank()
    return rank, processes


def initialize(model: nn.Module) -> None:
    """Initialises the backbone's convolutions by fan-out, as the official MSCAN does; PyTorch's default is smaller."""
    for module in model.get_submodule("backbone").modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and layer scales (all vectors) do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def learning_rate_factor(step: int, steps: int, warm_up: int) -> float:
    """Rises linearly to 1, then falls along a cosine to 0.01."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def draw_batch(scenes: EmojiScenes, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns normalised pictures ``(N, 3, H, W)`` and labels ``(N, H, W)``."""
    drawn = [scenes[number] for number in numbers]
    pictures = torch.from_numpy(np.stack([scene.picture for scene in drawn])).permute(0, 3, 1, 2)  # channels last
    labels = torch.from_numpy(np.stack([scene.labels for scene in drawn])).long()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (Preprocessing().mean, Preprocessing().std))
    return (pictures - mean) / std, labels


def start_from(model: nn.Module, path: Path) -> None:
    """Takes the weights of a model of the same kind, or those of the bilinear twin for the model with FreqFusion.

    In the second case FreqFusion keeps its initial weights, with which it resizes nearly as the twin does; the head's
    first convolution sees the same maps in another order, so its columns are reordered.
    """
    weights = dict(freqfusion.read_checkpoint(path).state_dict)
    own = model.state_dict()
    new = {name for name in own if name not in weights}
    if new and all(".freqfusions." in name for name in new):
        squeeze = "decode_head.squeeze.conv.weight"
        weights[squeeze] = weights[squeeze][:, interleaved_order()]
        weights |= {name: own[name] for name in new}
    model.load_state_dict(weights, strict=True)


def interleaved_order() -> Tensor:
    """For each channel that enters the head with FreqFusion, its place in the twin's concatenation ``(C,)``."""
    channels = torch.arange(64 + 160 + 256).reshape(1, -1, 1, 1)
    fine, middle, coarse = channels.split([64, 160, 256], dim=1)
    groups = HamHead.resample_groups
    return interleave(fine, interleave(middle, coarse, groups), groups).flatten()


def save_state(path: Path, model: nn.Module, optimizer: Any, scaler: Any, step: int, args: argparse.Namespace) -> None:
    with atomic_path(path) as temporary:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save({**state, "step": step, "schedule": schedule(args)}, temporary)


def load_state(path: Path, model: nn.Module, optimizer: Any, scaler: Any, args: argparse.Namespace) -> int:
    """Takes up a stopped run; returns the step it had come to."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    differing = {name for name, value in schedule(args).items() if state["schedule"][name] != value}
    if differing:
        was = {name: state["schedule"][name] for name in sorted(differing)}
        raise SystemExit(f"{path} is of a run with {was}. Give the same settings to go on, or another folder.")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    step: int = state["step"]
    return step


def schedule(args: argparse.Namespace) -> dict[str, Any]:
    """The settings a run is not the same without."""
    free = ("output", "threads", "save_minutes", "start_from")
    return {name: value for name, value in vars(args).items() if name not in free}


def log(path: Path, **facts: Any) -> None:
    with contextlib.suppress(OSError), path.open("a") as file:
        file.write(json.dumps(facts) + "\n")


def export_weights(model: nn.Module, name: str, path: Path, side: int) -> None:
    """Writes fp16 weights (counters stay integers) with what a user of them needs to know."""
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {
        "model": name,
        "weights": "trained",
        "classes": json.dumps(CLASSES),
        "palette": json.dumps(PALETTE),
        "image_size": json.dumps([side, side]),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, metadata))  # save_file would make a file only its owner can read


if __name__ == "__main__":
    main()
