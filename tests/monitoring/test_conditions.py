"""The alerts' conditions stand once: rules and page find the same problems, from the same minute to the same."""

import re
import subprocess

import pytest
import yaml

from exporter.counting.records import JobState, LastFailure, LastRun
from exporter.metrics.families import FAMILIES
from exporter.metrics.jobview import JobView
from exporter.model import Job, Result, State
from exporter.reports.job_reports import judged
from exporter.reports.problems import Standing, problems
from tests.e2e.processes import needed
from tests.monitoring.test_rules import RULES_FILE

MINUTES = 180

CONDITIONS = {
    "JobrunLastRunFailed": "last_run_failed",
    "JobrunFailingRepeatedly": "failing_repeatedly",
    "JobrunNoRecentSuccess": "no_recent_success",
    "JobrunOverdue": "overdue",
    "JobrunRunStuck": "run_stuck",
    "JobrunRunSlow": "run_slow",
    "JobrunFailureRecovered": "failure_recovered",
}


def state(**known):
    return JobState(
        key=1,
        source="sp",
        job=Job(job_id="1", name="load"),
        project="p",
        name="load",
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
    """Has not succeeded since 5, may be an hour old, succeeds at 150."""
    return JobView(state=state(last_success=9000.0 if minute >= 150 else 300.0), freshness=3600.0)


def late(minute):
    """Is due at 20; a run waits from 60 and begins at 170, which is later than it may."""
    active = (
        {State.PENDING: (1, 3600.0)} if 60 <= minute < 170 else {State.EXECUTING: (1, 10200.0)} if minute >= 170 else {}
    )
    return JobView(state=state(), active=active, duration_budget=4800.0, next_expected=1200.0)


def hourly(_minute):
    """Waits since 1 for an interval of an hour that is all that is known of it."""
    return JobView(state=state(), active={State.PENDING: (1, 60.0)}, next_expected=3660.0)


def slow(minute):
    """Took long at 30, longer still but failed at 60, and is quick from 90 on."""
    run = (
        last(30, duration=900.0)
        if 30 <= minute < 60
        else last(60, Result.ERROR, 1200.0)
        if 60 <= minute < 90
        else last(90)
    )
    return JobView(state=state(last_run=run), duration_budget=600.0)


WORLDS = (failing, quickly, patient, old, late, hourly, slow)


def series(view):
    """Name and labels of each sample of a job, and its value."""
    names = ("source", "project", "job_name")
    for family in FAMILIES:
        for values, value in family.rows(view) if family.rows else ():
            labels = dict(zip((*names, *family.labels), ("sp", "p", "load", *values), strict=False))
            text = ", ".join(f'{name}="{each}"' for name, each in labels.items())
            yield f'{family.name}{{job="j", instance="a", {text}}}', float(value)


def inputs(world):
    """The world as a test of rules has it: a value per minute, `_` where there is none."""
    found = {
        'jobrun_source_watermark_timestamp_seconds{job="j", instance="a", source="sp"}': {
            m: 60.0 * m for m in range(MINUTES)
        }
    }
    for minute in range(MINUTES):
        for name, value in series(world(minute)):
            found.setdefault(name, {})[minute] = value
    for name, values in found.items():
        # A series that ends is marked, as by a scrape.
        words = [f"{values[m]:g}" if m in values else "stale" if m - 1 in values else "_" for m in range(MINUTES)]
        yield {"series": name, "values": " ".join(words)}


def on_the_page(world):
    """Condition → the minutes at which the page has its problem. One that fails repeatedly has failed last, too."""
    found = {name: set() for name in CONDITIONS.values()}
    for minute in range(MINUTES):
        job = judged(world(minute), 60.0 * minute)
        standing = Standing(now=60.0 * minute, sources=(), jobs=(job,), watermarks={"sp": 60.0 * minute})
        kinds = {problem.kind for problem in problems(standing)}
        for kind in kinds | ({"JobrunLastRunFailed"} if "JobrunFailingRepeatedly" in kinds else set()):
            found[CONDITIONS[kind]].add(minute)
    return found


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_rules_and_page_find_the_same_from_the_same_minute_to_the_same(world, tmp_path):
    expected = on_the_page(world)
    checks = [
        {
            "expr": f"count(jobrun:{name}:held) > bool 0 or vector(0)",
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": "{}", "value": int(minute in minutes)}],
        }
        for name, minutes in expected.items()
        for minute in range(MINUTES)
    ]
    assert any(0 < len(minutes) < MINUTES for minutes in expected.values())
    case = {"interval": "1m", "input_series": list(inputs(world)), "promql_expr_test": checks}
    path = tmp_path / "world.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES_FILE)], "evaluation_interval": "1m", "tests": [case]}))
    command = [needed("promtool"), "test", "rules", path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a tool of ours on a file of ours
    assert ran.returncode == 0, re.sub(r"\n\s*\n", "\n", ran.stdout + ran.stderr)[:3000]
