# SPDX-License-Identifier: Apache-2.0
"""Whether a certificate and a key can be served with, found before anything listens."""

from __future__ import annotations

import ssl
from pathlib import Path

from freqfusion_runtime.errors import FreqFusionError


class TlsPairError(FreqFusionError):
    """A certificate and a private key do not belong together, or one of them cannot be read."""


def check_tls_pair(certificate: Path, key: Path) -> None:
    """Loads both as a server does.

    Raises:
        TlsPairError: If they are no PEM, not of one another, or the key has a password.
    """
    try:
        # OpenSSL would ask the terminal for a password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or str(e)
        raise TlsPairError(
            f"{certificate} and {key} cannot be served with: {str(reason).lower().replace('_', ' ')}. "
            "Name a certificate and the private key that belongs to it, as PEM and without a password."
        ) from e
