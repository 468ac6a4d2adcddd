"""Three replicas as processes, simulated vendors, and the auditor. Disruptions act on them."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

import msgspec
import psycopg

from exporter.simulators import SIMULATORS
from exporter.simulators.disruptions import Status
from tests.chaos.replicas.audit import LeaseHolders, RequestRecord, ScrapeAuditor, listen_for
from tests.chaos.replicas.database import NAME, Database, Pooler, fake_clock
from tests.chaos.replicas.database_proxy import DatabaseProxy, unassigned_port
from tests.e2e.live_world import LiveWorld, source, truth, write_config
from tests.e2e.processes import HOST, Daemon, eventually
from tests.e2e.replica_proxy import ReplicaProxy
from tests.e2e.scrapes import Series, counted, fetch
from tests.e2e.vendor_traits import traits_of

ROOT = Path(__file__).parents[3]

REPLICAS = 3

SOURCES = {"first": "snowplow", "second": "snowplow", "strait": "strait", "workato": "workato"}
"""Sources and their vendors. Sources of one vendor share a credential."""

CATCH_UP = 90.0
"""Seconds without a change of the counts after which they are final."""


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed chooses, and what the machine allows.

    Attributes:
        pooler: Connections of PgBouncer; 0 for no PgBouncer.
        zero_first: Whether new series start at 0.
        moving_clock: Whether the database's clock can be moved.
        small_disk: Whether the database's disk can be filled.
        alone: Whether only one kind of disruption happens.
    """

    pooler: int = 0
    zero_first: bool = False
    moving_clock: bool = False
    small_disk: bool = False
    alone: bool = False


Prepare = Callable[[], object] | None
"""A function that each replica calls before it starts; mutants use it. None for no function."""


class Replica:
    """A replica and the proxies of its database. `disrupted`: whether a disruption acts on it."""

    def __init__(
        self, number: int, config: Path, older_config: Path, proxies: Sequence[DatabaseProxy], prepare: Prepare
    ):
        self.number, self.proxies = number, proxies
        self.port = unassigned_port()
        self.disrupted = False
        self._config, self._older_config = config, older_config
        self._settings = config.read_text()
        self._prepare = prepare
        self._process: Daemon | subprocess.Popen[bytes] | None = None

    def start(self, *, hours: int = 0, older: bool = False) -> None:
        """Start the replica, at times with a clock that is wrong by hours or with an older config."""
        config = self._older_config if older else self._config
        if not hours:
            self._process = Daemon(config, self.port, prepare=self._prepare)
            return
        listen = f"--web.listen-address={HOST}:{self.port}"
        mutant = self._prepare.args[0] if isinstance(self._prepare, partial) else ""
        with config.with_suffix(".clock.log").open("ab") as log:
            command = ["-m", "tests.chaos.replicas.mutants", mutant, "run", f"--config.file={config}", listen]
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **fake_clock(f"{hours:+d}h")},
            )

    def reload(self, *, older: bool) -> bool:
        """Reload its config, or the older one instead. Return whether it is applied now."""
        self._config.write_text(self._older_config.read_text() if older else self._settings)
        with suppress(OSError, HTTPException):  # it may still start, or wait for the database
            return fetch(self.port, "/-/reload", method="POST", timeout=1)[0] == HTTPStatus.OK
        return False

    @property
    def pid(self) -> int:
        """Return the ID of its process; 0 if it has none."""
        process = self._process.process if isinstance(self._process, Daemon) else self._process
        return 0 if process is None else process.pid or 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill its process, and wait for the end."""
        if self._process is not None:
            self._process.kill()
        if isinstance(self._process, subprocess.Popen):
            self._process.wait()
        self._process = None

    def terminate(self) -> None:
        """Stop the replica cleanly."""
        if isinstance(self._process, Daemon):
            self._process.terminate()
        self.kill()

    def log(self) -> str:
        """Return the log of all its processes."""
        return "".join(path.read_text() for path in sorted(self._config.parent.glob("*.log")))


class Fleet:
    """Three replicas of one state, the vendors that they poll, and the auditor.

    Attributes:
        disruption_counts: How often each disruption happened.
        kills: Number of replicas that were killed or stopped.
        two_primaries: Whether the former primary accepts writes too. No replica is started meanwhile, because it could
            not know which primary is the right one.
        findings: The discrepancies.
    """

    def __init__(self, folder: Path, database: Database, plan: FleetPlan, seed: str, prepare: Prepare = None) -> None:
        self.database, self.plan = database, plan
        self._counts: dict[str, Counter[Series]] = {}
        self._expected: dict[str, Counter[Series]] = {}
        self._pending: list[str] = []
        self._changed = 0.0
        self.disruption_counts: Counter[str] = Counter()
        self.kills = 0
        self.two_primaries = False
        self.findings: list[str] = []
        self.requests = RequestRecord()
        self.world = LiveWorld(random.Random(seed).getrandbits(32), pause=0.4).start()
        self._running = ExitStack()
        self.simulators = {
            vendor: self._running.enter_context(SIMULATORS[vendor](self.world, **traits_of(vendor).arguments))
            for vendor in dict.fromkeys(SOURCES.values())
        }
        self.pooler = Pooler(folder, database, plan.pooler) if plan.pooler else None
        self.replicas = [self._replica(folder, number, prepare) for number in range(REPLICAS)]
        for replica in self.replicas:
            replica.start()
        balancer = ReplicaProxy([replica.port for replica in self.replicas])
        self._running.callback(balancer.server_close)
        self._running.callback(balancer.shutdown)
        self.holders = LeaseHolders(database.connect, SOURCES)
        self.auditor = ScrapeAuditor(balancer.server_address[1], zero_first=plan.zero_first)

    def _replica(self, folder: Path, number: int, prepare: Prepare) -> Replica:
        home = folder / f"replica-{number}"
        (home / "older").mkdir(parents=True)
        if self.pooler is not None:
            port = self.pooler.port
            proxies = [DatabaseProxy(partial(int, port))]
        else:
            proxies = [DatabaseProxy(partial(self.database.port, index)) for index in (0, 1)]
        for proxy in proxies:
            self._running.callback(proxy.close)
        url = f"postgresql://jobrun@{','.join(f'{HOST}:{proxy.port}' for proxy in proxies)}/{NAME}"
        listeners = {vendor: listen_for(number, each, self.requests) for vendor, each in self.simulators.items()}
        for each in listeners.values():
            self._running.callback(each.stop)
        urls = {vendor: f"http://{HOST}:{each.server_address[1]}" for vendor, each in listeners.items()}
        blocks = [
            source(self.simulators[vendor], name, overlap="90s", proxy_url=urls[vendor])
            for name, vendor in SOURCES.items()
        ]
        metrics = {"zero_first": "3s" if self.plan.zero_first else "0s"}
        settings = {"sources": blocks, "state": {"url": url}, "metrics": metrics}
        older_config = write_config(home / "older", {**settings, "sources": blocks[:2]})
        return Replica(number, write_config(home, settings), older_config, proxies, prepare)

    # --- for disruptions ---

    def free(self) -> list[Replica]:
        """Return the replicas on which no disruption acts."""
        return [replica for replica in self.replicas if not replica.disrupted]

    def choose_victim(self, rng: random.Random) -> Replica | None:
        """Return a replica on which no disruption acts, preferably one that polls; None if disruptions act on two."""
        free = self.free()
        if len(free) < REPLICAS - 1 or self.two_primaries:
            return None
        owners = self.requests.owners()
        return rng.choices(free, [1 + 4 * owners[replica.number] for replica in free])[0]

    def kill(self, replica: Replica) -> None:
        """Kill a replica. Start to measure how long its sources wait for another replica."""
        self.requests.owner_killed(replica.number)
        replica.kill()
        self.kills += 1

    def numbers(self) -> dict[str, int]:
        """Return the number of the replica behind each name that has held a lease."""
        taken = re.compile(r"sources taken.* replica=(\S+)")
        return {name: replica.number for replica in self.replicas for name in taken.findall(replica.log())}

    # --- start and end ---

    def all_polled(self) -> bool:
        """Return whether all sources have been polled."""
        try:
            with self.database.connect() as connection:
                return len(self._baselines(connection)) == len(SOURCES)
        except psycopg.Error:
            return False

    def _baselines(self, connection: psycopg.Connection) -> dict[str, float]:
        query = "SELECT name, (convert_from(record, 'UTF8')::json)->>'baseline' FROM sources"
        return {name: float(value) for name, value in connection.execute(query) if value is not None}

    def settle(self) -> int:
        """Wait until everything is counted, and compare the counts. Return the number of compared runs."""
        for replica in self.replicas:
            replica.signal(signal.SIGCONT)
        self.world.rest()
        self._changed = time.monotonic()
        while not self._is_counted() and time.monotonic() - self._changed < CATCH_UP:
            time.sleep(0.5)
        counts, expected = self._counts, self._expected
        self.findings += [
            f"{name}: {series} is {counts[name][series]}, not {wanted[series]}"
            for name, wanted in expected.items()
            for series in sorted(wanted | counts[name])
            if counts[name][series] != wanted[series]
        ]
        self._compare_pages()
        runs = "jobrun_runs_total"
        return sum(count for wanted in expected.values() for series, count in wanted.items() if series[0] == runs)

    def _is_counted(self) -> bool:
        text = self.auditor.last
        try:
            with self.database.connect() as connection:
                baselines = self._baselines(connection)
        except psycopg.Error:
            return False
        expected = {name: truth(self.simulators[vendor], baselines[name]) for name, vendor in SOURCES.items()}
        counts = {name: counted(text, name) for name in SOURCES}
        # Step counters are withheld while steps are read again, which takes long on a busy machine.
        pending = [line for line in text.splitlines() if line.startswith("jobrun_source_step_fetches_pending{")]
        if (counts, pending) != (self._counts, self._pending):
            self._changed = time.monotonic()
        self._counts, self._expected, self._pending = counts, expected, pending
        return counts == expected

    def _compare_pages(self) -> None:
        """Add a finding if the pages of the replicas differ. Every poll fails meanwhile, so that commits are rare."""
        for simulator in self.simulators.values():
            simulator.disruptions.set([Status(code=503)])
        pages = eventually(self._pages, lambda found: len(set(found)) == 1, seconds=40)
        for simulator in self.simulators.values():
            simulator.disruptions.clear()
        if len(set(pages)) != 1:
            lines = [set(page.splitlines()) for page in pages]
            differing = sorted(line for line in lines[0].union(*lines) if not all(line in each for each in lines))
            self.findings.append(f"replicas show different pages: {differing[:6]}")

    def _pages(self) -> list[str]:
        def page(replica: Replica) -> str:
            try:
                status, _, body = fetch(replica.port, timeout=2)
            except OSError:
                return f"replica {replica.number} does not answer"
            return body.decode() if status == 200 else f"replica {replica.number}: {status} {body.decode()}"

        with ThreadPoolExecutor(REPLICAS) as threads:
            return list(threads.map(page, self.replicas))

    def close(self) -> None:
        """Stop everything."""
        for replica in self.replicas:
            replica.kill()
        self.world.stop()
        self._running.close()
        if self.pooler is not None:
            self.pooler.close()
