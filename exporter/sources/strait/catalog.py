"""The list of a project's jobs or workflows. Rows of runs have only the IDs of their jobs; the list has the names."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from exporter.client.client import Client
from exporter.model import Batch, Job
from exporter.sources.failing import FailingParts
from exporter.sources.rest import REFUSALS
from exporter.sources.strait.api import parse_job, unlisted_job
from exporter.sources.strait.kinds import RunKind
from exporter.sources.strait.lists import PageReader
from exporter.sources.view import View

LIST_POLLS = 10
"""Polls between two reads of the list. It is also read when a run has an unknown job."""

# Maximum number of pages of the list: enough for 100,000 jobs.
MAX_JOB_PAGES = 1000


class JobCatalog:
    """The jobs, or the workflows, of the project."""

    def __init__(self, kind: RunKind, client: Client, failing: FailingParts) -> None:
        self._kind = kind
        self._failing = failing
        parse = partial(parse_job, scope=kind.scope, workflow=kind.workflow)
        self._list = PageReader(client, kind.jobs, parse, max_pages=MAX_JOB_PAGES)
        self._jobs: dict[str, Job] = {}
        self._unlisted: set[str] = set()
        self._age = LIST_POLLS

    def is_due(self) -> bool:
        """Count a poll. Return whether this poll reads the list."""
        self._age += 1
        return self._age > LIST_POLLS

    def get(self, job_id: str) -> Job | None:
        """Return a listed job; None if the list does not have it."""
        return self._jobs.get(job_id)

    @property
    def project(self) -> str:
        """Return the project of the API key, as the listed jobs show it."""
        return next((job.project for job in self._jobs.values()), "")

    def read(self, view: View) -> Iterator[Batch]:
        """Read the list. If that fails, the last list stays."""
        with self._failing.read(self._kind.jobs, view, raising=REFUSALS):
            pages = list(self._list.pages())
            # If more jobs were created at one time than the list can show, a missing job may still exist.
            complete = all(page.burst is None for page in pages)
            jobs = {row.job.job_id: row.job for page in pages for row in page.rows}
            self._jobs = jobs if complete else self._jobs | jobs
            self._unlisted, self._age = set(), 1
            yield Batch(scope=self._kind.scope, jobs=list(self._jobs.values()), catalog=complete)

    def look_up(self, job_ids: Collection[str], view: View) -> Iterator[Batch]:
        """Read the list again if it lacks one of these jobs. A job that it still lacks was deleted or is hidden."""
        unknown = any(each not in self._jobs and each not in self._unlisted for each in job_ids)
        if unknown and self._kind.jobs not in self._failing.errors:
            yield from self.read(view)
        if self._kind.jobs not in self._failing.errors or self._failing.is_overdue(self._kind.jobs, view.now):
            self._unlisted |= {each for each in job_ids if each not in self._jobs}

    def known_jobs(self, view: View) -> frozenset[str]:
        """Return the IDs of jobs that are listed, in the state, or known to be unlisted."""
        return view.job_ids | self._jobs.keys() | self._unlisted

    def jobs_of(self, projects: Mapping[str, str], view: View) -> list[Job]:
        """Return jobs, without unlisted jobs that are in the state. `projects`: the project of each job by its ID."""
        listed = [self._jobs[job_id] for job_id in projects if job_id in self._jobs]
        unlisted = sorted(projects.keys() - self._jobs.keys() - view.job_ids)
        scope, workflow = self._kind.scope, self._kind.workflow
        return listed + [unlisted_job(each, projects[each], scope=scope, workflow=workflow) for each in unlisted]
