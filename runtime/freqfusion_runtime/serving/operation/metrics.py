# SPDX-License-Identifier: Apache-2.0
"""Numbers for Prometheus: queue, batches, time by stage, and errors by cause."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server; each has a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "freqfusion_requests", "Requests answered", ("protocol", "route", "status"), registry=registry
        )
        self.errors = Counter("freqfusion_errors", "Requests not served, by cause", ("cause",), registry=registry)
        self.stages = Histogram(
            "freqfusion_stage_seconds",
            "Time of each stage of a request",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.latency = Histogram(
            "freqfusion_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ("protocol", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Gauge("freqfusion_queue_length", "Requests waiting for a model", ("model",), registry=registry)
        self.batches = Histogram(
            "freqfusion_batch_size", "Requests run together", ("model",), buckets=_SIZES, registry=registry
        )
        self.in_flight = Gauge("freqfusion_requests_in_flight", "Requests being served", registry=registry)
        self.memory = Gauge("freqfusion_held_bytes", "Memory held for requests and for runs", registry=registry)
        self.connections = Gauge("freqfusion_connections", "Open HTTP connections", registry=registry)
        self.ready = Gauge(
            "freqfusion_model_ready", "1 where a model can answer", ("model", "version"), registry=registry
        )
        self.stale = Gauge(
            "freqfusion_model_stale",
            "1 where a model's file is lost or bad and the earlier one goes on",
            ("model", "version"),
            registry=registry,
        )
        self.pixel_bytes = Gauge(
            "freqfusion_model_pixel_bytes",
            "Memory that a run takes for a pixel of the network's input, or of a picture as sent",
            ("model", "version", "of"),
            registry=registry,
        )
        self.reloads = Gauge(
            "freqfusion_model_reloads", "Times a model was replaced", ("model", "version"), registry=registry
        )
        self.watcher_restarts = Counter(
            "freqfusion_watcher_restarts",
            "Times looking at a model file failed in a way that was not foreseen, and began again",
            registry=registry,
        )
        self.watcher_age = Gauge(
            "freqfusion_watcher_age_seconds",
            "Time since a model file was last looked at, the longest",
            registry=registry,
        )
        self.lost_log_lines = Counter(
            "freqfusion_log_lines_lost", "Log lines that could not be written", registry=registry
        )

    def render(self) -> bytes:
        """Writes all of them in Prometheus' text format."""
        return generate_latest(self._registry)
