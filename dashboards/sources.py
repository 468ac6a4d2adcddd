"""PromQL about the sources and exporters that are selected at the top of the dashboard."""

from typing import Final

from dashboards import jobs
from dashboards.words import BAD, GOOD, QUIET, WARNING, Word

SCRAPE = 'job=~"$job"'
SOURCE = 'job=~"$job", source=~"$source"'
INSTANCE = 'job=~"$job", instance=~"$instance"'
DAY: Final = "1d"
WINDOW = "$__rate_interval"
POLLS: Final = "jobrun_source_polls_total"


def of_source(metric: str, *labels: str, more: str = "") -> str:
    """Return a gauge of the selected sources, by source and these labels. Several exporters give one series."""
    return f"max by ({', '.join(('job', 'source', *labels))}) ({metric}{{{SOURCE}{', ' if more else ''}{more}}})"


def rise(metric: str, window: str, *labels: str, more: str = "") -> str:
    """Return the increase of a counter of the selected sources in a window."""
    selector = f"{metric}{{{SOURCE}{', ' if more else ''}{more}}}"
    return f"max by ({', '.join(('job', 'source', *labels))}) (increase({selector}{jobs.window_of(window)}))"


def per_minute(metric: str, *labels: str) -> str:
    """Return the rate per minute of a counter of the selected sources."""
    return f"60 * max by ({', '.join(('job', 'source', *labels))}) (rate({metric}{{{SOURCE}}}[{WINDOW}]))"


def quantile(share: float, metric: str, *labels: str, window: str = WINDOW) -> str:
    """Return a quantile of a histogram of the selected sources, by source and these labels."""
    classic, native = (f"{name}{{{SOURCE}}}" for name in (f"{metric}_bucket", metric))
    return jobs.quantile(share, classic, native, window, ("job", "source", *labels), of=jobs.SOURCE)


def of_exporter(metric: str, *labels: str) -> str:
    """Return a gauge of the selected exporters."""
    return f"max by ({', '.join(('job', 'instance', *labels))}) ({metric}{{{INSTANCE}}})"


def of_process(expression: str) -> str:
    """Return a metric of the exporters' processes: only those with build info, not other processes."""
    return f"max by (job, instance) ({expression} and on (instance, job) jobrun_exporter_build_info{{{SCRAPE}}})"


def exporter_rise(metric: str, *labels: str) -> str:
    """Return the increase of a counter of the selected exporters in the last day, by these labels."""
    rise = f"increase({metric}{{{INSTANCE}}}[{DAY}])"
    return f"sum by (job, instance) (max by ({', '.join(('job', 'instance', *labels))}) ({rise}))"


OUTCOMES: Final = (
    Word("success", 1, GOOD),
    Word("skipped", 2, QUIET),
    Word("partial", 3, WARNING),
    Word("error", 4, BAD),
)


def outcome_is(word: Word) -> str:
    """Return the matcher of an outcome."""
    return f'outcome="{word.word}"'


def worst_outcome() -> str:
    """Return the code of the worst outcome of a source's polls within a step of the graph."""
    codes = (f"({rise(POLLS, WINDOW, 'outcome', more=outcome_is(each))} > bool 0.5) * {each.code}" for each in OUTCOMES)
    return f"max by (job, source) ({' or '.join(codes)}) > 0"
