"""Reads Strait: the job runs and the workflow runs of one project."""

from collections.abc import Iterator, Sequence

from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.errors import ForbiddenError, NotFoundError, SourceError
from exporter.model import Batch, Result, Run, Step
from exporter.sources.rest import REFUSALS, bearer_access, status_table
from exporter.sources.source import Source, SourceType, StepLog
from exporter.sources.strait.api import (
    EXPORT,
    JOBS,
    RUN,
    RUNS,
    STEPS,
    TIMELINE,
    WORKFLOW,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOWS,
    parse_error,
    parse_steps,
    run_path,
)
from exporter.sources.strait.kinds import KINDS, REACH, STEP_STATUSES
from exporter.sources.strait.run_reader import RunReader
from exporter.sources.strait.settings import StraitSettings
from exporter.sources.view import View

# Steps per page. All steps of a run have one creation time, so no cursor leads to a second page.
MAX_STEPS = 100


class StraitSource(Source):
    """Reads the job runs and the workflow runs of the project to which the API key belongs."""

    def __init__(self, settings: StraitSettings, client: Client) -> None:
        super().__init__(client)
        self._readers = [RunReader(kind, settings, client, self._failing) for kind in KINDS]
        self._step_statuses = status_table(STEP_STATUSES, settings.status_map)

    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll both kinds of runs. A kind that the API key may not read is skipped, unless it may read neither.

        Raises PartialError for an unreadable kind, after the other kind is read.
        """
        self._failing.start_poll()
        refused: list[SourceError] = []
        failed: list[SourceError] = []
        for reader in self._readers:
            part, unreadable = reader.kind.runs, Batch(scope=reader.kind.scope, readable=False)
            try:
                with self._failing.read(part, view, raising=REFUSALS):
                    yield from reader.fetch(view)
            except REFUSALS as error:
                refused.append(error)
                yield unreadable
            if part in self._failing.errors:
                failed.append(self._failing.errors[part])
                if self._failing.is_overdue(part, view.now):
                    yield unreadable
        if len(refused) + len(failed) == len(self._readers):
            raise (failed or refused)[0]
        self._failing.raise_errors((reader.kind.runs for reader in self._readers), view.now)

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """Return the steps of a completed workflow run, from its timeline if the list of steps is too long."""
        if not run.job_id.startswith(WORKFLOW):
            return []
        steps, more = parse_steps(self._get(STEPS, run, patience, MAX_STEPS), self._step_statuses)
        if not more and len(steps) < MAX_STEPS:
            return steps
        return parse_steps(self._get(TIMELINE, run, patience), self._step_statuses)[0]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """Return the error text of a run, or of a workflow run's step."""
        is_workflow = run.job_id.startswith(WORKFLOW)
        if step_name and not is_workflow:
            raise NotFoundError("runs of jobs have no steps here", 404)
        if step_name:
            return parse_error(self._get(STEPS, run, patience, MAX_STEPS), step_name)
        return parse_error(self._get(WORKFLOW_RUN if is_workflow else RUN, run, patience), "")

    def _get(self, endpoint: str, run: Run, patience: float | None, limit: int = 0) -> bytes:
        params = {"limit": limit} if limit else None
        return self._client.get(run_path(endpoint, run.run_id), endpoint=endpoint, params=params, patience=patience)

    def probe(self) -> str:
        """Request each list once, and report the lists that the API key may not read."""
        refused = []
        for endpoint in (RUNS, JOBS, WORKFLOWS, WORKFLOW_RUNS):
            try:
                self._client.get(endpoint, endpoint=endpoint, params={"limit": 1})
            except ForbiddenError:
                refused.append(endpoint)
        if RUNS in refused:
            raise ForbiddenError("the key may not read runs: it lacks the scope runs:read", 403)
        return "the key may not read " + ", ".join(refused) if refused else "the key may read all that is needed"


TYPE = SourceType(
    settings=StraitSettings,
    build=StraitSource,
    access=lambda settings: bearer_access(settings, settings.auth.api_key),
    results=tuple(Result),
    has_attempts=True,
    has_steps=True,
    reopens=True,
    endpoints=(JOBS, RUNS, RUN, WORKFLOWS, WORKFLOW_RUNS, WORKFLOW_RUN, STEPS, TIMELINE, EXPORT),
    reach=REACH,
    poll_requests=14,
    auth_backoff=5 * MINUTE,
)
