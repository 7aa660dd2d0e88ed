# SPDX-License-Identifier: Apache-2.0
"""Which comparison a network's form names."""

from __future__ import annotations

from collections.abc import Mapping

from freqfusion_export.networks.protocol import Comparison
from freqfusion_export.precision.protocol import WrittenFile
from freqfusion_export.verification.detector_file import DetectorFile
from freqfusion_export.verification.query_segmenter_file import QuerySegmenterFile
from freqfusion_export.verification.segmenter_file import SegmenterFile

WRITTEN_FILES: Mapping[Comparison, type[WrittenFile]] = {
    "labels": SegmenterFile,
    "queries": QuerySegmenterFile,
    "detections": DetectorFile,
}
