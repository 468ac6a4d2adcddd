"""The command `check --live`: signs in to each source, and checks that each objective matches a job."""

import sys
from collections.abc import Iterator

from exporter import logs
from exporter.assembly import Clocks
from exporter.commands.once import in_memory, poll_once
from exporter.config import Config
from exporter.errors import SourceError
from exporter.snapshot.expectations import objective_of


def probe(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Sign in to each source and send one request. Yield the source's name, whether it succeeded, and a sentence."""
    _, assembly = in_memory(config, Clocks())
    for name, source in assembly.sources.items():
        try:
            yield name, True, source.probe()
        except SourceError as error:
            yield name, False, str(error)
    assembly.close()


def verify_state(config: Config) -> Iterator[tuple[bool, str]]:
    """Check the database of a shared state. For each problem, yield whether it is only a warning, and a sentence."""
    url = config.state.database()
    if url is not None:
        from exporter.state.verification import verify  # noqa: PLC0415  # the driver is an optional dependency

        yield from verify(url)


def unmatched(config: Config) -> Iterator[str]:
    """Poll each source once, logging errors only, and yield a sentence per objective that matches no job."""
    logs.configure(logs.LogOptions("error"), sys.stderr)
    yield from unmatched_objectives(config, Clocks())


def unmatched_objectives(config: Config, clocks: Clocks) -> Iterator[str]:
    """Yield a sentence per objective that matches no job. If a source could not be read completely, yield nothing."""
    polled = list(poll_once(config, clocks)) if config.objectives else []
    jobs = [job for each in polled for job in each.jobs]
    if all(each.outcome == "success" for each in polled):
        matched = {id(objective_of(config, job)) for job in jobs}
        for index, objective in enumerate(config.objectives):
            if id(objective) not in matched:
                yield f"objectives[{index}]: matches none of {len(jobs)} jobs"
