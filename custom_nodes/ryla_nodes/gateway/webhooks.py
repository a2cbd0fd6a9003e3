"""Telling the end of a job to the URL that its client named, signed as standardwebhooks.com says."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import time

import httpx

from ..errors import RylaError
from .job import JobSpec, Outcome
from .metrics import Metrics
from .options import Options
from .store import JobStore, Record
from .urls import Fetcher

log = logging.getLogger(__name__)

DELAYS = (0.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0)
"""When it is tried, in seconds after the job's end."""

_PREFIX = "whsec_"
_ANSWER_SECONDS = 15.0


class Webhooks:
    """Delivers the ends of jobs, at least once, also over a restart."""

    def __init__(self, options: Options, store: JobStore, metrics: Metrics) -> None:
        self._secret, self._store, self._metrics = options.settings.webhook_secret, store, metrics
        self._fetcher = Fetcher(options)

    async def check(self, url: str) -> None:
        """Refuse a URL that will not be called.

        Raises:
            RylaError: ``webhooks_off``, ``url_refused``.
        """
        if not self._secret:
            raise RylaError("webhooks_off", "This gateway has no secret to sign webhooks with.")
        await self._fetcher.judge(url)

    async def ended(self, job_id: str, spec: JobSpec, outcome: Outcome) -> None:
        """Note that the end of a job is to be told."""
        if spec.webhook:
            body = {"type": f"job.{outcome.state}", "timestamp": outcome.finished, "data": _data(job_id, spec, outcome)}
            record = {"url": spec.webhook, "body": json.dumps(body), "since": time.time()}
            await self._store.start("webhook", f"{job_id}.webhook", record)

    async def deliver(self, message_id: str, record: Record) -> Record:
        """The body of a stored webhook: try until it is taken, or has been tried often enough."""
        for delay in DELAYS:
            due = record["since"] + delay - time.time()
            if due < -1.0 and delay != DELAYS[-1] and record["since"] + DELAYS[-1] < time.time():
                continue  # Of a process that was away for long only the last try is left.
            await asyncio.sleep(max(0.0, due))
            if await self._try(message_id, record):
                self._metrics.webhooks.labels("delivered").inc()
                return {"delivered": True}
        self._metrics.webhooks.labels("given_up").inc()
        log.warning("A webhook was given up.", extra={"job_id": message_id.partition(".")[0]})
        return {"delivered": False}

    async def _try(self, message_id: str, record: Record) -> bool:
        body = record["body"].encode()
        headers = signed(self._secret or "", message_id, int(time.time()), body)
        try:
            status = await asyncio.wait_for(self._fetcher.post(record["url"], body, headers), _ANSWER_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError, RylaError):
            return False
        return 200 <= status < 300


def signed(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a signed webhook: HMAC-SHA256 over ``id.timestamp.body``."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = base64.b64encode(hmac.new(_key(secret), content, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": f"v1,{digest}",
    }


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise RylaError("invalid_setting", "RYLA_WEBHOOK_SECRET begins with whsec_ and is not base64.") from None
    return secret.encode()


def _data(job_id: str, spec: JobSpec, outcome: Outcome) -> Record:
    told = {
        "id": job_id,
        "workflow": spec.workflow,
        "state": outcome.state,
        "seed": outcome.seed,
        "error": outcome.error,
        "result": f"/jobs/{job_id}/result" if outcome.ok else None,
    }
    return {name: value for name, value in told.items() if value is not None}
