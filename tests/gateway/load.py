"""Clients that keep gateways busy while these are killed."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import httpx
from gateway.process import ServeProcess

CLIENTS = 4


class Load:
    """Clients that send jobs without end to any of the gateways, each job with its own key, and ask again, maybe
    another one, after a broken connection."""

    def __init__(self, gateways: Sequence[ServeProcess]) -> None:
        self._gateways = gateways
        self.accepted: dict[str, str] = {}
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(trust_env=False, timeout=10.0) as http:
            while not self.stop.is_set():
                self._job(http, uuid.uuid4().hex, chance)
                time.sleep(0.15)

    def _job(self, http: httpx.Client, key: str, chance: random.Random) -> None:
        headers = {"prefer": "respond-async", "idempotency-key": key}
        while True:
            gateway = chance.choice(self._gateways)
            try:
                answer = http.post(f"{gateway.url}/paint", json={"prompt": key}, headers=headers)
            except httpx.HTTPError:
                if self.stop.is_set():
                    return
                time.sleep(0.1)
                continue
            if answer.status_code in (200, 202):
                known = self.accepted.setdefault(key, answer.headers["x-job-id"])
                assert known == answer.headers["x-job-id"]
                # Now and then as a client that lost the answer.
                if chance.random() < 0.8:
                    return
            else:
                assert answer.status_code in (429, 503), answer.text
            time.sleep(0.2)


def ends(gateway: ServeProcess, load: Load, seconds: float) -> dict[str, dict[str, Any]]:
    """Every job when all have ended, as ``gateway`` tells it; each that succeeded has a picture."""
    load.join()
    jobs = sorted(set(load.accepted.values()))
    ended: dict[str, dict[str, Any]] = {}
    limit = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=30.0) as http:
        while len(ended) < len(jobs):
            assert time.monotonic() < limit, [job for job in jobs if job not in ended][:3]
            for job in [job for job in jobs if job not in ended]:
                told = http.get(f"{gateway.url}/jobs/{job}").json()
                if told.get("state") not in ("queued", "running"):
                    ended[job] = told
            time.sleep(0.2)
        for job, told in ended.items():
            if told["state"] == "succeeded":
                assert http.get(f"{gateway.url}/jobs/{job}/result").content.startswith(b"\xff\xd8")
    return ended
