"""Returns the variables of each page's template."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
"""Statuses of jobs, in the order of the page."""

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
"""Parameters that links to other pages of a list keep."""

MIN_SHARE = 0.1
"""Fraction of the usual duration below which no number is shown."""

MAX_PROBLEMS = 50
"""Maximum number of problems that are shown. Others are only counted."""

NO_NAME = '""'
"""Value of a form's project field for projects without a name; an empty field means any project."""

Variables = dict[str, Any]
Query = Sequence[tuple[str, str]]
"""Parameters of a URL, without empty ones, which forms send for "any"."""


class RedirectToRun(NamedTuple):
    """The only run that matches has its own page."""

    source: str
    run_id: str


def status(reports: Reporter, query: Query) -> Variables:
    """Return the variables of the status page: problems, sources and jobs."""
    wanted = from_pairs(_with_empty_project(query), JobQuery)
    problems, jobs, sources = reports.problems(), reports.jobs(wanted), reports.sources()
    repeated = _repeated(query, JOB_PARAMETERS)
    return {
        "problems": problems[:MAX_PROBLEMS],
        "more_problems": len(problems) - MAX_PROBLEMS,
        "verdict": _verdict(problems, sources),
        "sources": sources,
        "known": sum(source.jobs for source in sources),
        "list": jobs,
        "rows": [(job, sparkline(job.recent)) for job in jobs.jobs],
        "filtered": bool(repeated.keys() - {"order", "limit"}),
        "statuses": [(word, jobs.statuses.get(word, 0)) for word in STATUSES],
        "orders": ORDERS,
        "wanted": wanted,
        "query": repeated,
    }


def _verdict(problems: Sequence[Problem], sources: Sequence[SourceReport]) -> tuple[str, str]:
    """Return a word that has a look, and the headline of the page."""
    counts = Counter(problem.severity for problem in problems)
    nouns = [(counts["critical"], "problem"), (counts["warning"], "warning"), (counts["info"], "note")]
    text = ", ".join(plural(count, noun) for count, noun in nouns if count)
    if counts["critical"] or counts["warning"]:
        return "critical" if counts["critical"] else "warning", text
    # Before all sources are polled, "No problems" would be a guess.
    if not sources or any(source.up is None for source in sources):
        return "waiting", "Not all sources have been polled yet"
    return "ok", f"No problems, {text}" if text else "No problems"


def _with_empty_project(query: Query) -> Query:
    return [(name, "" if (name, text) == ("project", NO_NAME) else text) for name, text in query]


def _repeated(query: Query, parameters: Sequence[str]) -> Mapping[str, str]:
    return {name: text for name, text in query if name in parameters}


def runs(reports: Reporter, query: Query) -> Variables | RedirectToRun:
    """Return the runs that match a filter. If the filter has a run ID that exists once, redirect to the run."""
    wanted, repeated = from_pairs(_with_empty_project(query), RunQuery), _repeated(query, RUN_PARAMETERS)
    found = reports.runs(wanted)
    # An ID without its own page, such as "..", would lead back to this page.
    if wanted.run_id and len(found.runs) == 1 and "?" not in run_path(wanted.source, wanted.run_id):
        return RedirectToRun(found.runs[0].source, found.runs[0].run_id)
    return {
        "list": found,
        "sources": [source.name for source in reports.sources()],
        "results": list(Result),
        "states": list(State),
        "given": {name: repeated.get(name, "") for name in RUN_PARAMETERS},
        "first": not wanted.cursor,
        "query": repeated,
    }


def run(reports: Reporter, source: str, run_id: str) -> Variables:
    """Return the variables of a run's page."""
    page = reports.run(source, run_id)
    return {
        "page": page,
        "timeline": timeline(page.steps, page.run.start, reports.now),
        "graph": graph(page.steps),
        "outputs": outputs(page) if page.logs else (),
        "tempo": tempo(page),
        "strip": strip(page),
    }


def outputs(page: RunPage) -> tuple[str, ...]:
    """Return the failed steps, whose output is linked, the root failure first; "" stands for the run's error text."""
    failing = [step.name for step in page.steps if step.result in FAILING]
    first = [page.failed_step] if page.failed_step else []
    # A run can also fail outside of its steps.
    whole = [""] if page.run.result in FAILING else []
    return tuple(dict.fromkeys([*first, *failing, *whole]))


def tempo(page: RunPage) -> str:
    """Return a comparison of a run's duration with the usual one; "" if one of them is unknown."""
    duration, usual = page.run.duration, page.usual
    if duration is None or usual.p50 is None or usual.p50 <= 0:
        return ""
    if usual.budget is not None and duration > usual.budget:
        return "over its budget"
    if usual.p95 is not None and duration > usual.p95:
        return "slower than 95 % of its runs"
    share = duration / usual.p50
    return f"{share:.1f} times the usual" if share >= MIN_SHARE else "much shorter than usual"


def strip(page: RunPage) -> Sparkline:
    """Return the bars of the job's recent runs."""
    recent = page.job.recent if page.job else ()
    return sparkline(recent, places=len(recent))


def log(reports: Reporter, source: str, run_id: str, query: Query) -> Variables:
    """Return the output of a step."""
    return {"log": reports.log(source, run_id, dict(query).get("step", ""))}


def result_word(thing: RunReport | StepReport) -> str:
    """Return the result of a run or step; its state while it is active."""
    return str(thing.result or thing.state or "unknown")
