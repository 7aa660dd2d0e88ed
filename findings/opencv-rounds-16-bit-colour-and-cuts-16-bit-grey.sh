#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# opencv 5.0.0: imread(..., IMREAD_COLOR) makes 8 bits of a TIFF's 16 by rounding v / 257 where the file is in colour, and
# by its high byte where it is grey, so that a grey picture changes by being saved as equal red, green and blue. 16-bit
# PNG is cut in both. Expected: one rule for all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import cv2
import numpy as np

print("cv2", cv2.__version__)
levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
found = {}
for suffix in ("png", "tiff"):
    for kind, picture in (("grey", levels), ("colour", np.repeat(levels[:, :, None], 3, axis=2))):
        cv2.imwrite(f"a.{suffix}", picture)
        found[suffix, kind] = cv2.imread(f"a.{suffix}", cv2.IMREAD_COLOR)[:, :, 0]
        value = found[suffix, kind]
        rules = {"the high byte": levels >> 8, "rounded": (levels.astype(np.uint32) + 128) // 257}
        print(f"{suffix}, {kind}:", next((name for name, rule in rules.items() if (value == rule).all()), "neither"))
print(f"{(found['tiff', 'grey'] != found['tiff', 'colour']).mean():.1%} of all 65536 levels differ in TIFF")
if (found["tiff", "grey"] == found["tiff", "colour"]).all():
    print("CHANGED: grey and colour are read alike")
    sys.exit(1)
PROGRAM
