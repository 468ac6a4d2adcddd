"""Options of the command `backfill`."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from exporter.metrics.families import FAMILIES

LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

USED_LABELS = frozenset({"le"}).union(*(family.all_labels for family in FAMILIES))


class BackfillOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the command. `until`: maximum of all cutoffs; None if only the baselines in the state decide."""

    output: Path
    labels: Mapping[str, str] = {}
    until: float | None = None


def parse_label(text: str) -> tuple[str, str]:
    """Return the name and the value of `name=value`. Raises ValueError for a name that is invalid or in use."""
    name, separator, value = text.partition("=")
    if not separator or not LABEL_NAME.fullmatch(name) or name.startswith("__"):
        raise ValueError(f"{text!r} is not name=value with the name of a label")
    if name in USED_LABELS:
        raise ValueError(f"{name!r} is already a label of the series")
    return name, value
