#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0: a folder called `triton` without any file, found on Python's path as a namespace package, counts as the
# package of that name. torch.export then reads triton.language and ends with an AttributeError that names neither the
# folder nor the cause. Expected: as without the folder, since nothing called triton is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
mkdir -p "$folder/with/triton" "$folder/without"

program='
import torch
print("torch", torch.__version__)
torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
print("exported")
'
cd "$folder/without"
"$folder/venv/bin/python" -c "$program"
cd "$folder/with"
if output=$("$folder/venv/bin/python" -c "$program" 2>&1); then
    echo "$output"
    echo "CHANGED: an empty folder called triton does no harm any more"
    exit 1
fi
echo "$output" | tail -1
grep -q "AttributeError: module 'triton' has no attribute 'language'" <<<"$output"
