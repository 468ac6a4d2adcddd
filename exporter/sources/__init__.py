"""The table of sources: each vendor is a package here and a name below."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TypeVar

from exporter.config import KnownNames
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.sources.source import SourceType

Value = TypeVar("Value")

VENDORS = ("snowplow", "workato", "northflank", "strait")
"""Names of all source types in the config, which are also the names of their packages."""


class _ByVendor(Mapping[str, Value]):
    """A value of each source type. A vendor is imported when it is first used: most configs have only one."""

    def __init__(self, value: Callable[[SourceType], Value]) -> None:
        self._value = value

    def __getitem__(self, vendor: str) -> Value:
        if vendor not in VENDORS:
            raise KeyError(vendor)
        return self._value(import_module(f"exporter.sources.{vendor}.source").TYPE)

    def __iter__(self) -> Iterator[str]:
        return iter(VENDORS)

    def __len__(self) -> int:
        return len(VENDORS)


SOURCES: Mapping[str, SourceType] = _ByVendor(lambda kind: kind)
"""All source types by their name in the config."""

KNOWN_NAMES = KnownNames(
    sources=_ByVendor(lambda kind: kind.settings),
    families=[family.name for family in (*FAMILIES, *REQUEST_FAMILIES)],
)
"""The names that a config may contain."""
