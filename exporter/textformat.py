"""Lines of the two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

They differ in the names of counter families and in exemplars; all other lines are the same bytes. A sample never has a
timestamp.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from exporter.families import LEVEL_LABELS, Family, Kind, Level
from exporter.jobview import JobView, Row
from exporter.state import SEPARATOR, Count, Distribution, Exemplar

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


def labels(names: Sequence[str], values: Sequence[str]) -> str:
    """Label pairs without braces."""
    return ",".join([f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> str:
    """A sample's value, the same after it was read again."""
    text = repr(float(value))
    return {"inf": "+Inf", "-inf": "-Inf"}.get(text, text)


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
    lines = [_sample(family, prefix, row) for row in family.rows(view) if not math.isnan(row[1])]
    return _block(lines, lines, ())


def _sample(family: Family, prefix: str, row: Row) -> str:
    return f"{family.name}{_braced(prefix, labels(family.labels, row[0]))} {number(row[1])}\n"


def counter_block(family: Family, prefix: str, series: Mapping[str, Count]) -> Block:
    """A counter's lines for an owner."""
    plain, rich, unreleased = [], [], []
    for key, count in series.items():
        name = f"{family.name}{_braced(prefix, _labels_of(family, key))}"
        if not count.released:
            unreleased.append(key)
        line = f"{name} {number(count.value if count.released else 0)}"
        plain.append(f"{line}\n")
        rich.append(f"{line}{_exemplar(count.exemplar if count.released else None)}\n")
    return _block(plain, rich, tuple(unreleased))


def histogram_block(family: Family, prefix: str, series: Mapping[str, Distribution]) -> Block:
    """A histogram's lines for an owner."""
    plain: list[str] = []
    rich: list[str] = []
    unreleased = []
    for key, distribution in series.items():
        shown = distribution
        if not distribution.released:
            unreleased.append(key)
            shown = Distribution.empty(distribution.bounds, released=False)
        pairs = _joined(prefix, _labels_of(family, key))
        buckets = _buckets(family.name, pairs, shown)
        total = [f"{family.name}_{part}{_braced(pairs)} {number(value)}\n" for part, value in _totals(shown)]
        plain += [f"{line}\n" for line in buckets] + total
        rich += [f"{line}{_exemplar(shown.exemplars.get(at))}\n" for at, line in enumerate(buckets)] + total
    return _block(plain, rich, tuple(unreleased))


def _buckets(name: str, pairs: str, distribution: Distribution) -> list[str]:
    start = f'{name}_bucket{{{pairs},le="' if pairs else f'{name}_bucket{{le="'
    lines, count = [], 0
    for bound, inside in zip(_bounds(distribution.bounds), distribution.counts, strict=True):
        count += inside
        lines.append(f'{start}{bound}"}} {count}.0')
    return lines


def _totals(distribution: Distribution) -> tuple[tuple[str, float], ...]:
    return ("sum", distribution.sum), ("count", sum(distribution.counts))


@functools.lru_cache(maxsize=64)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(number, bounds), "+Inf")


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None or len("run_id") + len(exemplar.run_id) > EXEMPLAR_LIMIT:
        return ""
    pairs = labels(("run_id",), (exemplar.run_id,))
    return f" # {{{pairs}}} {number(exemplar.value)} {number(exemplar.instant)}"


def _labels_of(family: Family, key: str) -> str:
    return labels(family.labels, key.split(SEPARATOR)) if family.labels else ""


def _joined(*pairs: str) -> str:
    return ",".join(filter(None, pairs))


def _braced(*pairs: str) -> str:
    inside = _joined(*pairs)
    return f"{{{inside}}}" if inside else ""


def _block(plain: list[str], rich: list[str], unreleased: tuple[str, ...]) -> Block:
    if not plain:
        return EMPTY
    # "replace": a lone surrogate has no bytes in UTF-8
    text = "".join(plain).encode("utf-8", "replace")
    same = rich is plain or rich == plain
    return Block(text, text if same else "".join(rich).encode("utf-8", "replace"), len(plain), unreleased)


def prefix_of(level: Level, names: Iterable[str]) -> str:
    """The labels that all series of an owner begin with."""
    return labels(LEVEL_LABELS[level], tuple(names))
