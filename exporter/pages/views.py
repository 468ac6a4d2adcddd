"""Computes the variables of each page's template."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.links import run_path
from exporter.model import FAILING, Result, State
from exporter.pages.formatting import plural
from exporter.pages.graph import graph
from exporter.pages.sparkline import Sparkline, sparkline
from exporter.pages.timeline import timeline
from exporter.queries.filters import JobOrder, JobQuery, RunQuery
from exporter.queries.records import Problem, RunPage, RunReport, SourceReport, StepReport
from exporter.queries.reporter import Reporter
from exporter.web.parameters import from_pairs

STATUSES = ("failing", "overdue", "stale", "stuck", "ok", "idle", "disabled")
"""Statuses of jobs, in the order in which the page shows them."""

ORDERS = {
    JobOrder.URGENCY: "Most urgent",
    JobOrder.NAME: "Name",
    JobOrder.LAST_RUN: "Latest run",
    JobOrder.LAST_SUCCESS: "Oldest success",
    JobOrder.STREAK: "Longest streak",
    JobOrder.DURATION: "Longest run",
    JobOrder.NEXT_EXPECTED: "Next expected",
}

JOB_PARAMETERS = ("source", "project", "job_name", "team", "status", "search", "order", "limit")
RUN_PARAMETERS = ("source", "project", "job_name", "result", "state", "run_id", "after", "before", "limit")
"""Parameters that a list keeps in links to its other pages."""

MIN_RATIO = 0.1
"""Minimum ratio of a run's duration to the usual one that is shown as a number."""

MAX_PROBLEMS = 50
"""Maximum number of problems that are listed. Further ones are counted."""

EMPTY_PROJECT = '""'
"""What a person types in a form for the project without a name. An empty field means any project."""

Variables = dict[str, Any]
Query = Sequence[tuple[str, str]]
"""Names and values of a URL's parameters, without empty values, which forms send for "any"."""


def status(reporter: Reporter, query: Query) -> Variables:
    """Return the variables of the status page: problems, sources and jobs."""
    wanted = from_pairs(_with_empty_project(query), JobQuery)
    problems, jobs, sources = reporter.problems(), reporter.jobs(wanted), reporter.sources()
    kept = _kept(query, JOB_PARAMETERS)
    return {
        "problems": problems[:MAX_PROBLEMS],
        "more_problems": len(problems) - MAX_PROBLEMS,
        "summary": _summary(problems, sources),
        "sources": sources,
        "known": sum(source.jobs for source in sources),
        "list": jobs,
        "rows": [(job, sparkline(job.recent)) for job in jobs.jobs],
        "filtered": bool(kept.keys() - {"order", "limit"}),
        "statuses": [(word, jobs.statuses.get(word, 0)) for word in STATUSES],
        "orders": ORDERS,
        "wanted": wanted,
        "query": kept,
    }


def _summary(problems: Sequence[Problem], sources: Sequence[SourceReport]) -> tuple[str, str]:
    """Return a status for `look`, and the headline of the page."""
    counts = Counter(problem.severity for problem in problems)
    nouns = [(counts["critical"], "problem"), (counts["warning"], "warning"), (counts["info"], "note")]
    text = ", ".join(plural(count, noun) for count, noun in nouns if count)
    if counts["critical"] or counts["warning"]:
        return "critical" if counts["critical"] else "warning", text
    # While a source has not been polled, its problems are unknown.
    if not sources or any(source.up is None for source in sources):
        return "waiting", "Not all sources have been polled yet"
    return "ok", f"No problems, {text}" if text else "No problems"


def _with_empty_project(query: Query) -> Query:
    return [(name, "" if (name, text) == ("project", EMPTY_PROJECT) else text) for name, text in query]


def _kept(query: Query, parameters: Sequence[str]) -> Mapping[str, str]:
    return {name: text for name, text in query if name in parameters}


def runs(reporter: Reporter, query: Query) -> Variables | tuple[str, str]:
    """Return the variables of the list of runs. If the query is for the ID of one run, return its source and ID."""
    wanted, kept = from_pairs(_with_empty_project(query), RunQuery), _kept(query, RUN_PARAMETERS)
    found = reporter.runs(wanted)
    # A run whose ID cannot be in a path, such as "..", has no page of its own.
    if wanted.run_id and len(found.runs) == 1 and "?" not in run_path(wanted.source, wanted.run_id):
        return found.runs[0].source, found.runs[0].run_id
    return {
        "list": found,
        "sources": [source.name for source in reporter.sources()],
        "results": list(Result),
        "states": list(State),
        "given": {name: kept.get(name, "") for name in RUN_PARAMETERS},
        "first": not wanted.cursor,
        "query": kept,
    }


def run(reporter: Reporter, source: str, run_id: str) -> Variables:
    """Return the variables of a run's page."""
    page = reporter.run(source, run_id)
    return {
        "page": page,
        "timeline": timeline(page.steps, page.run.start, reporter.now),
        "graph": graph(page.steps),
        "outputs": outputs(page) if page.logs else (),
        "comparison": compare_duration(page),
        "recent": recent_runs(page),
    }


def outputs(page: RunPage) -> tuple[str, ...]:
    """Return the failed steps, whose output is linked. The step that failed first comes first.

    "" stands for the run's error text, because a run can also fail outside its steps.
    """
    failed = [step.name for step in page.steps if step.result in FAILING]
    first = [page.failed_step] if page.failed_step else []
    run = [""] if page.run.result in FAILING else []
    return tuple(dict.fromkeys([*first, *failed, *run]))


def compare_duration(page: RunPage) -> str:
    """Return how a run's duration compares with the usual one; "" if one of them is unknown."""
    duration, usual = page.run.duration, page.usual
    if duration is None or usual.p50 is None or usual.p50 <= 0:
        return ""
    if usual.budget is not None and duration > usual.budget:
        return "over its budget"
    if usual.p95 is not None and duration > usual.p95:
        return "slower than 95 % of its runs"
    ratio = duration / usual.p50
    return f"{ratio:.1f} times the usual" if ratio >= MIN_RATIO else "much shorter than usual"


def recent_runs(page: RunPage) -> Sparkline:
    """Return the chart of the job's recent runs."""
    recent = page.job.recent if page.job else ()
    return sparkline(recent, max_bars=len(recent))


def log(reporter: Reporter, source: str, run_id: str, query: Query) -> Variables:
    """Return the variables of the page with a step's output."""
    return {"log": reporter.log(source, run_id, dict(query).get("step", ""))}


def result_word(thing: RunReport | StepReport) -> str:
    """Return the result of a run or step; its state while it is active."""
    return str(thing.result or thing.state or "unknown")
