"""What replicas on one PostgreSQL cost and how much they can poll, compared with one process with a file.

Usage: python -m benchmarks.replicas [SOURCES [RUNS]]

Needs PostgreSQL (apt-get install postgresql). All processes share the cores of this machine.
"""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import msgspec
import psycopg
import yaml

from benchmarks import state
from benchmarks.growth import idle_poll
from benchmarks.measure import Figure, cost, elapsed, minimum_cost, print_table
from benchmarks.memory import ROOT, resident
from benchmarks.poll import reference_cost
from benchmarks.servers import SPAWN, free_port, process
from benchmarks.vendor import TOKEN, body, polled_sources, stamp
from exporter.counting.records import SourceState
from exporter.sources.snowplow.source import EVENT_LIMIT
from exporter.state.connections import Pool
from exporter.state.leases import Leases
from exporter.state.postgres import open_shared
from tests.postgres import NEWEST_FIRST, server

FLEETS = (1, 2, 4, 8)
WINDOW = 30.0
"""Seconds for which a fleet is measured, once it polls everything."""

RUN_EVERY = 5
"""Seconds between two runs of each source."""

TICKS = os.sysconf("SC_CLK_TCK")

START = """
import sys, time
from exporter.ledger.ledger import Ledger
from exporter.state.connections import Pool
from exporter.state.leases import Leases
from exporter.state.postgres import open_shared
pool = Pool(sys.argv[1])
begun = time.process_time()
ledger = Ledger(lambda: open_shared(pool, Leases(pool, "start", lambda: 0.0)))
ledger.load()
print(time.process_time() - begun)
ledger.close()
"""


def measure(sources=400, runs=100_000, fleets=FLEETS, window=WINDOW):
    if not NEWEST_FIRST:
        return
    with server() as database:
        for name, storage in (("SQLite", None), ("PostgreSQL", database)):
            yield from many_scopes(name, storage, sources * 4)
            yield from many_runs(name, storage, runs)
        with api() as (port, polls):
            for size in fleets:
                config = settings(port, sources, database.new_database())
                yield from fleet(database, config, polls, size, window)


# --- one process, two storages ---


@contextmanager
def polled(database):
    """Yield a source whose state is in a database; in a file if `database` is None."""
    if database is None:
        with polled_sources() as one:
            yield one
        return
    url = database.new_database()
    pool = Pool(url)
    leases = Leases(pool, "benchmark", lambda: 0.0)

    def opened():
        state = open_shared(pool, leases)
        leases.ensure([("source-0", msgspec.json.encode(SourceState(name="source-0", identity="")))])
        assert leases.take(["source-0"])
        return msgspec.structs.replace(state, loaded=state.store.load())

    with polled_sources(opener=opened) as one:
        one.path = url
        yield one


def many_runs(name, database, runs):
    """Yield figures of polls with new runs, as many per response as the API shows."""
    batches, size = max(1, round(runs / (EVENT_LIMIT + 1))), min(EVENT_LIMIT + 1, runs)
    many = f"{batches * size:,} runs"
    with polled(database) as one:
        spent, typed, served = 0.0, 0.0, cpu_of(database)
        for _ in range(batches):
            one.pass_hour(size)
            spent += cost(one.poll)
            typed += reference_cost(one.api.body, times=1)
        served = cpu_of(database) - served
        assert one.counted() == batches * size
        group = f"{name}, {many}"
        yield Figure(
            group=group,
            what="new runs, CPU x typed decode",
            value=spent / typed,
            note=f"{batches * size / spent:,.0f} runs per CPU second, and {served:.1f} s of the server",
        )
        size_of_state = one.ledger.store().size() if database is None else size_of(one.path)
        yield Figure(group=group, what="size per run", value=size_of_state / batches / size, unit="bytes")
        started = min(start(one.path, database) for _ in range(3))
        yield Figure(group=group, what="start, CPU of the exporter", value=started, unit="s")


def many_scopes(name, database, scopes):
    """Yield the figure of an idle poll of a source with many scopes, each read separately."""
    with polled(database) as one:
        poll = idle_poll(one.ledger, "source-0", scopes, one.now)
        poll()
        spent, taken = minimum_cost(lambda: poll, 3), minimum_cost(lambda: poll, 3, by=elapsed)
    yield Figure(
        group=f"{name}, {scopes:,} scopes",
        what="idle poll, CPU of the exporter",
        value=spent,
        unit="s",
        note=f"{taken:.1f} s by the clock",
    )


def size_of(url):
    """Return the size of the runs and their indices in bytes."""
    with psycopg.connect(url) as connection:
        [(size,)] = connection.execute("SELECT pg_total_relation_size('runs')").fetchall()
    return size


def start(place, database):
    """Seconds of CPU in which a new process opens a state."""
    if database is None:
        return state.start(place)
    done = subprocess.run([sys.executable, "-c", START, place], capture_output=True, text=True, check=True)  # noqa: S603  # ours
    return float(done.stdout)


# --- fleets ---


def fleet(database, configuration, polls, size, window):
    """Yield figures of replicas that share sources. Each source completes a run, and is polled, every 5 seconds."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        sources = len(configuration["sources"])
        ports = [free_port() for _ in range(size)]
        config = Path(name, "config.yaml")
        config.write_text(yaml.safe_dump(configuration))
        begun = time.monotonic()
        pids = [stack.enter_context(replica(config, each)) for each in ports]
        wait_until(lambda: owned(ports) == sources)
        settled = time.monotonic() - begun
        before = snapshot(database, pids, polls)
        time.sleep(window)
        asked, replicas, server, commits = (
            (now - was) / window for now, was in zip(snapshot(database, pids, polls), before, strict=True)
        )
        group = f"{size} replica{'s' if size > 1 else ''}, {sources} sources"
        shares = sorted(owned([each]) for each in ports)
        yield Figure(
            group=group,
            what="polls per second",
            value=asked,
            note=f"all owned after {settled:.0f} s, {shares[0]} to {shares[-1]} sources each",
        )
        each = f"{replicas / asked * 1e3:.1f} ms per poll"
        yield Figure(group=group, what="CPU of all replicas, of one core", value=replicas * 100, unit="%", note=each)
        yield Figure(
            group=group,
            what="CPU of PostgreSQL, of one core",
            value=server * 100,
            unit="%",
            note=f"{commits:.0f} transactions per second",
        )
        yield Figure(group=group, what="memory of a replica", value=max(map(resident, pids)) / 1e6, unit="MB")


def settings(port, sources, url):
    """Return the configuration of a fleet."""
    return {
        "sources": [
            {
                "name": f"source-{number}",
                "type": "snowplow",
                "organization_id": f"{number}",
                "base_url": f"http://127.0.0.1:{port}",
                "auth": {"api_key_id": f"id-{number}", "api_key": f"key-{number}"},
                "poll_interval": "5s",
                "requests_per_minute": 100_000,
                "steps": "off",
            }
            for number in range(sources)
        ],
        "state": {"url": url},
        "metrics": {"zero_first": "0s"},
    }


@contextmanager
def replica(config, port):
    """Run a replica. Yield the ID of its process."""
    command = [sys.executable, "-m", "exporter", "run", f"--config.file={config}"]
    child = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], cwd=ROOT)  # noqa: S603  # ours
    try:
        yield child.pid
    finally:
        child.terminate()
        child.wait()


def owned(ports):
    """Return the number of sources that replicas poll."""
    found = 0
    for port in ports:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics/replica", timeout=5) as answer:
                found += sum(line.startswith(b"jobrun_source_owner_info{") for line in answer)
        except OSError:
            continue
    return found


def wait_until(holds, seconds=180):
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("not all sources were taken in time")
        time.sleep(0.5)


def snapshot(database, pids, polls):
    """Return the polls so far, CPU seconds of replicas and of the server, and its transactions."""
    with database.connect() as connection:
        [(commits,)] = connection.execute("SELECT sum(xact_commit) FROM pg_stat_database").fetchall()
    return polls.value, sum(map(cpu, pids)), cpu_of(database), float(commits)


def cpu(pid):
    """Return the CPU seconds of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def cpu_of(database):
    """Return the CPU seconds of all processes of a server; 0 for None."""
    if database is None:
        return 0.0
    postmaster = int((database.data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return sum(map(cpu, [postmaster, *map(int, children)]))


# --- the API that they poll ---


@contextmanager
def api():
    """Run the API of all sources in a process. Yield its port and the number of lists that it has sent."""
    polls = SPAWN.Value("q", 0)
    with process(serve, polls) as port:
        yield port, polls


def serve(pipe, polls):
    asyncio.run(answer_all(pipe, polls))


async def answer_all(pipe, polls):
    async def answer(reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                if "/token" in path or "/credentials" in path:
                    content = body(TOKEN)
                else:
                    content = runs_of(path)
                    polls.value += 1
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
                )
                writer.write(content)
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    pipe.send(listener.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def runs_of(path):
    """Return the last runs of an organization as JSON. Each lasts a second."""
    last = int(time.time() - 1) // RUN_EVERY
    organization = path.split("?")[0]
    return body(
        [
            {
                "runId": sha256(f"{organization}{number}".encode()).hexdigest(),
                "jobId": sha256(organization.encode()).hexdigest(),
                "jobName": "job",
                "environment": "com.acme-prod1",
                "state": "SUCCEEDED",
                "startTime": stamp(number * RUN_EVERY),
                "duration": "PT1S",
                "failureReason": None,
            }
            for number in range(last - 10, last + 1)
        ]
    )


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:3])))
