"""Projects and jobs as the source tracks them, in memory and in checkpoints."""

import msgspec

from exporter.model import Job
from exporter.sources.northflank.page_cursor import PageCursor
from exporter.sources.northflank.request_queue import JobSchedule, PollTier, tier_of


class NorthflankJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a project's list. `slug`: its ID, unique in the project. `enabled`: None without a schedule."""

    project: str
    slug: str
    name: str
    cron: bool
    enabled: bool | None

    @property
    def job_id(self) -> str:
        """Return the job's ID, unique in the account."""
        return f"{self.project}/{self.slug}"

    def job(self, schedule: JobSchedule) -> Job:
        """Return the job for the ledger, with its project as scope."""
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
    """A job's checkpoint in the state, which outlives its runs.

    Attributes:
        read: When its runs were last read completely; None before the first read.
        schedule: Its schedule.
        detailed: When the schedule was read.
        unused: Kept for its place in stored checkpoints.
        whole: Whether the first read has also read all older active runs.
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
    """An active run that no page shows. `read`: when it was last read by its ID. `tried`: when that was last tried."""

    read: float | None = None
    tried: float | None = None


class TrackedJob(msgspec.Struct, kw_only=True):
    """A job as its project's list last showed it.

    Attributes:
        row: The job's row in the list.
        checkpoint: The committed checkpoint.
        listed: When the list first showed the job.
        requested: When its runs were last requested, with or without success.
        failed: Whether that request failed.
        digest: Hash of the first page of the last committed response.
        changed: Whether that page differed from the previous one.
        unlisted_open_runs: Active runs that no page shows, by ID.
        last_start: Latest start of its runs.
        cursor: Position in the pages, if a poll had no time to read all.
        older: Position in the pages after those of the first read, while they are read for active runs.
        missing_since: Since when the list has not shown the job.
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
        """Return the name of its runs in errors."""
        return f"runs of job {self.row.job_id}"

    @property
    def is_shown(self) -> bool:
        """Return whether the project's list shows the job, or its runs were read after it had disappeared there."""
        read = self.checkpoint.read
        return self.missing_since is None or (read is not None and read > self.missing_since)

    def job(self) -> Job:
        """Return the job for the ledger."""
        return self.row.job(self.checkpoint.schedule)

    def tier(self, now: float, poll_interval: float, *, is_open: bool) -> PollTier:
        """Return how often the job is polled. It counts as busy until this process has read its runs."""
        return tier_of(
            now,
            poll_interval,
            is_open=is_open or self.changed,
            enabled=None if self.checkpoint.read is None else self.row.enabled,
            schedule=self.checkpoint.schedule,
            last_start=self.last_start if self.digest else now,
        )

    def schedule_age(self, now: float) -> float:
        """Return the seconds since its schedule was read; infinite if never, or if the time is in the future."""
        read = self.checkpoint.detailed
        return float("inf") if read is None or read > now else now - read


class Project(msgspec.Struct, kw_only=True):
    """A project.

    Attributes:
        listed: Time of the last committed list of its jobs.
        due: When its jobs are listed next.
        failed: Whether the last attempt to list them failed.
        readable: Whether the credential may list its jobs.
        known: Whether the list of projects shows it.
        absent: Since when each job with active runs is missing in its list, by job ID.
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
        """Return the name of its list of jobs in errors."""
        return f"jobs of project {self.name}"


class ListCommit(msgspec.Struct, frozen=True):
    """Changes in memory after a list of jobs is committed."""

    project: str
    at: float


class JobCommit(msgspec.Struct, frozen=True, kw_only=True):
    """Changes in memory after a batch of a job is committed."""

    project: str
    slug: str
    checkpoint: JobCheckpoint
    digest: bytes | None = None
    last_start: float | None = None


def checkpoint_key(job_id: str) -> str:
    """Return the name of a job's checkpoint in the state."""
    return f"job/{job_id}"


def encode_checkpoint(job_id: str, checkpoint: JobCheckpoint) -> dict[str, str]:
    """Return a job's checkpoint as JSON, by its name in the state."""
    return {checkpoint_key(job_id): msgspec.json.encode(checkpoint).decode()}


def decode_checkpoint(text: str | None) -> JobCheckpoint:
    """Return a job's checkpoint; a new one if the state has none."""
    return JobCheckpoint(whole=False) if text is None else msgspec.json.decode(text, type=JobCheckpoint)
