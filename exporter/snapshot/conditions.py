"""The condition, threshold and severity of each alert. No other module defines them.

The status page and `/api/v1/problems` use these functions. The rules in `alerting/` and the dashboards use the same
constants. A test evaluates rules and functions on the same data.

The conditions of a job are evaluated at its source's watermark, as in the rules. The watermark does not move while the
API cannot be read, so an outage never looks like a missed run. All durations are seconds.
"""

import math
from collections.abc import Callable, Iterable

import msgspec

from exporter.model import State
from exporter.snapshot.job import JobView

TOLERANCE = 600
"""Seconds by which a run may start later than expected before it is overdue."""
FAILURES_TO_PAGE = 3
"""Consecutive failures after which a job pages, unless its objective sets another number."""
FAILING_TO_PAGE = 900
"""Seconds that a job must be failing before it pages."""
MANY_JOBS, MANY_SHARE, MANY_WITHIN = 10, 0.3, 900
"""Number and fraction of a project's or source's jobs that are a problem if they start to fail within MANY_WITHIN."""
STEP_RUNS, STEP_SHARE = 3, 0.1
"""Number and fraction of a day's runs in which the same step must fail first to be a problem."""
RATIO_RUNS, RATIO = 20, 0.05
"""Number of runs per day from which on a fraction of failures is a problem, and that fraction."""
BUSY_RUNS_PER_HOUR = 12
"""Completed runs per hour above which a single failure is not reported on its own."""
RECOVERY_REPORTED = 3600
"""Seconds after the end of a failed run in which it is reported although a later run succeeded."""
DEFAULT_RUN_LIMIT, MIN_RUN_LIMIT = 86400, 600
"""Limit of a run's duration: the default, and the minimum of a limit that is derived from the schedule."""
STUCK_TIMES, SLOW_TIMES, SLOW_MORE = 3, 1.5, 30
"""Without a budget, a run is stuck after 3 times the p95, and was slow above 1.5 times the p95 plus 30 s."""
MIN_LAG, POLLS_BEHIND = 600, 3
"""Allowed lag of a source: 600 seconds or three polls, whichever is longer."""
LOW_RATE_LIMIT = 0.1
"""The fraction of a rate limit below which it is low."""
CREDENTIAL_MARGIN, CREDENTIAL_WARNING, RENEWED_DAILY = 60, 604800, 86400
"""Tokens are renewed a minute before they expire. A key that did not change for a day is reported a week before."""
REMOVED_AFTER = 604800
"""Seconds after which a source that no exporter serves counts as removed."""
NEARLY_FULL = 0.9
"""The fraction of metrics.max_series above which folded jobs stay folded."""
GAP_SHOWN, TRUNCATED_SHOWN, UNMAPPED_SHOWN, COLD_START_SHOWN, COMMIT_ERRORS_SHOWN = 86400, 3600, 21600, 3600, 900
"""How long each of these events is reported after it happened."""
RECOVERED_SHOWN = RECOVERY_REPORTED + 600
"""Seconds after another alert about failures in which a recovered failure is not reported."""

SEVERITIES = ("critical", "warning", "info", "none")


class ConditionKind(msgspec.Struct, frozen=True):
    """One alert: its severity, and the `for` (`wait`) and `keep_firing_for` (`keep`) of its rule."""

    # No wait is between 3 and 9 minutes: a restart of Prometheus starts it again, and Alertmanager resolves an alert
    # that it has not received for 3 to 4 minutes.
    severity: str
    wait: str = ""
    keep: str = "5m"


KINDS = {
    "JobrunExporterAbsent": ConditionKind("critical", "2m", ""),
    "JobrunExporterStateNotCommitting": ConditionKind("critical", "1m", "10m"),
    "JobrunExporterStateLost": ConditionKind("critical", "", "10m"),
    "JobrunExporterLabelClash": ConditionKind("critical", "1m"),
    "JobrunSourceGone": ConditionKind("critical", "1m"),
    "JobrunSourceDown": ConditionKind("critical", "1m"),
    "JobrunManyJobsFailing": ConditionKind("critical"),
    "JobrunFailingRepeatedly": ConditionKind("critical", "1m"),
    "JobrunNoRecentSuccess": ConditionKind("critical", "1m"),
    "JobrunLastRunFailed": ConditionKind("warning", "1m"),
    "JobrunOverdue": ConditionKind("warning", "1m"),
    "JobrunRunStuck": ConditionKind("warning", "1m"),
    "JobrunStepFailing": ConditionKind("warning", "", "10m"),
    "JobrunFailureRatioHigh": ConditionKind("warning", "", "10m"),
    "JobrunJobDisabled": ConditionKind("info", "1m"),
    "JobrunSourceStale": ConditionKind("warning", "10m"),
    "JobrunSourceCoverageGap": ConditionKind("warning", "", "10m"),
    "JobrunSourceScopeUnreadable": ConditionKind("warning", "15m"),
    "JobrunSourceRateLimitLow": ConditionKind("warning", "10m", "10m"),
    "JobrunSourceCredentialExpiring": ConditionKind("warning", "10m"),
    "JobrunSourceUnmappedStatus": ConditionKind("warning", "", "10m"),
    "JobrunSourceNameClash": ConditionKind("warning", "15m"),
    "JobrunObjectiveMatchesNothing": ConditionKind("warning", "1h"),
    "JobrunExporterDown": ConditionKind("warning", "15m"),
    "JobrunExporterRestarting": ConditionKind("warning", "", "10m"),
    "JobrunReplicaLost": ConditionKind("warning", "15m"),
    "JobrunReplicaLeaseFlapping": ConditionKind("warning", "", "10m"),
    "JobrunExporterConfigReloadFailed": ConditionKind("warning"),
    "JobrunExporterSeriesOverflow": ConditionKind("warning", "", "10m"),
    "JobrunRunSlow": ConditionKind("info", "1m"),
    "JobrunFailureRecovered": ConditionKind("info", "1m"),
    "JobrunSourceTruncated": ConditionKind("info", "", "10m"),
    "JobrunWatchdog": ConditionKind("none", "", ""),
}
"""All alerts, the most urgent first."""

NOT_ON_PAGE = {
    "JobrunExporterAbsent": "an exporter that is gone shows no page",
    "JobrunExporterDown": "only Prometheus knows the other exporters",
    "JobrunExporterLabelClash": "only Prometheus knows the labels that it replaces",
    "JobrunExporterRestarting": "only Prometheus remembers the starts",
    "JobrunReplicaLost": "only Prometheus knows how many replicas there were",
    "JobrunReplicaLeaseFlapping": "the exporter keeps the number of takeovers, not their times",
    "JobrunSourceGone": "only Prometheus knows what was served before",
    "JobrunSourceNameClash": "only Prometheus knows the other exporters",
    "JobrunExporterStateLost": "the exporter keeps the number of such starts, not their times",
    "JobrunJobDisabled": "the exporter does not keep since when a job is disabled; its status is on the page",
    "JobrunStepFailing": "the hours of a day are recorded by Prometheus",
    "JobrunFailureRatioHigh": "the hours of a day are recorded by Prometheus",
    "JobrunSourceUnmappedStatus": "the exporter keeps the number of such runs, not their times",
    "JobrunWatchdog": "it tests the way from Prometheus to a person",
}
"""Alerts that the exporter's pages cannot show, and why."""


def capped(severity: str, page: str) -> str:
    """Return a severity, lowered to the highest one that the job's `page` allows: info for `none`."""
    highest = {"warning": "warning", "none": "info"}.get(page, "critical")
    return max(severity, highest, key=SEVERITIES.index)


def is_failing(view: JobView) -> bool:
    """Return whether the job has failed since its last success."""
    return view.state.streak > 0


def is_failing_repeatedly(view: JobView, watermark: float | None) -> bool:
    """Return whether the job has failed often enough, and for long enough, to page."""
    since, now = view.state.failing_since, watermark
    long_enough = since is None or now is None or now - since >= FAILING_TO_PAGE
    return view.state.streak >= view.failures_to_page and long_enough


def has_recovered(view: JobView, watermark: float | None) -> bool:
    """Return whether a run failed recently and a later one succeeded."""
    failure = view.state.last_failure
    ended = None if failure is None else failure.end
    return (
        not is_failing(view) and ended is not None and watermark is not None and watermark - ended < RECOVERY_REPORTED
    )


def is_stale(view: JobView, watermark: float | None) -> bool:
    """Return whether the last success is too old. If there is none, the time since the job's discovery counts."""
    if watermark is None or view.freshness is None:
        return False
    since = view.state.discovered if view.state.last_success is None else view.state.last_success
    return watermark - since > view.freshness


def run_limit(view: JobView) -> float:
    """Return how long a run of the job may be active: its budget, else the time to its next run, else a day."""
    if view.duration_budget is not None:
        return view.duration_budget
    starts = [start for _, start in view.active.values() if start is not None]
    last = view.state.last_run.start if view.state.last_run else None
    latest = max([*starts, *([] if last is None else [last])], default=None)
    if view.next_expected is None or latest is None:
        return DEFAULT_RUN_LIMIT
    return max(MIN_RUN_LIMIT, view.next_expected - latest)


def active_for(view: JobView, watermark: float | None, state: State) -> float | None:
    """Return for how many seconds the oldest run in this state has been active; None if there is none."""
    start = view.active.get(state, (0, None))[1]
    return None if start is None or watermark is None else watermark - start


def stuck_in(view: JobView, watermark: float | None) -> tuple[State, ...]:
    """Return the states in which a run has been active for longer than its limit."""
    # Pending runs of a disabled job wait until it is enabled again.
    states = [State.EXECUTING] if view.state.job.enabled is False else State
    ages = {state: active_for(view, watermark, state) for state in states}
    return tuple(state for state, age in ages.items() if age is not None and age > run_limit(view))


def is_overdue(view: JobView, watermark: float | None) -> bool:
    """Return whether an expected run has not started. A waiting run counts as started until it is stuck."""
    expected = view.next_expected
    if watermark is None or expected is None or watermark - expected <= TOLERANCE:
        return False
    waiting = view.active.get(State.PENDING, (0, None))[0] and State.PENDING not in stuck_in(view, watermark)
    return not waiting and not view.active.get(State.EXECUTING, (0, None))[0]


def is_slow(view: JobView) -> bool:
    """Return whether the last run succeeded but took longer than the job's budget."""
    last, budget = view.state.last_run, view.duration_budget
    if last is None or last.duration is None or budget is None:
        return False
    return last.result == "success" and last.duration > budget


def is_too_far_behind(lag: float | None, interval: float) -> bool:
    """Return whether a source's watermark is too old. A source without a watermark is too far behind."""
    return lag is None or lag > max(MIN_LAG, POLLS_BEHIND * interval)


def is_rate_limit_low(remaining: float | None, limit: float | None, reset: float | None, now: float) -> bool:
    """Return whether an API's rate limit is low."""
    if limit is None or remaining is None or (reset is not None and reset < now):
        return False
    return remaining < LOW_RATE_LIMIT * limit


def is_not_renewed(expiry: float | None, last_poll: float | None) -> bool:
    """Return whether the last poll used a token that should have been renewed before."""
    return expiry is not None and last_poll is not None and last_poll > expiry - CREDENTIAL_MARGIN


def is_not_replaced(expiry: float | None, since: float | None, now: float) -> bool:
    """Return whether a credential expires within a week, and nothing renews it: it has not changed for a day."""
    return (
        expiry is not None and since is not None and expiry < now + CREDENTIAL_WARNING and now - since >= RENEWED_DAILY
    )


def is_recent(time: float | None, length: float, now: float) -> bool:
    """Return whether an event happened less than `length` seconds ago."""
    return time is not None and now - time < length


def are_many_failing(since: Iterable[float], known: int) -> bool:
    """Return whether enough jobs started to fail together to be a problem of their project or source.

    Args:
        since: When each failing job started to fail.
        known: The number of all jobs.
    """
    began = sorted(since)
    least = math.ceil(max(MANY_JOBS, MANY_SHARE * known))
    # The rule ends differently: when fewer jobs fail, no matter when they started to.
    return any(last - first < MANY_WITHIN for first, last in zip(began, began[least - 1 :], strict=False))


STATUSES: dict[str, Callable[[JobView, float | None], bool]] = {
    "failing": lambda view, _: is_failing(view),
    "overdue": is_overdue,
    "stale": is_stale,
    "stuck": lambda view, watermark: bool(stuck_in(view, watermark)),
    "disabled": lambda view, _: view.state.job.enabled is False,
    "ok": lambda view, _: view.state.last_success is not None,
    "idle": lambda _view, _: True,
}
"""Statuses of a job with their conditions, the most urgent first. A job has the first one that applies."""


def urgency(kind: str) -> int:
    """Return the rank of an alert; the most urgent has the lowest."""
    return list(KINDS).index(kind)


def worst(severities: Iterable[str]) -> str:
    """Return the most urgent of these severities."""
    return min(severities, key=SEVERITIES.index)
