"""Reports made by hand, without state or vendor."""

import msgspec

from exporter.model import Result, State
from exporter.queries.errors import QueryError
from exporter.queries.filters import JobQuery, RunQuery
from exporter.queries.records import (
    BudgetReport,
    CompletedRun,
    JobList,
    JobReport,
    LogReport,
    Problem,
    Range,
    RunList,
    RunPage,
    RunReport,
    SourceReport,
    StepReport,
    Usual,
)

NOW = 1_763_800_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def source(name="snow", **changes):
    given = {
        "provider": "snowplow",
        "api_url": "https://api.example.com",
        "up": True,
        "last_poll": NOW - 12,
        "last_poll_duration": 0.8,
        "last_outcome": "success",
        "last_success": NOW - 12,
        "poll_interval": 60.0,
        "watermark": NOW - 75,
        "lag": 75.0,
        "baseline": NOW - 7 * DAY,
        "scopes_readable": 1,
        "jobs": 3,
        "budget": BudgetReport(requests_per_minute=60, limit=1000, remaining=870, reset=NOW + 600),
    }
    return SourceReport(name=name, **{**given, **changes})


def endings(*results, gap=HOUR):
    return tuple(
        CompletedRun(run_id=f"run-{n}", result=result, end=NOW - (len(results) - n) * gap, duration=60 + n)
        for n, result in enumerate(results)
    )


WELL = (Result.SUCCESS,) * 12


def job(job_name="orders", **changes):
    recent = changes.pop("recent", endings(*WELL))
    given = {
        "source": "snow",
        "project": "prod",
        "job_id": f"id-of-{job_name}",
        "discovered": NOW - 30 * DAY,
        "last_run": recent[-1] if recent else None,
        "last_success": NOW - HOUR,
        "next_expected": NOW + HOUR,
        "status": "ok",
        "recent": recent,
    }
    return JobReport(job_name=job_name, **{**given, **changes})


def failing(job_name="sessions", **changes):
    given = {
        "status": "failing",
        "streak": 3,
        "recent": endings(*WELL[:6], *(Result.FAILURE,) * 3),
        "last_failed_run": "run-8",
        "failed_step": "load",
        "last_success": NOW - 4 * HOUR,
        "failing_since": NOW - 3 * HOUR,
    }
    return job(job_name, **{**given, **changes})


def problem(**changes):
    given = {
        "severity": "critical",
        "kind": "JobrunLastRunFailed",
        "subject": "snow / prod / sessions",
        "source": "snow",
        "project": "prod",
        "job_name": "sessions",
        "since": NOW - 3 * HOUR,
        "sentence": "The last 3 runs failed in load.",
        "link": "/runs?source=snow&project=prod&job_name=sessions",
    }
    return Problem(**{**given, **changes})


def run(run_id="run-8", **changes):
    given = {
        "source": "snow",
        "project": "prod",
        "job_name": "sessions",
        "job_id": "id-of-sessions",
        "result": Result.FAILURE,
        "start": NOW - HOUR - 90,
        "end": NOW - HOUR,
        "duration": 90.0,
        "mark": "counted",
        "endings": 1,
        "seen": NOW - HOUR,
        "url": f"/runs/snow/{run_id}",
        "vendor_url": f"https://console.example.com/runs/{run_id}",
    }
    return RunReport(run_id=run_id, **{**given, **changes})


def step(name, begin, end, result=Result.SUCCESS, after=(), **changes):
    start = NOW - HOUR - 90
    given = {"start": start + begin, "end": start + end, "duration": float(end - begin), "dependencies": tuple(after)}
    return StepReport(name=name, result=result, **{**given, **changes})


STEPS = (
    step("extract", 0, 20, usual=18.0),
    step("clean", 20, 40, after=["extract"], usual=25.0),
    step("load", 40, 88, Result.FAILURE, after=["clean"], usual=20.0),
    step("enrich", 20, 30, after=["extract"]),
    StepReport(name="publish", result=Result.SKIP, dependencies=("load", "enrich")),
)


def run_page(**changes):
    given = {
        "run": run(),
        "job": failing(),
        "steps": STEPS,
        "steps_from": "api",
        "failed_step": "load",
        "usual": Usual(runs=12, p50=60.0, p95=75.0, budget=None),
        "previous": tuple(run(f"run-{number}", result=Result.SUCCESS) for number in range(7, 0, -1)),
        "logs": True,
    }
    return RunPage(**{**given, **changes})


class FakeReports:
    """Reports whose answers a test sets."""

    def __init__(self):
        self.begin()

    def begin(self):
        vars(self).clear()
        self.now = NOW
        self.listed_sources = (source(),)
        self.listed_jobs = (failing(), job(), job("costs", project="qa"))
        self.listed_problems = (problem(),)
        self.listed_runs = (run(), run("run-9", result=None, state=State.EXECUTING, end=None, duration=None))
        self.pages = {("snow", "run-8"): run_page()}
        self.output = LogReport(
            source="snow", run_id="run-8", step="load", stdout="40 rows\n", stderr="no space left\n"
        )
        self.requested = []

    def sources(self):
        return self.listed_sources

    def problems(self):
        return self.listed_problems

    def jobs(self, wanted: JobQuery):
        self.requested.append(wanted)
        fitting = [each for each in self.listed_jobs if wanted.search in each.job_name]
        chosen = [each for each in fitting if wanted.status in ("", each.status)]
        statuses = {}
        for each in fitting:
            statuses[each.status] = statuses.get(each.status, 0) + 1
        start = (wanted.page - 1) * wanted.limit
        return JobList(
            jobs=tuple(chosen[start : start + wanted.limit]),
            total=len(chosen),
            page=wanted.page,
            pages=max(1, -(-len(chosen) // wanted.limit)),
            statuses=statuses,
        )

    def runs(self, wanted: RunQuery):
        self.requested.append(wanted)
        start = int(wanted.cursor or 0)
        chosen = [each for each in self.listed_runs if wanted.run_id in ("", each.run_id)]
        cursor = str(start + wanted.limit) if len(chosen) > start + wanted.limit else ""
        return RunList(runs=tuple(chosen[start : start + wanted.limit]), cursor=cursor)

    def run(self, source, run_id, *, live=True):
        assert live
        try:
            return self.pages[source, run_id]
        except KeyError:
            raise QueryError(404, "no such run is known") from None

    def log(self, source, run_id, step):
        if not self.pages[source, run_id].logs:
            raise QueryError(403, "output is shown only with web.logs: true")
        return msgspec.structs.replace(self.output, run_id=run_id, step=step)


ALL_BROKEN = (
    source(
        up=False,
        last_outcome="error",
        last_reason="auth",
        last_error="The API refused the key (401).",
        watermark=NOW - 5 * HOUR,
    ),
    source(
        "flow",
        provider="workato",
        up=False,
        last_outcome="partial",
        last_reason="http_4xx",
        last_error="2 scopes may not be read.",
        scopes_unreadable=2,
        unreadable=("north", "south"),
        unobserved_seconds=7200.0,
        unobserved=(Range(NOW - DAY, NOW - DAY + 7200),),
        truncated=4,
        last_truncated=NOW - HOUR,
        steps_lost=1,
        unmapped={"paused_by_admin": 3},
        credential_expiry=NOW + 2 * DAY,
        budget=BudgetReport(requests_per_minute=30, limit=100, remaining=4),
    ),
)
