# SPDX-License-Identifier: Apache-2.0
"""Measures what PyTorch differs from itself by: other random bases, and products in TF32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from freqfusion.detection import Detector
from freqfusion.ham_head import NMF2D, draw_bases
from freqfusion_runtime.agreement.comparison import compare, label_agreement, mean_iou
from freqfusion_runtime.agreement.noise import NoiseEntry
from freqfusion_runtime.agreement.object_agreement import compare_answers
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.pictures.reading import read_picture
from torch import nn

from freqfusion_export.parity.pytorch_run import labels_of, objects_of, pytorch_manifest, run_pytorch
from freqfusion_export.parity.tf32 import Tf32Products

SEEDS = 3


def measure_noise_floor(
    network: nn.Module, manifest: Manifest, pictures: Sequence[Path], seeds: int = SEEDS
) -> list[NoiseEntry]:
    """Runs a network as it is, then with each source of noise, on every picture.

    Args:
        network: In evaluation mode, with the exported file's bases.
        manifest: Of the exported file.
        pictures: At least one.
        seeds: How many other draws of the NMF bases to try, where the network has any. The official model draws them
            anew at every forward.
    """
    sources: list[tuple[str, AbstractContextManager[object]]] = []
    own = manifest.nmf_bases_seed or 0
    if any(isinstance(module, NMF2D) for module in network.modules()):
        sources += [(f"NMF bases, seed {own + i}", _OtherBases(network, own + i)) for i in range(1, seeds + 1)]
    entries = []
    sources.append(("TF32", Tf32Products()))
    for path in pictures:
        photo = read_picture(path)
        expected = run_pytorch(network, manifest, photo)
        for source, change in sources:
            with change:
                actual = run_pytorch(network, manifest, photo)
            if isinstance(network, Detector):
                plain = pytorch_manifest(manifest, network)
                answers = [objects_of(outputs, plain, path, photo) for outputs in (actual, expected)]
                entries.append(NoiseEntry(source, path.name, None, None, compare_answers(*answers).measures))
                continue
            name = next(iter(expected))  # of masks and classes, the masks
            found = compare("network", name, actual[name], expected[name], np.inf)
            rms = float(np.sqrt(np.mean((actual[name] - expected[name]) ** 2)) / expected[name].std())
            maps = [labels_of(outputs, manifest, photo) for outputs in (actual, expected)]
            measures = {"label_agreement": label_agreement(*maps), "miou": mean_iou(*maps)}
            entries.append(NoiseEntry(source, path.name, found.max_over_std, rms, measures))
    return entries


class _OtherBases:
    """Within it a network's NMF heads have the bases of another seed; may be entered again."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        self._heads = [module for module in network.modules() if isinstance(module, NMF2D)]
        self._seed = seed

    def __enter__(self) -> None:
        self._own = [head.bases for head in self._heads]
        for head in self._heads:
            channels, rank = head.bases.shape
            head.bases = draw_bases(channels, rank, self._seed).to(head.bases)

    def __exit__(self, *_: object) -> None:
        for head, bases in zip(self._heads, self._own, strict=True):
            head.bases = bases
