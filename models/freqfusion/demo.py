# SPDX-License-Identifier: Apache-2.0
"""The trained checkpoint that comes with the package."""

from __future__ import annotations

from pathlib import Path


def demo_checkpoint() -> Path:
    """Returns the file of ``segnext_t`` trained on emoji scenes; beside it lies its model card.

    Nine classes, fp16 weights under the official names: ``freqfusion.load_model(freqfusion.demo_checkpoint())``.
    """
    return Path(__file__).parent / "data" / "emoji_scenes_segnext_t.safetensors"
