"""The table of sources: each vendor is a package here and a row below."""

from collections.abc import Mapping

from exporter.config.source import SourceSettings
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

SETTINGS: Mapping[str, type[SourceSettings]] = {word: kind.settings for word, kind in SOURCES.items()}
"""The settings class of each source type."""
