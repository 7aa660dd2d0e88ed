# SPDX-License-Identifier: Apache-2.0
"""Panoptic maps of a data set as COCO's benchmark takes them: a folder of PNGs and one JSON file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion_runtime.files import atomic_path, json_text, make_folder
from freqfusion_runtime.results.coco_format import Identity
from freqfusion_runtime.results.detections import PanopticSegmentation


class PanopticResultsFolder:
    """Writes ``<stem>.panoptic/<picture>.png``, a photo with the map over it beside each, and ``<stem>.panoptic.json``.

    Of pictures with one name, as two folders may have, all but the first have their number in the PNG's.

    Args:
        folder: Where; made if it is not there.
        stem: How the names begin.

    Raises:
        OutputError: If the folder cannot be made.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.maps = make_folder(folder / f"{stem}.panoptic")
        self.overlays = make_folder(folder / f"{stem}.overlays")
        self.json = folder / f"{stem}.panoptic.json"
        self._entries: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def add(
        self, picture: str, found: PanopticSegmentation, image_id: Identity, categories: Sequence[Identity | None]
    ) -> None:
        """Writes the map of a picture.

        Args:
            picture: The picture's file name.
            found: What was found in it.
            image_id: What the annotations call it.
            categories: Their id of each class. Pixels of a class without one become void, as it has no name there.
        """
        found = found.only([label for label, identity in enumerate(categories) if identity is not None])
        name = self._free_name(Path(picture).stem, image_id)
        for path, image in ((self.maps / name, found.coco_image()), (self.overlays / name, found.overlay())):
            with atomic_path(path) as temporary:
                image.save(temporary)
        ids = [-1 if identity is None else identity for identity in categories]
        self._entries.append(found.coco_entry(name, image_id, ids))

    def _free_name(self, stem: str, image_id: Identity) -> str:
        numbers = itertools.chain([str(image_id)], (f"{image_id}.{count}" for count in itertools.count(2)))
        names = itertools.chain([f"{stem}.png"], (f"{stem}.{number}.png" for number in numbers))
        name = next(name for name in names if name.casefold() not in self._names)
        self._names.add(name.casefold())
        return name

    def finish(self) -> None:
        """Writes the JSON file."""
        with atomic_path(self.json) as temporary:
            temporary.write_text(json_text({"annotations": self._entries}) + "\n", encoding="utf-8")
