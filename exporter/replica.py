"""One of many replicas: takes leases, loads the commits of other replicas, and reports whether its page is current."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import ceil

import msgspec
import structlog

from exporter.counting.records import SourceState
from exporter.errors import StateError
from exporter.ledger.exposing import expose_sources
from exporter.ledger.journal import IdentityError
from exporter.ledger.ledger import Ledger
from exporter.metrics.page_versions import PageVersions
from exporter.metrics.zero_first import ZeroFirst
from exporter.snapshot.snapshot import Ownership
from exporter.state.lease_row import WITHOUT_STEPS, LeaseRow
from exporter.state.leases import RENEWAL, Leases, RequestAges, SupersededError

INTERVAL = 0.5
"""Seconds between two ticks. Each tick checks the versions in the database."""

MAX_PAGE_AGE = 2.0
"""Seconds for which a page is served after its versions were last confirmed.

Within this time each replica shows the commits of the others. So if two scrapes are further apart, no counter is lower
in the second one, whichever replicas respond.
"""

CLOCK_DIFFERENCE = 60.0
"""Maximum seconds by which an API's clock is assumed to be ahead of the database's."""

PERMANENT_ERRORS = {
    SupersededError: "polls ended: a newer version has migrated the state",
    IdentityError: "no sources taken: the state and the config name different APIs",
}
"""Log messages of errors that do not recover on their own."""

Group = frozenset[str]


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """Functions of the daemon that a replica calls.

    Attributes:
        groups: Returns the sources in groups that share a credential and so a request budget.
        identities: Returns the API of each configured source.
        request_ages: Returns the age in seconds of each request that still uses the budget of a source's credential.
        start_polls: Starts the polls of sources. The second argument: the request ages of the former holder.
        end_polls: Ends the polls of sources.
        is_idle: Returns whether no poll of a source is running.
        publish: Renders the records in memory.
        generation: Returns the generation of the served page.
    """

    groups: Callable[[], Sequence[Group]]
    identities: Callable[[], dict[str, str]]
    request_ages: RequestAges
    start_polls: Callable[[Collection[str], Sequence[float]], None]
    end_polls: Callable[[Collection[str]], None]
    is_idle: Callable[[str], bool]
    publish: Callable[[], None]
    generation: Callable[[], int]


class Replica:
    """One of many replicas. One thread calls `tick`, another one `renew`. Any thread may call `stale`.

    Args:
        ledger: Has the records of all sources.
        leases: The leases of this process.
        zero_first: The pending series.
        boottime: A clock that also counts while the machine is suspended, in seconds.
        handlers: Functions of the daemon.
    """

    def __init__(
        self,
        ledger: Ledger,
        leases: Leases,
        *,
        zero_first: ZeroFirst,
        boottime: Callable[[], float],
        handlers: Handlers,
    ) -> None:
        self._ledger = ledger
        self._leases = leases
        self._boottime = boottime
        self._handlers = handlers
        self._owned: set[str] = set()
        self._configured: set[str] = set()
        self._last_beat = float("-inf")
        self._confirmed = float("-inf")
        self._error = "the state was not read yet"
        self._failing: type[StateError] | None = None
        self._rendered: object = None  # what the last page was rendered from
        # By source: after a failover, the steps of runs that ended before this time must be read again.
        self._steps_until: dict[str, float] = {}
        # Sources whose version fell, if the database has no record of that yet.
        self._new_rewinds: set[str] = set()
        self._log = structlog.get_logger().bind(replica=leases.holder)
        self._size = 0
        self._exporter = 0  # the last transaction that has written the exporter's record
        # Per running replica: the sources in its config, and the versions that scrapes have read from it.
        self._running: list[dict[str, int]] = []
        self.pages = PageVersions(zero_first)
        """The versions on the pages of this replica."""
        self.replicas = 1
        """Number of replicas that share the state."""
        self.taken: Counter[str] = Counter()
        """How often this replica took over each source."""
        self.lost = 0
        """How often this replica lost a source that it had not handed back."""
        self._rewound: frozenset[str] = frozenset()
        self._steps_rewound: frozenset[str] = frozenset()

    @property
    def rewound(self) -> frozenset[str]:
        """Return the sources whose commits the database may have lost. Their counters are withheld."""
        # Polls may load records and render pages between two ticks, so doubtful records are included at once.
        return self._rewound | self._leases.doubtful

    @property
    def owned(self) -> frozenset[str]:
        """Return the sources that this replica polls."""
        return frozenset(self._owned)

    def ownership(self) -> Ownership:
        """Return this replica's name, its sources, and what it knows about the others."""
        written = [row.committed for row in list(self._leases.seen.values()) if row.committed is not None]
        return Ownership(
            replica=self._leases.holder,
            replicas=self.replicas,
            sources=self.owned,
            # Sources of other replicas have 0, so that an increase includes the first takeover.
            taken={name: self.taken[name] for group in self._handlers.groups() for name in group},
            lost=self.lost,
            last_commit=max(written, default=None),
            state_size=self._size,
            rewound=self.rewound,
            steps_rewound=self._steps_rewound | self.rewound,
            all_rewound=bool(self._configured) and self._configured <= self.rewound,
        )

    def stale(self) -> str:
        """Return why the page may be older than that of another replica; "" if it is current."""
        age = self._boottime() - self._confirmed
        if age == float("inf"):
            return self._error
        return f"the state could not be read for {age:.0f} s: {self._error}" if age > MAX_PAGE_AGE else ""

    def tick(self) -> None:
        """Check versions, load changes, take and hand back leases, and render a page."""
        started = self._boottime()
        try:
            self._tick(started)
        except StateError as error:
            if type(error) is not self._failing:
                self._log.error(PERMANENT_ERRORS.get(type(error), "state cannot be read"), error=str(error))
            self._failing, self._error = type(error), str(error)
            if isinstance(error, SupersededError):
                self._confirmed = float("-inf")
            self._end_lost()
        else:
            if self._failing is not None:
                self._log.info("state can be read again")
            self._failing = None

    def _tick(self, started: float) -> None:
        self._ledger.load()
        self._create_sources()
        self._hand_back_regrouped()
        before, doubtful = self._leases.versions(), self._leases.doubtful
        rows = {row.source: row for row in self._leases.read_all()}
        self.replicas = max((row.replicas for row in rows.values()), default=1) or 1
        self._size = max((row.size for row in rows.values()), default=0)
        self._drop(rows, before)
        self._rewound = frozenset(name for name, row in rows.items() if row.rewound)
        self._steps_rewound = frozenset(name for name, row in rows.items() if row.steps_rewound)
        self._new_rewinds |= {name for name, row in rows.items() if not row.history}
        self._load_changes(rows)
        self._ledger.check()
        self._mark_rewound()
        self._leases.trust(doubtful - self._rewound)
        self._take(rows)
        self._serve_read_sources(rows)
        self._publish()
        self._confirmed = started
        if started - self._last_beat >= RENEWAL or self.replicas != len(self._running):
            self._last_beat = started
            self._beat()

    def renew(self) -> None:
        """Renew leases. Call it in its own thread, because rendering a page may take longer than a lease lasts."""
        with suppress(StateError):  # the next tick reports it
            self._leases.renew(self._handlers.request_ages)

    def _create_sources(self) -> None:
        """Create the records and leases of sources that are new in the config."""
        identities = self._handlers.identities()
        new = identities.keys() - self._configured
        if new:
            records = (SourceState(name=name, identity=identities[name]) for name in sorted(new))
            self._leases.create((record.name, msgspec.json.encode(record)) for record in records)
            self._ledger.reload(new)
        self._configured = set(identities)

    def _hand_back_regrouped(self) -> None:
        """Hand back sources that are no longer in the config, or whose group has changed."""
        groups = self._handlers.groups()
        whole = frozenset().union(*(group for group in groups if group <= self._owned))
        if self._owned - whole:
            self.hand_back(self._owned - whole)

    def _drop(self, rows: Mapping[str, LeaseRow], before: Mapping[str, int]) -> None:
        """Drop leases that this replica has lost according to `rows`. `before`: the versions before they were read."""
        gone = {
            name
            for name, version in before.items()
            if name not in rows or rows[name].holder != self._leases.holder or rows[name].version < version
        }
        self._new_rewinds |= {name for name in gone if name in rows and rows[name].version < before[name]}
        self._leases.drop(gone)
        self._end_lost()

    def _end_lost(self) -> None:
        """End the polls of sources that this replica no longer has."""
        lost = self._owned - self._leases.held
        if lost:
            self.lost += len(lost)
            self._log.warning("leases lost", sources=sorted(lost))
            self._leases.drop(lost)
            self._owned -= lost
            self._handlers.end_polls(lost)

    def _load_changes(self, rows: Mapping[str, LeaseRow]) -> None:
        """Load the commits of other replicas."""
        with self._ledger.lock:
            # Also those of removed sources: their jobs count for `max_series` and `step_histograms: auto`.
            foreign = rows.keys() - self._leases.held
            seen = {name: row.content for name, row in self._leases.seen.items()}
            changed = {name for name in foreign if rows[name].content != seen.get(name)}
            self._new_rewinds |= {name for name in changed if name in seen and rows[name].version < seen[name][0]}
            exporter = max((row.exporter for row in rows.values()), default=0)
            if changed or exporter != self._exporter:
                self._ledger.reload(changed)
                self._exporter = exporter

    def _mark_rewound(self) -> None:
        """Record sources whose commits the database lost, so that all replicas withhold their counters."""
        back = self._new_rewinds | self._leases.rewound()
        if back:
            marked = self._leases.mark_rewound(back)
            self._rewound |= back
            self._new_rewinds.clear()
            if marked:
                self._log.error("the database has lost commits", sources=sorted(marked))
                self._ledger.count_cold_start("rewound")

    def _beat(self) -> None:
        """Record that this replica is running, learn which pages scrapes have read, and hand back a surplus group."""
        self._running = self._leases.beat(self.pages.versions_read(self._configured))
        self.pages.report_read(self._running)
        self._hand_back_surplus()

    def _count_candidates(self, group: Group) -> int:
        """Return how many replicas can poll a group. During a rollout, some configs may not have all its sources."""
        return sum(group <= peer.keys() for peer in self._running) or max(1, self.replicas)

    def _share(self) -> int:
        return ceil(sum(Fraction(1, self._count_candidates(group)) for group in self._handlers.groups()))

    def _mine(self) -> list[Group]:
        return [group for group in self._handlers.groups() if group & self._owned]

    def _take(self, rows: Mapping[str, LeaseRow]) -> None:
        """Take free groups up to this replica's share, and those that no other replica can poll."""
        room = self._share() - len(self._mine())
        free = [
            group
            for group in self._handlers.groups()
            if not group & self._owned and all(name in rows and rows[name].free for name in group)
        ]
        free.sort(key=self._count_candidates)
        only_here = sum(self._count_candidates(group) == 1 for group in free)
        for group in free[: max(only_here, room)]:
            with self._ledger.lock:  # no other thread may write before the records of these sources are loaded
                request_ages = self._leases.take(group)
                if request_ages is None:
                    continue
                try:
                    self._ledger.reload(group)
                except StateError:
                    self._leases.drop(group)
                    raise
            self._owned |= group & self._leases.held
            self.taken.update(group)
            self._log.info("sources taken", sources=sorted(group))
            self._handlers.start_polls(group, request_ages)

    def _hand_back_surplus(self) -> None:
        """If this replica has more than its share, hand back one idle group that another replica can take."""
        mine = self._mine()
        wanted = [group for group in mine if self._count_candidates(group) > 1]
        idle = [group for group in wanted if all(map(self._handlers.is_idle, group))]
        if len(mine) > self._share() and idle:
            self.hand_back(max(reversed(idle), key=self._count_candidates))

    def hand_back(self, sources: Collection[str] | None = None) -> None:
        """End the polls of these sources, by default of all, and free their leases for other replicas."""
        given = frozenset(self._owned if sources is None else sources)
        self._owned -= given
        self._handlers.end_polls(given)
        with self._ledger.lock:
            self._leases.hand_back(given, self._handlers.request_ages)

    @contextmanager
    def holding_removed_sources(self) -> Iterator[None]:
        """Hold the leases of sources that are no longer in the config, so that their old runs can be pruned."""
        removed = self._ledger.committed.sources.keys() - set(self._handlers.identities())
        taken: dict[str, Sequence[float]] = {}  # another config may still have them, so their budgets are kept
        try:
            for name in sorted(removed):
                with self._ledger.lock:
                    request_ages = self._leases.take([name])
                    if request_ages is not None:
                        taken[name] = request_ages
                        self._ledger.reload([name])
            yield
        finally:
            with suppress(StateError):  # the leases then end by themselves
                self._leases.hand_back(taken, taken.__getitem__)

    def leave(self) -> None:
        """Hand all sources back, and stop being a replica."""
        with suppress(StateError):
            self.hand_back()
            self._leases.leave()

    def _serve_read_sources(self, rows: Mapping[str, LeaseRow]) -> None:
        """Serve the counters of sources again that were read completely since the last failover."""
        read: dict[str, list[LeaseRow]] = {}
        polled = [rows[name] for name in sorted((self._owned - self._ledger.starting) & rows.keys())]
        unread, store = self._ledger.unread, self._ledger.store()
        older = [row for row in polled if row.history != row.current and not (row.rewound and row.source in unread)]
        # Steps of later runs were never served. Do not wait for them, because a busy source always has pending steps.
        ends = {row.source: (row.committed or 0.0) + CLOCK_DIFFERENCE for row in older}
        self._steps_until = {name: self._steps_until.get(name, end) for name, end in ends.items()}
        for row in older:
            # Counters of runs do not wait for steps, because fetching many steps from a slow API takes long.
            with self._ledger.lock:
                pending = not row.new and store.count_pending_steps(row.source, self._steps_until[row.source])
            history = row.current + WITHOUT_STEPS if pending else row.current
            if row.history != history:
                read.setdefault(history, []).append(row)
        lossy = [row.source for found in read.values() for row in found if row.steps_rewound]
        if lossy:  # their series were exposed, perhaps by a lost commit, and must not show 0 again
            expose_sources(self._ledger, lossy)
        for history, found in read.items():
            self._leases.record_history(found, history)

    # --- pages and scrapes ---

    def _publish(self) -> None:
        """Render a page if it would differ from the one served."""
        held = self._leases.versions()
        versions = {name: row.version for name, row in list(self._leases.seen.items())} | held
        content = versions, (self.rewound, self._steps_rewound), self.replicas, self.owned, self._size, self._exporter
        if content != self._rendered:
            self._handlers.publish()
            self._rendered = content
            shown = {name: version for name, version in versions.items() if name in self._configured}
            self.pages.add(self._handlers.generation(), shown)
