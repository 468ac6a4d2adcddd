"""PromQL of current problems: the most urgent problem of each job, source and exporter.

The recording rules `jobrun:…:held` have the jobs for which the condition of an alert is true, before the alert's `for`.
Their labels are the job's team, the failed run, and `page`, which limits the severity. So no threshold is repeated
here, and the dashboard agrees with the alerts.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from alerting.promql import GONE, JOB
from dashboards.jobs import RULES_SEEN, SOURCE, Jobs
from dashboards.words import CRITICAL, INFO, MANY, NOT_KNOWN, WARNS, WELL, Severity

MAY_PAGE, MAY_WARN = 'page!~"warning|none"', 'page!="none"'
SCRAPED: Final = '{__name__=~"(jobrun_exporter_build_info|jobrun_source_up)", job=~"$job"}'
"""Any exporter: replicas serve the first per process, under another scrape job than the second."""
JOB_INFO: Final = 'jobrun_job_info{job=~"$job"}'
SHORT: Final = "(.{1,8}).*"
"""Regular expression for the start of a run ID, which is enough to recognize the run."""


class JobProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of problem of a job.

    Attributes:
        text: Its name in the table.
        rule: Name in the recording rule `jobrun:<rule>:held`.
        severity: Severity, unless the label `page` of the job lowers it.
        since: PromQL of the seconds since it started, one series per job; "" if unknown.
        records_age: Whether the value of the recording rule is these seconds.
        about_run: Whether it is about the last failed run.
        requires: Other rules, one of which must be true too.
    """

    text: str
    rule: str
    severity: Severity
    since: str = ""
    records_age: bool = False
    about_run: bool = False
    requires: tuple[str, ...] = ()


def job_problems(jobs: Jobs) -> tuple[JobProblem, ...]:
    """Return the kinds of problems of a job, the most urgent first."""
    failing = jobs.failing_for
    too_old = f"{jobs.age} - on ({JOB}) {jobs.freshness}"
    off = f"time() - {jobs.recorded('jobrun_job_enabled:last_seen')}"
    return (
        JobProblem(
            text="failing repeatedly", rule="failing_repeatedly", severity=CRITICAL, since=failing, about_run=True
        ),
        JobProblem(
            text="disabled, no success",
            rule="no_recent_success",
            severity=CRITICAL,
            since=too_old,
            requires=("job_disabled",),
        ),
        JobProblem(text="no recent success", rule="no_recent_success", severity=CRITICAL, since=too_old),
        JobProblem(
            text="disabled", rule="job_disabled", severity=WARNS, since=off, requires=("last_run_failed", "overdue")
        ),
        JobProblem(text="last run failed", rule="last_run_failed", severity=WARNS, since=failing, about_run=True),
        JobProblem(text="running too long", rule="run_stuck", severity=WARNS, records_age=True),
        JobProblem(text="overdue", rule="overdue", severity=WARNS, records_age=True),
        JobProblem(
            text="a step keeps failing",
            rule="step_failing",
            severity=WARNS,
            since=active_for("JobrunStepFailing"),
            about_run=True,
        ),
        JobProblem(
            text="many runs fail",
            rule="failure_ratio_high",
            severity=WARNS,
            since=active_for("JobrunFailureRatioHigh"),
        ),
        JobProblem(text="disabled", rule="job_disabled", severity=INFO, since=off),
    )


def active_for(alert: str) -> str:
    """Return the seconds since an alert became active, one series per job."""
    return f'max by ({JOB}) (time() - ALERTS_FOR_STATE{{alertname="{alert}"}})'


def rows(jobs: Jobs, sources: str) -> str:
    """Return one series per job, source or exporter with a problem: the seconds since its most urgent one started.

    `sources`: matchers of the selected sources. Series of jobs also have the labels team and run.
    """
    of_jobs = first_of([cap_severity(with_age(jobs, kind), kind.severity) for kind in job_problems(jobs)], JOB)
    of_sources = f"({first_of(source_problems(jobs, sources), SOURCE)})"
    return "\nor ".join(
        [exporter_missing(), rules_missing(), jobs_missing(), of_sources, many_jobs_failing(jobs), of_jobs]
    )


def ranks(jobs: Jobs) -> str:
    """Return one series per job: the rank of its most urgent problem.

    A job without a problem is WELL if its source is up and it has completed a run; else it is NOT_KNOWN.
    """
    critical = sorted({kind.rule for kind in job_problems(jobs) if kind.severity is CRITICAL})
    urgent = [kind.rule for kind in job_problems(jobs) if kind.severity is not INFO and not kind.requires]
    every = sorted({kind.rule for kind in job_problems(jobs)})
    ended = jobs.each("jobrun_last_run_end_timestamp_seconds")
    well = f"{ended} and on ({SOURCE}) ({jobs.up} == 1) unless on ({JOB}) {jobs.off}"
    known = (
        f"{CRITICAL.rank} + 0 * {jobs_with_any(jobs, critical, MAY_PAGE)}",
        f"{WARNS.rank} + 0 * {jobs_with_any(jobs, urgent, MAY_WARN)}",
        f"{INFO.rank} + 0 * {jobs_with_any(jobs, every)}",
        f"{WELL.rank} * ({well})",
        f"{NOT_KNOWN.rank} * max by ({JOB}) ({jobs.info})",
    )
    return f"({jobs.chosen(first_of(known, JOB))})"


def jobs_with_any(jobs: Jobs, names: Sequence[str], more: str = "") -> str:
    """Return the jobs for which any of these rules is true."""
    name = f'__name__=~"jobrun:({"|".join(names)}):held"'
    matchers = ", ".join(each for each in (name, jobs.scrape, jobs.matchers, more) if each)
    return f"max by ({JOB}) ({{{matchers}}})"


def first_of(expressions: Sequence[str], labels: str) -> str:
    """Return, for each value of these labels, the first expression that has a series."""
    return f"\nor on ({labels}) ".join(expressions)


def jobs_with(jobs: Jobs, kind: JobProblem) -> str:
    """Return the jobs with a kind of problem, with team, page, and the failed run."""
    labels = f"{JOB}, team, page"
    series = jobs.series(f"jobrun:{kind.rule}:held", jobs.team)
    if kind.about_run:
        labels += ", run, run_url, failed_step"
        series = f'label_replace({series}, "run", "$1", "run_id", "{SHORT}")'
    if kind.rule == "step_failing":
        series = f"topk by ({JOB}) (1, {series})"  # a job has one line, even if several steps fail
        series = f'label_replace({series}, "failed_step", "$1", "step_name", "(.*)")'
    others = " or ".join(jobs.series(f"jobrun:{name}:held") for name in kind.requires)
    return f"max by ({labels}) ({series}{f' and on ({JOB}) ({others})' if others else ''})"


def with_age(jobs: Jobs, kind: JobProblem) -> str:
    """Return the seconds since a kind of problem started, per job, with its text and severity as labels."""
    true = jobs_with(jobs, kind)
    seconds = [f"0 * {true} + on ({JOB}) group_left () ({kind.since})"] if kind.since else []
    # While an exporter is gone, the rules keep its problems, but their start is unknown.
    seconds.append(true if kind.records_age else f"NaN * {true}")
    return labeled(first_of(seconds, JOB), kind.text, kind.severity)


def labeled(expression: str, what: str, severity: Severity) -> str:
    """Return an expression with a problem and its severity as labels."""
    return with_severity(f'label_replace({expression}, "what", "{what}", "", "")', severity)


def with_severity(expression: str, severity: Severity) -> str:
    """Return an expression with a severity as label."""
    return f'label_replace({expression}, "severity", "{severity.label}", "", "")'


def with_source(expression: str) -> str:
    """Add the source to the label `what`: a narrow screen shows only the first columns."""
    return f'label_join({expression}, "what", ": ", "what", "source")'


def cap_severity(expression: str, severity: Severity) -> str:
    """Return an expression whose severity is lowered to what the label `page` allows."""
    for page, limit in {"warning": WARNS, "none": INFO}.items():
        if limit.rank < severity.rank:
            expression = f'label_replace({expression}, "severity", "{limit.label}", "page", "{page}")'
    return expression


def exporter_missing() -> str:
    """Return a series if no exporter is scraped; then nothing is known."""
    unseen = f"time() - max(max_over_time(timestamp({SCRAPED})[1d:5m]))"
    gone = f"({unseen} or NaN * absent({SCRAPED})) and absent({SCRAPED})"
    return labeled(gone, "no exporter is scraped", MANY)


def rules_missing() -> str:
    """Return a series if an exporter is scraped but no rules are evaluated."""
    return labeled(f"NaN * absent({RULES_SEEN}) unless on () absent({SCRAPED})", "the rules are not evaluated", MANY)


def jobs_missing() -> str:
    """Return a series if an exporter is scraped but no job is known."""
    no_job = f"NaN * absent({JOB_INFO}) unless on () absent({SCRAPED})"
    return labeled(no_job, "no job is known", INFO)


def source_problems(jobs: Jobs, sources: str) -> tuple[str, ...]:
    """Return the problems of sources and exporters, the most urgent first."""
    chosen = f"{{{jobs.scrape}, {sources}}}"
    last_good = jobs.of_source(f"jobrun_source_last_success_timestamp_seconds{chosen}")
    down = f"0 * jobrun:source_down:held{chosen} + on ({SOURCE}) group_left () (time() - {last_good})"
    unanswered = f"up == 0 and on (job, instance) last_over_time({SCRAPED}[1d])"
    answered = "max by (job, instance) (max_over_time(timestamp(up == 1)[1d:5m]))"
    named = f'label_replace({answered} and on (job, instance) ({unanswered}), "source", "$1", "instance", "(.*)")'
    return (
        with_source(labeled(f"time() - max by ({SOURCE}) ({named})", "exporter is down", MANY)),
        with_source(labeled(f"time() - {GONE}{chosen}", "source has no exporter", MANY)),
        with_source(labeled(down, "source cannot be read", MANY)),
        with_source(labeled(f"jobrun:source_stale:held{chosen}", "source is behind", WARNS)),
    )


def many_jobs_failing(jobs: Jobs) -> str:
    """Return projects and sources whose jobs started to fail together, with the number of jobs."""
    labels = "job, source, project"
    held = " or ".join(f"jobrun:many_jobs_failing_of_{each}:held{{{jobs.scrape}}}" for each in ("source", "project"))
    # Use the median: an older failure or the newest one does not move it.
    since = f"quantile by ({SOURCE}) (0.5, {jobs.each('jobrun_failing_since_timestamp_seconds')})"
    number = f'count_values by ({labels}) ("what", {held})'
    true = f"0 * {number} + on ({SOURCE}) group_left () (time() - {since})"
    named = with_source(f'label_replace({true}, "what", "$1 jobs fail", "what", "(.*)")')
    alert = 'ALERTS{alertname="JobrunManyJobsFailing", alertstate="firing", severity="'
    firing = [with_severity(f'{named} and on ({labels}) {alert}{each.word}"}}', each) for each in (MANY, WARNS, INFO)]
    return first_of(firing, labels)
