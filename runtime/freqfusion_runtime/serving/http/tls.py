# SPDX-License-Identifier: Apache-2.0
"""TLS in front of an HTTP connection: counted when it is accepted, shaken hands with in time, and ended in time.

Left to the event loop, a connection is nobody's until its handshake ends, which may take a minute, and waits half a
minute for a farewell.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

from freqfusion_runtime.errors import FreqFusionError
from freqfusion_runtime.serving.http.connection import RESERVED, Connection

_FAREWELL_S = 1.0


class CertificateError(FreqFusionError):
    """The files for TLS are no certificate and its key."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Reads a certificate and its key.

    Raises:
        CertificateError: If they cannot be read, do not belong together, or the key needs a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # none, rather than a question on the terminal
    except (OSError, ValueError) as e:
        raise CertificateError(
            f"{certificate} and {key} are no certificate and its key: {getattr(e, 'reason', None) or e}. Name two PEM "
            "files that belong together, the key without a password."
        ) from e
    return context


def tls_class(connections: type[Connection], context: ssl.SSLContext) -> type[asyncio.Protocol]:
    """Makes the protocol class for such connections over TLS."""

    class Secured(TlsConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(connections(**options), context)

    return Secured


class TlsConnection(asyncio.Protocol):
    """A connection until its handshake has ended; then the one inside takes over."""

    def __init__(self, inner: Connection, context: ssl.SSLContext) -> None:
        self._inner, self._context = inner, context
        self._early: list[bytes] = []
        self._is_lost = False
        self._handshake: asyncio.Task[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Counts it, and begins the handshake if there is room."""
        self._transport = transport
        inner = self._inner
        inner.connections.add(self)  # type: ignore[arg-type]
        inner.numbers.connections.set(len(inner.connections))
        if len(inner.connections) > inner.limits.max_connections + RESERVED:
            inner.numbers.errors.labels("connection_503").inc()
            transport.abort()
            return
        transport.pause_reading()
        self._handshake = inner.loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        inner = self._inner
        knows_farewell = sys.version_info >= (3, 11) or type(inner.loop).__module__.startswith("uvloop")
        options: dict[str, Any] = {"ssl_shutdown_timeout": _FAREWELL_S} if knows_farewell else {}
        within_s = max(inner.limits.header_timeout_s, 0.001)
        try:
            secured: Any = await inner.loop.start_tls(
                self._transport, self, self._context, server_side=True, ssl_handshake_timeout=within_s, **options
            )
        except (OSError, RuntimeError, AttributeError, asyncio.TimeoutError):  # whatever a client does, or being gone
            inner.numbers.errors.labels("tls_handshake").inc()
            self._transport.abort()
            return
        finally:
            inner.connections.discard(self)
            inner.numbers.connections.set(len(inner.connections))
        if self._is_lost or secured is None:
            return
        secured.set_protocol(inner)
        inner.connection_made(secured)
        for data in self._early:
            inner.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Keeps what comes right behind the handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it no more."""
        self._is_lost = True
        self._inner.connections.discard(self)
        self._inner.numbers.connections.set(len(self._inner.connections))

    def shutdown(self) -> None:
        """Ends a handshake that no request can follow."""
        if self._handshake is not None:
            self._handshake.cancel()
        self._transport.abort()
