"""Workato's managed users, which are customers: their list, and the order in which they are read."""

from collections.abc import Collection, Sequence

from exporter.client.budget import Pace
from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.errors import AuthError, RateLimitedError, SchemaError, SourceError
from exporter.model import Listing
from exporter.sources.failing import FailingParts
from exporter.sources.paging import PageGuard
from exporter.sources.workato.api import USERS, Customer, parse_customers
from exporter.sources.workato.settings import WorkatoSettings

PER_PAGE = 100
"""Managed users per page."""
USERS_PER_MINUTE = 36
"""The API allows 60, which other clients of the workspace also use."""
LISTING_INTERVALS, MAX_LISTING = 10, 30 * MINUTE
"""Time between two reads of the list: this many poll intervals, but at most this many seconds."""
# Poll intervals after which a customer that was not read comes before all others.
MAX_WAIT_INTERVALS = 10


class CustomerList:
    """The list of managed users, read regularly. A single workspace is one customer without a name.

    Attributes:
        known: The customers in the last complete list.
        fresh: Whether the last `refresh` completed the list.
        listing: The last complete list; None for a single workspace.
    """

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        self._client = client
        self._interval = min(LISTING_INTERVALS * settings.poll_interval, MAX_LISTING)
        self._pace = Pace(USERS_PER_MINUTE)
        self._partial: dict[str, Customer] = {}
        self._page = 1
        self._guard = PageGuard(f"GET {USERS}")
        self._began = 0.0
        self._listed: float | None = None
        self._listable = settings.mode == "embedded"
        self.known: Sequence[Customer] = [] if self._listable else [Customer("", "")]
        self.fresh = False
        self.listing: Listing | None = None

    def refresh(self, now: float) -> SourceError | None:
        """Read the list if it is due. Return the error of a failed read; raise it if there is no older list."""
        self.fresh = False
        recent = bool(self.known) and self._listed is not None and abs(now - self._listed) < self._interval
        if recent or not self._listable:
            return None
        try:
            self._read(now)
        except (AuthError, RateLimitedError):
            raise
        except SourceError as error:
            # The list is wrong, so the pages read so far are dropped.
            if isinstance(error, SchemaError):
                self._restart()
            if self._listed is None:
                raise
            return error
        return None

    def _read(self, now: float) -> None:
        """Read as many pages as the API's limit allows. The next polls read the other pages."""
        while self._pace.earliest(now) <= now:
            self._pace.take(now)
            self._began = now if self._page == 1 else self._began
            rows, invalid = self.read_page(self._page)
            self._partial |= {row.customer_id: row for row in rows}
            if len(rows) + invalid < PER_PAGE:
                self.known, self._listed, self.fresh = list(self._partial.values()), now, True
                self.listing = Listing(self._began, frozenset(self._partial))
                self._restart()
                return
            self._page += 1
            self._guard.check([row.customer_id for row in rows])

    def _restart(self) -> None:
        self._partial, self._page, self._guard = {}, 1, PageGuard(f"GET {USERS}")

    def read_page(self, page: int = 1) -> tuple[list[Customer], int]:
        """Return one page of the list, and the number of rows that are not managed users."""
        params = {"page": page, "per_page": PER_PAGE}
        return parse_customers(self._client.get(USERS, endpoint=USERS, params=params))


class CustomerOrder:
    """The order in which customers are read, and how long it takes to read each once.

    Attributes:
        round_seconds: Seconds that the last read of all customers took; 0 while every poll reads all customers.
        refused: Customers that the credential may not read.
        unfinished: Customers that were not read completely.
    """

    def __init__(self, poll_interval: float, failing: FailingParts) -> None:
        self._longest_wait = MAX_WAIT_INTERVALS * poll_interval
        self._failing = failing
        self._read: dict[str, float] = {}
        self._round: set[str] = set()
        self._round_began: float | None = None
        self.round_seconds = 0.0
        self.refused: set[str] = set()
        self.unfinished: set[str] = set()

    def ordered(self, customers: Sequence[Customer], busy: Collection[str], now: float) -> list[Customer]:
        """Return customers in the order in which this poll reads them. `busy`: scopes with active jobs.

        First come customers that have waited too long, then customers with active or unread jobs, then all others, then
        refused customers, and last customers whose last read failed. In each group, the customer that has waited
        longest is first.
        """
        self._round_began = now if self._round_began is None else self._round_began

        def rank(customer: Customer) -> tuple[int, float]:
            scope = customer.customer_id
            last, failure = self._read.setdefault(scope, now), self._failing.get(part_of(customer))
            if failure is not None:
                return 4, failure.tried
            if scope in self.refused:
                return 3, last
            overdue = now - last > self._longest_wait
            return (0 if overdue else 1 if scope in busy or scope in self.unfinished else 2), last

        return sorted(customers, key=rank)

    def note_read(self, scope: str, now: float) -> None:
        """Record that a customer was read or refused."""
        self._read[scope] = now
        self._round.add(scope)

    def end_poll(self, customers: Sequence[Customer], began: float, now: float) -> None:
        """Record the end of a poll. A round ends when every customer has been read once."""
        start = began if self._round_began is None else self._round_began
        if self._round.issuperset(customer.customer_id for customer in customers):
            self.round_seconds = 0.0 if start >= began else now - start
            self._round, self._round_began = set(), None
        else:
            self.round_seconds = max(self.round_seconds, now - start)


def part_of(customer: Customer) -> str:
    """Return the name of a customer in errors."""
    return f"customer {customer.customer_id}" if customer.customer_id else "recipes"
