# SPDX-License-Identifier: Apache-2.0
"""Compares a written segmenter by queries with the model it came from: its queries, and the labels made of them.

Which keys are hidden hangs on signs, so no two roundings of a network agree behind them within any bound. An fp32 file
is compared on pictures of which the network is sure of every key. A file of another precision is asked which keys it
hides; they must be the network's but for those that rounding may decide, and what it computes must be what the network
computes given the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from freqfusion.mask2former import Mask2Former
from freqfusion.mask2former.predictor import HiddenKeys
from freqfusion.ops.query_argmax import class_scores
from freqfusion_runtime.agreement.tolerances import KEY_MARGINS, LOGIT_BOUNDS, TASK_BOUNDS
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.results.labels import CLASS_LOGITS, MASK_LOGITS
from numpy.typing import NDArray
from torch import Tensor, nn

from freqfusion_export.errors import VerificationError
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.precision.protocol import WrittenFile
from freqfusion_export.verification.hidden_keys import KeyRecorder, hidden_values, undecided
from freqfusion_export.verification.sample_pictures import smooth_pictures

# batch, height, width: unlike the traced example in all three. Exporting has frozen each of them before.
TENSOR_SIZES = ((1, 32, 64), (3, 96, 32), (2, 64, 160))
PICTURE_SIZES = ((1, 30, 50), (2, 64, 40))
# Pictures are checked with smaller limits in place of 2560 and 640, of which networks take half a minute.
_SMALL_LIMITS = (128, 60)
# A key of which a mask is sure by less, of the logits' deviation, may be hidden or not by rounding alone, and what
# follows then differs by any amount. fp32 differs from fp64 by 4e-6 (the reference's SPEC, section 9).
_DECIDED = 1e-5
_TRIES = 20


@dataclass(frozen=True)
class QuerySegmenterFile(WrittenFile):
    """A file whose network finds queries."""

    network: Mask2Former

    def compare(self, precision: str, sessions: Sequence[Any]) -> dict[str, float]:
        """See ``WrittenFile``: the first session runs at every size, the others at one.

        Returns:
            The worst error of the logits in standard deviations, or the share of labels that agree.
        """
        generator = np.random.Generator(np.random.PCG64(0))
        if precision != "fp32":
            return self._compare_given_keys(precision, generator)
        if self.interface == "tensor":
            session, *others = sessions
            runs = [(session, size) for size in TENSOR_SIZES] + [(other, TENSOR_SIZES[0]) for other in others]
            return {"logit_error": max(self._logit_error(run, size, generator, precision) for run, size in runs)}
        plan = replace(self.preprocessing, long_side=_SMALL_LIMITS[0], short_side=_SMALL_LIMITS[1])
        small = _session(_with_limits(emulated(self.path), plan))
        shares = [self._label_agreement(small, size, plan, generator, precision) for size in PICTURE_SIZES]
        return {"label_agreement": min(shares)}

    def _logit_error(
        self, session: Any, size: tuple[int, int, int], generator: np.random.Generator, precision: str
    ) -> float:
        n, h, w = size

        def draw() -> NDArray[np.float32]:
            return generator.standard_normal((1, 3, h, w)).astype(np.float32)

        images = np.concatenate([self._decided(draw, lambda image: image) for _ in range(n)])
        expected = self._queries(images)
        found = session.run(None, {"images": images})
        errors = [float(np.abs(a - e.numpy()).max() / e.std()) for a, e in zip(found, expected, strict=True)]
        error, bound = max(errors), LOGIT_BOUNDS[precision]
        if not error <= bound:  # also catches NaN
            raise VerificationError(
                f"the exported graph is off by {error:.1e} standard deviations of the queries' logits at {n} x {h} x "
                f"{w}, allowed {bound:.0e}; `freqfusion parity --layers` shows where"
            )
        return error

    def _label_agreement(
        self,
        session: Any,
        size: tuple[int, int, int],
        plan: Preprocessing,
        generator: np.random.Generator,
        precision: str,
    ) -> float:
        n, h, w = size
        pictures = np.concatenate(
            [
                self._decided(lambda: smooth_pictures(generator, 1, h, w), lambda picture: prepare(picture[0], plan))
                for _ in range(n)
            ]
        )
        images = np.concatenate([prepare(picture, plan) for picture in pictures])
        masks, classes = self._queries(images)
        scores = class_scores(masks, classes, [*images.shape[2:], *keep_ratio_size(h, w, plan), h, w])
        if not scores.isfinite().all():  # their labels would be 0 everywhere, in any file
            raise VerificationError(
                f"{int((~scores.isfinite()).sum())} of {scores.numel()} class scores of the model itself are infinite "
                f"or not a number on a {h} x {w} picture, so there is nothing to compare with; look at its weights"
            )
        best = scores.topk(2, dim=1).values
        undecided = (best[:, 0] - best[:, 1] <= 2 * LOGIT_BOUNDS[precision] * scores.std()).numpy()
        (labels,) = session.run(None, {"image": pictures})
        differs = labels != scores.argmax(dim=1).numpy()
        if (differs & ~undecided).any() or differs.mean() > 1 - TASK_BOUNDS[precision][0]:
            raise VerificationError(
                f"the exported graph labels {differs.mean():.2%} of the pixels of a {h} x {w} picture unlike the "
                f"model, {(differs & ~undecided).mean():.2%} of them beyond ties; compare both interfaces with "
                "`freqfusion parity` to find the stage"
            )
        return float(1 - differs.mean())

    def _compare_given_keys(self, precision: str, generator: np.random.Generator) -> dict[str, float]:
        """Holds the keys, the queries and the labels of a file, with every rounding, to its precision's bounds."""
        plan = replace(self.preprocessing, long_side=_SMALL_LIMITS[0], short_side=_SMALL_LIMITS[1])
        model = _with_limits(emulated(self.path), plan)
        hidden = hidden_values(model.graph)
        names = [*hidden, MASK_LOGITS, CLASS_LOGITS]
        known = {value.name for value in model.graph.outputs}
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(values[name] for name in names if name not in known)
        session = _session(model)
        worst = {"logit_error": 0.0}
        for n, h, w in TENSOR_SIZES if self.interface == "tensor" else PICTURE_SIZES:
            given: NDArray[Any]
            if self.interface == "tensor":
                images = generator.standard_normal((n, 3, h, w)).astype(np.float32)
                given = images
            else:
                given = smooth_pictures(generator, n, h, w)
                images = np.concatenate([prepare(picture, plan) for picture in given])
            found = dict(zip(names, session.run(names, {str(model.graph.inputs[0].name): given}), strict=True))
            with KeyRecorder(self.network, [found[name] for name in hidden]) as keys:
                queries = self._queries(images)
            place = f"at {n} x {h} x {w}"
            _check_keys([found[name] for name in hidden], keys.logits, precision, place)
            for name, expected in zip((MASK_LOGITS, CLASS_LOGITS), queries, strict=True):
                error = float(np.abs(found[name] - expected.numpy()).max() / expected.std())
                _check_error(error, precision, place)
                worst["logit_error"] = max(worst["logit_error"], error)
            if self.interface == "image":
                (labels,) = session.run([str(model.graph.outputs[0].name)], {str(model.graph.inputs[0].name): given})
                sizes = [*images.shape[2:], *keep_ratio_size(h, w, plan), h, w]
                share = _check_labels(labels, class_scores(*queries, sizes), precision, place)
                worst["label_agreement"] = min(worst.get("label_agreement", 1.0), share)
        return worst

    def _queries(self, images: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found: tuple[Tensor, Tensor] = self.network(torch.from_numpy(images))
        return found

    def _decided(
        self, draw: Callable[[], NDArray[Any]], prepared: Callable[[NDArray[Any]], NDArray[np.float32]]
    ) -> NDArray[Any]:
        """Draws until the network is sure of every key; of so many tries, the one with the surest."""
        drawn: list[tuple[float, NDArray[Any]]] = []
        for _ in range(_TRIES):
            made = draw()
            with torch.inference_mode():
                drawn.append((self._decidedness(torch.from_numpy(prepared(made))), made))
            if drawn[-1][0] > _DECIDED:
                break
        return max(drawn, key=lambda entry: entry[0])[1]

    def _decidedness(self, images: Tensor) -> float:
        """The least that a mask is sure of a key by, in deviations of the logits."""
        found: list[float] = []

        def note(_: nn.Module, given: tuple[Tensor]) -> None:
            found.append(float(given[0].abs().min() / given[0].std()))

        handle = self.network.sem_seg_head.predictor.hidden_keys.register_forward_pre_hook(note)
        try:
            self.network(images)
        finally:
            handle.remove()
        return min(found)


def _check_keys(found: Sequence[NDArray[np.bool_]], logits: Sequence[Tensor], precision: str, place: str) -> None:
    for layer, (keys, expected) in enumerate(zip(found, logits, strict=True)):
        wrong = (keys != HiddenKeys()(expected).numpy()) & ~undecided(expected, KEY_MARGINS[precision]).numpy()
        if wrong.any():
            raise VerificationError(
                f"layer {layer} of the exported graph hides or shows {int(wrong.sum())} of {wrong.size} keys unlike "
                f"the model {place}, and rounding to {precision} decides none of them; keep more of the network in "
                "fp32 (--keep-fp32)"
            )


def _check_error(error: float, precision: str, place: str) -> None:
    if not error <= LOGIT_BOUNDS[precision]:  # also catches NaN
        raise VerificationError(
            f"given the keys it hides, the exported graph is off by {error:.1e} standard deviations of the queries' "
            f"logits {place}, allowed {LOGIT_BOUNDS[precision]:.0e} in {precision}; calibrate with pictures "
            "(--calibration), or keep more of the network in fp32 (--keep-fp32)"
        )


def _check_labels(labels: NDArray[Any], scores: Tensor, precision: str, place: str) -> float:
    """Gives the share of labels that agree, having looked at every one that its margin decides."""
    best = scores.topk(2, dim=1).values
    decided = (best[:, 0] - best[:, 1] > 2 * LOGIT_BOUNDS[precision] * scores.std()).numpy()
    differs = labels != scores.argmax(dim=1).numpy()
    if (differs & decided).any():
        raise VerificationError(
            f"given the keys it hides, the exported graph labels {(differs & decided).mean():.2%} of the pixels "
            f"{place} unlike the model, beyond what rounding to {precision} decides; compare both interfaces with "
            "`freqfusion parity` to find the stage"
        )
    return float(1 - differs.mean())


def _with_limits(model: ir.Model, plan: Preprocessing) -> ir.Model:
    """Puts the limits of ``plan`` in place of a file's own."""
    for node in model.graph:
        if node.op_type == "PrepareImage":
            for name in ("long_side", "short_side"):
                node.attributes.add(ir.AttrInt64(name, getattr(plan, name)))
    return model


def _session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Opens a model on function bodies."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
