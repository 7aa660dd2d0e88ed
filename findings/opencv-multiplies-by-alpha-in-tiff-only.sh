#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# opencv 5.0.0: imread(..., IMREAD_COLOR) drops the alpha of a PNG and multiplies the colours of a TIFF by it, so that one
# picture saved in two lossless formats gives two pictures. Expected: one rule for both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import cv2
import numpy as np
from PIL import Image

print("cv2", cv2.__version__)
picture = np.full((4, 4, 4), (200, 100, 50, 128), np.uint8)
for suffix in ("png", "tiff"):
    Image.fromarray(picture, "RGBA").save(f"a.{suffix}")
found = {suffix: tuple(cv2.imread(f"a.{suffix}", cv2.IMREAD_COLOR)[0, 0, ::-1].tolist()) for suffix in ("png", "tiff")}
print("red, green, blue and alpha 200, 100, 50, 128 are read as", found)
if found["png"] == found["tiff"]:
    print("CHANGED: both formats give the same colours")
    sys.exit(1)
PROGRAM
