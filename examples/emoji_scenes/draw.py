# SPDX-License-Identifier: Apache-2.0
"""Draws emoji scenes as files, to look at or to calibrate with.

usage: draw.py FOLDER [--split train] [--first 0] [--count 16] [--side 256]

Writes FOLDER/images/NUMBER.png and FOLDER/labels/NUMBER.png (pixel value = class, 0 is background, in the classes'
colours).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from freqfusion_runtime.evaluation.emoji_scenes import PALETTE, EmojiScenes
from freqfusion_runtime.files import atomic_path
from PIL import Image
from tqdm import trange


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws emoji scenes as files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=["train", "validation"], default="train")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="height and width in pixels, a multiple of 32")
    args = parser.parse_args()
    scenes = EmojiScenes(args.split, args.side)
    for number in trange(args.first, args.first + args.count, unit="scene"):
        scene = scenes[number]
        labels = Image.fromarray(scene.labels)
        labels.putpalette([level for color in PALETTE for level in color])
        for kind, picture in (("images", Image.fromarray(scene.picture)), ("labels", labels)):
            with atomic_path(args.folder / kind / f"{number:06}.png") as temporary:
                picture.save(temporary)


if __name__ == "__main__":
    main()
