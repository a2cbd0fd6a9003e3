"""OpenTelemetry traces of jobs, sent only when an exporter's variables are set.

FastAPI traces the requests by itself; a job is a span of its own, with its time in the queue, on the engine and on the
way back, as it may outlive its request and even the process.
"""

from __future__ import annotations

import importlib.util
import os

from ..errors import RylaError
from .job import JobSpec, Outcome

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def configure() -> None:
    """Send traces where the ``OTEL_*`` variables say; do nothing when they say nothing.

    Raises:
        RylaError: ``gateway_not_installed``: the variables are set and the packages are not there.
    """
    if not any(os.environ.get(name) for name in _VARIABLES):
        return
    missing = [name for name in _PACKAGES if not _installed(name)]
    if missing:
        message = f"OTEL_* variables ask for traces, and {' and '.join(missing)} are not installed."
        hint = "pip install 'ryla-nodes[traces]', or unset the variables."
        raise RylaError("gateway_not_installed", message, hint=hint)
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "ryla-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def ended(job_id: str, spec: JobSpec, outcome: Outcome) -> None:
    """Tell an ended job as a span; nobody hears of it without ``configure``."""
    if not _installed("opentelemetry.trace"):
        return
    from opentelemetry import trace

    tracer = trace.get_tracer("ryla_nodes.gateway")
    attributes = {"ryla.job_id": job_id, "ryla.prompt_id": outcome.prompt_id, "ryla.workflow": spec.workflow}
    span = tracer.start_span("job", start_time=_nanoseconds(spec.accepted), attributes=attributes)
    if outcome.error:
        span.set_status(trace.StatusCode.ERROR, str(outcome.error["code"]))
    moment = spec.accepted
    for name, seconds in (("queue", outcome.queued), ("execution", outcome.execution), ("fetch", outcome.fetch)):
        if seconds is not None:
            context = trace.set_span_in_context(span)
            part = tracer.start_span(name, context, start_time=_nanoseconds(moment))
            moment += seconds
            part.end(_nanoseconds(moment))
    span.end(_nanoseconds(outcome.finished))


def _nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
