# SPDX-License-Identifier: Apache-2.0
"""As much of a served model as reading a request asks for: its name and its manifest."""

from __future__ import annotations

from freqfusion_runtime.model_files.manifest import Manifest
from small_models import image_manifest


class DescribedModel:
    """A model that cannot run; its session and its source are itself."""

    def __init__(self, manifest: Manifest | None = None) -> None:
        self.session, self.source = self, self
        self.manifest, self.name = manifest or image_manifest(), "colors"
