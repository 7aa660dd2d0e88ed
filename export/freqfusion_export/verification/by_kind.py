# SPDX-License-Identifier: Apache-2.0
"""Which comparison a network's form names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from freqfusion_runtime.model_files.manifest import Interface
from torch import nn

from freqfusion_export.networks.own_network import NetworkForm
from freqfusion_export.networks.protocol import Comparison, Form
from freqfusion_export.precision.protocol import WrittenFile
from freqfusion_export.verification.detector_file import DetectorFile
from freqfusion_export.verification.network_file import NetworkFile
from freqfusion_export.verification.query_segmenter_file import QuerySegmenterFile
from freqfusion_export.verification.segmenter_file import SegmenterFile

WRITTEN_FILES: Mapping[Comparison, type[WrittenFile]] = {
    "labels": SegmenterFile,
    "queries": QuerySegmenterFile,
    "detections": DetectorFile,
    "tensors": NetworkFile,
}


def written_file(form: Form, path: Path, network: nn.Module, interface: Interface, full_size: bool) -> WrittenFile:
    """A file that was just written, to be compared with the network as its form says."""
    of_form = path, network, interface, form.preprocessing, full_size
    if isinstance(form, NetworkForm):
        return NetworkFile(*of_form, form=form)
    return WRITTEN_FILES[form.comparison](*of_form)
