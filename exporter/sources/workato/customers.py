"""The list of Workato's managed users, which are customers."""

from collections.abc import Sequence

from exporter.client.budget import Pace
from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.model import Listing
from exporter.sources.rest import PageGuard
from exporter.sources.workato.api import USERS, Customer, parse_customers
from exporter.sources.workato.settings import WorkatoSettings

PER_PAGE = 100
"""Managed users per page."""
USERS_PER_MINUTE = 36
"""The API allows 60, which other clients of the workspace also use."""
LISTING_INTERVALS, MAX_LISTING = 10, 30 * MINUTE
"""Time between two reads of the list: this many poll intervals, but at most this many seconds."""


class CustomerList:
    """The list of managed users, read regularly. A single workspace is one customer without a name.

    Attributes:
        known: The customers in the last complete list.
        listing: The last complete list; None for a single workspace.
    """

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        self._client = client
        self._interval = min(LISTING_INTERVALS * settings.poll_interval, MAX_LISTING)
        self._pace = Pace(USERS_PER_MINUTE)
        self._next_page = 1
        self._began = self._ended = 0.0
        self._partial: dict[str, Customer] = {}
        self._guard = PageGuard(f"GET {USERS}")
        self._listable = settings.mode == "embedded"
        self.known: Sequence[Customer] = [] if self._listable else [Customer("", "")]
        self.listing: Listing | None = None

    def refresh(self, now: float) -> bool:
        """Read the list if it is due. Return whether it is now complete and new.

        A poll reads as many pages as the API's limit allows, and the next poll continues. After an error the list is
        read from the first page again.
        """
        if not self._listable or (self.known and abs(now - self._ended) < self._interval):
            return False
        while self._pace.earliest(now) <= now:
            self._pace.take(now)
            page, self._next_page = self._next_page, 1
            if page == 1:
                self._began, self._partial, self._guard = now, {}, PageGuard(f"GET {USERS}")
            rows, invalid = self.read_page(page)
            self._partial |= {row.customer_id: row for row in rows}
            if len(rows) + invalid < PER_PAGE:
                self.known, self._ended = list(self._partial.values()), now
                self.listing = Listing(self._began, frozenset(self._partial))
                return True
            self._guard.check([row.customer_id for row in rows])
            self._next_page = page + 1
        return False

    def read_page(self, page: int = 1) -> tuple[list[Customer], int]:
        """Return one page of the list, and the number of rows that are not managed users."""
        params = {"page": page, "per_page": PER_PAGE}
        return parse_customers(self._client.get(USERS, endpoint=USERS, params=params))
