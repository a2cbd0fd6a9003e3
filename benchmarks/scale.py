"""The tables of docs/scale.md: what a picture costs, and how long it waits, for 1 to 1,000 GPUs.

Queues are simulated with SimPy from service times that were measured (docs/benchmarks.md, one H200). The price is what
you say: ``--usd-per-hour 4.54``. The same arguments print the same tables.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import simpy
from ryla_nodes.gateway.cost import PRICES

MODES = {"off": 3.56, "exact": 2.83, "fast": 2.14}
"""Seconds of a warm flux-dev picture: 1024x1024, 20 steps."""

WORKFLOWS = {"flux-dev": 2.83, "flux-lora, another LoRA each": 3.06, "flux-instantid": 8.3, "sdxl-instantid": 4.0}
"""Seconds of a warm picture; the first two in mode ``exact``, the others without ``speed``."""

MIX = ((0.7, 2.83), (0.2, 3.06), (0.1, 8.3))
"""What is asked for in the tables of queues: share and seconds of flux-dev, flux-lora and flux-instantid."""

COLD = {"all files in the page cache": 17.3, "empty page cache, 1.5 GB/s": 41.5}
"""Seconds from the start of ComfyUI to the end of its first picture."""

Service = Callable[[random.Random], float]


def mixed(rng: random.Random) -> float:
    """The seconds of one picture of ``MIX``."""
    place = rng.random()
    for share, seconds in MIX:
        place -= share
        if place < 0:
            return seconds
    return MIX[-1][1]


MEAN = sum(share * seconds for share, seconds in MIX)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the sorted values are."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def waits(gpus: int, rate: float, service: Service, jobs: int, seed: int = 1) -> list[float]:
    """Sorted seconds from the arrival to the start, of ``jobs`` jobs that arrive at random, ``rate`` a second.

    The first tenth, of a queue that is still empty, is left out.
    """
    rng, env, taken = random.Random(seed), simpy.Environment(), [0.0] * jobs
    line = simpy.Resource(env, gpus)

    def job(number: int) -> Iterator[simpy.Event]:
        arrived = env.now
        with line.request() as turn:
            yield turn
            taken[number] = env.now - arrived
            yield env.timeout(service(rng))

    def arrivals() -> Iterator[simpy.Event]:
        for number in range(jobs):
            yield env.timeout(rng.expovariate(rate))
            env.process(job(number))

    env.process(arrivals())
    env.run()
    return sorted(taken[jobs // 10 :])


@dataclass(frozen=True)
class Job:
    """One picture: when it was asked for, and how many seconds an engine takes."""

    arrived: float
    seconds: float


@dataclass
class Serverless:
    """Containers that are started when jobs wait, and end when they were idle for ``window`` seconds.

    Attributes:
        most: how many there may be.
        crowded: how many jobs each has before another one is started.
        billed: seconds of all containers, from their start to their end.
        taken: seconds of each job, from its arrival to its end.
        starts: how many containers were started.
    """

    env: simpy.Environment
    cold: float
    window: float
    most: int
    crowded: int = 4
    billed: float = 0.0
    starts: int = 0
    taken: list[float] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    idle: list[simpy.Event] = field(default_factory=list)
    busy: int = 0
    containers: int = 0

    def job(self, seconds: float) -> None:
        """One arrives."""
        given = Job(self.env.now, seconds)
        if self.idle:
            self.idle.pop().succeed(given)  # The one that was busy last: the others come to their end.
            return
        self.waiting.append(given)
        if len(self.waiting) + self.busy > self.crowded * self.containers and self.containers < self.most:
            self.containers += 1
            self.starts += 1
            self.env.process(self._container())

    def _container(self) -> Iterator[simpy.Event]:
        began = self.env.now
        yield self.env.timeout(self.cold)
        while True:
            if self.waiting:
                given = self.waiting.pop(0)
            else:
                turn = self.env.event()
                self.idle.append(turn)
                yield turn | self.env.timeout(self.window)
                if not turn.triggered:
                    self.idle.remove(turn)
                    break
                given = turn.value
            self.busy += 1
            yield self.env.timeout(given.seconds)
            self.busy -= 1
            self.taken.append(self.env.now - given.arrived)
        self.containers -= 1
        self.billed += self.env.now - began


def serverless(rate: float, cold: float, window: float, most: int, jobs: int, seed: int = 1) -> Serverless:
    """``jobs`` jobs that arrive at random, ``rate`` a second, on containers that come and go."""
    rng, env = random.Random(seed), simpy.Environment()
    cloud = Serverless(env, cold, window, most)

    def arrivals() -> Iterator[simpy.Event]:
        for _ in range(jobs):
            yield env.timeout(rng.expovariate(rate))
            cloud.job(mixed(rng))

    env.process(arrivals())
    env.run()
    return cloud


# --- the tables ------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def costs(usd_per_hour: float) -> str:
    """A picture by mode and workflow, at a GPU that always works and at one that works a third of its time."""
    each = {f"flux-dev, speed {mode}": seconds for mode, seconds in MODES.items()}
    each |= {name: seconds for name, seconds in WORKFLOWS.items() if name != "flux-dev"}
    rows = []
    for name, seconds in each.items():
        cents = 100 * usd_per_hour / 3600 * seconds
        rows.append([name, f"{seconds:.2f} s", f"{3600 / seconds:,.0f}", f"{cents:.2f} ct", f"{3 * cents:.2f} ct"])
    return table(["picture", "time", "an hour", "always busy", "busy a third of the time"], rows)


def parity(usd_per_hour: float) -> str:
    """How fast another GPU has to be to cost no more a picture, by the price list that the gateway knows."""
    rows = []
    for name, usd in sorted(PRICES["modal-2026-01"].items(), key=lambda item: -item[1]):
        per_hour = 3600 * usd
        seconds = [f"{mode * usd_per_hour / per_hour:.1f} s" for mode in MODES.values()]
        rows.append([name, f"{per_hour:.2f} USD", *seconds])
    return table(["GPU", "an hour", *(f"as cheap as `{mode}`" for mode in MODES)], rows)


def waiting(sizes: Sequence[int], loads: Sequence[float]) -> str:
    """Seconds of waiting by the number of GPUs and by how busy they are."""
    rows = []
    for gpus in sizes:
        row = [f"{gpus:,}"]
        for load in loads:
            found = waits(gpus, load * gpus / MEAN, mixed, 200_000)
            row.append(f"{percentile(found, 0.5):.1f} / {percentile(found, 0.95):.1f} / {percentile(found, 0.99):.1f}")
        rows.append(row)
    return table(["GPUs", *(f"{load:.0%} busy" for load in loads)], rows)


def lengths(sizes: Sequence[int], loads: Sequence[float]) -> str:
    """How many jobs wait on average, by Little's law, and the seconds until the last of them begins."""
    rows = []
    for gpus in sizes:
        row = [f"{gpus:,}"]
        for load in loads:
            rate = load * gpus / MEAN
            waiting_now = rate * statistics.fmean(waits(gpus, rate, mixed, 50_000))
            row.append(f"{waiting_now:.1f} / {waiting_now * MEAN / gpus:.1f} s")
        rows.append(row)
    return table(["GPUs", *(f"{load:.0%} busy" for load in loads)], rows)


def cold_or_idle(usd_per_hour: float, hourly: Sequence[float], windows: Sequence[float]) -> str:
    """Cost and time of a picture on containers that come and go, by rate and window; and on one that is kept."""
    rows = []
    for rate in hourly:
        row = [f"{rate:,.0f}"]
        for window in windows:
            cloud = serverless(rate / 3600, max(COLD.values()), window, 4, 4_000)
            jobs, ordered = len(cloud.taken), sorted(cloud.taken)
            cents = 100 * usd_per_hour / 3600 * cloud.billed / jobs
            row.append(f"{cents:.1f} ct, {cloud.starts / jobs:.0%} cold, p95 {percentile(ordered, 0.95):.0f} s")
        found = waits(1, rate / 3600, mixed, 50_000)
        rows.append([*row, f"{100 * usd_per_hour / rate:.1f} ct, waits p95 {percentile(found, 0.95):.0f} s"])
    return table(["pictures an hour", *(f"window {window:.0f} s" for window in windows), "one kept"], rows)


def bursts(sizes: Sequence[int], jobs: int) -> str:
    """A burst of jobs on nothing at all: when the first and the last picture is there."""
    rows = []
    for most in sizes:
        env = simpy.Environment()
        cloud = Serverless(env, max(COLD.values()), 60.0, most)
        rng = random.Random(1)
        for _ in range(jobs):
            cloud.job(mixed(rng))
        env.run()
        wait = sorted(cloud.taken)
        rows.append([f"{most}", f"{wait[0]:.0f} s", f"{percentile(wait, 0.5):.0f} s", f"{wait[-1]:.0f} s"])
    return table(["containers at most", "first", "half of them", f"all {jobs}"], rows)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usd-per-hour", type=float, default=4.54, help="of one GPU; the default is Modal's H200")
    told = parser.parse_args()
    print(f"mean of the mix: {MEAN:.2f} s\n")
    for name, text in {
        "What a picture costs": costs(told.usd_per_hour),
        "How fast another GPU has to be": parity(told.usd_per_hour),
        "Cold start or idle": cold_or_idle(told.usd_per_hour, (1, 10, 60, 300, 700), (60.0, 300.0, 1200.0)),
        "Waiting: p50 / p95 / p99 in seconds": waiting((1, 2, 10, 100, 1000), (0.5, 0.7, 0.8, 0.9, 0.95)),
        "Queue length": lengths((1, 10, 100), (0.5, 0.7, 0.8, 0.9, 0.95)),
        "A burst of 500 on none": bursts((1, 4, 10, 50), 500),
    }.items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
