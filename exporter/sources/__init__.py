"""The table of sources: a vendor is a file of this package and a line here."""

from collections.abc import Mapping

from exporter.sources import northflank, snowplow, strait, workato
from exporter.sources.source import SourceType

SOURCES: Mapping[str, SourceType] = {
    "snowplow": snowplow.TYPE,
    "workato": workato.TYPE,
    "northflank": northflank.TYPE,
    "strait": strait.TYPE,
}
"""Every kind of source by its word in the configuration."""
