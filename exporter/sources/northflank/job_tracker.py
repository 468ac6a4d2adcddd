"""Jobs that are asked for their runs one by one: what is remembered of them, and the pages of one read so far."""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import msgspec

from exporter.errors import SchemaError
from exporter.model import Job, Run, one_row_per_run
from exporter.sources.northflank.request_queue import JobActivity, Schedule
from exporter.sources.paging import PageGuard
from exporter.sources.unreadable import awaited, counted

MAX_PAGES = 100
"""Pages of one list that are asked for at the most."""

MISORDERED = 0.25
"""The part of a page's neighbours that may stand in the wrong order before the order is held to be another."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One answered page: its rows, not yet decoded, and how to ask for the next if there is one."""

    rows: Sequence[msgspec.Raw]
    more: bool
    cursor: str


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a project's list. `slug` is its id, unique in the project; `enabled` None: a job without a schedule."""

    project: str
    slug: str
    name: str
    cron: bool
    enabled: bool | None

    @property
    def job_id(self) -> str:
        """Its identity within the account."""
        return f"{self.project}/{self.slug}"

    def job(self, schedule: Schedule) -> Job:
        """The job as it is told to the ledger: its project is its scope."""
        return Job(
            job_id=self.job_id,
            name=self.name,
            project=self.project,
            scope=self.project,
            schedule=schedule.expression,
            timezone=schedule.timezone,
            enabled=self.enabled,
        )


class JobCheckpoint(msgspec.Struct, frozen=True, array_like=True):
    """What the state keeps of a job: when its runs were last read whole, and what is known of its schedule since when.

    It is what tells a job's first reading from a later one, even after its runs have been forgotten here.
    `unreadable`: in how many readings in a row there were rows that could not be read. `whole`: the first reading has
    looked for open runs as far back as it goes.
    """

    read: float | None = None
    schedule: Schedule = Schedule()
    detailed: float | None = None
    unreadable: int = 0
    whole: bool = True

    def after(self, walk: "PageCursor") -> "JobCheckpoint":
        """The note after a walk. One that met rows that may become right has not read the job whole."""
        unreadable = counted(self.unreadable, walk.invalid)
        read = walk.began if walk.whole and not awaited(unreadable) else self.read
        whole = self.whole if self.read is not None else not walk.skipped
        return msgspec.structs.replace(self, read=read, unreadable=unreadable, whole=whole)


class PageCursor(msgspec.Struct, kw_only=True):
    """The pages of one job's runs, newest first as a rule, until one shows what has been read before.

    Attributes:
        began: When the first page was asked for.
        floor: Runs that started before it are not looked for.
        baseline: A page of runs that all ended by then ends the walk.
        deep: It goes on through known runs down to the floor.
        first: The first page, hashed: an equal one tells nothing new.
        reached: The earliest start seen, if the walk ended before the last page.
        skipped: Whether it ended at a page of runs that all ended before the baseline, although there were more.
        guard: Refuses a list that never ends.
    """

    began: float
    floor: float
    baseline: float
    deep: bool = False
    runs: dict[str, Run] = {}
    invalid: int = 0
    pages: int = 0
    cursor: str = ""
    first: bytes = b""
    newest_first: bool = True
    reached: float | None = None
    skipped: bool = False
    guard: PageGuard = msgspec.field(default_factory=lambda: PageGuard("the runs of a job", MAX_PAGES + 1))

    @property
    def whole(self) -> bool:
        """Whether nothing that is to be known lies beyond it, once it has ended."""
        return self.newest_first or self.reached is None

    def take(self, page: Page, runs: Sequence[Run], known: Callable[[Collection[str]], Collection[str]]) -> bool:
        """Adds a page; returns whether there is more to ask for. Raises SchemaError if the list does not end."""
        fresh = {run.run_id for run in runs} - self.runs.keys()
        shown = [self.runs[run.run_id] for run in runs if run.run_id in self.runs]
        self.runs.update((run.run_id, run) for run in one_row_per_run([*shown, *runs]))
        self.invalid += len(page.rows) - len(runs)
        self.pages, self.cursor = self.pages + 1, page.cursor
        if self.pages == 1:
            self.newest_first = is_newest_first(runs)
        if not page.more:
            return False
        if not fresh:
            raise SchemaError("the runs of a job: the list does not end: a page without a new run is not the last")
        self.guard.check(fresh, page.cursor or None)
        if self.newest_first and self._has_ended(runs):
            self.skipped = True
        elif self.pages < MAX_PAGES and not (self.newest_first and self._meets(runs, known)):
            return True
        if not known(fresh):
            self.reached = min((run.start for run in self.runs.values() if run.start is not None), default=self.began)
        return False

    def _has_ended(self, runs: Sequence[Run]) -> bool:
        """Whether all runs of a page had ended by the baseline; open ones behind it are looked for later."""
        return all(run.end is not None and run.end <= self.baseline for run in runs)

    def _meets(self, runs: Sequence[Run], known: Callable[[Collection[str]], Collection[str]]) -> bool:
        """Whether a page reaches what was read before, or what need not be."""
        if any(run.start is not None and run.start < self.floor for run in runs):
            return True
        return not self.deep and bool(known([run.run_id for run in runs]))


class Elsewhere(msgspec.Struct, frozen=True):
    """An open run that no page shows: when it was last read by its ID since then, and when that was last tried."""

    read: float | None = None
    tried: float | None = None


class Watched(msgspec.Struct, kw_only=True):
    """A job that is watched, as its project's list last showed it.

    Attributes:
        note: As committed.
        asked: When its runs were last asked for, well or not.
        failed: Whether that failed.
        digest: The hash of its last whole answer of one page, once that is committed.
        changed: Whether that differed from the one before.
        elsewhere: Its open runs that no page shows.
        walk: A walk that this poll had no time to end.
        older: The walk that looks for open runs behind the first reading.
        missed: Since when the list leaves it out.
    """

    row: JobRow
    note: JobCheckpoint
    asked: float | None
    failed: bool = False
    digest: bytes = b""
    changed: bool = False
    elsewhere: dict[str, Elsewhere] = {}
    last_start: float | None = None
    walk: PageCursor | None = None
    older: PageCursor | None = None
    missed: float | None = None

    @property
    def part(self) -> str:
        """What errors call its runs."""
        return f"runs of job {self.row.job_id}"

    @property
    def is_shown(self) -> bool:
        """Whether its project's list shows it, or its runs have answered since it does not."""
        return self.missed is None or (self.note.read is not None and self.note.read > self.missed)

    def job(self) -> Job:
        """The job as it is told to the ledger."""
        return self.row.job(self.note.schedule)

    def activity(self, now: float, *, is_open: bool) -> JobActivity:
        """How urgent it is. One that was not read whole, or not by this process, may be more urgent than it looks."""
        return JobActivity(
            open=is_open or self.changed or awaited(self.note.unreadable),
            enabled=None if self.note.read is None else self.row.enabled,
            schedule=self.note.schedule,
            last_start=self.last_start if self.digest else now,
        )

    def detail_age(self, now: float) -> float:
        """Seconds since its schedule was asked for; infinite if it never was, or only by a wrong clock."""
        asked = self.note.detailed
        return float("inf") if asked is None or asked > now else now - asked


class Project(msgspec.Struct, kw_only=True):
    """A project.

    Attributes:
        listed: When its jobs were last listed, and that is committed.
        due: When they shall be again.
        failed: Whether the last try to list them failed.
        readable: Whether it answered.
        known: Whether the list of projects shows it.
        absent: Jobs with open runs that no list shows, by ID, and since when.
    """

    name: str
    jobs: dict[str, Watched] = {}
    listed: float | None = None
    due: float = 0.0
    failed: bool = False
    readable: bool = True
    known: bool = True
    absent: dict[str, float] = {}

    @property
    def part(self) -> str:
        """What errors call its list of jobs."""
        return f"jobs of project {self.name}"


class Listed(msgspec.Struct, frozen=True):
    """What a committed list of jobs changes."""

    project: str
    at: float


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed reading of a job changes."""

    project: str
    slug: str
    note: JobCheckpoint
    digest: bytes | None = None
    last_start: float | None = None


def looking_back(now: float, floor: float, behind: PageCursor | None = None) -> PageCursor:
    """Return a walk down to the floor whatever its pages show; it goes on where the walk `behind` which it is ended."""
    if behind is not None:
        return msgspec.structs.replace(behind, baseline=-math.inf, deep=True, skipped=False, reached=None)
    return PageCursor(began=now, floor=floor, baseline=-math.inf, deep=True)


def is_newest_first(runs: Sequence[Run]) -> bool:
    """Whether a page stands in this order, save for neighbours that started together; a single run does."""
    starts = [run.start for run in runs if run.start is not None]
    pairs = [(one, other) for one, other in pairwise(starts) if one != other]
    return sum(one < other for one, other in pairs) <= MISORDERED * len(pairs)


def note_key(job_id: str) -> str:
    """The name of a job's note in the state."""
    return f"job/{job_id}"
