#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# faster-coco-eval 1.8.0: ids of pictures go through doubles, so two ids above 2**53 that differ by one are one picture.
# Ids made of times in nanoseconds or of hashes are so large. Each picture here has one object, and is answered with the
# other's, so that everything is wrong. Expected: AP 0, as pycocotools gives, and as it gives itself for small ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6

cat > "$folder/score.py" <<'PROGRAM'
import contextlib
import copy
import io
import sys

library, first = sys.argv[1], int(sys.argv[2])
if library == "pycocotools":
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
else:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval

ids = [first, first + 1]
boxes = {ids[0]: [10.0, 10.0, 40.0, 40.0], ids[1]: [30.0, 50.0, 60.0, 20.0]}
truth = {
    "info": {},
    "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.jpg"} for i in ids],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [
        {"id": n, "image_id": i, "category_id": 1, "bbox": boxes[i], "area": boxes[i][2] * boxes[i][3], "iscrowd": 0}
        for n, i in enumerate(ids, 1)
    ],
}
pairs = zip(ids, reversed(ids))
answers = [{"image_id": i, "category_id": 1, "bbox": boxes[other], "score": 0.9} for i, other in pairs]
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(answers)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
print(f"{evaluation.stats[0]:.3f}")
PROGRAM

status=0
for first in 1 9007199254740992; do
    for library in pycocotools faster-coco-eval; do
        ap=$("$folder/venv/bin/python" "$folder/score.py" "$library" "$first" 2>"$folder/errors") || ap="failed: $(tail -1 "$folder/errors")"
        echo "$library, ids from $first: AP $ap"
        [ "$library $first" != "faster-coco-eval 9007199254740992" ] || [ "$ap" != "0.000" ] || status=1
    done
done
[ $status = 0 ] || echo "CHANGED: large ids do no harm any more"
exit $status
