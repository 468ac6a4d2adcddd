"""The versions of the records on a replica's pages, and whether scrapes have read them from any replica."""

import threading
from collections.abc import Iterable, Mapping

from exporter.metrics.zero_first import ZeroFirst

MAX_PAGES = 1000
"""Maximum number of pages whose versions are remembered until a scrape has read them."""

Versions = Mapping[str, int]
"""The version of each source's records."""


class PageVersions:
    """The versions on each page. Any thread may call `scraped`. `zero_first`: learns which pages were read."""

    def __init__(self, zero_first: ZeroFirst) -> None:
        self._zero_first = zero_first
        self._lock = threading.Lock()
        self._latest: tuple[int, Versions] = (-1, {})
        self._read: Versions = {}
        # By generation: the versions on each page that no scrape is known to have read. Those of other replicas'
        # sources too: if this replica takes over one, it must know whether the zeros were read.
        self._unread: dict[int, Versions] = {}

    def add(self, generation: int, versions: Versions) -> None:
        """Record the versions on a new page."""
        with self._lock:
            self._latest = generation, versions
        self._unread[generation] = versions
        while len(self._unread) > MAX_PAGES:
            del self._unread[min(self._unread)]

    def scraped(self, generation: int) -> None:
        """Record that a scrape has read the page of this generation from this replica."""
        with self._lock:
            latest, versions = self._latest
            if generation >= latest:
                self._read = versions

    def versions_read(self, sources: Iterable[str]) -> dict[str, int]:
        """Return the version of each source that scrapes have read from this replica; -1 for none."""
        with self._lock:
            return {name: self._read.get(name, -1) for name in sources}

    def report_read(self, replicas: Iterable[Versions]) -> None:
        """Report to zero-first which pages were read. `replicas`: the versions that scrapes read from each replica."""
        newest: dict[str, int] = {}
        for name, version in (item for versions in replicas for item in versions.items()):
            newest[name] = max(version, newest.get(name, version))
        for generation, versions in sorted(self._unread.items()):
            if all(newest.get(name, -1) >= version for name, version in versions.items()):
                self._zero_first.scraped(generation)
                del self._unread[generation]
