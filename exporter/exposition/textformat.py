"""Renders lines in the two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

The formats differ only in exemplars and in the headers of counters. Samples have no timestamps.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from exporter.counting.labels import clean
from exporter.counting.series import SEPARATOR, Count, Distribution, Exemplar
from exporter.metrics.family import LEVEL_LABELS, Family, Kind, Level
from exporter.metrics.samples import Row

EXEMPLAR_LIMIT = 128
"""Maximum total length of the names and values of an exemplar's labels."""


class Block(msgspec.Struct, frozen=True):
    """The lines of one owner's series in one family.

    Attributes:
        plain: Lines in the text format.
        rich: Lines in OpenMetrics; the same object as `plain` if there are no exemplars.
        pending: Joined label values of the series that are exposed as 0.
    """

    plain: bytes = b""
    rich: bytes = b""
    lines: int = 0
    pending: tuple[str, ...] = ()


EMPTY = Block()


def escape(value: str) -> str:
    """Return a label value, escaped for use between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@functools.lru_cache(maxsize=4096)  # results and step names repeat
def labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return labels as `name="value"` pairs, joined by commas."""
    return ",".join([f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> str:
    """Return a sample's value as text that parses back to the same number."""
    text = repr(float(value))
    return INFINITIES.get(text, text)


INFINITIES = {"inf": "+Inf", "-inf": "-Inf"}


def header(family: Family, *, openmetrics: bool) -> bytes:
    """Return the HELP and TYPE lines. OpenMetrics names a counter family without `_total`, and escapes quotes too."""
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
        name = name.removesuffix("_total") if family.kind is Kind.COUNTER else name
    return f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n".encode()


def sample_block(family: Family, prefix: str, names: tuple[str, ...], rows: Iterable[Row]) -> Block:
    """Return the lines of a gauge's samples for an owner, except for NaN."""
    known = [(values, value) for values, value in rows if not math.isnan(value)]
    # Without labels there are no braces.
    if not (prefix or names):
        return _block([f"{family.name} {number(value)}" for _, value in known], {}, ())
    start = _start(family.name, prefix, names)
    return _block([f"{start}{labels(names, values)}}} {number(value)}" for values, value in known], {}, ())


def counter_block(family: Family, prefix: str, series: Mapping[str, Count]) -> Block:
    """Return a counter's lines for an owner."""
    start, at_once = _start(family.name, prefix, family.labels), not family.zero_first
    lines = [
        f"{start}{_labels_of(family, key)}}} {number(count.value if count.released or at_once else 0)}"
        for key, count in series.items()
    ]
    exemplars = {
        at: count.exemplar for at, count in enumerate(series.values()) if count.exemplar is not None and count.released
    }
    return _block(lines, exemplars, _pending(family, series))


def histogram_block(family: Family, prefix: str, series: Mapping[str, Distribution]) -> Block:
    """Return a histogram's lines for an owner."""
    lines: list[str] = []
    exemplars: dict[int, Exemplar] = {}
    for key, each in series.items():
        shown = each.shown() if each.released or not family.zero_first else Distribution.empty(each.shown_bounds)
        exemplars |= {len(lines) + bucket: exemplar for bucket, exemplar in shown.exemplars.items()}
        lines += _histogram(family, prefix, _labels_of(family, key), shown)
    return _block(lines, exemplars, _pending(family, series))


def _pending(family: Family, series: Mapping[str, Count] | Mapping[str, Distribution]) -> tuple[str, ...]:
    return tuple([key for key, each in series.items() if not each.released]) if family.zero_first else ()


def _histogram(family: Family, prefix: str, pairs: str, shown: Distribution) -> Iterator[str]:
    start = f"{_start(f'{family.name}_bucket', prefix, pairs)}{pairs}"
    comma = "," if prefix or pairs else ""
    count = 0
    for bound, inside in zip(bounds_of(shown.bounds), shown.counts, strict=True):
        count += inside
        yield f'{start}{comma}le="{bound}"}} {count}.0'
    yield f"{_start(f'{family.name}_sum', prefix, pairs)}{pairs}}} {number(shown.sum)}"
    yield f"{_start(f'{family.name}_count', prefix, pairs)}{pairs}}} {count}.0"


@functools.lru_cache(maxsize=64)
def bounds_of(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Return the values of the label `le` of a histogram's buckets."""
    return (*map(number, bounds), "+Inf")


def _start(name: str, prefix: str, more: Sequence[str]) -> str:
    return f"{name}{{{prefix}," if prefix and more else f"{name}{{{prefix}"


def _labels_of(family: Family, key: str) -> str:
    return labels(family.labels, tuple(key.split(SEPARATOR, len(family.labels) - 1))) if family.labels else ""


def _block(lines: list[str], exemplars: Mapping[int, Exemplar], pending: tuple[str, ...]) -> Block:
    if not lines:
        return EMPTY
    plain = _encoded(lines)
    rich = plain
    if exemplars:
        rich = _encoded([line + _exemplar(exemplars.get(at)) for at, line in enumerate(lines)])
    return Block(plain, plain if rich == plain else rich, len(lines), pending)


def _encoded(lines: list[str]) -> bytes:
    # "replace", because a lone surrogate cannot be encoded in UTF-8.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None or len("run_id") + len(exemplar.run_id) > EXEMPLAR_LIMIT:
        return ""
    pairs = f'run_id="{escape(clean(exemplar.run_id))}"'
    return f" # {{{pairs}}} {number(exemplar.value)} {number(exemplar.timestamp)}"


def prefix_of(level: Level, values: tuple[str, ...]) -> str:
    """Return the rendered labels with which all series of an owner start."""
    return labels(LEVEL_LABELS.get(level, ()), values)
