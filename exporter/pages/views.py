"""Computes the variables of each page's template."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from exporter.links import run_path
from exporter.model import FAILING, Result, State
from exporter.pages.charts import graph, sparkline, timeline
from exporter.pages.formatting import plural
from exporter.queries.filters import JobOrder, JobQuery, RunQuery, from_pairs
from exporter.queries.records import Problem, RunPage, SourceReport
from exporter.queries.reporter import Reporter
from exporter.snapshot.conditions import STATUSES

ORDERS = {
    JobOrder.URGENCY: "Most urgent",
    JobOrder.NAME: "Name",
    JobOrder.LAST_RUN: "Latest run",
    JobOrder.LAST_SUCCESS: "Oldest success",
    JobOrder.STREAK: "Longest streak",
    JobOrder.DURATION: "Longest run",
    JobOrder.NEXT_EXPECTED: "Next expected",
}

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
    kept = _kept(query)
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


def _kept(query: Query) -> dict[str, str]:
    """Return the parameters that a list keeps in links to its other pages."""
    return {name: text for name, text in query if name not in {"page", "cursor"}}


def runs(reporter: Reporter, query: Query) -> Variables | tuple[str, str]:
    """Return the variables of the list of runs. If the query is for the ID of one run, return its source and ID."""
    wanted = from_pairs(_with_empty_project(query), RunQuery)
    found = reporter.runs(wanted)
    # A run whose ID cannot be in a path, such as "..", has no page of its own.
    if wanted.run_id and len(found.runs) == 1 and "?" not in run_path(wanted.source, wanted.run_id):
        return found.runs[0].source, found.runs[0].run_id
    return {
        "list": found,
        "sources": [source.name for source in reporter.sources()],
        "results": list(Result),
        "states": list(State),
        "first": not wanted.cursor,
        "query": _kept(query),
    }


def run(reporter: Reporter, source: str, run_id: str) -> Variables:
    """Return the variables of a run's page."""
    page = reporter.run(source, run_id)
    return {
        "page": page,
        "timeline": timeline(page.steps, page.run.start, reporter.now),
        "graph": graph(page.steps),
        "outputs": outputs(page) if page.logs else (),
    }


def outputs(page: RunPage) -> tuple[str, ...]:
    """Return the failed steps, whose output is linked. The step that failed first comes first.

    "" stands for the run's error text, because a run can also fail outside its steps.
    """
    failed = [step.name for step in page.steps if step.result in FAILING]
    first = [page.failed_step] if page.failed_step else []
    run = [""] if page.run.result in FAILING else []
    return tuple(dict.fromkeys([*first, *failed, *run]))
