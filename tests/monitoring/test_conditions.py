"""Rules and status page find the same problems in the same minutes."""

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import yaml

from exporter.counting.records import JobState, LastFailure, LastRun
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Level
from exporter.model import Job, Result, State
from exporter.queries.problems import find_problems
from exporter.queries.records import BudgetReport, Range, SourceReport
from exporter.snapshot.conditions import KINDS, MANY_JOBS, NOT_ON_PAGE
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import ExporterView, Reload
from tests.e2e.processes import require_tool
from tests.monitoring.test_rules import ALERTS, RULES_FILE

STEPS = 180

CONDITIONS = {
    "JobrunManyJobsFailing": "jobrun:many_jobs_failing_of_source:held or jobrun:many_jobs_failing_of_project:held",
    "JobrunFailingRepeatedly": "jobrun:failing_repeatedly:held",
    "JobrunLastRunFailed": "jobrun:last_run_failed:held",
    "JobrunFailureRecovered": "jobrun:failure_recovered:held",
    "JobrunNoRecentSuccess": "jobrun:no_recent_success:held",
    "JobrunOverdue": "jobrun:overdue:held",
    "JobrunRunStuck": "jobrun:run_stuck:held",
    "JobrunRunSlow": "jobrun:run_slow:held",
    "JobrunSourceDown": "jobrun:source_down:held",
    "JobrunSourceStale": "jobrun:source_stale:held unless on (source) jobrun:source_down:held",
    "JobrunSourceCoverageGap": "jobrun:source_coverage_gap:held",
    "JobrunSourceTruncated": "jobrun:source_truncated:held",
    "JobrunSourceScopeUnreadable": "jobrun:source_scope_unreadable:held",
    "JobrunSourceRateLimitLow": "jobrun:source_rate_limit_low:held",
    "JobrunSourceCredentialExpiring": "jobrun:source_credential_expiring:held",
    "JobrunObjectiveMatchesNothing": ALERTS["JobrunObjectiveMatchesNothing"]["expr"],
    "JobrunExporterConfigReloadFailed": ALERTS["JobrunExporterConfigReloadFailed"]["expr"],
}
"""The conditions of alerts, without the parts that prevent an alert while a more severe one fires."""

APART = {
    "JobrunExporterStateNotCommitting": "the page knows that the last write failed, a rule only that some did of late",
    "JobrunExporterSeriesOverflow": "the page knows the jobs that are counted together, a rule only how full it is",
}
"""Alerts whose page and rule know different things, and why."""


class WorldState(msgspec.Struct, frozen=True, kw_only=True):
    """What the exporter knows at some minute of a test.

    Attributes:
        jobs: All of source `sp`, whose watermark is the present.
        sources: Other sources.
        unmatched: Objectives that no job matches, of three.
        refused: Why the configuration was refused.
    """

    jobs: tuple[JobView, ...] = ()
    sources: tuple[SourceReport, ...] = ()
    unmatched: tuple[int, ...] = ()
    refused: str = ""


def state(name="load", project="p", **known):
    return JobState(
        key=1,
        source="sp",
        job=Job(job_id="1", name=name),
        project=project,
        name=name,
        discovered=0.0,
        baseline=0.0,
        **known,
    )


def last(minute, result=Result.SUCCESS, duration=60.0):
    end = 60.0 * minute
    return LastRun(run_id="r", result=result, order=end, start=end - duration, end=end, duration=duration)


def failing(minute):
    """Fails at 10, 20 and 40, succeeds at 90."""
    streak = 0 if minute < 10 or minute >= 90 else 1 + (minute >= 20) + (minute >= 40)
    at = max([each for each in (10, 20, 40) if each <= minute], default=None)
    failure = None if at is None else LastFailure(run_id=f"r{at}", order=60.0 * at, end=60.0 * at)
    since = 600.0 if streak else None
    success = 5400.0 if minute >= 90 else 60.0
    return JobView(state=state(streak=streak, failing_since=since, last_failure=failure, last_success=success))


def quickly(minute):
    """Fails three times within a minute, which is too soon to page, and succeeds at 120."""
    on = 10 <= minute < 120
    failure = LastFailure(run_id="r", order=600.0, end=600.0) if minute >= 10 else None
    return JobView(state=state(streak=3 if on else 0, failing_since=600.0 if on else None, last_failure=failure))


def patient(minute):
    return JobView(
        state=state(streak=5, failing_since=0.0, last_failure=LastFailure(run_id="r", order=0.0, end=0.0)),
        failures_to_page=5 + (minute < 60),
    )


def old(minute):
    """Last succeeds at minute 5, has a freshness of an hour, succeeds again at 150."""
    return JobView(state=state(last_success=9000.0 if minute >= 150 else 300.0), freshness=3600.0)


def late(minute):
    """Is due at 20. A run waits from 60 on and starts at 170, which is too late."""
    active = (
        {State.PENDING: (1, 3600.0)} if 60 <= minute < 170 else {State.EXECUTING: (1, 10200.0)} if minute >= 170 else {}
    )
    return JobView(state=state(), active=active, duration_budget=4800.0, next_expected=1200.0)


def hourly(_minute):
    """Waits since 1. Only its interval of an hour is known."""
    return JobView(state=state(), active={State.PENDING: (1, 60.0)}, next_expected=3660.0)


def paused(minute):
    """Waits since 1, and executes from 140 on; is disabled until 100."""
    active = {State.PENDING if minute < 140 else State.EXECUTING: (1, 60.0)}
    known = state()
    known.job = msgspec.structs.replace(known.job, enabled=minute >= 100)
    return JobView(state=known, active=active, duration_budget=1200.0)


def slow(minute):
    """Takes long at 30; takes longer but fails at 60; is quick from 90 on."""
    run = (
        last(30, duration=900.0)
        if 30 <= minute < 60
        else last(60, Result.ERROR, 1200.0)
        if 60 <= minute < 90
        else last(90)
    )
    return JobView(state=state(last_run=run), duration_budget=600.0)


def broken(minute, name, project, since=None, until=STEPS):
    """A job that fails from one minute to another, or not at all."""
    on = since is not None and since <= minute < until
    return JobView(
        state=state(
            name,
            project,
            streak=int(on),
            failing_since=60.0 * since if on else None,
            last_failure=LastFailure(run_id="r", order=60.0 * since, end=60.0 * since) if on else None,
        )
    )


def together(minute):
    """Of 30 jobs in two projects 12 start to fail from 20 on and recover from 100 on, one per minute."""
    failed = (broken(minute, f"job{n}", "a" if n % 3 else "b", 20 + n, 100 + n) for n in range(12))
    return (*failed, *(broken(minute, f"job{n}", "a") for n in range(12, 30)))


def one_by_one(minute):
    """As many jobs start to fail five minutes apart; all jobs of another project fail at once. All recover by 170."""
    slowly = (broken(minute, f"job{n}", "slow", 10 + 5 * n if n < 12 else None, 160 + n) for n in range(20))
    return (*slowly, *(broken(minute, f"job{n}", "alike", 120, 170) for n in range(MANY_JOBS)))


def source(name="ex", **known):
    defaults: dict[str, Any] = {
        "provider": "x",
        "api_url": "",
        "poll_interval": 60.0,
        "budget": BudgetReport(requests_per_minute=60),
    }
    return SourceReport(name=name, **defaults | known)


def unreadable(minute):
    """One source is down from 20 to 50 and behind from 60 to 100; another was never read completely."""
    read = 20 if 20 <= minute < 50 else 60 if 60 <= minute < 100 else minute
    up = not 20 <= minute < 50
    known = source(up=up, watermark=60.0 * read, lag=60.0 * (minute - read))
    return WorldState(sources=(known, source("new", up=True, poll_interval=600.0)))


def losses(minute):
    """Unobserved ranges are found at 30 and 2000; responses are truncated at 75 and 1500."""
    found = [Range(start=0.0, end=600.0 * part) for part, since in ((1, 30), (2, 2000)) if minute >= since]
    seen = max((each for each in (30, 2000) if each <= minute), default=None)
    trimmed = [each for each in (75, 1500) if each <= minute]
    return WorldState(
        sources=(
            source(
                watermark=60.0 * minute,
                lag=0.0,
                unobserved=tuple(reversed(found)),
                unobserved_seconds=sum(each.end for each in found),
                last_unobserved=None if seen is None else 60.0 * seen,
                truncated=len(trimmed),
                last_truncated=60.0 * trimmed[-1] if trimmed else None,
            ),
        )
    )


def access(minute):
    """A rate limit is nearly used up from 20 to 60 and resets at 40; scopes are unreadable from 30 to 70.

    A token is not renewed, with which polls complete until 120.
    """
    left = 9.0 if 20 <= minute < 60 else 10.0
    limit = BudgetReport(requests_per_minute=60, limit=100.0, remaining=left, reset=2400.0 if left < 10.0 else None)
    return WorldState(
        sources=(
            source(
                up=True,
                watermark=60.0 * minute,
                lag=0.0,
                last_poll=60.0 * minute,
                scopes_unreadable=2 if 30 <= minute < 70 else 0,
                credential_expiry=6000.0 if minute < 120 else 99999.0,
                budget=limit,
            ),
        )
    )


def keys(minute):
    """A key valid for three days is replaced after two by one for ten days, which is replaced on its seventh day."""
    first, second = 48 * 60, 150 * 60
    since, expiry = (0.0, 200_000.0) if minute < first else (60.0 * first, 864_000.0)
    if minute >= second:
        since, expiry = 60.0 * second, 9_000_000.0
    return WorldState(
        sources=(source(up=True, watermark=60.0 * minute, lag=0.0, credential_expiry=expiry, credential_since=since),)
    )


def configured(minute):
    """One of three objectives matches nothing from 50 to 90; a changed config is refused from 20 to 80."""
    return WorldState(unmatched=(1,) if 50 <= minute < 90 else (), refused="broken" if 20 <= minute < 80 else "")


WORLDS = {
    **dict.fromkeys((failing, quickly, patient, old, late, hourly, paused, slow, together, one_by_one), 1),
    **dict.fromkeys((unreadable, access, configured), 1),
    losses: 15,
    keys: 60,
}
"""Worlds, and the minutes of a step."""

OF_SOURCE: dict[str, Callable[[SourceReport], float | None]] = {
    "jobrun_source_up": lambda source: source.up,
    "jobrun_source_poll_interval_seconds": lambda source: source.poll_interval,
    "jobrun_source_watermark_timestamp_seconds": lambda source: source.watermark,
    "jobrun_source_last_poll_timestamp_seconds": lambda source: source.last_poll,
    "jobrun_source_unobserved_seconds_total": lambda source: source.unobserved_seconds,
    "jobrun_source_truncated_responses_total": lambda source: source.truncated,
    'jobrun_source_scopes{state="unreadable"}': lambda source: source.scopes_unreadable,
    "jobrun_source_credential_expiry_timestamp_seconds": lambda source: source.credential_expiry,
    "jobrun_source_rate_limit_limit_requests": lambda source: source.budget.limit,
    "jobrun_source_rate_limit_remaining_requests": lambda source: source.budget.remaining,
    "jobrun_source_rate_limit_reset_timestamp_seconds": lambda source: source.budget.reset,
}


def seen(world, minute) -> WorldState:
    found = world(minute)
    if isinstance(found, WorldState):
        return found
    return WorldState(jobs=found if isinstance(found, tuple) else (found,))


def samples(now, minute) -> Iterator[tuple[str, dict[str, str], float]]:
    """Return the name, labels and value of each sample that is served."""
    if now.jobs:
        yield "jobrun_source_watermark_timestamp_seconds", {"source": "sp"}, 60.0 * minute
    for source in now.sources:
        for name, read in OF_SOURCE.items():
            more = {"state": "unreadable"} if "{" in name else {}
            known = read(source)
            if known is not None:
                yield name.split("{")[0], {"source": source.name, **more}, float(known)
    for view in now.jobs:
        of_job = ("sp", view.state.project, view.state.name)
        for family in (each for each in FAMILIES if each.level is Level.JOB):
            for values, value in family.samples(view) if family.samples else ():
                names = ("source", "project", "job_name", *family.labels)
                yield family.name, dict(zip(names, (*of_job, *values), strict=False)), float(value)
    for number in range(3):
        yield "jobrun_objective_jobs", {"objective": str(number)}, float(number not in now.unmatched)
    yield "jobrun_exporter_config_last_reload_successful", {}, float(not now.refused)


def inputs(world, step):
    """Return the series of a promtool test: a value per step, `_` where there is none."""
    found = {}
    for number in range(STEPS):
        for name, labels, value in samples(seen(world, number * step), number * step):
            text = ", ".join(f'{label}="{each}"' for label, each in {"job": "j", "instance": "a", **labels}.items())
            found.setdefault(f"{name}{{{text}}}", {})[number] = value
    for name, values in found.items():
        # A series that ends is marked, as by a scrape.
        words = [f"{values[n]:g}" if n in values else "stale" if n - 1 in values else "_" for n in range(STEPS)]
        yield {"series": name, "values": " ".join(words)}


def on_the_page(world, minute):
    """Return which alerts' problems the page has, and of what. A job that fails repeatedly has failed last, too."""
    now = seen(world, minute)
    sources = (*now.sources, source("sp", watermark=60.0 * minute, lag=0.0)) if now.jobs else now.sources
    exporter = ExporterView(unmatched=now.unmatched, reload=Reload(error=now.refused))
    found = {kind: set() for kind in CONDITIONS}
    for problem in find_problems(sources, now.jobs, exporter, 60.0 * minute):
        names = {"source": problem.source, "project": problem.project, "job_name": problem.job_name}
        labels = ", ".join(f'{label}="{each}"' for label, each in names.items() if each)
        found[problem.kind].add(labels)
        if problem.kind == "JobrunFailingRepeatedly":
            found["JobrunLastRunFailed"].add(labels)
    return found


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_rules_and_page_agree_at_every_minute(world, tmp_path):
    step = WORLDS[world]
    shown = [on_the_page(world, number * step) for number in range(STEPS)]
    checks = [
        {
            "expr": f"group by (source, project, job_name) ({CONDITIONS[kind]})",
            "eval_time": f"{number * step}m",
            "exp_samples": [{"labels": f"{{{labels}}}", "value": 1} for labels in found],
        }
        for number, kinds in enumerate(shown)
        for kind, found in kinds.items()
    ]
    case = {"interval": f"{step}m", "input_series": list(inputs(world, step)), "promql_expr_test": checks}
    path = tmp_path / "world.yml"
    rules = {"rule_files": [str(RULES_FILE)], "evaluation_interval": f"{step}m", "tests": [case]}
    path.write_text(yaml.safe_dump(rules))
    command = [require_tool("promtool"), "test", "rules", path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a known tool on a known file
    assert ran.returncode == 0, re.sub(r"\n\s*\n", "\n", ran.stdout + ran.stderr)[:3000]


@pytest.mark.parametrize("kind", CONDITIONS)
def test_the_worlds_start_and_end_each_alert(kind):
    found = {(world, n): on_the_page(world, n * step)[kind] for world, step in WORLDS.items() for n in range(STEPS)}
    begin = {subject for (world, n), now in found.items() if n for subject in now - found[world, n - 1]}
    end = {subject for (world, n), now in found.items() if n for subject in found[world, n - 1] - now}
    assert begin & end


def test_every_alert_is_compared_or_has_a_reason_why_it_cannot_be():
    assert {*CONDITIONS, *APART, *NOT_ON_PAGE} == KINDS.keys()
    assert len(CONDITIONS) + len(APART) + len(NOT_ON_PAGE) == len(KINDS)
