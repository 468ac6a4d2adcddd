"""Workato's managed users: the list of them, and whose turn it is."""

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
"""The API allows 60, shared with everything else that uses the workspace."""
LEAST_LISTING, LONGEST_LISTING = 10 * MINUTE, 30 * MINUTE
"""Bounds of the time between two reads of the list of managed users."""
SLOW = 10
"""Poll intervals between them, within these bounds."""
STARVING = 10
"""Poll intervals after which a customer that was not read comes before all others."""


class Customers:
    """The list of managed users, read anew now and then; a workspace of one's own is one customer without a name.

    Args:
        settings: The source's configuration.
        client: Its API.

    Attributes:
        known: As last listed.
        fresh: Whether the last `refresh` read the list to its end.
        listing: The list that `known` is from; None for a workspace of one's own.
    """

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        self._client = client
        self._interval = min(max(LEAST_LISTING, SLOW * settings.poll_interval), LONGEST_LISTING)
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
        """Reads the list if it is due. Returns what kept it from being read, if an older one is at hand."""
        self.fresh = False
        recent = bool(self.known) and self._listed is not None and abs(now - self._listed) < self._interval
        if recent or not self._listable:
            return None
        try:
            self._read(now)
        except (AuthError, RateLimitedError):
            raise
        except SourceError as error:
            if isinstance(error, SchemaError):  # the pages read so far are of a list that cannot be believed
                self._restart()
            if self._listed is None:
                raise
            return error
        return None

    def _read(self, now: float) -> None:
        """Page by page; those for which the API's limit leaves no room are read by later polls."""
        while self._pace.earliest(now) <= now:
            self._pace.take(now)
            self._began = now if self._page == 1 else self._began
            rows, invalid = self.ask(self._page)
            self._partial |= {row.customer_id: row for row in rows}
            if len(rows) + invalid < PER_PAGE:
                self.known, self._listed, self.fresh = list(self._partial.values()), now, True
                self.listing = Listing(self._began, frozenset(self._partial))
                self._restart()
                return
            self._page += 1
            self._guard.check([row.customer_id for row in rows])

    def _restart(self) -> None:
        """The next page that is asked for is the first."""
        self._partial, self._page, self._guard = {}, 1, PageGuard(f"GET {USERS}")

    def ask(self, page: int = 1) -> tuple[list[Customer], int]:
        """One page of the list, and how many of its rows were none."""
        params = {"page": page, "per_page": PER_PAGE}
        return parse_customers(self._client.get(USERS, endpoint=USERS, params=params).body)


class Turns:
    """In which order customers are read, and how long it takes until each was read once.

    Args:
        poll_interval: Seconds between two polls.
        failing: The customers that cannot be read at present.

    Attributes:
        round_seconds: Seconds of the latest round; 0 while every poll reads all customers.
        refused: Customers that may not be read.
        unfinished: Customers of which not everything was read.
    """

    def __init__(self, poll_interval: float, failing: FailingParts) -> None:
        self._longest_wait = STARVING * poll_interval
        self._failing = failing
        self._read: dict[str, float] = {}
        self._round: set[str] = set()
        self._round_began: float | None = None
        self.round_seconds = 0.0
        self.refused: set[str] = set()
        self.unfinished: set[str] = set()

    def ordered(self, customers: Sequence[Customer], busy: Collection[str], now: float) -> list[Customer]:
        """Order customers for a poll that begins now; `busy` are those with open jobs.

        First those that have waited for too long, then those with open or unread jobs, the others, and last those
        that cannot be read: of each kind the one that has waited longest.
        """
        self._round_began = now if self._round_began is None else self._round_began

        def rank(customer: Customer) -> tuple[int, float]:
            scope = customer.customer_id
            last, failure = self._read.setdefault(scope, now), self._failing.get(part_of(customer))
            if failure is not None:
                return 4, failure.tried
            if scope in self.refused:
                return 3, last
            starving = now - last > self._longest_wait
            return (0 if starving else 1 if scope in busy or scope in self.unfinished else 2), last

        return sorted(customers, key=rank)

    def note_read(self, scope: str, now: float) -> None:
        """Note that a customer was read, or that it may not be."""
        self._read[scope] = now
        self._round.add(scope)

    def end_poll(self, customers: Sequence[Customer], began: float, now: float) -> None:
        """Note the end of a poll. A round is over when every customer has been read once."""
        start = began if self._round_began is None else self._round_began
        if self._round.issuperset(customer.customer_id for customer in customers):
            self.round_seconds = 0.0 if start >= began else now - start
            self._round, self._round_began = set(), None
        else:
            self.round_seconds = max(self.round_seconds, now - start)


def part_of(customer: Customer) -> str:
    """How a customer is called where it cannot be read."""
    return f"customer {customer.customer_id}" if customer.customer_id else "recipes"
