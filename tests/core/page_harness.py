"""A ledger harness with publisher and page, without a source."""

from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from exporter.assembly import counting_rules, rules_of
from exporter.config import loads
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.metrics.zero_first import ZeroFirst
from exporter.snapshot.builder import ConfiguredSource
from exporter.sources import KNOWN_NAMES
from tests.core.ledger_harness import LedgerHarness

CONFIG = """
sources: [{name: s, type: snowplow, organization_id: o, auth: {api_key: k}%s}]
metrics: {zero_first: %s, startup_hold: %s}
"""


class PageHarness(LedgerHarness):
    """A ledger whose pages can be scraped."""

    def __init__(self, path, zero_first="2m", startup_hold="30s", more="", source="", **changes):
        text = CONFIG % (source, zero_first, startup_hold) + more
        self.config = loads(text, {}, KNOWN_NAMES)
        self.registry = CollectorRegistry()
        super().__init__(path, **changes)

    def configure(self, **changes):
        self.changes.update(changes)
        settings = self.config.sources[0]
        known = {key: value for key, value in self.changes.items() if key != "identity"}
        self.rules = msgspec.structs.replace(rules_of(settings, self.config), **known)
        self.ledger.configure({"s": self.rules}, counting_rules(self.config), "on")
        self.pending_series = ZeroFirst(self.config.metrics.zero_first, lambda: self.now)
        registry = CollectorRegistry()
        self.exposition = Exposition(registry, self.pending_series)
        self.publisher = Publisher(
            self.ledger,
            self.exposition,
            self.pending_series,
            monotonic=lambda: self.now,
            sleep=lambda _: self.meanwhile(),
        )
        self.publisher.configure(self.config, {"s": ConfiguredSource(settings=settings, rules=self.rules)})
        self.publisher.publish()

    def meanwhile(self):
        """Called between two parts of rendering a page, when other threads may use the ledger."""

    def scrape(self, family, *labels):
        """Return the values of a name's samples on the served page."""
        self.publisher.publish()
        self.publisher.tick()
        page: Any = self.exposition.page
        self.pending_series.scraped(page.generation)
        found = {}
        for metric in text_string_to_metric_families(bytes(page.text).decode()):
            for sample in metric.samples:
                if sample.name == family:
                    found[tuple(sample.labels.get(label, "") for label in labels)] = sample.value
        return found
