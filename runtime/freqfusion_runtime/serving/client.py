# SPDX-License-Identifier: Apache-2.0
"""A client of the simple picture route, on Python's own HTTP library: nothing to install.

``Client("http://127.0.0.1:8000").labels("photo.jpg")`` gives a label map.
"""

from __future__ import annotations

import http.client
import io
import os
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.errors import FreqFusionError
from freqfusion_runtime.files import open_regular
from freqfusion_runtime.model_files.hostile_json import JsonError, JsonLimits, read_json

_LIMITS = JsonLimits(length=64 << 20)  # of an answer
_TRY_AGAIN = (429, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0

Picture = bytes | str | os.PathLike[str]


class ClientError(FreqFusionError):
    """A server refused a request, or could not be reached; ``status`` is None where there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """An answer; ``timing`` is its ``Server-Timing`` header, ``total_ms`` the time of the last try as seen here."""

    body: bytes
    headers: Mapping[str, str]
    total_ms: float

    @property
    def timing(self) -> str:
        """What the server spent its time on."""
        return self.headers.get("server-timing", "")


class Client:
    """Asks one server, over a connection that is kept. For one thread at a time.

    Args:
        url: ``http://`` or ``https://``, host, and port.
        api_key: Sent with each request.
        timeout_s: For one try: to connect, and for each wait for bytes.
        retries: Tries after the first, where the server is busy or the connection breaks.
        certificate: PEM file of the authority to trust instead of the system's.

    Raises:
        ClientError: If the URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url!r} is no server's URL. Write it as http://127.0.0.1:8000.")
        self._url, self._prefix = url, parts.path.rstrip("/")
        self._timeout_s, self._retries = timeout_s, max(0, retries)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=certificate)
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        self._connection.close()

    def models(self) -> list[dict[str, Any]]:
        """Lists the server's models with their classes.

        Raises:
            ClientError: If it does not answer.
        """
        try:
            listing = read_json(self._ask("GET", "/v1/models", None, {}).body, "the list of models", _LIMITS)
            models: list[dict[str, Any]] = listing["models"]
        except (JsonError, KeyError, TypeError) as e:
            raise ClientError(f"{self._url} answers with no list of models ({e}). Name the address of a server.") from e
        return models

    def is_ready(self) -> bool:
        """Asks once whether the server takes requests."""
        try:
            self._ask("GET", "/v2/health/ready", None, {}, retries=0)
        except ClientError:
            return False
        return True

    def segment(
        self,
        picture: Picture,
        *,
        accept: str = "image/png",
        model: str | None = None,
        classes: str | None = None,
        size: int | None = None,
    ) -> Reply:
        """Has a picture labelled.

        Args:
            picture: A file's path, or its content.
            accept: Media type of the answer; the server's ``/openapi.json`` lists them.
            model: The server's first by default.
            classes: Names or numbers, separated by commas, of the classes to show.
            size: Long side to which the server reduces the picture first.

        Raises:
            ClientError: If the picture cannot be read, or the server refuses it or is not reached.
        """
        wishes = {"model": model, "classes": classes, "size": size}
        query = urlencode({name: value for name, value in wishes.items() if value is not None})
        headers = {"Accept": accept, "Content-Type": "application/octet-stream"}
        return self._ask("POST", f"/v1/segment?{query}", _content(picture), headers)

    def labels(self, picture: Picture, *, model: str | None = None, size: int | None = None) -> NDArray[Any]:
        """Labels a picture.

        Returns:
            ``(H, W)``, the class of each pixel.

        Raises:
            ClientError: As :meth:`segment`.
        """
        body = self.segment(picture, model=model, size=size).body
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            return np.array(image)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], retries: int | None = None
    ) -> Reply:
        tries = 1 + (self._retries if retries is None else retries)
        for left in reversed(range(tries)):
            wait_s = 0.0
            try:
                start = time.perf_counter()
                self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
                answer = self._connection.getresponse()
                content = answer.read()
                total_ms = (time.perf_counter() - start) * 1e3
            except (OSError, http.client.HTTPException) as e:
                self._connection.close()
                # Labelling the same picture twice changes nothing, so a request that broke off may be sent again.
                failure = ClientError(
                    f"{self._url} does not answer: {str(e) or type(e).__name__}. Check that the server runs there."
                )
                failure.__cause__ = e
            else:
                found = {name.lower(): value for name, value in answer.getheaders()}
                if answer.status == 200:
                    return Reply(content, found, total_ms)
                failure = ClientError(
                    f"{self._url} answered {answer.status}: {_reason(content, answer.reason)}", answer.status
                )
                if answer.status not in _TRY_AGAIN:
                    raise failure
                wait_s = _seconds(found.get("retry-after", ""))
            if not left:
                raise failure
            # Spread out, so that clients that were refused together do not return together.
            backoff_s = _FIRST_WAIT_S * 2 ** (tries - 1 - left)
            time.sleep(min(_LONGEST_WAIT_S, max(wait_s, backoff_s)) * random.uniform(1.0, 1.25))
        raise AssertionError("unreachable")


def _content(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    try:
        with open_regular(picture) as file:
            return file.read()
    except OSError as e:
        raise ClientError(f"{os.fspath(picture)} cannot be read: {e.strerror}. Name a picture file.") from e


def _reason(content: bytes, fallback: str) -> str:
    try:
        return str(read_json(content, "the answer", _LIMITS)["error"])
    except (JsonError, KeyError, TypeError):
        return fallback


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
