# SPDX-License-Identifier: Apache-2.0
"""Compares a written detector with the model it came from: what it finds, and what it says of every proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from freqfusion.detection import Detector
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from numpy.typing import NDArray
from torch import Tensor

from freqfusion_export.errors import VerificationError
from freqfusion_export.passes.label_stages import STAGE_KEY
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.precision.protocol import WrittenFile
from freqfusion_export.verification.sample_pictures import smooth_pictures

Arrays = Mapping[str, NDArray[Any]]
_CLASSIFIER = "roi_head.bbox_head.fc_cls"

# batch, height, width of the padded image, and of the part that is not padding.
TENSOR_SIZES = (((1, 64, 128), (60, 100)), ((2, 128, 64), (128, 64)))
PICTURE_SIZES = ((1, 30, 50), (2, 64, 40))
# Pictures are checked with smaller limits in place of 1333 and 800, of which networks take half a minute; those are for
# ``full_size``.
_SMALL_LIMITS = (133, 80)

MIN_IOU = 0.99
MAX_SCORE_ERROR = 5e-3
MAX_MASK_ERROR = 0.05  # in standard deviations of the logits
# Shares that must agree. Where two scores, or an overlap and its threshold, are equal but for rounding, one of two
# boxes may replace the other: in the worst golden, none in a hundred detections and two in a thousand proposals do.
MIN_MATCHED = 0.95
MIN_PROPOSALS = 0.97
# fp16 turns more of them into ties, most of all in noise with random weights, where another proposal takes the place of
# one in eight; what is found there hangs on such ties. So proposals alone are judged, each by the one nearest to it. A
# head or a map that is wrong has none in its place.
MIN_PROPOSALS_HALF = 0.8


def open_with_proposals(model: ir.Model, plan: Preprocessing) -> onnxruntime.InferenceSession:
    """Opens a detector on function bodies, its class scores of all proposals as one more output ``proposals``.

    Pictures are resized as ``plan`` says.
    """
    sizes = {"long_side": plan.long_side, "short_side": plan.short_side}
    if plan.exact_size is not None:
        sizes["exact_height"], sizes["exact_width"] = plan.exact_size
    for node in model.graph:
        if node.op_type == "PrepareImage":
            for name, size in sizes.items():
                node.attributes.add(ir.AttrInt64(name, size))
    stage = next(node for node in model.graph if node.metadata_props.get(STAGE_KEY) == _CLASSIFIER)
    identity = ir.node("Identity", [stage.outputs[0]], name="proposals")
    identity.outputs[0].name = "proposals"
    identity.outputs[0].type, identity.outputs[0].shape = stage.outputs[0].type, stage.outputs[0].shape
    model.graph.append(identity)
    model.graph.outputs.append(identity.outputs[0])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class DetectorFile(WrittenFile):
    """A file that finds objects."""

    network: Detector

    def compare(self, precision: str, sessions: Sequence[Any]) -> dict[str, float]:
        """See ``WrittenFile``: on function bodies and with every rounding, whatever else the file can be opened as.

        Networks may find nothing in made-up images, so the class scores of all proposals are compared besides. With
        ``full_size`` one image of the largest size that ``preprocessing`` makes is compared too, which takes gigabytes.

        Returns:
            The smallest shares of detections and of proposals that agree.
        """
        generator = np.random.Generator(np.random.PCG64(0))
        limits = self.preprocessing.long_side, self.preprocessing.short_side
        plan = replace(self.preprocessing, long_side=_SMALL_LIMITS[0], short_side=_SMALL_LIMITS[1])
        if plan.exact_size is not None:
            plan = replace(plan, exact_size=_SMALL_LIMITS)
        if self.interface == "tensor":
            cases = [_tensor_case(size, inside, generator) for size, inside in TENSOR_SIZES]
            step = self.preprocessing.size_divisor
            long, short = (-(-limit // step) * step for limit in limits)
            largest = [_tensor_case((1, short, long), limits[::-1], generator)]
        else:
            cases = [_picture_case(size, generator, plan) for size in PICTURE_SIZES]
            largest = [_picture_case((1, limits[1], limits[0]), generator, self.preprocessing)]
        worst = _compare(open_with_proposals(emulated(self.path), plan), self.network, cases, precision)
        if self.full_size:
            more = _compare(
                open_with_proposals(emulated(self.path), self.preprocessing), self.network, largest, precision
            )
            worst = {name: min(share, more[name]) for name, share in worst.items()}
        return worst


def _compare(
    session: onnxruntime.InferenceSession, network: Detector, cases: Sequence[_Case], precision: str
) -> dict[str, float]:
    worst = {"matched": 1.0, "proposals": 1.0}
    for feed, images, image_sizes, scale in cases:
        names = [output.name for output in session.get_outputs()]
        actual = dict(zip(names, session.run(None, feed), strict=True))
        expected = by_pytorch(network, images, image_sizes)
        expected["boxes"] = expected["boxes"] / scale
        bounds = {"matched": MIN_MATCHED, "proposals": MIN_PROPOSALS}
        if precision == "fp32":
            found = agreement(actual, expected)
        else:
            limit = LOGIT_BOUNDS[precision] * float(expected["proposals"].std())
            found = {"proposals": proposals_found(actual["proposals"], expected["proposals"], limit)}
            bounds = {"proposals": MIN_PROPOSALS_HALF}
        for name, bound in bounds.items():
            if not found[name] >= bound:
                raise VerificationError(
                    f"the exported graph and the model agree on {found[name]:.1%} of the "
                    f"{'detections' if name == 'matched' else name} at {' x '.join(map(str, images.shape))}, "
                    f"expected at least {bound:.0%}; compare both with `freqfusion parity`"
                )
        worst = {name: min(worst[name], found[name]) for name in bounds}
    return worst


def by_pytorch(network: Detector, images: NDArray[np.float32], image_sizes: NDArray[np.int64]) -> dict[str, Any]:
    """Runs the network; its outputs by name, and the class scores of all proposals as ``proposals``."""
    logits: list[Tensor] = []
    handle = network.get_submodule(_CLASSIFIER).register_forward_hook(lambda _, __, output: logits.append(output))
    try:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(images), torch.from_numpy(image_sizes))
    finally:
        handle.remove()
    results = {name: output.numpy() for name, output in zip(network.output_names, outputs, strict=True)}
    return {**results, "proposals": logits[0].numpy()}


def agreement(actual: Arrays, expected: Arrays) -> dict[str, float]:
    """Shares of the expected detections and proposals that are there.

    A detection is there if one of its label overlaps it by ``MIN_IOU``, with its score and its mask. One near the end
    of the list, whose place another may take, need not be. Not-a-number agrees with nothing.
    """
    matched = [image_agreement(actual, expected, i) for i in range(len(expected["num"]))]
    shares = {"matched": min(matched, default=1.0), "proposals": 1.0}
    if "proposals" in expected:
        limit = 2e-3 * max(1.0, float(expected["proposals"].std()))
        shares["proposals"] = proposals_found(actual["proposals"], expected["proposals"], limit, len(expected["num"]))
    if "semantic" in expected:
        a, e = actual["semantic"], expected["semantic"]
        if not np.abs(a - e).max() <= 1e-3 * float(e.std()):
            shares["matched"] = 0.0
    return shares


def proposals_found(actual: NDArray[Any], expected: NDArray[Any], limit: float, images: int = 1) -> float:
    """Share of the expected class scores of proposals that are there, within ``limit``, in any order.

    Order is not determined where scores are equal but for rounding (SPEC 8): of 1000 proposals at 800 x 1333 three
    quarters stand elsewhere in ONNX Runtime than in PyTorch, and 998 are there.

    Args:
        actual: ``(images * M, K)``.
        expected: Likewise.
        limit: Of the largest difference in a row.
        images: A proposal is looked for in its own.
    """
    there = np.abs(actual - expected).max(axis=1) <= limit
    each = len(expected) // images
    for row in np.flatnonzero(~there):
        first = row // each * each
        there[row] = (np.abs(actual[first : first + each] - expected[row]).max(axis=1) <= limit).any()
    return float(there.mean())


def image_agreement(actual: Arrays, expected: Arrays, image: int) -> float:
    """As :func:`agreement`, of the detections in one image."""
    count, found = int(expected["num"][image]), int(actual["num"][image])
    scores = expected["scores"][image, :count]
    limit = scores[-1] + MAX_SCORE_ERROR if count else 0.0
    required = [i for i in range(count) if not scores[i] <= limit]  # not a number is required, and never there
    free = set(range(found))
    hits = 0
    for i in required:
        best = next((j for j in sorted(free) if _is_same(actual, expected, image, j, i)), None)
        if best is not None:
            free.discard(best)
            hits += 1
    surplus = max(0, found - count - 1) if count < expected["scores"].shape[1] else 0
    share: float = (hits / len(required) if required else 1.0) - surplus / expected["scores"].shape[1]
    return share


def _is_same(actual: Arrays, expected: Arrays, image: int, j: int, i: int) -> bool:
    if actual["labels"][image, j] != expected["labels"][image, i]:
        return False
    if not abs(actual["scores"][image, j] - expected["scores"][image, i]) <= MAX_SCORE_ERROR:
        return False
    if not box_iou(actual["boxes"][image, j], expected["boxes"][image, i]) >= MIN_IOU:
        return False
    if "masks" not in expected:
        return True
    a, e = actual["masks"][image, j], expected["masks"][image, i]
    return bool(np.abs(a - e).max() <= MAX_MASK_ERROR * max(float(e.std()), 1e-3))


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2; 0 if neither has an area."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    intersection = float(np.prod(np.maximum(sides, 0.0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - intersection
    return intersection / union if union > 0 else 0.0


_Case = tuple[dict[str, NDArray[Any]], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]


def _tensor_case(size: tuple[int, int, int], inside: tuple[int, int], generator: np.random.Generator) -> _Case:
    n, h, w = size
    images = generator.standard_normal((n, 3, h, w)).astype(np.float32)
    images[:, :, inside[0] :] = 0
    images[:, :, :, inside[1] :] = 0
    sizes = np.array([inside] * n)
    return {"images": images, "image_sizes": sizes}, images, sizes, np.ones(4, np.float32)


def _picture_case(size: tuple[int, int, int], generator: np.random.Generator, plan: Preprocessing) -> _Case:
    n, h, w = size
    pictures = smooth_pictures(generator, n, h, w)
    images = np.concatenate([prepare(picture, plan) for picture in pictures])
    fitted = keep_ratio_size(h, w, plan)
    scale = np.array([fitted[1] / w, fitted[0] / h] * 2, np.float32)
    return {"image": pictures}, images, np.array([fitted] * n), scale
