# SPDX-License-Identifier: Apache-2.0
"""What the results of each picture are called, so that none replaces another's, or a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from freqfusion_runtime.errors import InputError

# Of results that are pictures themselves.
_SUFFIXES = (
    ".labels.png",
    ".overlay.png",
    ".overlay.jpg",
    ".overlay.webp",
    ".panoptic.png",
    ".differences.png",
)


def result_names(pictures: Sequence[Path]) -> dict[Path, str]:
    """Names each picture's results: its stem, with the suffix kept where two pictures share a stem.

    Raises:
        InputError: If two would still have one name, also where upper and lower case are one.
    """
    shared = Counter(picture.stem.casefold() for picture in pictures)
    names = {p: p.stem if shared[p.stem.casefold()] == 1 else p.name.replace(".", "_") for p in pictures}
    clashes = [name for name, count in Counter(name.casefold() for name in names.values()).items() if count > 1]
    if clashes:
        same = [p for p in pictures if names[p].casefold() == clashes[0]]
        raise InputError(
            f"{', '.join(map(str, same))} would be written under one name, {names[same[0]]}. "
            "Run them into different folders."
        )
    return names


def check_pictures_stay(places: Iterable[Path], names: Mapping[Path, str], output: Path) -> None:
    """Makes sure that no result takes the place of a picture, and that none is taken for a picture the next time.

    Args:
        places: Files and folders as the user named them.
        names: What :func:`result_names` made of the pictures found there.
        output: Folder for the results.

    Raises:
        InputError: If ``output`` is one of these folders, or a result would have the name of a picture in it.
    """
    target = output.resolve()
    for place in places:
        if place.is_dir() and place.resolve() == target:
            raise InputError(
                f"{output} is the folder of the pictures, too: results would replace pictures of their names, and be "
                "taken for pictures the next time. Name another folder for the results."
            )
    results = {name + suffix: picture for picture, name in names.items() for suffix in _SUFFIXES}
    for picture in names:
        if picture.name in results and picture.parent.resolve() == target:
            raise InputError(
                f"{picture} is a picture, and the results of {results[picture.name]} would replace it. "
                "Name another folder for the results."
            )
