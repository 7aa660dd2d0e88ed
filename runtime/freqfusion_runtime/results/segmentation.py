# SPDX-License-Identifier: Apache-2.0
"""A labelled picture, and the files made of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.files import atomic_path, make_folder
from freqfusion_runtime.model_files.classes.class_table import Color

if TYPE_CHECKING:
    from freqfusion_runtime.pictures.reading import Picture

_NAMED_CLASSES = 4  # on the line of a picture; overlay and JSON name all


@dataclass(frozen=True)
class ClassShare:
    """How much of a picture one class covers; ``share`` is in [0, 1]."""

    label: int
    name: str
    color: Color
    pixels: int
    share: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a segmenter found.

    Args:
        labels: ``(H, W)``, uint8 for up to 256 classes, else int32.
        classes: Name of each label.
        palette: RGB colour of each label.
        photo: The picture itself, ``(H, W, 3)`` uint8 RGB.
        timings_ms: Time each stage took, in order: decode, preprocess, network, postprocess.
    """

    labels: NDArray[Any]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    photo: Picture
    timings_ms: dict[str, float]

    def shares(self) -> list[ClassShare]:
        """Lists the classes that are present, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = sorted(np.flatnonzero(counts).tolist(), key=lambda label: (-counts[label], label))
        return [
            ClassShare(k, self.classes[k], self.palette[k], int(counts[k]), float(counts[k] / self.labels.size))
            for k in order
        ]

    def label_image(self) -> Image.Image:
        """Draws the label map: pixel value = label, in palette mode with the classes' colours.

        With more than 256 classes a palette cannot hold them; it is then a 16-bit grey picture.
        """
        if self.labels.dtype != np.uint8:
            return Image.fromarray(self.labels.astype(np.uint16))
        image = Image.fromarray(self.labels)
        image.putpalette([level for color in self.palette for level in color])
        return image

    def overlay(self, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """Draws the photo under the classes' colours, with outlines and a legend.

        Args:
            opacity: Of the colours, in [0, 1].
            legend: Whether to add the panel that names the classes and their shares.
        """
        from freqfusion_runtime.results.overlay import draw_overlay  # drawing is not needed by those who want labels

        return draw_overlay(self, opacity, legend)

    def facts(self) -> dict[str, Any]:
        """Lists the classes that are present, for JSON."""
        return {
            "classes": [
                {"label": share.label, "name": share.name, "pixels": share.pixels, "share": round(share.share, 6)}
                for share in self.shares()
            ]
        }

    def summary(self) -> str:
        """Words the largest classes on one line."""
        shares = self.shares()
        large = [share for share in shares[:_NAMED_CLASSES] if share.share >= 0.005]
        named = ", ".join(f"{share.name} {share.share:.0%}" for share in large)
        rest = len(shares) - len(large)
        return named + (f" and {rest} more" if rest > 0 else "")

    def save(self, folder: str | os.PathLike[str], stem: str, overlay_format: str = "png") -> dict[str, Path]:
        """Writes ``<stem>.labels.png`` and ``<stem>.overlay.<overlay_format>``, each whole or not at all.

        Args:
            folder: Made where it is missing.
            stem: File name without suffix, usually the photo's.
            overlay_format: ``png`` or ``jpg``.

        Returns:
            The path of each kind of file.

        Raises:
            OutputError: If one cannot be written.
        """
        place = make_folder(folder)
        labels, overlay = place / f"{stem}.labels.png", place / f"{stem}.overlay.{overlay_format}"
        with atomic_path(labels) as temporary:
            self.label_image().save(temporary)
        with atomic_path(overlay) as temporary:
            self.overlay().save(temporary, quality=92)  # PNG has no quality and ignores it
        return {"labels": labels, "overlay": overlay}
