"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .job import JobSpec, Outcome

MEDIA_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.jobs = Counter("ryla_jobs", "Jobs that ended.", ("workflow", "outcome"), registry=self._registry)
        self.refused = Counter("ryla_refused", "Requests that were refused.", ("code",), registry=self._registry)
        self.waiting = Gauge("ryla_jobs_waiting", "Jobs that wait for an engine.", registry=self._registry)
        self.alive = Gauge("ryla_jobs_alive", "Jobs that wait or run.", registry=self._registry)
        self.ready = Gauge("ryla_ready", "Whether the gateway can serve jobs.", registry=self._registry)
        self.engines = Gauge("ryla_engine_up", "Whether an engine is well.", ("engine",), registry=self._registry)
        self.webhooks = Counter("ryla_webhooks", "Webhooks by how they went.", ("outcome",), registry=self._registry)
        self._times = {
            part: Histogram(f"ryla_{part}_seconds", text, ("workflow",), buckets=_SECONDS, registry=self._registry)
            for part, text in {
                "queue": "From acceptance to the start on an engine.",
                "execution": "On the engine, by its own figure.",
                "fetch": "From the end on the engine to the stored picture.",
                "encode": "Converting a picture that the engine could not write as asked.",
            }.items()
        }

    def ended(self, spec: JobSpec, outcome: Outcome) -> None:
        """Count a job's end."""
        self.jobs.labels(spec.workflow, outcome.state).inc()
        for part, seconds in (("queue", outcome.queued), ("execution", outcome.execution), ("fetch", outcome.fetch)):
            if seconds is not None:
                self._times[part].labels(spec.workflow).observe(seconds)

    def encoded(self, workflow: str, seconds: float) -> None:
        """Count a conversion."""
        self._times["encode"].labels(workflow).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
