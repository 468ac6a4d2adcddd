"""What is wrong, as the rules judge it: one answer per job, source or exporter, the most urgent.

The rules record what is true of each job before an alert waits for it (`jobrun:…:held`), with the job's team, the run
that failed, and `page`, which limits how urgent it is. So no threshold stands here, and the wall and the pager agree.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from alerting.promql import GONE, JOB
from dashboards.jobs import RULES_SEEN, SOURCE, Jobs
from dashboards.words import CRITICAL, INFO, NOT_KNOWN, WARNS, WELL, Severity

PAGES, WARNED = 'page!~"warning|none"', 'page!="none"'
BUILD: Final = 'jobrun_exporter_build_info{job=~"$job"}'
SHORT: Final = "(.{1,8}).*"
"""Enough of a run's id to tell it from the others on a page."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be wrong with a job.

    Attributes:
        word: What it is called.
        name: Of what the rules record.
        severity: How urgent it is, if the job may page.
        since: Seconds since, one series per job; "" if nothing says.
        ages: Whether what is recorded is the seconds since.
        run: Whether it is about the run that failed last.
        beside: What else of the rules must be true, one of several.
    """

    word: str
    name: str
    severity: Severity
    since: str = ""
    ages: bool = False
    run: bool = False
    beside: tuple[str, ...] = ()


def kinds(jobs: Jobs) -> tuple[Kind, ...]:
    """Return what can be wrong with a job, the most urgent first."""
    failing = jobs.failing_for
    too_old = f"{jobs.age} - on ({JOB}) {jobs.freshness}"
    off = f"time() - {jobs.recorded('jobrun_job_enabled:last_seen')}"
    return (
        Kind(word="failing repeatedly", name="failing_repeatedly", severity=CRITICAL, since=failing, run=True),
        Kind(word="no recent success", name="no_recent_success", severity=CRITICAL, since=too_old),
        Kind(
            word="switched off", name="job_disabled", severity=WARNS, since=off, beside=("last_run_failed", "overdue")
        ),
        Kind(word="last run failed", name="last_run_failed", severity=WARNS, since=failing, run=True),
        Kind(word="running too long", name="run_stuck", severity=WARNS, ages=True),
        Kind(word="overdue", name="overdue", severity=WARNS, ages=True),
        Kind(word="a step keeps failing", name="step_failing", severity=WARNS, run=True),
        Kind(word="many runs fail", name="failure_ratio_high", severity=WARNS),
        Kind(word="switched off", name="job_disabled", severity=INFO, since=off),
    )


def rows(jobs: Jobs, sources: str) -> str:
    """Return one series per job, source or exporter of which something is wrong: the most urgent thing, and since when.

    `sources`: the matchers of the sources that are chosen. Of jobs there are team and run too, in labels.
    """
    of_jobs = first([limited(said(jobs, kind), kind.severity) for kind in kinds(jobs)], JOB)
    return "\nor ".join(
        [no_exporter(), no_rules(), f"({first(of_sources(jobs, sources), SOURCE)})", many(jobs), of_jobs]
    )


def ranks(jobs: Jobs) -> str:
    """Return one series per job: the rank of the most urgent thing that is wrong with it.

    A job of which nothing is wrong is well, if its source is read and a run of it is known; else it is not known.
    """
    critical = [kind.name for kind in kinds(jobs) if kind.severity is CRITICAL]
    urgent = [kind.name for kind in kinds(jobs) if kind.severity is not INFO and not kind.beside]
    every = sorted({kind.name for kind in kinds(jobs)})
    ended = jobs.each("jobrun_last_run_end_timestamp_seconds")
    well = f"{ended} and on ({SOURCE}) ({jobs.up} == 1) unless on ({JOB}) {jobs.off}"
    known = (
        f"{CRITICAL.rank} + 0 * {any_of(jobs, critical, PAGES)}",
        f"{WARNS.rank} + 0 * {any_of(jobs, urgent, WARNED)}",
        f"{INFO.rank} + 0 * {any_of(jobs, every)}",
        f"{WELL.rank} * ({well})",
        f"{NOT_KNOWN.rank} * max by ({JOB}) ({jobs.info})",
    )
    return f"({jobs.chosen(first(known, JOB))})"


def any_of(jobs: Jobs, names: Sequence[str], more: str = "") -> str:
    """Return the jobs of which any of these is true."""
    name = f'__name__=~"jobrun:({"|".join(names)}):held"'
    matchers = ", ".join(each for each in (name, jobs.scrape, jobs.matchers, more) if each)
    return f"max by ({JOB}) ({{{matchers}}})"


def first(expressions: Sequence[str], labels: str) -> str:
    """Return the first of several expressions that has something to say, for each value of these labels."""
    return f"\nor on ({labels}) ".join(expressions)


def held(jobs: Jobs, kind: Kind) -> str:
    """Return of which jobs a kind is true, with team, page, and the run where it is about one."""
    labels = f"{JOB}, team, page"
    series = jobs.series(f"jobrun:{kind.name}:held", jobs.team)
    if kind.run:
        labels += ", run, run_url, failed_step"
        series = f'label_replace({series}, "run", "$1", "run_id", "{SHORT}")'
    if kind.name == "step_failing":
        series = f'label_replace({series}, "failed_step", "$1", "step_name", "(.*)")'
    others = " or ".join(jobs.series(f"jobrun:{name}:held") for name in kind.beside)
    return f"max by ({labels}) ({series}{f' and on ({JOB}) ({others})' if others else ''})"


def said(jobs: Jobs, kind: Kind) -> str:
    """Return the seconds since a kind is true, of which jobs, with what it is and how urgent in labels."""
    true = held(jobs, kind)
    seconds = [f"0 * {true} + on ({JOB}) group_left () ({kind.since})"] if kind.since else []
    # While an exporter is gone the rules hold what was wrong, but nothing says since when.
    seconds.append(true if kind.ages else f"NaN * {true}")
    return labeled(first(seconds, JOB), kind.word, kind.severity)


def labeled(expression: str, what: str, severity: Severity) -> str:
    """Return an expression with what is wrong, and how urgent it is, in labels."""
    named = f'label_replace({expression}, "what", "{what}", "", "")'
    return f'label_replace({named}, "severity", "{severity.label}", "", "")'


def limited(expression: str, severity: Severity) -> str:
    """Return an expression in which nothing is more severe than the label `page` allows."""
    for page, limit in {"warning": WARNS, "none": INFO}.items():
        if limit.rank < severity.rank:
            expression = f'label_replace({expression}, "severity", "{limit.label}", "page", "{page}")'
    return expression


def no_exporter() -> str:
    """Return something where no exporter is scraped: then nothing at all is known."""
    unseen = f"time() - max(max_over_time(timestamp({BUILD})[1d:5m]))"
    gone = f"({unseen} or NaN * absent({BUILD})) and absent({BUILD})"
    return labeled(gone, "no exporter is scraped", CRITICAL)


def no_rules() -> str:
    """Return something where an exporter is scraped, but no rules are evaluated: then nothing is judged."""
    return labeled(f"NaN * absent({RULES_SEEN}) unless on () absent({BUILD})", "the rules are not evaluated", CRITICAL)


def of_sources(jobs: Jobs, sources: str) -> tuple[str, ...]:
    """Return what can be wrong with a source or an exporter, the most urgent first."""
    chosen = f"{{{jobs.scrape}, {sources}}}"
    last_good = jobs.of_source(f"jobrun_source_last_success_timestamp_seconds{chosen}")
    down = f"0 * jobrun:source_down:held{chosen} + on ({SOURCE}) group_left () (time() - {last_good})"
    unanswered = f"up == 0 and on (job, instance) last_over_time({BUILD}[1d])"
    answered = "max by (job, instance) (max_over_time(timestamp(up == 1)[1d:5m]))"
    named = f'label_replace({answered} and on (job, instance) ({unanswered}), "source", "$1", "instance", "(.*)")'
    return (
        labeled(f"time() - max by ({SOURCE}) ({named})", "exporter is down", CRITICAL),
        labeled(f"time() - {GONE}{chosen}", "source has no exporter", CRITICAL),
        labeled(down, "source cannot be read", CRITICAL),
        labeled(f"jobrun:source_stale:held{chosen}", "source is behind", WARNS),
    )


def many(jobs: Jobs) -> str:
    """Return projects and sources of which many jobs began to fail together."""
    labels = "job, source, project"
    held = " or ".join(f"jobrun:many_jobs_failing_of_{each}:held{{{jobs.scrape}}}" for each in ("source", "project"))
    since = f"max by ({SOURCE}) ({jobs.each('jobrun_failing_since_timestamp_seconds')})"
    true = f"0 * max by ({labels}) ({held}) + on ({SOURCE}) group_left () (time() - {since})"
    return labeled(true, "many jobs fail together", CRITICAL)
