"""Projects and jobs: what is known of each, in memory and in the state."""

import msgspec

from exporter.model import Job
from exporter.sources.northflank.page_cursor import PageCursor
from exporter.sources.northflank.request_queue import JobSchedule, PollTier, tier_of


class NorthflankJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a project's list. `slug`: its ID, unique in the project; `enabled` None: a job without a schedule."""

    project: str
    slug: str
    name: str
    cron: bool
    enabled: bool | None

    @property
    def job_id(self) -> str:
        """Its identity within the account."""
        return f"{self.project}/{self.slug}"

    def job(self, schedule: JobSchedule) -> Job:
        """Return the job for the ledger: its project is its scope."""
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
    """What the state keeps of a job, even after its runs were evicted.

    Attributes:
        read: When its runs were last read completely; None before the first time.
        schedule: Its schedule.
        detailed: When the schedule was read.
        unused: Kept for its place in stored checkpoints.
        whole: Whether the first read has looked for active runs as far back as it goes.
    """

    read: float | None = None
    schedule: JobSchedule = JobSchedule()
    detailed: float | None = None
    unused: int = 0
    whole: bool = True

    def after(self, cursor: PageCursor) -> "JobCheckpoint":
        """Return the checkpoint after a job's pages were read."""
        read = cursor.began if cursor.complete else self.read
        whole = self.whole if self.read is not None else not cursor.skipped
        return msgspec.structs.replace(self, read=read, whole=whole)


class UnlistedRun(msgspec.Struct, frozen=True):
    """An active run that no page shows: when it was last read by its ID since then, and when that was last tried."""

    read: float | None = None
    tried: float | None = None


class TrackedJob(msgspec.Struct, kw_only=True):
    """A job as its project's list last showed it.

    Attributes:
        checkpoint: As committed.
        listed: When the list first showed it.
        requested: When its runs were last requested, whatever came of it.
        failed: Whether that failed.
        digest: The hash of its last complete answer of one page, once that is committed.
        changed: Whether that differed from the one before.
        unlisted_open_runs: Its active runs that no page shows.
        cursor: The pages that a poll had no time to finish.
        older: The search for active runs behind the first read.
        missing_since: Since when the list leaves it out.
    """

    row: NorthflankJob
    checkpoint: JobCheckpoint
    listed: float
    requested: float | None
    failed: bool = False
    digest: bytes = b""
    changed: bool = False
    unlisted_open_runs: dict[str, UnlistedRun] = {}
    last_start: float | None = None
    cursor: PageCursor | None = None
    older: PageCursor | None = None
    missing_since: float | None = None

    @property
    def part(self) -> str:
        """The name of its runs in errors."""
        return f"runs of job {self.row.job_id}"

    @property
    def is_shown(self) -> bool:
        """Whether its project's list shows it, or its runs have answered since the list does not."""
        read = self.checkpoint.read
        return self.missing_since is None or (read is not None and read > self.missing_since)

    def job(self) -> Job:
        """Return the job for the ledger."""
        return self.row.job(self.checkpoint.schedule)

    def tier(self, now: float, poll_interval: float, *, is_open: bool) -> PollTier:
        """Return how often it is polled. Until this process has read all of it, it may be busier than known."""
        return tier_of(
            now,
            poll_interval,
            is_open=is_open or self.changed,
            enabled=None if self.checkpoint.read is None else self.row.enabled,
            schedule=self.checkpoint.schedule,
            last_start=self.last_start if self.digest else now,
        )

    def schedule_age(self, now: float) -> float:
        """Return the seconds since its schedule was read; infinite if never, or only by a wrong clock."""
        read = self.checkpoint.detailed
        return float("inf") if read is None or read > now else now - read


class Project(msgspec.Struct, kw_only=True):
    """A project.

    Attributes:
        listed: When its jobs were last listed, and that is committed.
        due: When they are due again.
        failed: Whether the last try to list them failed.
        readable: Whether it answered.
        known: Whether the list of projects shows it.
        absent: Jobs with active runs that no list shows, by ID, and since when.
    """

    name: str
    jobs: dict[str, TrackedJob] = {}
    listed: float | None = None
    due: float = 0.0
    failed: bool = False
    readable: bool = True
    known: bool = True
    absent: dict[str, float] = {}

    @property
    def part(self) -> str:
        """The name of its list of jobs in errors."""
        return f"jobs of project {self.name}"


class ListCommit(msgspec.Struct, frozen=True):
    """What a committed list of jobs changes in memory."""

    project: str
    at: float


class JobCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed batch of a job changes in memory."""

    project: str
    slug: str
    checkpoint: JobCheckpoint
    digest: bytes | None = None
    last_start: float | None = None


def checkpoint_key(job_id: str) -> str:
    """Return the name of a job's checkpoint in the state."""
    return f"job/{job_id}"


def encode_checkpoint(job_id: str, checkpoint: JobCheckpoint) -> dict[str, str]:
    """Return a job's checkpoint as the state keeps it, by its name."""
    return {checkpoint_key(job_id): msgspec.json.encode(checkpoint).decode()}


def decode_checkpoint(text: str | None) -> JobCheckpoint:
    """Return a job's checkpoint; of a job without one, that of a job never read."""
    return JobCheckpoint(whole=False) if text is None else msgspec.json.decode(text, type=JobCheckpoint)
