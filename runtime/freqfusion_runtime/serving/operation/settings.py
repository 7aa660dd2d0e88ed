# SPDX-License-Identifier: Apache-2.0
"""What an operator can choose about a server, in one immutable record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the defaults for its help, which needs no numpy
    from freqfusion_runtime.sessions.protocol import Kernels, Provider

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits, scheduling and addresses of one server process.

    Args:
        host: Address to listen on.
        port: Of HTTP, 0 for any free one.
        grpc_port: Of gRPC, 0 for any free one, None for no gRPC.
        backend: Where models run.
        threads: Cores for one run of a model, 0 for all.
        kernels: See :func:`freqfusion_runtime.predictors.opening.open_session`.
        max_batch: Most requests that are run together; 1 switches batching off.
        max_delay_ms: Longest time the first request of a batch waits for others.
        queue: Most requests waiting for one model; the next one is answered 503.
        deadline_ms: Time a request may take in all where its client does not name a shorter one.
        max_image_pixels: Larger pictures are refused before they are decoded.
        max_body_mb: Longest request body in MiB.
        max_json_mb: Longest JSON part of a request in MiB; parsing holds Python's lock, about 20 ms a MiB.
        max_header_kb: Longest request line and headers in KiB.
        max_connections: Open HTTP connections; the next one is answered 503 and closed.
        max_memory_mb: MiB that all requests together may take, from the first byte of a body to the last of its answer,
            the networks' own memory while they run included; what does not fit is answered 503.
        header_timeout_s: Time for a client to send its headers.
        body_timeout_s: Time for a client to send its body.
        min_body_rate_kb: KiB a second that a client must send of a body on average, five seconds after its start; 0
            for any.
        write_timeout_s: Time for a client to take its answer.
        keep_alive_s: Time an idle connection stays open.
        drain_delay_s: Time between SIGTERM, when readiness ends, and the end of listening.
        drain_timeout_s: Time accepted requests then have to finish.
        load_timeout_s: Time a model may take to be opened, first in a process of its own; 0 for any time, without it.
        load_memory_mb: Memory that process may take on a CPU in MiB, 0 for any.
        reload_interval_s: How often model files are looked at, 0 for never.
        allowed_hosts: Names under which clients may ask, and whose pages may, beside the address listened on; ``*`` for
            any name. Without any, a server on loopback takes loopback's names only and others take all.
        api_key: Clients must present it, except to the health routes, the metrics and the page; None for no key.
        tls_certificate, tls_key: PEM files; both or neither.
        log_file: Where log lines go instead of to standard error.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    backend: Provider = "cpu"
    threads: int = 0
    kernels: Kernels = "auto"
    max_batch: int = 1
    max_delay_ms: float = 0.0
    queue: int = 64
    deadline_ms: float = 30_000.0
    max_image_pixels: int = 64_000_000
    max_body_mb: float = 64.0
    max_json_mb: float = 8.0
    max_header_kb: float = 64.0
    max_connections: int = 512
    max_memory_mb: float = 2048.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    min_body_rate_kb: float = 16.0
    write_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    drain_delay_s: float = 0.5
    drain_timeout_s: float = 60.0
    load_timeout_s: float = 120.0
    load_memory_mb: float = 8192.0
    reload_interval_s: float = 1.0
    allowed_hosts: tuple[str, ...] = ()
    api_key: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    log_file: Path | None = None

    @property
    def max_body_bytes(self) -> int:
        """``max_body_mb`` in bytes."""
        return int(self.max_body_mb * MEBIBYTE)

    @property
    def max_json_bytes(self) -> int:
        """``max_json_mb`` in bytes."""
        return int(self.max_json_mb * MEBIBYTE)

    @property
    def max_memory_bytes(self) -> int:
        """``max_memory_mb`` in bytes."""
        return int(self.max_memory_mb * MEBIBYTE)
