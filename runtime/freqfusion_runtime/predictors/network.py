# SPDX-License-Identifier: Apache-2.0
"""A network of which nobody says what its tensors mean: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from numpy.typing import NDArray

from freqfusion_runtime.errors import InputError
from freqfusion_runtime.pictures.reading import PictureLike
from freqfusion_runtime.sessions.protocol import Session


class Network:
    """Any network around its session. Safe to call from several threads.

    Args:
        session: Of a model for ``network``.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes all outputs.

        Args:
            inputs: Every input by name, of the dtype and a shape that ``session.manifest.inputs`` names.

        Raises:
            InputError: If one is another, or its sizes do not fit those of the others.
        """
        return self.session.run(inputs)

    def predict(self, image: PictureLike, **_: Any) -> NoReturn:
        """Refuses pictures: the file does not say what would become of one.

        Raises:
            InputError: Always.
        """
        wanted = ", ".join(
            f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in self.session.manifest.inputs
        )
        raise InputError(
            f"{self.session.path} does not say what its tensors mean (task network), so that no picture can be given "
            f"to it. Give it arrays with run(): {wanted}."
        )
