"""The list of a project's jobs or workflows, which has the names of runs' jobs."""

from collections.abc import Collection, Mapping

from exporter.client.client import Client
from exporter.model import Batch, Job
from exporter.sources.failing import FailingParts
from exporter.sources.rest import REFUSALS
from exporter.sources.strait.api import JOB_ROW, StraitJob, to_job, unlisted_job
from exporter.sources.strait.kinds import PartKind
from exporter.sources.strait.pages import Lists
from exporter.sources.view import View

LIST_POLLS = 10
"""Polls per read of the list. It is also read when a run has an unknown job."""

# Pages of the list: 100,000 jobs.
MAX_JOB_PAGES = 1000


class Catalog:
    """The list of jobs of one kind."""

    def __init__(self, kind: PartKind, client: Client, failing: FailingParts) -> None:
        self._kind = kind
        self._failing = failing
        self._list: Lists[StraitJob] = Lists(client, kind.jobs, JOB_ROW, max_pages=MAX_JOB_PAGES)
        self._jobs: dict[str, Job] = {}
        self._unlisted: set[str] = set()
        self._age = LIST_POLLS

    def is_due(self) -> bool:
        """Count a poll. Return whether this poll reads the list."""
        self._age += 1
        return self._age > LIST_POLLS

    def get(self, job_id: str) -> Job | None:
        """Return a listed job."""
        return self._jobs.get(job_id)

    @property
    def project(self) -> str:
        """Return the project of the API key, as the listed jobs show it."""
        return next((job.project for job in self._jobs.values()), "")

    def read(self, view: View) -> Batch | None:
        """Read the list. Return None and keep the last list if that fails."""
        with self._failing.read(self._kind.jobs, view, raising=REFUSALS):
            rows = [row for page in self._list.pages() for row in page.rows]
            jobs = [to_job(row, scope=self._kind.scope, workflow=self._kind.workflow) for row in rows]
            self._jobs = {job.job_id: job for job in jobs}
            self._unlisted, self._age = set(), 1
            return Batch(scope=self._kind.scope, jobs=list(self._jobs.values()), catalog=True)
        return None

    def lacks(self, job_ids: Collection[str]) -> bool:
        """Return whether one of these jobs is unknown, so that this poll should read the list."""
        unknown = any(each not in self._jobs and each not in self._unlisted for each in job_ids)
        return unknown and self._kind.jobs not in self._failing.errors

    def note_unlisted(self, job_ids: Collection[str], view: View) -> None:
        """Remember jobs that are not in the list, because they were deleted."""
        if self._kind.jobs not in self._failing.errors or self._failing.is_overdue(self._kind.jobs, view.now):
            self._unlisted |= {each for each in job_ids if each not in self._jobs}

    def named(self, view: View) -> frozenset[str]:
        """Return the IDs of the jobs whose names are known."""
        return view.job_ids | self._jobs.keys() | self._unlisted

    def jobs_of(self, projects: Mapping[str, object], view: View) -> list[Job]:
        """Return jobs, without deleted jobs that are in the state. `projects`: the project of each job by its ID."""
        listed = [self._jobs[job_id] for job_id in projects if job_id in self._jobs]
        deleted = projects.keys() - self._jobs.keys() - view.job_ids
        scope, workflow = self._kind.scope, self._kind.workflow
        return listed + [unlisted_job(each, projects[each], scope=scope, workflow=workflow) for each in sorted(deleted)]
