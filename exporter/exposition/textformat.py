"""Lines of the two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

They differ in the names of counter families and in exemplars; all other lines are the same bytes. A sample never has a
timestamp.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from exporter.counting.records import SEPARATOR, Count, Distribution, Exemplar, clean
from exporter.metrics.families import LEVEL_LABELS, Family, Kind, Level
from exporter.metrics.jobview import JobView

EXEMPLAR_LIMIT = 128
"""How many characters the names and values of an exemplar's labels may have together."""


class Block(msgspec.Struct, frozen=True):
    """The lines of one owner in one family.

    Attributes:
        plain: For the text format.
        rich: For OpenMetrics; the same object unless there are exemplars.
        lines: How many.
        unreleased: Label values, as the state joins them, of series that are shown as 0 for now.
    """

    plain: bytes = b""
    rich: bytes = b""
    lines: int = 0
    unreleased: tuple[str, ...] = ()


EMPTY = Block()


def escape(value: str) -> str:
    """A label value, ready to stand between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@functools.lru_cache(maxsize=4096)  # the same few results and step names come again and again
def labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Label pairs without braces."""
    return ",".join([f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> str:
    """A sample's value, the same after it was read again."""
    text = repr(float(value))
    return INFINITIES.get(text, text)


INFINITIES = {"inf": "+Inf", "-inf": "-Inf"}


def header(family: Family, *, openmetrics: bool) -> bytes:
    """The HELP and TYPE lines; OpenMetrics names a counter family without `_total`, and escapes quotes too."""
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
        name = name.removesuffix("_total") if family.kind is Kind.COUNTER else name
    return f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n".encode()


def gauge_block(family: Family, prefix: str, view: JobView) -> Block:
    """A gauge's lines for a job. A value that is no number has no line."""
    if family.rows is None:
        return EMPTY
    names = family.labels_of(view)
    start = _start(family.name, prefix, names)
    rows = [(values, value) for values, value in family.rows(view) if not math.isnan(value)]
    return _block([f"{start}{labels(names, values)}}} {number(value)}" for values, value in rows], {}, ())


def counter_block(family: Family, prefix: str, series: Mapping[str, Count]) -> Block:
    """A counter's lines for an owner."""
    start = _start(family.name, prefix, family.labels)
    lines = [
        f"{start}{_labels_of(family, key)}}} {number(count.value if count.released else 0)}"
        for key, count in series.items()
    ]
    exemplars = {
        at: count.exemplar for at, count in enumerate(series.values()) if count.exemplar is not None and count.released
    }
    return _block(lines, exemplars, _unreleased(series))


def histogram_block(family: Family, prefix: str, series: Mapping[str, Distribution]) -> Block:
    """A histogram's lines for an owner."""
    lines: list[str] = []
    exemplars: dict[int, Exemplar] = {}
    for key, held in series.items():
        shown = held.shown() if held.released else Distribution.empty(held.shown_bounds, released=False)
        exemplars |= {len(lines) + bucket: exemplar for bucket, exemplar in shown.exemplars.items()}
        lines += _histogram(family, prefix, _labels_of(family, key), shown)
    return _block(lines, exemplars, _unreleased(series))


def _histogram(family: Family, prefix: str, pairs: str, shown: Distribution) -> Iterator[str]:
    """Buckets, sum and count of one series."""
    start = f"{_start(f'{family.name}_bucket', prefix, pairs)}{pairs}"
    comma = "," if prefix or pairs else ""
    count = 0
    for bound, inside in zip(_bounds(shown.bounds), shown.counts, strict=True):
        count += inside
        yield f'{start}{comma}le="{bound}"}} {count}.0'
    yield f"{_start(f'{family.name}_sum', prefix, pairs)}{pairs}}} {number(shown.sum)}"
    yield f"{_start(f'{family.name}_count', prefix, pairs)}{pairs}}} {count}.0"


@functools.lru_cache(maxsize=64)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(number, bounds), "+Inf")


def _start(name: str, prefix: str, more: Sequence[str]) -> str:
    """A line up to its own labels, if there are more to come."""
    return f"{name}{{{prefix}," if prefix and more else f"{name}{{{prefix}"


def _labels_of(family: Family, key: str) -> str:
    return labels(family.labels, tuple(key.split(SEPARATOR, len(family.labels) - 1))) if family.labels else ""


def _unreleased(series: Mapping[str, Count] | Mapping[str, Distribution]) -> tuple[str, ...]:
    return tuple([key for key, held in series.items() if not held.released])


def _block(lines: list[str], exemplars: Mapping[int, Exemplar], unreleased: tuple[str, ...]) -> Block:
    if not lines:
        return EMPTY
    plain = _encoded(lines)
    rich = plain
    if exemplars:
        rich = _encoded([line + _exemplar(exemplars.get(at)) for at, line in enumerate(lines)])
    return Block(plain, plain if rich == plain else rich, len(lines), unreleased)


def _encoded(lines: list[str]) -> bytes:
    # "replace": a lone surrogate has no bytes in UTF-8
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None or len("run_id") + len(exemplar.run_id) > EXEMPLAR_LIMIT:
        return ""
    pairs = f'run_id="{escape(clean(exemplar.run_id))}"'
    return f" # {{{pairs}}} {number(exemplar.value)} {number(exemplar.timestamp)}"


def prefix_of(level: Level, names: tuple[str, ...]) -> str:
    """The labels that all series of an owner begin with."""
    return labels(LEVEL_LABELS[level], names)
