"""The table of sources: each vendor is a package here and a row below."""

from collections.abc import Mapping

from exporter.config import KnownNames
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.sources.northflank.source import TYPE as NORTHFLANK
from exporter.sources.snowplow.source import TYPE as SNOWPLOW
from exporter.sources.source import SourceType
from exporter.sources.strait.source import TYPE as STRAIT
from exporter.sources.workato.source import TYPE as WORKATO

SOURCES: Mapping[str, SourceType] = {
    "snowplow": SNOWPLOW,
    "workato": WORKATO,
    "northflank": NORTHFLANK,
    "strait": STRAIT,
}
"""All source types by their name in the config."""

KNOWN_NAMES = KnownNames(
    sources={word: kind.settings for word, kind in SOURCES.items()},
    families=[family.name for family in (*FAMILIES, *REQUEST_FAMILIES)],
)
"""The names that a config may contain."""
