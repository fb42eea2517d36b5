"""What the service counts, for Prometheus. Every service has a registry of its own, so several can live in one process."""

from __future__ import annotations

import time
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Stage = Literal["decode", "queue", "encode", "search"]


class Metrics:
    """Counters, histograms and gauges of one service.

    Labels are bounded: a route's template and not the path that was asked for, a status, a stage, a reason of a fixed set.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Begin at zero."""
        registry = self.registry = CollectorRegistry()
        self.requests = Histogram(
            "noterec_request_seconds",
            "From a request's headers to the end of its answer",
            ["method", "route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("noterec_requests_in_flight", "Requests being answered", registry=registry)
        self.stages = Histogram(
            "noterec_stage_seconds",
            "decode: pictures; queue: waiting for the model; encode: one batch; search: one answer",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_notes = Histogram(
            "noterec_batch_notes", "Notes that were encoded together", buckets=SIZES, registry=registry
        )
        self.batch_requests = Histogram(
            "noterec_batch_requests", "Requests that were encoded together", buckets=SIZES, registry=registry
        )
        self.waiting = Gauge("noterec_waiting_notes", "Notes that wait to be encoded", registry=registry)
        self.cache = Counter(
            "noterec_cache_lookups", "Questions by whether their answer was kept", ["result"], registry=registry
        )
        self.cache_entries = Gauge("noterec_cache_entries", "Answers that are kept", registry=registry)
        self.index_info = Gauge(
            "noterec_index_info",
            "1 for the index that is live",
            ["version", "kind", "model_version"],
            registry=registry,
        )
        self.index_notes = Gauge("noterec_index_notes", "Notes that the live index finds", registry=registry)
        self.index_created = Gauge(
            "noterec_index_created_timestamp_seconds", "When the live bundle was built", registry=registry
        )
        self.index_age = Gauge("noterec_index_age_seconds", "Since the live bundle was built", registry=registry)
        self.swaps = Counter(
            "noterec_index_swaps", "New versions of the index, by what came of them", ["result"], registry=registry
        )
        self.changes = Counter("noterec_index_changes", "Notes over HTTP", ["action"], registry=registry)
        self.refused = Counter("noterec_refused", "Requests that were refused, by code", ["code"], registry=registry)
        for result in ("hit", "miss"):
            self.cache.labels(result)
        for result in ("live", "refused"):
            self.swaps.labels(result)
        stages: tuple[Stage, ...] = ("decode", "queue", "encode", "search")
        for stage in stages:
            self.stages.labels(stage)

    def stage(self, name: Stage, seconds: float) -> None:
        """Count the time of one stage."""
        self.stages.labels(name).observe(seconds)

    def index(self, *, version: str, kind: str, model_version: str, notes: int, created: float) -> None:
        """Say which index is live; `created` in seconds since 1970."""
        self.index_info.clear()
        self.index_info.labels(version, kind, model_version).set(1)
        self.index_notes.set(notes)
        self.index_created.set(created)
        self.index_age.set_function(lambda: max(0.0, time.time() - created))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
