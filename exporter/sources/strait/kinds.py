"""The two kinds of runs (job runs and workflow runs), and the meanings of their statuses."""

import msgspec

from exporter.config.source import DAY
from exporter.model import Result, State
from exporter.sources.rest import StatusTable
from exporter.sources.strait.api import (
    COMPENSATING,
    EXPIRED,
    JOBS,
    RUN,
    RUNS,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOWS,
)

REACH = 90 * DAY
"""Assumed retention of runs. The server's operator configures it."""

DEAD_LETTER = "dead_letter"

# Statuses of job runs. Active statuses are in the order in which a run has them.
RUN_STATUSES: StatusTable = {
    "delayed": State.PENDING,
    "replay_staged": State.PENDING,
    "queued": State.PENDING,
    "dequeued": State.PENDING,
    "executing": State.EXECUTING,
    "waiting": State.PENDING,
    "paused": State.PENDING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    # All retries have failed.
    DEAD_LETTER: Result.FAILURE,
    "crashed": Result.ERROR,
    "system_failed": Result.ERROR,
    "timed_out": Result.TIMEOUT,
    "canceled": Result.CANCELLATION,
    # The run never ran: see `to_run`.
    EXPIRED: Result.SKIP,
}

WORKFLOW_STATUSES: StatusTable = {
    "pending": State.PENDING,
    "running": State.EXECUTING,
    "paused": State.PENDING,
    COMPENSATING: State.EXECUTING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    "timed_out": Result.TIMEOUT,
    "canceled": Result.CANCELLATION,
    "compensated": Result.FAILURE,
    "compensation_failed": Result.ERROR,
    # The vendor documents this status only for job runs.
    EXPIRED: Result.SKIP,
}
"""Statuses of workflow runs."""

STEP_STATUSES: StatusTable = {
    "pending": State.PENDING,
    "waiting": State.PENDING,
    "running": State.EXECUTING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    "skipped": Result.SKIP,
    "canceled": Result.CANCELLATION,
}
"""Statuses of a workflow run's steps."""


class RunKind(msgspec.Struct, frozen=True, kw_only=True):
    """Job runs or workflow runs: their scope in the ledger, their paths, and the meanings of their statuses."""

    scope: str
    jobs: str
    runs: str
    run: str
    statuses: StatusTable
    workflow: bool


KINDS = (
    RunKind(scope="", jobs=JOBS, runs=RUNS, run=RUN, statuses=RUN_STATUSES, workflow=False),
    RunKind(
        scope="workflows",
        jobs=WORKFLOWS,
        runs=WORKFLOW_RUNS,
        run=WORKFLOW_RUN,
        statuses=WORKFLOW_STATUSES,
        workflow=True,
    ),
)
