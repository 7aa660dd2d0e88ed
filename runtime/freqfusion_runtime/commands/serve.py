# SPDX-License-Identifier: Apache-2.0
"""Serves models over HTTP and gRPC, with a page to try them on.

MODEL is an exported file, or NAME=FILE or NAME:VERSION=FILE. Clients of the Open Inference Protocol v2, tritonclient
among them, find it on both ports. `curl -F image=@photo.jpg http://127.0.0.1:8000/v1/segment` needs no client at all,
and the page at `/` no command line. A replaced model file is noticed and served without an interruption. SIGTERM ends
readiness, then finishes what was accepted. One process serves one device.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_runtime.commands.arguments import not_negative, positive
from freqfusion_runtime.errors import FreqFusionError
from freqfusion_runtime.serving.operation.listening import SOCKET_VARIABLE
from freqfusion_runtime.serving.operation.settings import Settings

if TYPE_CHECKING:
    from freqfusion_runtime.serving.scheduling.registry import ModelSource

_DEFAULTS = Settings()
_KEY_VARIABLE = "FREQFUSION_API_KEY"


class ServeError(FreqFusionError):
    """Options that contradict each other or name what cannot be read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    d = _DEFAULTS
    parser.add_argument("models", nargs="+", metavar="MODEL", help="FILE, NAME=FILE or NAME:VERSION=FILE")
    parser.add_argument("--host", default=d.host, help="address to listen on; 0.0.0.0 for all of this machine's")
    parser.add_argument("--port", type=_port, default=d.port, help="of HTTP, 0 for any free one")
    parser.add_argument("--grpc-port", type=_port, default=d.grpc_port, help="of gRPC, 0 for any free one")
    parser.add_argument("--no-grpc", action="store_true", help="serve HTTP only")
    parser.add_argument("--backend", choices=("cpu", "cuda"), default=d.backend, help="where models run")
    parser.add_argument("--threads", type=not_negative, default=d.threads, help="cores for one run, 0 for all")
    parser.add_argument("--kernels", choices=("auto", "never", "require"), default=d.kernels, help="native kernels")
    parser.add_argument(
        "--max-batch",
        type=positive,
        default=d.max_batch,
        help="requests run together; on a CPU one at a time is as fast, on a GPU try 8",
    )
    parser.add_argument(
        "--max-delay-ms", type=_amount, default=d.max_delay_ms, help="how long the first of a batch waits for others"
    )
    parser.add_argument("--queue", type=positive, default=d.queue, help="requests that may wait for one model")
    parser.add_argument("--deadline-ms", type=_amount, default=d.deadline_ms, help="time a request may take")
    parser.add_argument("--max-image-pixels", type=positive, default=d.max_image_pixels, help="of one picture")
    parser.add_argument("--max-body-mb", type=_amount, default=d.max_body_mb, help="of one request, in MiB")
    parser.add_argument("--max-json-mb", type=_amount, default=d.max_json_mb, help="of JSON in one request, in MiB")
    parser.add_argument(
        "--max-header-kb", type=_amount, default=d.max_header_kb, help="of request line and headers, in KiB"
    )
    parser.add_argument("--max-memory-mb", type=_amount, default=d.max_memory_mb, help="of all requests, in MiB")
    parser.add_argument("--max-connections", type=positive, default=d.max_connections, help="open at one time")
    parser.add_argument("--header-timeout-s", type=_amount, default=d.header_timeout_s, help="to send headers")
    parser.add_argument("--body-timeout-s", type=_amount, default=d.body_timeout_s, help="to send a body")
    parser.add_argument(
        "--min-body-rate-kb", type=_amount, default=d.min_body_rate_kb, help="KiB a second of a body, 0 for any"
    )
    parser.add_argument("--write-timeout-s", type=_amount, default=d.write_timeout_s, help="to take an answer")
    parser.add_argument("--keep-alive-s", type=_amount, default=d.keep_alive_s, help="an idle connection stays open")
    parser.add_argument(
        "--drain-delay-s", type=_amount, default=d.drain_delay_s, help="between SIGTERM and the end of listening"
    )
    parser.add_argument("--drain-timeout-s", type=_amount, default=d.drain_timeout_s, help="to finish requests then")
    parser.add_argument(
        "--load-timeout-s",
        type=_amount,
        default=d.load_timeout_s,
        help="to open a model, first in a process of its own; 0: any time, and no such process",
    )
    parser.add_argument(
        "--load-memory-mb", type=_amount, default=d.load_memory_mb, help="of that process, in MiB; 0: any"
    )
    parser.add_argument(
        "--reload-interval-s", type=_amount, default=d.reload_interval_s, help="between looks at model files, 0: never"
    )
    parser.add_argument(
        "--restarts",
        type=not_negative,
        default=0,
        metavar="N",
        help="replace a worker process that crashes, up to N times a minute; 0 serves without a second process",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        dest="allowed_hosts",
        metavar="NAME",
        help="a name clients may ask for in Host, and whose pages may; again for more; * for any. On loopback, only "
        "loopback's names are taken without it",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"its first line is the key clients must send; the variable {_KEY_VARIABLE} does the same",
    )
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="serve HTTPS and secure gRPC")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the certificate's key")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="append log lines there, not to standard error")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="CHECKPOINT",
        help="serve also the PyTorch model that a MODEL was exported from, as NAME-pytorch, to compare the two",
    )
    parser.add_argument("--weights", choices=("model", "ema"), help="of --reference, as for `export`")
    parser.add_argument("--ray", action="store_true", help="serve replicas on Ray Serve; HTTP only")
    parser.add_argument("--ray-replicas", default="1", metavar="N", help="processes; MIN:MAX scales with the load")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="of a cluster, or auto; else Ray on this machine")


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    settings = settings_of(args)
    if args.restarts and SOCKET_VARIABLE not in os.environ:
        from freqfusion_runtime.serving.process.supervisor import supervise

        return supervise(sys.argv[2:], settings.host, settings.port, args.restarts)

    from freqfusion_runtime.serving.process.server import Addresses, serve_until_stopped
    from freqfusion_runtime.serving.scheduling.registry import parse_source
    from freqfusion_runtime.serving.scheduling.service import Service

    sources = [parse_source(text) for text in args.models]
    if args.weights is not None and args.reference is None:
        raise ServeError(
            "--weights is about the checkpoint of --reference, and none is named. Name one, or leave it out."
        )
    if args.reference is not None:
        if args.ray:
            raise ServeError("--reference serves in this process, --ray in others. Leave one of them out.")
        # A name only, as in cli.COMMANDS: this package imports nothing of the packages above it, and no torch.
        plug = importlib.import_module("freqfusion_export.parity.reference_source")
        sources.append(plug.reference_source(args.reference, sources, settings.threads, args.weights))
    if args.ray:
        return _run_on_ray(sources, settings, args)

    def on_listening(at: Addresses) -> None:
        scheme = "https" if settings.tls_certificate else "http"
        host = f"[{at.host}]" if ":" in at.host else at.host
        grpc = f", gRPC on {host}:{at.grpc_port}" if at.grpc_port is not None else ""
        print(f"freqfusion serve: {scheme}://{host}:{at.port}/{grpc}", flush=True)

    def on_ready(service: Service) -> None:
        for slot in service.registry.slots:
            label = f"{slot.source.name}:{slot.source.version}"
            print(f"freqfusion serve: {label} {slot.problem or 'is ready'}", flush=True)

    serve_until_stopped(sources, settings, on_listening=on_listening, on_ready=on_ready)
    return 0


def _run_on_ray(sources: Sequence[ModelSource], settings: Settings, args: argparse.Namespace) -> int:
    from freqfusion_runtime.serving.process.ray_app import RayOptions, parse_replicas, run_on_ray

    try:
        low, high = parse_replicas(args.ray_replicas)
    except ValueError as e:
        raise ServeError(f"--ray-replicas must be N or MIN:MAX, got {args.ray_replicas!r}. Correct it.") from e

    def on_ready(host: str, port: int) -> None:
        print(f"freqfusion serve: http://{host}:{port}/ on Ray, {args.ray_replicas} replicas", flush=True)

    options = RayOptions(min_replicas=low, max_replicas=high, address=args.ray_address)
    run_on_ray(sources, settings, options, on_ready=on_ready)
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """Reads the settings from parsed arguments.

    Raises:
        ServeError: If they contradict each other, or a file cannot be read.
    """
    if (args.tls_certificate is None) != (args.tls_key is None):
        raise ServeError("--tls-certificate and --tls-key belong together, got one of them. Name both or neither.")
    for path in filter(None, (args.tls_certificate, args.tls_key)):
        if not path.is_file():
            raise ServeError(f"{path} does not exist. Name a PEM file.")
    fields = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
    fields["allowed_hosts"] = tuple(args.allowed_hosts)
    if args.no_grpc:
        fields["grpc_port"] = None
    settings = Settings(**fields, api_key=_api_key(args.api_key_file))
    if settings.host not in ("127.0.0.1", "::1", "localhost") and settings.api_key is None:
        print(
            f"freqfusion serve: everyone who reaches {settings.host} can use this server; see --api-key-file",
            file=sys.stderr,
        )
    return settings


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(_KEY_VARIABLE) or None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ServeError(f"{path} cannot be read as the API key: {e}. Name a text file.") from e
    if not lines or not lines[0].strip():
        raise ServeError(f"{path} holds no API key, its first line is empty. Write the key there.")
    return lines[0].strip()


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, got {value}")
    return value


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number that is not negative, got {text}")
    return value
