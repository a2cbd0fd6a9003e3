"""Where a gateway's limit lies: its processor time a job, before engines that wait instead of computing.

The engines are the tests' fake ones, all in one process that is not measured. With ``--postgres URL`` the jobs are kept
there, and what a job costs the database is told besides. The limit is what one core can do: on a machine that is busy
with other things the processor time still holds, the wall clock does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
from bench_gateway import cpu, start, until_ready

ROOT = Path(__file__).resolve().parents[1]
ENGINES = """
import sys, threading
sys.path[:0] = [sys.argv[1]]
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg
engines = [FakeEngine(make=jpeg, seconds=float(sys.argv[3])) for _ in range(int(sys.argv[2]))]
for engine in engines:
    engine.start()
print(" ".join(engine.url for engine in engines), flush=True)
threading.Event().wait()
"""
COUNTED = """
select xact_commit, tup_inserted, tup_updated, tup_deleted from pg_stat_database where datname = current_database()
"""


@dataclass(frozen=True)
class Load:
    """``jobs`` jobs of ``seconds`` each on ``engines`` engines, ``clients`` at once."""

    engines: int
    seconds: float
    clients: int
    jobs: int


def counted(url: str) -> tuple[list[int], int]:
    """What the database did so far: commits, rows inserted, updated, deleted; and bytes of its log."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_stat_clear_snapshot()")
        row = connection.execute(COUNTED).fetchone()
        log = connection.execute("select pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None and log is not None
    return [int(each) for each in row], int(log[0])


async def offered(url: str, load: Load) -> list[float]:
    """The seconds that each job took, as its client saw it."""
    taken: list[float] = []
    numbers = iter(range(load.jobs))

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            began = time.perf_counter()
            answer = await http.post("/paint", json={"prompt": f"job {number} {time.time()}"})
            assert answer.status_code == 200, answer.text
            taken.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(load.clients)))
    return sorted(taken)


def measure(root: Path, load: Load, postgres: str) -> dict[str, float]:
    """The figures of one load."""
    sys.path[:0] = [str(ROOT / "tests")]
    from gateway.served import add_workflows

    workflows = root / "workflows"
    if not workflows.exists():
        add_workflows(workflows)
    environment = {"RYLA_WORKFLOWS": str(workflows), "RYLA_HOME": str(root / "home"), "RYLA_JOBS_URL": postgres}
    engines = subprocess.Popen(
        [sys.executable, "-c", ENGINES, str(ROOT / "tests"), str(load.engines), str(load.seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engines.stdout is not None
    urls = engines.stdout.readline().split()
    servers = [word for url in urls for word in ("--server", url)]
    state = Path(tempfile.mkdtemp(dir=root))
    gateway, url = start("serve", *servers, "--workflow", "paint", "--queue", "100000", "--state", str(state),
                         environment=environment)  # fmt: skip
    try:
        until_ready(url)
        asyncio.run(offered(url, Load(load.engines, load.seconds, min(load.clients, 16), 50)))  # Everything imported.
        idle = cpu(gateway.pid)
        time.sleep(5)
        idle = (cpu(gateway.pid) - idle) / 5
        rows, log = counted(postgres) if postgres else ([0, 0, 0, 0], 0)
        before, began = cpu(gateway.pid), time.perf_counter()
        taken = asyncio.run(offered(url, load))
        wall, used = time.perf_counter() - began, cpu(gateway.pid) - before
        rows_now, log_now = counted(postgres) if postgres else (rows, log)
    finally:
        for process in (gateway, engines):
            process.terminate()
            process.wait(60)
    figures = {"engines": load.engines, "job_seconds": load.seconds, "clients": load.clients, "jobs": load.jobs}
    figures |= {"wall": wall, "jobs_a_second": load.jobs / wall, "cpu_ms_a_job": 1000 * used / load.jobs}
    figures |= {
        "cores": used / wall,
        "idle_cores": idle,
        "p50": taken[len(taken) // 2],
        "p99": taken[-len(taken) // 100],
    }
    if postgres:
        names = ("commits", "inserts", "updates", "deletes")
        figures |= {name: (b - a) / load.jobs for name, a, b in zip(names, rows, rows_now, strict=True)}
        figures["log_kb"] = (log_now - log) / load.jobs / 1000
    return figures


def main() -> None:
    """Print a line of figures for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", default="", help="URL of an empty database")
    parser.add_argument("--loads", default="1x0:4:300,8x0.5:32:300,32x2:96:400,64x4:192:400",
                        help="comma-separated ENGINESxSECONDS:CLIENTS:JOBS")  # fmt: skip
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for text in told.loads.split(","):
            shape, clients, jobs = text.split(":")
            engines, seconds = shape.split("x")
            load = Load(int(engines), float(seconds), int(clients), int(jobs))
            figures = measure(Path(folder), load, told.postgres)
            print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}")


if __name__ == "__main__":
    main()
