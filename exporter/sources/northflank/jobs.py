"""Projects and jobs as the source tracks them, in memory and in checkpoints."""

import msgspec

from exporter.model import Job
from exporter.sources.northflank.api import JobSchedule, NorthflankJob
from exporter.sources.northflank.page_cursor import PageCursor
from exporter.sources.view import View


class JobCheckpoint(msgspec.Struct, frozen=True, array_like=True):
    """A job's checkpoint in the state, which keeps checkpoints longer than runs.

    Attributes:
        read_at: Time of the last complete read of the job's runs; None before the first.
        schedule: The job's schedule.
        schedule_read_at: Time at which the schedule was read.
        unused: Earlier versions stored a value here.
        older_runs_read: Whether older pages, which the first read skips, were searched for active runs.
    """

    read_at: float | None = None
    schedule: JobSchedule = JobSchedule()
    schedule_read_at: float | None = None
    unused: int = 0
    older_runs_read: bool = True

    def after(self, cursor: PageCursor) -> "JobCheckpoint":
        """Return the checkpoint after the pages of a job were read."""
        read_at = cursor.began if cursor.complete else self.read_at
        older_runs_read = self.older_runs_read if self.read_at is not None else not cursor.skipped
        return msgspec.structs.replace(self, read_at=read_at, older_runs_read=older_runs_read)


class UnlistedRun(msgspec.Struct, frozen=True):
    """An active run that no page shows. It is requested by ID. `read_at`, `tried_at`: last success and last try."""

    read_at: float | None = None
    tried_at: float | None = None


class TrackedJob(msgspec.Struct, kw_only=True):
    """A job as its project's list last showed it.

    Attributes:
        row: The job's row in the list.
        checkpoint: The committed checkpoint.
        first_listed: Time at which the list first showed the job.
        requested: Time of the last request for its runs, whether it succeeded or not.
        failed: Whether that request failed.
        first_page: Hash of the first page of runs in the last committed read.
        changed: Whether that page differs from the one before.
        last_start: The latest start of a run in that read.
        unlisted_open_runs: Active runs that no page shows, by ID.
        cursor: Position in the pages of runs, if a poll had no time to read all pages.
        older_cursor: Position in the older pages, until they have been searched for active runs.
        missing_since: Since when the list does not show the job; None if it does.
        not_found_since: Since when requests for its runs return 404; None if they do not.
    """

    row: NorthflankJob
    checkpoint: JobCheckpoint
    first_listed: float
    requested: float | None
    failed: bool = False
    first_page: bytes = b""
    changed: bool = False
    last_start: float | None = None
    unlisted_open_runs: dict[str, UnlistedRun] = {}
    cursor: PageCursor | None = None
    older_cursor: PageCursor | None = None
    missing_since: float | None = None
    not_found_since: float | None = None

    @property
    def part(self) -> str:
        """Return the name for the job's runs in errors."""
        return f"runs of job {self.row.job_id}"

    @property
    def exists(self) -> bool:
        """Return whether the job exists: the list shows it, or its runs were read after it went missing there."""
        read_at = self.checkpoint.read_at
        return self.missing_since is None or (read_at is not None and read_at > self.missing_since)

    def job(self) -> Job:
        """Return the job for the ledger."""
        return self.row.job(self.checkpoint.schedule)

    def schedule_age(self, now: float) -> float:
        """Return the seconds since its schedule was read; infinite if never, or if that time is in the future."""
        read_at = self.checkpoint.schedule_read_at
        return float("inf") if read_at is None or read_at > now else now - read_at


class Project(msgspec.Struct, kw_only=True):
    """A project.

    Attributes:
        last_listed: Time of the last committed list of its jobs.
        due: Time from which its jobs are listed again.
        failed: Whether the last list of its jobs failed.
        readable: Whether the credential may list its jobs.
        listed: Whether the list of projects shows it.
        missing_jobs: Since when the list does not show a job that has active runs, by the job's ID.
    """

    name: str
    jobs: dict[str, TrackedJob] = {}
    last_listed: float | None = None
    due: float = 0.0
    failed: bool = False
    readable: bool = True
    listed: bool = True
    missing_jobs: dict[str, float] = {}

    @property
    def part(self) -> str:
        """Return the name for the project's list of jobs in errors."""
        return f"jobs of project {self.name}"

    def included(self, view: View) -> list[TrackedJob]:
        """Return the jobs that the config includes."""
        return [job for job in self.jobs.values() if view.includes(job.row.name)]


def checkpoint_key(job_id: str) -> str:
    """Return the name of a job's checkpoint in the state."""
    return f"job/{job_id}"


def encode_checkpoint(job_id: str, checkpoint: JobCheckpoint) -> dict[str, str]:
    """Return a job's checkpoint as JSON, by its name in the state."""
    return {checkpoint_key(job_id): msgspec.json.encode(checkpoint).decode()}


def decode_checkpoint(text: str | None) -> JobCheckpoint:
    """Return a job's checkpoint; a new one if the state has none."""
    return JobCheckpoint(older_runs_read=False) if text is None else msgspec.json.decode(text, type=JobCheckpoint)
