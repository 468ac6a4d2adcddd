"""The command `check --live`: signs in to each source, and looks for the jobs of each objective."""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from exporter import logs
from exporter.assembly import Assembly, Clocks, NoPages
from exporter.commands.once import poll_once
from exporter.config import Config
from exporter.errors import SourceError
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.snapshot.expectations import objective_of
from exporter.state.opening import open_state


def probe(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Sign in to each source and send a request. Yield its name, whether that succeeded, and a sentence."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), Clocks().clock))
    assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPages(), Clocks())
    for name, source in assembly.sources.items():
        try:
            yield name, True, source.probe()
        except SourceError as error:
            yield name, False, str(error)
    assembly.close()


def verify_state(config: Config) -> Iterator[tuple[bool, str]]:
    """Check the database of a shared state. Yield for each problem whether it is only a warning, and a sentence."""
    url = config.state.database()
    if url is not None:
        from exporter.state.verification import verify  # noqa: PLC0415  # its driver is an extra

        yield from verify(url)


def unmatched(config: Config) -> Iterator[str]:
    """Poll each source once and yield a sentence per objective that matches no job."""
    logs.configure(logs.LogOptions("error"), sys.stderr)
    yield from unmatched_objectives(config, Clocks())


def unmatched_objectives(config: Config, clocks: Clocks) -> Iterator[str]:
    """Yield a sentence per objective that matches no job; none if a source could not be read completely."""
    polled = list(poll_once(config, clocks)) if config.objectives else []
    jobs = [job for each in polled for job in each.jobs]
    if all(each.outcome == "success" for each in polled):
        matched = {id(objective_of(config, job)) for job in jobs}
        for place, objective in enumerate(config.objectives):
            if id(objective) not in matched:
                yield f"objectives[{place}]: matches none of {len(jobs)} jobs"
