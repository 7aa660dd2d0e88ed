# SPDX-License-Identifier: Apache-2.0
"""The sockets a server listens on."""

from __future__ import annotations

import os
import socket

from freqfusion_runtime.errors import FreqFusionError

SOCKET_VARIABLE = "FREQFUSION_LISTENING_SOCKET"  # number of an open socket that a parent process listens on
_BACKLOG = 1024


class ListenError(FreqFusionError):
    """An address cannot be listened on."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}. Choose another --host or port, or stop what has it.")


def inherited() -> socket.socket | None:
    """Takes over the socket that a parent process passed on, or None where there is none."""
    number = os.environ.get(SOCKET_VARIABLE)
    if number is None:
        return None
    opened = socket.socket(fileno=int(number))
    opened.setblocking(False)
    return opened


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening TCP socket.

    Args:
        host: Name or address, IPv4 or IPv6.
        port: 0 for any free one.

    Raises:
        ListenError: If it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as e:
        raise ListenError(f"{host}:{port}", (e.strerror or str(e)).lower()) from e
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except OSError as e:
        opened.close()
        raise ListenError(f"{host}:{port}", (e.strerror or str(e)).lower()) from e
    return opened
