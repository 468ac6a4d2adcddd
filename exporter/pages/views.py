"""What each page shows, asked of the reports: the variables of its template."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exporter.links import run_path
from exporter.model import FAILING, Result, State
from exporter.pages.formatting import many
from exporter.pages.graph import graph
from exporter.pages.sparkline import Sparkline, sparkline
from exporter.pages.timeline import timeline
from exporter.reports.filters import JobFilter, JobOrder, RunFilter
from exporter.reports.records import Problem, Reports, RunPage, RunReport, SourceReport, StepReport
from exporter.web.questions import given

STATUSES = ("failing", "overdue", "stale", "stuck", "ok", "idle", "disabled")
"""Of jobs, the most urgent first."""

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
"""What makes a list; the place in it is no part of that."""

LEAST_SHARE = 0.1
"""Of the usual duration; of what is less, no number is worth telling."""

PROBLEMS = 50
"""That many are shown; of the rest, the number."""

Variables = dict[str, Any]
Query = Sequence[tuple[str, str]]
"""What an address gives, without what it gives as empty: that is how a form says "any"."""


NAMELESS = '""'
"""What a form's field for a project says where it means those without a name; empty, it means any."""


class Elsewhere(msgspec.Struct, frozen=True):
    """What was asked for is on the page of one run."""

    run: RunReport


def status(reports: Reports, query: Query) -> Variables:
    """What is wrong now, sources, jobs."""
    wanted = JobFilter(**given(_meant(query), JobFilter))
    problems, jobs = reports.problems(), reports.jobs(wanted)
    sources = reports.sources()
    known = sum(source.jobs for source in sources)
    repeated = _repeated(query, JOB_PARAMETERS)
    return {
        "problems": problems[:PROBLEMS],
        "more_problems": len(problems) - PROBLEMS,
        "verdict": _verdict(problems, sources),
        "sources": sources,
        "known": known,
        "list": jobs,
        "rows": [(job, sparkline(job.recent)) for job in jobs.jobs],
        "filtered": bool(repeated.keys() - {"order", "limit"}),
        "statuses": [(word, jobs.statuses.get(word, 0)) for word in STATUSES],
        "orders": ORDERS,
        "wanted": wanted,
        "query": repeated,
    }


def _verdict(problems: Sequence[Problem], sources: Sequence[SourceReport]) -> tuple[str, str]:
    """A word that has a look, and the sentence on top of everything. All is well only where all has been looked at."""
    critical = sum(problem.severity == "critical" for problem in problems)
    warnings = len(problems) - critical
    counts = [(critical, "problem"), (warnings, "warning")]
    text = " and ".join(many(count, noun) for count, noun in counts if count)
    if problems:
        return "critical" if critical else "warning", text
    if not sources or any(source.up is None for source in sources):
        return "waiting", "Not everything has been looked at yet"
    return "ok", "All is well"


def _meant(query: Query) -> Query:
    """The query as the JSON pages take it."""
    return [(name, "" if (name, text) == ("project", NAMELESS) else text) for name, text in query]


def _repeated(query: Query, parameters: Sequence[str]) -> Mapping[str, str]:
    """What links to the same list with one thing changed repeat of the query."""
    return {name: text for name, text in query if name in parameters}


def runs(reports: Reports, query: Query) -> Variables | Elsewhere:
    """Runs that fit a filter; a run's id that exists once leads to the run."""
    wanted = RunFilter(**given(_meant(query), RunFilter))
    found, repeated = reports.runs(wanted), _repeated(query, RUN_PARAMETERS)
    if wanted.run_id and len(found.runs) == 1 and "?" not in run_path(wanted.source, wanted.run_id):
        return Elsewhere(found.runs[0])
    return {
        "list": found,
        "sources": [source.name for source in reports.sources()],
        "results": list(Result),
        "states": list(State),
        "given": {name: repeated.get(name, "") for name in RUN_PARAMETERS},
        "first": not wanted.cursor,
        "query": repeated,
    }


def run(reports: Reports, source: str, run_id: str) -> Variables:
    """All that is known of a run."""
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
    """Steps of which output is worth asking for, the failed one first; "" for the run's own error text."""
    failing = [step.name for step in page.steps if step.result in FAILING and step.name != page.failed_step]
    first = [page.failed_step] if page.failed_step else []
    whole = [""] if page.run.result in FAILING else []
    return tuple(dict.fromkeys([*first, *failing, *whole]))


def tempo(page: RunPage) -> str:
    """How a run's duration compares with the usual, in words; "" if that cannot be said."""
    duration, usual = page.run.duration, page.usual
    if duration is None or usual.p50 is None or usual.p50 <= 0:
        return ""
    if usual.budget is not None and duration > usual.budget:
        return "over its budget"
    if usual.p95 is not None and duration > usual.p95:
        return "slower than 95 % of its runs"
    share = duration / usual.p50
    return f"{share:.1f} times the usual" if share >= LEAST_SHARE else "far shorter than usual"


def strip(page: RunPage) -> Sparkline:
    """The bars of the job's recent runs, without room for those that never were."""
    recent = page.job.recent if page.job else ()
    return sparkline(recent, places=len(recent))


def log(reports: Reports, source: str, run_id: str, query: Query) -> Variables:
    """The output of one step."""
    return {"log": reports.log(source, run_id, dict(query).get("step", ""))}


def result_word(thing: RunReport | StepReport) -> str:
    """The one word for how a run or a step stands."""
    return str(thing.result or thing.state or "unknown")
