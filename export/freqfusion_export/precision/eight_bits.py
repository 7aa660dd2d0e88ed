# SPDX-License-Identifier: Apache-2.0
"""The 8-bit types, int8 and fp8: ranges, choice of layers by sensitivity, Q/DQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import onnx_ir as ir
from freqfusion_runtime.agreement.comparison import label_agreement
from freqfusion_runtime.model_files.manifest import KeptInFp32, Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.results.labels import labels_of_picture

from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.passes.assign_precision import ISLAND_KEY
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.opening import open_written
from freqfusion_export.precision.protocol import Precision, WrittenFile
from freqfusion_export.precision.quantization import Calibrator, Target, group_of, plan
from freqfusion_export.precision.sensitivity import GroupLoss, eight_bit_session, relative_rms, settle

EightBitName = Literal["int8", "fp8"]
EIGHT_BITS: tuple[EightBitName, ...] = ("int8", "fp8")
JUDGED_PICTURES = 4  # of the calibration's, by which groups are weighed; each costs a run for every group


@dataclass(frozen=True)
class Options:
    """How to quantise.

    Attributes:
        calibrator: ``entropy`` or ``percentile``.
        target: ``tensorrt`` or ``onnxruntime``.
        max_drop: Largest share of labels that may differ from fp32's.
        weight_bits: 8, or 7 for processors without VNNI.
    """

    calibrator: Calibrator = "percentile"
    target: Target = "tensorrt"
    max_drop: float = 0.05
    weight_bits: int = 8


@dataclass(frozen=True)
class EightBits(Precision):
    """Quantises convolutions by scales from pictures, as far as labels stay what they are.

    Attributes:
        options: How.
        on_sensitivity: Given the table of what each group of layers loses in 8 bits.
    """

    name: EightBitName
    options: Options = Options()
    on_sensitivity: Callable[[Sequence[GroupLoss]], None] = lambda _: None

    def check(self) -> None:
        """See ``Precision``."""
        self._scales_from()
        if not 0 <= self.options.max_drop <= 1:
            raise ExportError(f"the label drop allowed must be from 0 to 1, got {self.options.max_drop}")

    def _scales_from(self) -> Calibration:
        if self.calibration is None:
            raise ExportError(
                f"{self.name} takes its scales from pictures: name a folder of typical ones (--calibration)"
            )
        return self.calibration

    def apply(self, model: ir.Model, preprocessing: Preprocessing) -> tuple[ir.Model, tuple[KeptInFp32, ...]]:
        """See ``Precision``."""
        result, islands, table = quantise(
            model, self.name, self._scales_from(), preprocessing, self.keep_fp32, self.options
        )
        self.on_sensitivity(table)
        return result, islands

    def verify(self, file: WrittenFile) -> None:
        """Compares label maps of up to two calibration pictures, or outputs of as many of its arrays.

        Ranges fit the pictures they were taken from: noise, which other precisions are compared on, would be cut off.
        One picture may lose twice what was allowed for all together.
        """
        (session,) = open_written(file.path, lambda path: eight_bit_session(str(path), optimise=self.name != "fp8"))
        if self._scales_from().is_arrays:
            self._verify_arrays(file, session)
            return
        max_drop = self.options.max_drop
        least, shares = 1 - 2 * max_drop, []
        for picture in map(read_picture, self._scales_from().pictures[:2]):
            images = prepare(picture, file.preprocessing)
            size = picture.shape[0], picture.shape[1]
            expected = labels_of_picture(file.scores(images)[0], size, file.preprocessing)
            if file.interface == "image":
                labels = session.run(None, {"image": picture[None]})[0][0]
            else:
                labels = labels_of_picture(session.run(None, {"images": images})[0][0], size, file.preprocessing)
            shares.append(label_agreement(labels, expected))
        worst = min(shares)
        if not worst >= least:
            raise VerificationError(
                f"the exported graph labels {1 - worst:.2%} of a calibration picture's pixels unlike the model, more "
                f"than twice the {max_drop:.1%} allowed of all; calibrate with more pictures, lower --max-drop, "
                "or export another precision"
            )

    def _verify_arrays(self, file: WrittenFile, session: Any) -> None:
        graph = ir.load(file.path).graph
        for feed in islice(self._scales_from().feeds(graph, file.preprocessing), 2):
            expected = file.outputs(feed)
            actual = dict(zip(expected, session.run(list(expected), dict(feed)), strict=True))
            floats = [name for name, values in expected.items() if values.dtype.kind == "f"]
            worst = max(((relative_rms(actual[name], expected[name]), name) for name in floats), default=(0.0, ""))
            if not worst[0] <= 2 * self.options.max_drop:
                raise VerificationError(
                    f"output {worst[1]!r} of the exported graph is off by {worst[0]:.1%} of its standard deviation on "
                    f"the calibration's arrays, more than twice the {self.options.max_drop:.1%} allowed; calibrate "
                    "with more of them, lower --max-drop, or export another precision"
                )

    @property
    def calibration_method(self) -> str:
        """See ``Precision``."""
        return f"{self.options.calibrator}, for {self.options.target}"


def quantise(
    model: ir.Model,
    precision: str,
    calibration: Calibration,
    preprocessing: Preprocessing,
    keep: Sequence[str],
    options: Options,
) -> tuple[ir.Model, tuple[KeptInFp32, ...], tuple[GroupLoss, ...]]:
    """Returns the network in 8 bits, what stayed in fp32, and the table of what each group of layers loses.

    Raises:
        ExportError: If the limit cannot be met.
    """
    quantization = plan(
        model,
        precision,
        calibration.feeds(model.graph, preprocessing),
        calibrator=options.calibrator,
        target=options.target,
        keep=keep,
        weight_bits=options.weight_bits,
    )
    judged = list(islice(calibration.feeds(model.graph, preprocessing), JUDGED_PICTURES))
    quantization, table = settle(model, quantization, judged, options.max_drop, calibration.is_arrays)
    sensitive = {line.group for line in table if line.is_kept}
    result = quantization.applied(model)
    kept = Counter[str]()
    for node in result.graph:
        if node.op_type == "Conv" and node.name not in quantization.nodes:
            name = SENSITIVE if group_of(node) in sensitive else EXCLUDED
            node.metadata_props[ISLAND_KEY] = name
            kept[name] += 1
    of_what = "of the labels" if table[-1].miou_drop is not None else "of the outputs' deviation"
    why = {
        SENSITIVE: f"taken out, worst first, until at most {options.max_drop:.1%} {of_what} differ from fp32's",
        EXCLUDED: "the sampler's offsets, and what --keep-fp32 names",
    }
    found = tuple(f"{line.group}: {line.label_drop:.2%} {of_what}" for line in table if line.is_kept)
    islands = tuple(
        KeptInFp32(name, why[name], kept[name], found if name == SENSITIVE else ()) for name in why if name in kept
    )
    return result, islands, table


SENSITIVE = "sensitive in 8 bits"
EXCLUDED = "not to be quantised"
