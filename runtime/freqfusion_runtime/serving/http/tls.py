# SPDX-License-Identifier: Apache-2.0
"""TLS in front of an HTTP connection: counted when it is accepted, shaken hands with in time, and ended in time.

Left to the event loop, a connection is nobody's until its handshake ends, which may take a minute, and waits half a
minute for a farewell.
"""

from __future__ import annotations

import asyncio
import socket
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

    class LimitedTls(TlsConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(connections(**options), context)

    return LimitedTls


class TlsConnection(asyncio.Protocol):
    """A connection until its handshake has ended; then the one inside takes over.

    The socket is taken from its transport: uvloop's begins to read once the connection is made, paused or not, and a
    greeting that comes at once would be read by nobody who speaks TLS.
    """

    def __init__(self, inner: Connection, context: ssl.SSLContext) -> None:
        self._inner, self._context = inner, context
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Counts it, and begins the handshake if there is room."""
        inner = self._inner
        try:
            if len(inner.connections) >= inner.limits.max_connections + RESERVED:
                inner.numbers.errors.labels("connection_503").inc()
                return
            taken = transport.get_extra_info("socket").dup()
        except OSError:  # the client is gone, or no handle is left
            inner.numbers.errors.labels("tls_handshake").inc()
            return
        finally:
            transport.abort()
        inner.connections.add(self)  # type: ignore[arg-type]
        inner.numbers.connections.set(len(inner.connections))
        self._handshake = inner.loop.create_task(self._shake_hands(taken))

    async def _shake_hands(self, taken: socket.socket) -> None:
        inner = self._inner
        knows_farewell = sys.version_info >= (3, 11) or type(inner.loop).__module__.startswith("uvloop")
        options: dict[str, Any] = {"ssl_shutdown_timeout": _FAREWELL_S} if knows_farewell else {}
        within_s = max(inner.limits.header_timeout_s, 0.001)
        try:
            await inner.loop.connect_accepted_socket(
                lambda: _Secured(self), taken, ssl=self._context, ssl_handshake_timeout=within_s, **options
            )
        except (OSError, RuntimeError, AttributeError, asyncio.TimeoutError):  # whatever a client does, or being gone
            inner.numbers.errors.labels("tls_handshake").inc()
        finally:
            self._forget()

    def hand_over(self, transport: Any) -> None:
        """Ends with the handshake; the connection inside goes on with what it gave."""
        self._forget()
        transport.set_protocol(self._inner)
        self._inner.connection_made(transport)

    def shutdown(self) -> None:
        """Ends a handshake that no request can follow."""
        if self._handshake is not None:
            self._handshake.cancel()
        self._forget()

    def _forget(self) -> None:
        self._inner.connections.discard(self)
        self._inner.numbers.connections.set(len(self._inner.connections))


class _Secured(asyncio.Protocol):
    """What the loop tells of the handshake's end."""

    def __init__(self, outer: TlsConnection) -> None:
        self._outer = outer

    def connection_made(self, transport: Any) -> None:
        self._outer.hand_over(transport)
