"""Strait: its settings, and a source that reads the job runs and the workflow runs of one project."""

from collections.abc import Iterator, Sequence

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.source import MINUTE
from exporter.errors import AuthError, ForbiddenError, NotFoundError, RateLimitedError, SourceError
from exporter.model import Batch, Result, Run, Step
from exporter.sources.parts import PollParts
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.strait.api import (
    EXPORT,
    JOBS,
    RUN,
    RUNS,
    STEP_STATUSES,
    STEPS,
    TIMELINE,
    WORKFLOW,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOWS,
    parse_error,
    parse_steps,
    path,
    statuses,
)
from exporter.sources.strait.part import KINDS, REACH, Part
from exporter.sources.strait.settings import StraitSettings

MOST_STEPS = 100
"""Steps that a list of them holds; all were created at one time, so that there is no second page."""


class StraitSource:
    """Reads the runs and the workflow runs of the project to which an API key belongs.

    Args:
        settings: Its configuration.
        client: Its API.
    """

    def __init__(self, settings: StraitSettings, client: Client) -> None:
        self._client = client
        self._parts = {kind.scope: Part(kind, settings, settings.status_map, client) for kind in KINDS}
        self._parts_failing = PollParts()
        self._step_statuses = statuses(STEP_STATUSES, settings.status_map)

    def fetch(self, view: View) -> Iterator[Batch]:
        """One poll of both parts. One that the key may not read is left out, unless it may read neither.

        What could not be read costs no more than itself. Raises PartialError for it, once all else is read.
        """
        self._parts_failing.begin()
        refused: list[SourceError] = []
        failed: list[SourceError] = []
        for scope, part in self._parts.items():
            name = part.kind.runs
            try:
                yield from part.fetch(view, self._parts_failing)
            except (AuthError, RateLimitedError):
                raise
            except (ForbiddenError, NotFoundError) as error:
                refused.append(error)
                yield Batch(scope=scope, readable=False)
            except SourceError as error:
                failed.append(error)
                self._parts_failing.failed(name, error, view)
                if self._parts_failing.lasts(name, view.now):
                    yield Batch(scope=scope, readable=False)
            else:
                self._parts_failing.answered(name)
        if len(refused) + len(failed) == len(self._parts):
            raise (failed or refused)[0]
        self._parts_failing.raise_errors()

    def committed(self, batch: Batch) -> None:
        """Remembers rows that are in the state."""
        if isinstance(batch.memory, dict):
            self._parts[batch.scope].committed(batch.memory)

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """The steps of a workflow run that has ended; more than a list can hold come from its timeline."""
        if not run.job_id.startswith(WORKFLOW):
            return []
        limit = {"limit": MOST_STEPS}
        answer = self._client.get(path(STEPS, run.run_id), endpoint=STEPS, params=limit, patience=patience)
        steps, more = parse_steps(answer.body, self._step_statuses)
        if not more and len(steps) < MOST_STEPS:
            return steps
        answer = self._client.get(path(TIMELINE, run.run_id), endpoint=TIMELINE, patience=patience)
        return parse_steps(answer.body, self._step_statuses)[0]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """The error text of a run, or of a workflow run's step, for a person who asked for it."""
        is_workflow = run.job_id.startswith(WORKFLOW)
        if step_name and not is_workflow:
            raise NotFoundError("runs of jobs have no steps here", 404)
        if step_name:
            limit = {"limit": MOST_STEPS}
            answer = self._client.get(path(STEPS, run.run_id), endpoint=STEPS, params=limit, patience=patience)
        else:
            endpoint = WORKFLOW_RUN if is_workflow else RUN
            answer = self._client.get(path(endpoint, run.run_id), endpoint=endpoint, patience=patience)
        return parse_error(answer.body, step_name)

    def probe(self) -> str:
        """Asks once for each list, and says which of them the key may not read."""
        refused = []
        for endpoint in (RUNS, JOBS, WORKFLOWS, WORKFLOW_RUNS):
            try:
                self._client.get(endpoint, endpoint=endpoint, params={"limit": 1})
            except ForbiddenError:
                refused.append(endpoint)
        if RUNS in refused:
            raise ForbiddenError("the key may not read runs: it lacks the scope runs:read", 403)
        return "the key may not read " + ", ".join(refused) if refused else "the key may read all that is needed"

    def round_seconds(self) -> float:
        """Every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def _access(settings: StraitSettings) -> Access:
    root = settings.base_url.rstrip("/") + StraitSettings.api_path
    secret = settings.auth.api_key
    return Access(root=root, auth=BearerAuth(secret.reveal), credential=f"{root} {hash(secret)}")


TYPE = SourceType(
    settings=StraitSettings,
    build=StraitSource,
    access=_access,
    identity=lambda settings: f"strait {settings.base_url}",
    results=tuple(Result),
    attempts=True,
    has_steps=True,
    reopens=True,
    endpoints=(JOBS, RUNS, RUN, WORKFLOWS, WORKFLOW_RUNS, WORKFLOW_RUN, STEPS, TIMELINE, EXPORT),
    reach=REACH,
    poll_requests=14,
    auth_backoff=5 * MINUTE,
)
