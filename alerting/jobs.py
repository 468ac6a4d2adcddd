"""Alerts about jobs, evaluated at the watermark of their source."""

from alerting import texts
from alerting.model import Alert, Group, Record
from alerting.promql import (
    DURATION_P95,
    HOURS,
    JOB,
    LAST_ENABLED,
    LAST_SEEN,
    NEWEST_WATERMARK,
    NEWEST_WATERMARK_QUERY,
    RUN_LIMIT,
    SERVED_JOB,
    SERVED_SOURCE,
    SERVED_SOURCES,
    UNWATCHED_SOURCES,
    UNWATCHED_SOURCES_QUERY,
    condition,
    firing,
    from_newest_exporter,
    held,
    indent,
    of_job,
    since,
    unless_started,
    window,
)
from exporter.snapshot import conditions as limits

RUN_LABELS = ("run_id", "run_url", "failed_step", "error_type")

PREREQUISITES = (
    Record(
        LAST_SEEN,
        f"""
        max by ({SERVED_SOURCE}) (
          {SERVED_SOURCES} * 0 + time()
        )
        or on ({SERVED_SOURCE})
        (last_over_time({LAST_SEEN}[1h]) > time() - {limits.REMOVED_AFTER})
        """,
        "When an exporter last served a source; remembered for a week.",
    ),
    Record(
        NEWEST_WATERMARK,
        NEWEST_WATERMARK_QUERY,
        "Among several exporters of one source, the one with the newest watermark is used.",
    ),
    Record(
        UNWATCHED_SOURCES,
        f"max by (job, source) (\n{indent(UNWATCHED_SOURCES_QUERY, 2)}\n)",
        """Sources whose exporter is gone or starting, so nothing is known now. The conditions of their jobs do not
        change meanwhile. A source that a running exporter no longer serves was removed from the config.""",
    ),
    Record(
        LAST_ENABLED,
        f"""
        max by ({JOB}) ((jobrun_job_enabled == 1) * 0 + time())
        or
        ({LAST_ENABLED} > time() - 86400)
        """,
        "When a job was last seen enabled; remembered for a day.",
    ),
    Record(
        RUN_LIMIT,
        f"""
        max by ({JOB}) (jobrun_job_duration_budget_seconds)
        or
        clamp_min({limits.STUCK_TIMES} * {DURATION_P95}, {limits.MIN_RUN_LIMIT})
        or
        clamp_min(
          max by ({JOB}) (
            jobrun_job_next_run_expected_timestamp_seconds
            - on ({SERVED_JOB})
            max by ({SERVED_JOB}) (
              jobrun_last_run_start_timestamp_seconds or jobrun_oldest_active_run_start_timestamp_seconds
            )
          ),
          {limits.MIN_RUN_LIMIT}
        )
        or
        max by ({JOB}) (jobrun_job_info * 0 + {limits.DEFAULT_RUN_LIMIT})
        """,
        """How long a run may be active: the budget of its job, else three times the p95, else one interval of its
        schedule, else a day.""",
    ),
)

STUCK = f"""{since("jobrun_oldest_active_run_start_timestamp_seconds")}
> on ({JOB}) group_left ()
{RUN_LIMIT}
unless on ({SERVED_JOB}, state)
label_replace(jobrun_job_enabled == 0, "state", "pending", "", "")"""

LEARNED = 'jobrun_job_expectation_learned{expectation="freshness"}'
CAPPED_INFO = f"""(
  jobrun_job_info unless on ({SERVED_JOB}) {LEARNED}
  or
  label_replace(jobrun_job_info and on ({SERVED_JOB}) {LEARNED}, "page", "warning", "page", "(critical)?")
)"""
"""`jobrun_job_info`, with a `page` of at most `warning` for jobs whose freshness is learned."""


def failed(expression: str) -> str:
    """Return failing jobs with the labels of their last failed run."""
    info = f"* on ({SERVED_JOB}) group_left ({', '.join(RUN_LABELS)})\njobrun_last_failed_run_info"
    return of_job(f"({expression})\n{info}", *RUN_LABELS)


FAILING = held("last_run_failed")
STARTED_FAILING = "jobrun:failing:began"
MANY_THRESHOLD_OF_SOURCE = "jobrun:jobs_of_source:many"
MANY_THRESHOLD_OF_PROJECT = "jobrun:jobs_of_project:many"
OF_SOURCE_TOGETHER = held("many_jobs_failing_of_source")
OF_PROJECT_TOGETHER = held("many_jobs_failing_of_project")
MANY_JOBS_ALERT = firing("JobrunManyJobsFailing")
COVERED_BY_MANY_JOBS_ALERT = f"""{FAILING} and on (job, source, project) {MANY_JOBS_ALERT}
or
{FAILING} and on (job, source) {firing("JobrunManyJobsFailing", ', project=""')}"""
"""Failing jobs that JobrunManyJobsFailing already reports."""

FAILING_STREAK = f"""jobrun_consecutive_failures
>= on ({SERVED_JOB})
(jobrun_job_failures_to_page or on ({SERVED_JOB}) jobrun_consecutive_failures * 0 + {limits.FAILURES_TO_PAGE})
unless on ({SERVED_JOB})
({since("jobrun_failing_since_timestamp_seconds")} < {limits.FAILING_TO_PAGE})
and on ({SERVED_SOURCE})
{NEWEST_WATERMARK}"""

BUSY_JOBS = f"""{FAILING}
and on ({JOB}) (sum by ({JOB}) ({HOURS}) > {limits.BUSY_RUNS_PER_HOUR})
and on ({JOB}) (max by ({JOB}) (jobrun_consecutive_failures) < {limits.FAILURES_TO_PAGE})"""
"""Failing jobs that run so often that a single failure means little."""


def many_threshold(by: str) -> str:
    """Return the number of failing jobs of a project or source from which they count as many."""
    return f"""clamp_min(
  {limits.MANY_SHARE} * count by ({by}) (
{indent(from_newest_exporter("jobrun_job_info"), 4)}
  ),
  {limits.MANY_JOBS}
)"""


def together(by: str, many: str, name: str) -> str:
    """Return projects or sources with many jobs that started to fail together, as long as that many fail."""
    return f"""count by ({by}) ({FAILING}) >= on ({by}) {many}
and on ({by}) (
  count by ({by}) ({STARTED_FAILING}) >= on ({by}) {many}
  or
  {name}
)"""


def failing_together(pages: str) -> str:
    """Return projects and sources with many failing jobs: a series per team that has one with these values of `page`."""
    jobs, of_run = f'{FAILING}{{page=~"{pages}"}}', ", ".join(("job_name", "page", *RUN_LABELS))
    return f"""{OF_SOURCE_TOGETHER} * on (job, source) group_right ()
group without (project, {of_run}) ({jobs})
or
{OF_PROJECT_TOGETHER} * on (job, source, project) group_right ()
group without ({of_run}) ({jobs})"""


def with_page(page: str, pages: str) -> str:
    """Return projects and sources with many failing jobs of some values of `page`, with the label `page`."""
    return f'label_replace(\n{indent(failing_together(pages), 2)},\n  "page", "{page}", "", ""\n)'


MANY_JOBS_FAILING = f"""{with_page("critical", "(critical)?")}
or ignoring (page)
{with_page("warning", "warning")}
or ignoring (page)
{with_page("none", "none")}"""
"""The highest `page` of the failing jobs decides, for each team."""

RUN_LINK = {"run_id": "{{ $labels.run_id }}", "run_url": "{{ $labels.run_url }}"}
LAST_FAILURE = RUN_LINK | {"failed_step": "{{ $labels.failed_step }}"}

FAILURES = (
    Record(FAILING, condition("last_run_failed", failed(from_newest_exporter("jobrun_consecutive_failures > 0")))),
    Record(held("failing_repeatedly"), condition("failing_repeatedly", failed(FAILING_STREAK))),
    Record(STARTED_FAILING, f"{since('jobrun_failing_since_timestamp_seconds')} < {limits.MANY_WITHIN}"),
    Record(
        MANY_THRESHOLD_OF_SOURCE,
        many_threshold("job, source"),
        "Number of failing jobs from which they count as many, per source and per project.",
    ),
    Record(MANY_THRESHOLD_OF_PROJECT, many_threshold("job, source, project")),
    Record(
        OF_SOURCE_TOGETHER,
        condition(
            "many_jobs_failing_of_source",
            f"""{together("job, source", MANY_THRESHOLD_OF_SOURCE, OF_SOURCE_TOGETHER)}
and on (job, source) (
  count by (job, source) (count by (job, source, project) ({FAILING})) > 1
  or
  {OF_SOURCE_TOGETHER}
)""",
        ),
        "Many jobs of several projects of a source started to fail together. Lasts as long as that many fail.",
    ),
    Record(
        OF_PROJECT_TOGETHER,
        condition(
            "many_jobs_failing_of_project",
            f"""(
{indent(together("job, source, project", MANY_THRESHOLD_OF_PROJECT, OF_PROJECT_TOGETHER), 2)}
)
unless on (job, source, project) (
  {FAILING} and on (job, source) {OF_SOURCE_TOGETHER} unless on (job, source, project) {OF_PROJECT_TOGETHER}
)""",
        ),
        "The same for one project, unless it is true for its source.",
    ),
    Alert(
        name="JobrunManyJobsFailing",
        expression=MANY_JOBS_FAILING,
        severity=texts.CRITICAL,
        summary=f'{{{{ printf "%.0f" $value }}}} jobs of {texts.GROUP} have been failing since about the same time',
        description=(
            f'{{{{ printf "%.0f" $value }}}} jobs of {texts.GROUP} fail. At least {limits.MANY_JOBS} of them, '
            f"and {limits.MANY_SHARE:.0%} of all jobs, started to fail within {limits.MANY_WITHIN // 60} minutes. Most "
            "likely they have one cause, at the vendor or in something that they all use. Alerts of single jobs do not "
            "start while this one fires."
        ),
        links=texts.of_project("JobrunManyJobsFailing"),
        why="""One page for a common cause. Alerts of single jobs do not start meanwhile. Those that fire already
        continue, so each end is reported.""",
    ),
    Alert(
        name="JobrunFailingRepeatedly",
        expression=unless_started(
            "JobrunFailingRepeatedly",
            held("failing_repeatedly"),
            JOB,
            f"""{firing("JobrunNoRecentSuccess", ', severity="critical"')}\nor\n{COVERED_BY_MANY_JOBS_ALERT}""",
        ),
        severity=texts.CRITICAL,
        blank=RUN_LABELS,
        summary=f"Job {texts.JOB} failed {{{{ $value }}}} times in a row",
        description=(
            f"The last {{{{ $value }}}} runs of {texts.JOB} failed. The latest{texts.STEP}{texts.ERROR} is {texts.RUN}."
        ),
        extra=LAST_FAILURE,
        links=texts.of_job("JobrunFailingRepeatedly", "&result=failure"),
        why="""Pages after failures_to_page failures and 15 minutes. One broken job causes one page: it does not start
        while JobrunNoRecentSuccess pages for the job.""",
    ),
    Alert(
        name="JobrunLastRunFailed",
        expression=unless_started(
            "JobrunLastRunFailed",
            FAILING,
            JOB,
            f"{held('failing_repeatedly')}\nor\n{COVERED_BY_MANY_JOBS_ALERT}\nor\n{BUSY_JOBS}",
        ),
        severity=texts.WARNING,
        blank=RUN_LABELS,
        summary=f"Job {texts.JOB} failed{texts.STEP}",
        description=(
            f"The last run of {texts.JOB} failed{texts.STEP}{texts.ERROR}, and no run has succeeded since. The failed "
            f"run is {texts.RUN_ID}."
        ),
        extra=LAST_FAILURE,
        links=texts.of_job("JobrunLastRunFailed"),
        why="""Canceled, skipped and unknown runs are ignored. A single failure of a job with more than 12 runs per
        hour is reported by JobrunFailureRatioHigh or JobrunFailureRecovered. The alert does not start for a job that
        already fails repeatedly.""",
    ),
)

EXPECTATIONS = (
    Record(
        held("no_recent_success"),
        condition(
            "no_recent_success",
            of_job(
                f"""{since("(jobrun_last_success_timestamp_seconds or jobrun_job_discovered_timestamp_seconds)")}
> on ({SERVED_JOB})
jobrun_job_freshness_objective_seconds""",
                info=CAPPED_INFO,
            ),
        ),
        """For a job that never succeeded, the age counts from the time when the exporter first saw the job. A learned
        objective never pages: `page` is then `warning`.""",
    ),
    Alert(
        name="JobrunNoRecentSuccess",
        expression=unless_started(
            "JobrunNoRecentSuccess",
            held("no_recent_success"),
            JOB,
            f"{firing('JobrunFailingRepeatedly')}\nor\n{COVERED_BY_MANY_JOBS_ALERT}",
        ),
        severity=texts.CRITICAL,
        summary=f"Job {texts.JOB} has not succeeded for {{{{ humanizeDuration $value }}}}",
        description=(
            f"Job {texts.JOB} has had no successful run for {{{{ humanizeDuration $value }}}}, longer than its "
            "freshness "
            "objective allows. Its data is out of date."
        ),
        links=texts.of_job("JobrunNoRecentSuccess"),
    ),
    Record(
        held("overdue"),
        condition(
            "overdue",
            of_job(f"""{since("jobrun_job_next_run_expected_timestamp_seconds")}
> {limits.TOLERANCE}
unless on ({SERVED_JOB})
(jobrun_active_runs{{state="executing"}} > 0)
unless on ({SERVED_JOB}) (
  jobrun_active_runs{{state="pending"}} > 0
  unless on ({SERVED_JOB})
  ({STUCK.replace("start_timestamp_seconds", 'start_timestamp_seconds{state="pending"}')})
)"""),
            f"{held('overdue')} and on ({JOB}) ({from_newest_exporter('jobrun_job_enabled == 0')})".replace("\n", " "),
        ),
        """A job is not overdue while a run executes, or while a pending run is within its limit. A job that was
        overdue when it was disabled stays overdue.""",
    ),
    Alert(
        name="JobrunOverdue",
        expression=unless_started("JobrunOverdue", held("overdue"), JOB, firing("JobrunNoRecentSuccess")),
        severity=texts.WARNING,
        summary=f"Job {texts.JOB} is {{{{ humanizeDuration $value }}}} late",
        description=(
            f"A run of {texts.JOB} was due and had not started {{{{ humanizeDuration $value }}}} later, as of the "
            "last time its source was read."
        ),
        links=texts.of_job("JobrunOverdue"),
    ),
    Record(
        held("job_disabled"),
        condition(
            "job_disabled",
            of_job(from_newest_exporter("jobrun_job_enabled == 0"), names="team, page, stop_cause")
            + f"\n+ 1 and on ({JOB}) {LAST_ENABLED}",
        ),
        "For a day after a job was disabled.",
    ),
    Alert(
        name="JobrunJobDisabled",
        expression=f"""
        2 * ({held("job_disabled")} and on ({JOB}) {FAILING})
        or
        2 * ({held("job_disabled")} and on ({JOB}) {held("overdue")})
        or
        {held("job_disabled")}
        """,
        severity=('{{ if or (eq $value 1.0) (eq $labels.page "none") }}info{{ else }}warning{{ end }}'),
        blank=("stop_cause",),
        summary=f"Job {texts.JOB} was disabled",
        description=(
            f"Job {texts.JOB} was disabled at its vendor in the last day{texts.clause('stop_cause', ' (.)')}."
            "{{ if eq $value 2.0 }} It was failing or overdue, and those alerts continue.{{ end }} No run is expected "
            "of it."
        ),
        links=texts.of_job("JobrunJobDisabled"),
        why="Warning if it was failing or overdue when it was disabled, else info.",
    ),
)

DURATIONS = (
    Record(
        held("run_stuck"),
        condition("run_stuck", of_job(STUCK, "state")),
        "Pending runs of a disabled or paused job wait until it is enabled again, so they are not stuck.",
    ),
    Alert(
        name="JobrunRunStuck",
        expression=held("run_stuck"),
        severity=texts.WARNING,
        summary=f"Job {texts.JOB} has had a run {{{{ $labels.state }}}} for {{{{ humanizeDuration $value }}}}",
        description=(
            f"A run of {texts.JOB} has been {{{{ $labels.state }}}} for {{{{ humanizeDuration $value }}}}, longer than "
            "it may take, and has not completed."
        ),
        links=texts.of_job("JobrunRunStuck", "&state={{ $labels.state }}"),
    ),
    Record(
        held("run_slow"),
        condition(
            "run_slow",
            of_job(f"""jobrun_last_run_duration_seconds
> on ({JOB}) group_left ()
(
  max by ({JOB}) (jobrun_job_duration_budget_seconds)
  or
  {limits.SLOW_TIMES} * {DURATION_P95} + {limits.SLOW_MORE}
)
and on ({SERVED_JOB})
(jobrun_last_run_status{{status="success"}} == 1)
and on ({SERVED_SOURCE})
{NEWEST_WATERMARK}"""),
        ),
        "Only successful runs: other alerts cover failed ones. A job without a budget needs five successes in seven days.",
    ),
    Alert(
        name="JobrunRunSlow",
        expression=held("run_slow"),
        severity="info",
        summary=f"Job {texts.JOB} was slow and took {{{{ humanizeDuration $value }}}}",
        description=(
            f"The last run of {texts.JOB} succeeded, but took {{{{ humanizeDuration $value }}}}, longer than its "
            "budget "
            "or than usual."
        ),
        links=texts.of_job("JobrunRunSlow"),
    ),
    Record(
        held("failure_recovered"),
        condition(
            "failure_recovered",
            of_job(f"""{since("jobrun_last_failure_timestamp_seconds")}
< {limits.RECOVERY_REPORTED}
unless on ({SERVED_JOB})
jobrun_consecutive_failures > 0"""),
        ),
    ),
    Alert(
        name="JobrunFailureRecovered",
        expression=unless_started(
            "JobrunFailureRecovered",
            held("failure_recovered"),
            JOB,
            "\nor\n".join(
                f"last_over_time({firing(each)}[{window(limits.RECOVERED_SHOWN)}])"
                for each in (
                    "JobrunLastRunFailed",
                    "JobrunFailingRepeatedly",
                    "JobrunStepFailing",
                    "JobrunFailureRatioHigh",
                )
            ),
        ),
        severity="info",
        summary=f"Job {texts.JOB} failed and has recovered",
        description=(
            f"A run of {texts.JOB} failed {{{{ humanizeDuration $value }}}} ago, and one succeeded soon after it. "
            "No other alert reported it."
        ),
        links=texts.of_job("JobrunFailureRecovered", "&result=failure"),
        why="For failures that were over before another alert fired.",
    ),
)

GROUP = Group("jobrun-jobs", (*PREREQUISITES, *FAILURES, *EXPECTATIONS, *DURATIONS))
