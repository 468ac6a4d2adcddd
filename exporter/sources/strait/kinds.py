"""Job runs and workflow runs, which are read in the same way."""

import msgspec

from exporter.config.source import DAY
from exporter.sources.rest import StatusTable
from exporter.sources.strait.api import (
    JOBS,
    RUN,
    RUNS,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOWS,
)
from exporter.sources.strait.statuses import RUN_STATUSES, WORKFLOW_STATUSES

REACH = 90 * DAY
"""Assumed retention of runs in seconds. The server's operator configures it."""


class PartKind(msgspec.Struct, frozen=True, kw_only=True):
    """Job runs or workflow runs. `scope`: its scope in the ledger."""

    scope: str
    jobs: str
    runs: str
    run: str
    statuses: StatusTable
    workflow: bool


KINDS = (
    PartKind(scope="", jobs=JOBS, runs=RUNS, run=RUN, statuses=RUN_STATUSES, workflow=False),
    PartKind(
        scope="workflows",
        jobs=WORKFLOWS,
        runs=WORKFLOW_RUNS,
        run=WORKFLOW_RUN,
        statuses=WORKFLOW_STATUSES,
        workflow=True,
    ),
)
