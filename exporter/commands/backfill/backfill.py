"""The command `backfill`: writes metrics from before the first poll as OpenMetrics with timestamps.

First, the sources are read into a temporary ledger, as far back as their APIs show runs (`reading.py`). Then the runs
are replayed in order (`replay.py`). Baselines and labels of jobs come from the daemon's state, which is only read.
"""

import os
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from exporter import logs
from exporter.assembly import Clocks
from exporter.commands.backfill.cutoff import Cutoff
from exporter.commands.backfill.options import BackfillOptions
from exporter.commands.backfill.reading import SINGLE_POLL_INTERVAL, PastReader, ReportLine
from exporter.commands.backfill.replay import Replay
from exporter.commands.backfill.samples import Samples
from exporter.config import Config, load, secrets
from exporter.errors import CommandError, StateError
from exporter.sources import KNOWN_NAMES, SOURCES
from exporter.state.files import problem_of
from exporter.state.location import opened_for_reading

BUDGET_FRACTION = 0.5
"""Fraction of the request budget to use. A daemon may use the same credential at the same time."""


def backfill(config_file: Path, options: BackfillOptions) -> int:
    """Write the metrics from before the first poll, and print how to import them. Return the exit code."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    config = load(config_file, os.environ, KNOWN_NAMES)
    logs.mask(secrets(config))
    written = write_past(config, options, Clocks(), lambda text: sys.stderr.write(f"{text}\n"))
    sys.stdout.write(
        f"{options.output}: {written.runs} completed runs of {written.jobs} jobs, {written.samples} samples, "
        f"{written.size / 1e6:.1f} MB\n"
        f"next: promtool tsdb create-blocks-from openmetrics --max-block-duration=24h {options.output} DATA_DIRECTORY\n"
    )
    return 0


class WrittenTotals(msgspec.Struct, kw_only=True):
    """Totals of the output. `size`: in bytes."""

    jobs: int = 0
    runs: int = 0
    samples: int = 0
    size: int = 0


def write_past(config: Config, options: BackfillOptions, clocks: Clocks, report: ReportLine) -> WrittenTotals:
    """Write the past of all sources, as far back as their APIs show runs.

    Raises:
        CommandError: An option is invalid, or the output cannot be written.
        StateError: The state cannot be read, or does not have the baseline of a source.
        SourceError: A source could not be read completely. Nothing is written.
    """
    if options.until is not None and options.until > clocks.clock():
        raise CommandError("--until is in the future")
    if options.output.exists():
        raise CommandError(f"{options.output} exists; give another name, or remove it")
    if taken := sorted(options.labels.keys() & set(config.label_names())):
        raise CommandError(f"--label: {', '.join(taken)} is already a label in `labels` of an objective")
    # Reading may take an hour, so the output folder is checked first.
    if reason := problem_of(options.output):
        raise CommandError(f"{options.output} cannot be written: {reason}")
    path = Path(config.state.path)
    with closing(Samples(options.labels)) as samples:
        with opened_for_reading(path, config.state.database()) as store:
            if store is None and options.until is None:
                raise StateError(f"{path}: there is no state; run the daemon first, or give --until")
            cutoff, written = Cutoff(store, options.until), WrittenTotals()
            with closing(PastReader(_with_full_depth(config), cutoff, clocks, report)) as reader:
                for name, configured in reader.assembly.configured.items():
                    jobs, runs = Replay(reader.assembly.config, configured, reader.read(name), samples).play()
                    written.jobs += jobs
                    written.runs += runs
        report(f"writing {written.runs} completed runs of {written.jobs} jobs")
        try:
            written.samples, written.size = samples.write(options.output)
        except OSError as error:
            raise CommandError(f"{options.output} cannot be written: {error.strerror}") from error
    return written


def _with_full_depth(config: Config) -> Config:
    """Return the config with sources that read as far back as they can, with a part of their request budget."""
    deepened = [
        settings.model_copy(
            update={
                "lookback": max(settings.lookback, min(SOURCES[settings.type].reach, config.state.retention)),
                "poll_interval": SINGLE_POLL_INTERVAL,
                "requests_per_minute": BUDGET_FRACTION * settings.requests_per_minute,
                "sweep": None,
            }
        )
        for settings in config.sources
    ]
    return config.model_copy(update={"sources": tuple(deepened)})
