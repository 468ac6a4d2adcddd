"""The command `backfill`: writes metrics from before the first poll as OpenMetrics with timestamps.

The sources read into a temporary ledger, as far back as their APIs reach. Then the runs are replayed in order: see
`exporter.commands.backfill.replay`. The daemon's state, if there is one, is opened read-only, for the baselines and the
labels of jobs.
"""

import os
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from exporter import logs
from exporter.assembly import Clocks
from exporter.commands.backfill.cutoff import before_of_state
from exporter.commands.backfill.options import BackfillOptions
from exporter.commands.backfill.reading import UNHURRIED, PastReader, Tell
from exporter.commands.backfill.replay import Replay
from exporter.commands.backfill.samples import Samples
from exporter.config import Config, load, secrets
from exporter.config.source import SourceSettings
from exporter.errors import JobrunError
from exporter.sources import SETTINGS, SOURCES

SHARE = 0.5
"""Fraction of the request budget that is used. The daemon may use the same credential."""


def backfill(config_file: Path, wanted: BackfillOptions) -> int:
    """Write the metrics from before the first poll, and print how to import them. Return the exit code."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    config = load(config_file, os.environ, SETTINGS)
    logs.guard(secrets(config))
    written = write_past(config, wanted, Clocks(), lambda text: sys.stderr.write(f"{text}\n"))
    sys.stdout.write(
        f"{wanted.output}: {written.runs} completed runs of {written.jobs} jobs, {written.samples} samples, "
        f"{written.size / 1e6:.1f} MB\n"
        f"next: promtool tsdb create-blocks-from openmetrics --max-block-duration=24h {wanted.output} DATA_DIRECTORY\n"
    )
    return 0


class BackfillError(JobrunError):
    """There is no past to write, or the output cannot be written."""

    reason = "state"


class Written(msgspec.Struct, kw_only=True):
    """Totals of the output. `size`: bytes."""

    jobs: int = 0
    runs: int = 0
    samples: int = 0
    size: int = 0


def write_past(config: Config, wanted: BackfillOptions, clocks: Clocks, tell: Tell) -> Written:
    """Write the past of all sources, as far as their APIs reach.

    Raises:
        BackfillError, StateError: The state has no baseline of a source, or the output cannot be written.
        SourceError: A source could not be read completely. Then nothing is written.
    """
    if wanted.until is not None and wanted.until > clocks.clock():
        raise BackfillError("--until is in the future")
    if wanted.output.exists():
        raise BackfillError(f"{wanted.output} exists; give another name, or remove it")
    with closing(Samples(wanted.labels)) as samples:
        with (
            before_of_state(Path(config.state.path), config.state.database(), wanted.until) as before,
            closing(PastReader(_unhurried(config), before, clocks, tell)) as reader,
        ):
            written = Written()
            for name in reader.assembly.sources:
                past = reader.read(name)
                replay = Replay(reader.config, reader.assembly.shown[name], past, samples)
                written.runs += replay.play()
                written.jobs += replay.jobs
        tell(f"writing {written.runs} completed runs of {written.jobs} jobs")
        try:
            written.samples, written.size = samples.write(wanted.output)
        except OSError as error:
            raise BackfillError(f"{wanted.output} cannot be written: {error.strerror}") from error
    return written


def _unhurried(config: Config) -> Config:
    """Return the config with sources that read as far back as they can, with half their request budget."""
    return config.model_copy(
        update={"sources": tuple(_deep(settings, config.state.retention) for settings in config.sources)}
    )


def _deep(settings: SourceSettings, retention: float) -> SourceSettings:
    depth = max(settings.lookback, min(SOURCES[settings.type].reach, retention))
    share = SHARE * settings.requests_per_minute
    return settings.model_copy(
        update={"lookback": depth, "poll_interval": UNHURRIED, "requests_per_minute": share, "sweep": None}
    )
