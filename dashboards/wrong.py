"""What can be wrong, as the alerts judge it: one answer per job, the most urgent."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dashboards.jobs import JOB, SOURCE, Jobs
from dashboards.words import CRITICAL, NOT_KNOWN, WARNS, WELL, Severity
from exporter.reports.problems import REPEATEDLY

BUILD: Final = 'jobrun_exporter_build_info{job=~"$job"}'
SHORT: Final = "(.{1,8}).*"
"""Enough of a run's id to tell it from the others on a page."""


class Kind(msgspec.Struct, frozen=True):
    """Something that can be wrong: how it is called, how urgent it is, and the seconds since, of whom it is true."""

    word: str
    severity: Severity
    expression: str
    of_run: bool = False
    """Whether the run that failed last is what is wrong."""


def kinds_of_jobs(jobs: Jobs) -> tuple[Kind, ...]:
    """Return what can be wrong with a job, the most urgent first."""
    failing = f"{jobs.failing_for} unless on ({JOB}) {jobs.off}"
    repeatedly = f"{jobs.failing_for} and on ({JOB}) ({jobs.streak} >= {REPEATEDLY}) unless on ({JOB}) {jobs.off}"
    return (
        Kind("failing repeatedly", CRITICAL, repeatedly, of_run=True),
        Kind("no recent success", CRITICAL, f"{jobs.too_old} unless on ({JOB}) {jobs.off}"),
        Kind("switched off", WARNS, jobs.lately_off),
        Kind("last run failed", WARNS, failing, of_run=True),
        Kind("running too long", WARNS, jobs.too_long),
        Kind("overdue", WARNS, jobs.overdue),
    )


def kinds_of_sources(jobs: Jobs, matcher: str) -> tuple[Kind, ...]:
    """Return what can be wrong with a source or an exporter; it hides whatever may be wrong with its jobs."""
    up = f"jobrun_source_up{{{jobs.scrape}, {matcher}}}"
    last_good = f"jobrun_source_last_success_timestamp_seconds{{{jobs.scrape}, {matcher}}}"
    since_read = f"time() - {jobs.of_source(last_good)}"
    seen = f"max by ({SOURCE}) (max_over_time(timestamp({up})[1d:5m]))"
    target = f"up == 0 and on (job, instance) last_over_time({BUILD}[1d])"
    last_up = "max by (job, instance) (max_over_time(timestamp(up == 1)[1d:5m]))"
    named = f'label_replace({last_up} and on (job, instance) ({target}), "source", "$1", "instance", "(.*)")'
    return (
        Kind("exporter is down", CRITICAL, f"time() - max by ({SOURCE}) ({named})"),
        Kind("source is gone", CRITICAL, f"time() - ({seen} unless on ({SOURCE}) {jobs.of_source(up)})"),
        Kind("source cannot be read", CRITICAL, f"{since_read} and on ({SOURCE}) ({jobs.of_source(up)} == 0)"),
    )


def no_exporter() -> Kind:
    """Return what is true where no exporter is scraped: then nothing at all is known."""
    unseen = f"time() - max(max_over_time(timestamp({BUILD})[1d:5m]))"
    return Kind("no exporter is scraped", CRITICAL, f"({unseen} or NaN * absent({BUILD})) and absent({BUILD})")


def said(kind: Kind, jobs: Jobs) -> str:
    """Return of whom a kind is true, with what it is, how urgent it is, and of which run, in labels."""
    named = f'label_replace({kind.expression}, "what", "{kind.word}", "", "")'
    with_severity = f'label_replace({named}, "severity", "{kind.severity.word}", "", "")'
    if not kind.of_run:
        return with_severity
    run = f'label_replace({jobs.last_failure}, "run", "$1", "run_id", "{SHORT}")'
    return f"{with_severity} * on ({JOB}) group_left (run, run_url, failed_step) {run}"


def first(kinds: Sequence[str], labels: str) -> str:
    """Return the first of several expressions that has something to say, for each value of these labels."""
    return f"\nor on ({labels}) ".join(kinds)


def rows(jobs: Jobs, matcher: str) -> str:
    """Return one series per job, source or exporter of which something is wrong: the most urgent thing, and since when.

    Of jobs the team is added, and the run that failed last where that is what is wrong.
    """
    of_jobs = first([said(kind, jobs) for kind in kinds_of_jobs(jobs)], JOB)
    of_sources = first([said(kind, jobs) for kind in kinds_of_sources(jobs, matcher)], SOURCE)
    return f"{said(no_exporter(), jobs)}\nor ({of_sources})\nor {jobs.with_team(of_jobs)}"


def ranks(jobs: Jobs) -> str:
    """Return one series per job: the rank of the most urgent thing that is wrong with it.

    A job of which nothing is wrong is well, if its source is read and a run of it is known; else it is not known.
    """
    grouped: Mapping[Severity, list[str]] = {severity: [] for severity in (CRITICAL, WARNS)}
    for kind in kinds_of_jobs(jobs):
        grouped[kind.severity].append(kind.expression)
    wrong = [f"{severity.rank} + 0 * ({first(expressions, JOB)})" for severity, expressions in grouped.items()]
    ended = f"max by ({JOB}) ({jobs.series('jobrun_last_run_end_timestamp_seconds')})"
    read = f"({ended} and on ({SOURCE}) ({jobs.up} == 1) unless on ({JOB}) {jobs.off})"
    unknown = f"{NOT_KNOWN.rank} * max by ({JOB}) ({jobs.info})"
    known = first([*wrong, f"{WELL.rank} + 0 * {read}", unknown], JOB)
    return f"({jobs.chosen(known)})"
