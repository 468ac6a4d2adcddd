"""The command `once`: one poll of every source, printed, with a state that is thrown away."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, counting_rules
from exporter.config.config import Config, Objective
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.snapshot.expectations import objective_of
from exporter.state.opening import open_state


class NoPages:
    """Serves nothing."""

    def publish(self) -> None:
        """Nothing."""

    def publish_throttled(self) -> None:
        """Nothing."""


class ResultLine(msgspec.Struct, frozen=True, kw_only=True):
    """A job as one poll saw it."""

    source: str
    project: str
    job_name: str
    runs: int
    open: int
    last_result: str
    last_end: float | None
    last_duration: float | None
    failures: int
    objective: int | None = None


class ScheduledSource(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll of a source saw; `fault` is "" if it went well."""

    source: str
    outcome: str
    error: str
    lines: list[ResultLine]


def poll_once(config: Config, outside: Clocks) -> Iterator[ScheduledSource]:
    """Polls each source once, in the order of the configuration. Nothing of it is kept."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), outside.clock))
    ledger.load()
    assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPages(), outside)
    rules = {name: shown.rules for name, shown in assembly.shown.items()}
    ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
    try:
        for polled in assembly.polled:
            outcome = polled.poller.poll(steps=False)
            yield ScheduledSource(
                source=polled.name,
                outcome=outcome,
                error=polled.poller.status.error,
                lines=_lines(ledger, polled.name, config),
            )
    finally:
        assembly.close()
        ledger.close()


def _lines(ledger: Ledger, source: str, config: Config) -> list[ResultLine]:
    open_runs = ledger.open_runs(source)
    with ledger.locked():
        runs = ledger.store().count_runs(source)
    return [
        ResultLine(
            source=source,
            project=job.project,
            job_name=job.name,
            runs=runs.get(job.key, 0),
            open=sum(run.job == job.key for run in open_runs),
            last_result=job.last_run.result if job.last_run else "",
            last_end=job.last_run.end if job.last_run else None,
            last_duration=job.last_run.duration if job.last_run else None,
            failures=job.streak,
            objective=_place(config, objective_of(config, job)),
        )
        for job in sorted(ledger.jobs_of(source), key=lambda job: (job.project, job.name))
    ]


def _place(config: Config, objective: Objective | None) -> int | None:
    return None if objective is None else config.objectives.index(objective)


def unmatched_objectives(config: Config, outside: Clocks) -> Iterator[str]:
    """Poll each source once and say which objectives no job has; nothing where a source could not be read whole."""
    polled = list(poll_once(config, outside)) if config.objectives else []
    lines = [line for each in polled for line in each.lines]
    if all(each.outcome == "success" for each in polled):
        matched = {line.objective for line in lines}
        for place in range(len(config.objectives)):
            if place not in matched:
                yield f"objectives[{place}]: matches none of {len(lines)} jobs"
