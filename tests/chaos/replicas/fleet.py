"""Three replicas as processes, simulated vendors, and an auditor. Troubles act on these."""

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
from pathlib import Path

import msgspec
import psycopg

from exporter.simulators import SIMULATORS
from exporter.simulators.disruptions import Status
from tests.chaos.replicas.audit import Auditor, Holders, Spending, door
from tests.chaos.replicas.database import NAME, Database, Pooler, faked
from tests.chaos.replicas.wires import Wire, steady_port
from tests.e2e.live_world import LiveWorld, source, truth, write_config
from tests.e2e.processes import HOST, Daemon, eventually
from tests.e2e.replica_proxy import ReplicaProxy
from tests.e2e.scrapes import Series, counted, fetch
from tests.e2e.vendor_traits import traits_of

ROOT = Path(__file__).parents[3]

REPLICAS = 3

SOURCES = {"first": "snowplow", "second": "snowplow", "strait": "strait", "workato": "workato"}
"""Sources and their vendors; those of one vendor share a credential."""

SETTLED = 90.0
"""Seconds without any change after which uncounted runs are lost."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed chooses, and what there is.

    Attributes:
        pooler: Connections of PgBouncer, 0 for none.
        zero_first: Whether new series are served as 0 first.
        moving_clock: Whether the database's clock can be moved.
        small_disk: Whether the database's disk can be filled.
        alone: Whether only one kind of trouble happens.
    """

    pooler: int = 0
    zero_first: bool = False
    moving_clock: bool = False
    small_disk: bool = False
    alone: bool = False


Prepare = Callable[[], object] | None
"""Code that each replica runs before it starts. A mutant breaks itself there."""


class Replica:
    """One replica and its wires. `busy`: name of the trouble that acts on it; "" if there is none."""

    def __init__(self, number: int, config: Path, older: Path, wires: Sequence[Wire], prepare: Prepare):
        self.number, self.wires = number, wires
        self.port = steady_port()
        self.busy = ""
        self._config, self._older = config, older
        self._prepare = prepare
        self._process: Daemon | subprocess.Popen[bytes] | None = None

    def start(self, *, hours: int = 0, older: bool = False) -> None:
        """Start it, with a clock that is wrong by hours, or with an older configuration."""
        config = self._older if older else self._config
        if not hours:
            self._process = Daemon(config, self.port, prepare=self._prepare)
            return
        listen = f"--web.listen-address={HOST}:{self.port}"
        broken = self._prepare.args[0] if isinstance(self._prepare, partial) else ""
        with config.with_suffix(".clock.log").open("ab") as log:
            command = ["-m", "tests.chaos.replicas.mutants", broken, "run", f"--config.file={config}", listen]
            self._process = subprocess.Popen(  # noqa: S603  # the product
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **faked(f"{hours:+d}h")},
            )

    @property
    def pid(self) -> int:
        """Return its process ID, 0 if it has none."""
        process = self._process.process if isinstance(self._process, Daemon) else self._process
        return 0 if process is None else process.pid or 0

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL and wait for its end."""
        if self._process is not None:
            self._process.kill()
        if isinstance(self._process, subprocess.Popen):
            self._process.wait()
        self._process = None

    def terminate(self) -> None:
        """Stop it cleanly."""
        if isinstance(self._process, Daemon):
            self._process.terminate()
        self.kill()

    def log(self) -> str:
        """Return what all its processes have logged."""
        return "".join(path.read_text() for path in sorted(self._config.parent.glob("*.log")))


class Fleet:
    """Replicas of one state, the vendors that they poll, and the auditor."""

    def __init__(self, folder: Path, database: Database, plan: Plan, seed: str, prepare: Prepare = None) -> None:
        self.database, self.plan = database, plan
        self._found: dict[str, Counter[Series]] = {}
        self._wanted: dict[str, Counter[Series]] = {}
        self._pending: list[str] = []
        self._changed = 0.0
        self.tally: Counter[str] = Counter()
        self.kills = 0
        self.split = False
        """Whether two primaries accept writes. A replica that starts now cannot know which is the right one."""
        self.wrong: list[str] = []
        self.spending = Spending()
        self.world = LiveWorld(random.Random(seed).getrandbits(32), pause=0.4).start()
        self._running = ExitStack()
        self.simulators = {
            word: self._running.enter_context(SIMULATORS[word](self.world, **traits_of(word).arguments))
            for word in dict.fromkeys(SOURCES.values())
        }
        self.pooler = Pooler(folder, database, plan.pooler) if plan.pooler else None
        self.replicas = [self._replica(folder, number, prepare) for number in range(REPLICAS)]
        for replica in self.replicas:
            replica.start()
        balancer = ReplicaProxy([replica.port for replica in self.replicas])
        self._running.callback(balancer.server_close)
        self._running.callback(balancer.shutdown)
        self.holders = Holders(database.connect, SOURCES)
        self.auditor = Auditor(balancer.server_address[1], zero_first=plan.zero_first)

    def _replica(self, folder: Path, number: int, prepare: Prepare) -> Replica:
        home = folder / f"replica-{number}"
        (home / "older").mkdir(parents=True)
        if self.pooler is not None:
            port = self.pooler.port
            wires = [Wire(partial(int, port))]
        else:
            wires = [Wire(partial(self.database.port, place)) for place in (0, 1)]
        for wire in wires:
            self._running.callback(wire.close)
        url = f"postgresql://jobrun@{','.join(f'{HOST}:{wire.port}' for wire in wires)}/{NAME}"
        doors = {word: door(each, self.spending, number) for word, each in self.simulators.items()}
        for each in doors.values():
            self._running.callback(each.stop)
        proxies = {word: f"http://{HOST}:{each.server_address[1]}" for word, each in doors.items()}
        blocks = [
            source(self.simulators[word], name, overlap="90s", proxy_url=proxies[word])
            for name, word in SOURCES.items()
        ]
        metrics = {"zero_first": "3s" if self.plan.zero_first else "0s"}
        settings = {"sources": blocks, "state": {"url": url}, "metrics": metrics}
        older = write_config(home / "older", {**settings, "sources": blocks[:2]})
        return Replica(number, write_config(home, settings), older, wires, prepare)

    # --- what troubles ask ---

    def free(self) -> list[Replica]:
        """Return the replicas of which no trouble is in progress."""
        return [replica for replica in self.replicas if not replica.busy]

    def owner(self, dice: random.Random) -> Replica | None:
        """Return a replica without trouble, preferably one that polls; None if two of three have a trouble."""
        free = self.free()
        if len(free) < REPLICAS - 1 or self.split:
            return None
        owners = self.spending.owners()
        return dice.choices(free, [1 + 4 * owners[replica.number] for replica in free])[0]

    def kill(self, replica: Replica) -> None:
        """Kill a replica. From now on its sources wait for another replica."""
        self.spending.died(replica.number)
        replica.kill()
        self.kills += 1

    def names(self) -> dict[str, int]:
        """Return the replica of each name by which leases were held."""
        taken = re.compile(r"sources taken.* replica=(\S+)")
        return {name: replica.number for replica in self.replicas for name in taken.findall(replica.log())}

    # --- start and end ---

    def polled(self) -> bool:
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
        """Wait until everything is counted; return the number of completed runs compared."""
        for replica in self.replicas:
            replica.signal(signal.SIGCONT)
        self.world.rest()
        self._changed = time.monotonic()
        while not self._is_true() and time.monotonic() - self._changed < SETTLED:
            time.sleep(0.5)
        found, wanted = self._found, self._wanted
        self.wrong += [
            f"{name}: {series} is {found[name][series]}, not {counts[series]}"
            for name, counts in wanted.items()
            for series in sorted(counts | found[name])
            if found[name][series] != counts[series]
        ]
        self._compare_bytes()
        runs = "jobrun_runs_total"
        return sum(count for counts in wanted.values() for series, count in counts.items() if series[0] == runs)

    def _is_true(self) -> bool:
        text = self.auditor.last
        try:
            with self.database.connect() as connection:
                baselines = self._baselines(connection)
        except psycopg.Error:
            return False
        truths = {name: truth(self.simulators[word], baselines[name]) for name, word in SOURCES.items()}
        found = {name: counted(text, name) for name in SOURCES}
        # Step counters are withheld while steps are read again, which takes long on a busy machine.
        pending = [line for line in text.splitlines() if line.startswith("jobrun_source_step_fetches_pending{")]
        if (found, pending) != (self._found, self._pending):
            self._changed = time.monotonic()
        self._found, self._wanted, self._pending = found, truths, pending
        return found == truths

    def _compare_bytes(self) -> None:
        """Compare the pages of all replicas while every poll fails, so that commits are rare."""
        for simulator in self.simulators.values():
            simulator.disruptions.set([Status(code=503)])
        pages = eventually(self._pages, lambda found: len(set(found)) == 1, seconds=40)
        for simulator in self.simulators.values():
            simulator.disruptions.clear()
        if len(set(pages)) != 1:
            lines = [set(page.splitlines()) for page in pages]
            differing = sorted(line for line in lines[0].union(*lines) if not all(line in each for each in lines))
            self.wrong.append(f"replicas show different pages: {differing[:6]}")

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
        """End everything."""
        for replica in self.replicas:
            replica.kill()
        self.world.stop()
        self._running.close()
        if self.pooler is not None:
            self.pooler.close()
