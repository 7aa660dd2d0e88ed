# SPDX-License-Identifier: Apache-2.0
"""A segmentation as the bytes a client asked for: label PNG, overlay, JSON or raw labels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.results.run_lengths import Runs
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.serving.http.regions import corner_count, polygons

# Beyond this, outlines are noise and their list is larger than the picture: 2 MB of JSON, 0.5 s of one core.
_MAX_CORNERS = 100_000
# Memory that an encoder takes beside labels and photo, for each pixel; JSON's geometry comes on top. The tests hold
# these to what is measured.
ENCODING_BYTES = {"labels": 7, "raw": 9, "overlay-png": 18, "overlay-jpeg": 16, "overlay-webp": 18, "json": 16}
_RUN_BYTES, _CORNER_BYTES = 96, 160
_NO_CLASS = 255  # in 8-bit label maps, for pixels of classes that were not asked for


@dataclass(frozen=True)
class Wish:
    """What to make of a label map.

    Args:
        kind: A key of :data:`ENCODERS`.
        selected: Labels to show, None for all.
        opacity: Of an overlay's colours, in [0, 1].
        geometry: Which of ``rle`` and ``polygons`` JSON holds.
        facts: Added to JSON.
    """

    kind: str
    selected: frozenset[int] | None
    opacity: float
    geometry: frozenset[str]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Encoded:
    """An answer's body and its headers."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]


def geometry_bytes(labels: NDArray[Any], wish: Wish) -> int:
    """Memory that JSON's run lengths and outlines take, which depends on what the picture shows."""
    if wish.kind != "json":
        return 0
    runs = np.count_nonzero(labels[1:] != labels[:-1]) + labels.shape[1] if "rle" in wish.geometry else 0
    corners = min(4 * labels.size, _MAX_CORNERS) if "polygons" in wish.geometry else 0
    return int(runs) * _RUN_BYTES + corners * _CORNER_BYTES


def encode(segmentation: Segmentation, wish: Wish) -> Encoded:
    """Writes a segmentation in the form that ``wish`` names."""
    media_type, encoder = ENCODERS[wish.kind]
    height, width = segmentation.labels.shape
    headers = {"X-Image-Width": str(width), "X-Image-Height": str(height)}
    if wish.kind == "raw":
        headers["X-Label-Type"] = "uint8" if segmentation.labels.dtype == np.uint8 else "int32"
    return Encoded(encoder(segmentation, wish), media_type, headers)


def _label_png(segmentation: Segmentation, wish: Wish) -> bytes:
    labels = _selected_labels(segmentation, wish.selected)
    options: dict[str, Any] = {}
    if labels.dtype == np.uint8:
        image = Image.fromarray(labels)
        levels = [level for color in segmentation.palette for level in color]
        image.putpalette(levels + [0] * (768 - len(levels)))
        options["bits"] = 8  # Pillow packs small palettes into fewer, which many readers of label maps do not expect
        if wish.selected is not None and len(segmentation.classes) <= _NO_CLASS:
            options["transparency"] = _NO_CLASS
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    return _saved(image, "PNG", compress_level=1, **options)


def _raw(segmentation: Segmentation, wish: Wish) -> bytes:
    labels = _selected_labels(segmentation, wish.selected)
    return labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes()


def _overlay_png(segmentation: Segmentation, wish: Wish) -> bytes:
    return _saved(_overlay(segmentation, wish), "PNG", compress_level=1)


def _overlay_jpeg(segmentation: Segmentation, wish: Wish) -> bytes:
    return _saved(_overlay(segmentation, wish), "JPEG", quality=90)


def _overlay_webp(segmentation: Segmentation, wish: Wish) -> bytes:
    return _saved(_overlay(segmentation, wish), "WEBP", quality=85, method=1)


def _json(segmentation: Segmentation, wish: Wish) -> bytes:
    labels = segmentation.labels
    shown = [s for s in segmentation.shares() if wish.selected is None or s.label in wish.selected]
    runs = Runs(labels) if "rle" in wish.geometry else None
    corners_left = _MAX_CORNERS
    classes = []
    for share in shown:
        entry: dict[str, Any] = {
            "label": share.label,
            "name": share.name,
            "color": list(share.color),
            "pixels": share.pixels,
            "share": share.share,
        }
        if runs is not None:
            entry["rle"] = runs.code(share.label)
        if "polygons" in wish.geometry:
            mask = labels == share.label
            corners_left -= corner_count(mask)
            entry["polygons"] = polygons(mask) if corners_left >= 0 else None
        classes.append(entry)
    height, width = labels.shape
    answer = {**wish.facts, "width": width, "height": height, "classes": classes, "timings_ms": segmentation.timings_ms}
    return json.dumps(answer, ensure_ascii=False).encode()


ENCODERS: Mapping[str, tuple[str, Callable[[Segmentation, Wish], bytes]]] = {
    "labels": ("image/png", _label_png),
    "overlay-png": ("image/png", _overlay_png),
    "overlay-jpeg": ("image/jpeg", _overlay_jpeg),
    "overlay-webp": ("image/webp", _overlay_webp),
    "json": ("application/json", _json),
    "raw": ("application/octet-stream", _raw),
}


def _selected_labels(segmentation: Segmentation, selected: frozenset[int] | None) -> NDArray[Any]:
    """Puts 255 (uint8) or -1 (int32) where a class was not asked for."""
    labels = segmentation.labels
    if selected is None:
        return labels
    nothing = _NO_CLASS if labels.dtype == np.uint8 else -1
    table = np.full(len(segmentation.classes), nothing, labels.dtype)
    table[sorted(selected)] = sorted(selected)
    result: NDArray[Any] = table[labels]
    return result


def _overlay(segmentation: Segmentation, wish: Wish) -> Image.Image:
    """Blends colours over the photo at its own size, without outlines or legend, in integers of 1/256."""
    weight = round(wish.opacity * 256)
    share = np.full(len(segmentation.classes), weight, np.uint16)
    if wish.selected is not None:
        share[sorted(set(range(len(share))) - wish.selected)] = 0
    colors = np.array(segmentation.palette, np.uint16) * share[:, None] + 128
    labels, photo = segmentation.labels, segmentation.photo
    result = np.empty_like(photo)
    for top in range(0, len(labels), 256):  # in strips that stay within a core's cache
        rows = slice(top, top + 256)
        kept = (256 - share)[labels[rows]][:, :, None]
        result[rows] = (photo[rows] * kept + colors[labels[rows]]) >> 8
    return Image.fromarray(result)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def choose(accept: Sequence[str], view: str | None) -> str | None:
    """Picks an encoder by an ``Accept`` header's values, the client's favourite first.

    Args:
        accept: All values of the header.
        view: ``labels`` or ``overlay``, to tell the two kinds of PNG apart; None follows the header's ``view``
            parameter, else labels.

    Returns:
        A key of :data:`ENCODERS`, or None if nothing fits.
    """
    for media_range, parameters in _ranges(accept):
        wanted = view or parameters.get("view", "labels")
        names = {
            "image/png": "overlay-png" if wanted == "overlay" else "labels",
            "image/jpeg": "overlay-jpeg",
            "image/webp": "overlay-webp",
            "application/json": "json",
            "application/octet-stream": "raw",
        }
        if media_range in names:
            return names[media_range]
        if media_range in ("*/*", "image/*"):
            return names["image/png"]
        if media_range == "application/*":
            return "json"
    return None


def _ranges(accept: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Reads media ranges with their parameters, the highest quality first, those of quality 0 left out."""
    found = []
    for part in ",".join(accept or ["*/*"]).split(","):
        media_range, *rest = (piece.strip().lower() for piece in part.split(";"))
        parameters = dict(piece.split("=", 1) for piece in rest if "=" in piece)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if media_range and 0 < quality <= 1:
            found.append((quality, media_range, parameters))
    found.sort(key=lambda entry: -entry[0])
    return [(media_range, parameters) for _, media_range, parameters in found]
