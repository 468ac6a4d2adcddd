"""Reads Workato. A recipe counts its jobs, so that only recipes with new jobs are read. Active jobs are read by ID."""

from collections.abc import Collection, Iterator, Sequence

from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, NotFoundError, SourceError
from exporter.model import Batch, Result, Run, Step
from exporter.sources.rest import bearer_access
from exporter.sources.source import Source, SourceType, StepLog
from exporter.sources.view import View
from exporter.sources.workato.api import CUSTOMER, JOB, JOBS, RECIPES, USERS, Customer, parse_error
from exporter.sources.workato.customer_poll import DENIALS, CustomerPoll
from exporter.sources.workato.customers import CustomerList
from exporter.sources.workato.marks import marks_key, unreadable_key
from exporter.sources.workato.search import REACH, WorkatoApi
from exporter.sources.workato.settings import WorkatoSettings

# Consecutive unreadable customers after which all others wait for the next poll.
MAX_FAILURES = 3
# Poll intervals after which a customer that was not read comes before all others.
MAX_WAIT_INTERVALS = 10
REFUSALS = (*DENIALS, NotFoundError)
LIST_OF_CUSTOMERS = "list of managed users"


class WorkatoSource(Source):
    """Reads the jobs of all customers, or of one workspace."""

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        super().__init__(client)
        self._settings = settings
        self._api = WorkatoApi(client, settings, self._failing)
        self._customers = CustomerList(settings, client)
        self._read_at: dict[str, float] = {}
        self._requested: dict[str, float] = {}
        self._refused: set[str] = set()
        self._unfinished: set[str] = set()
        self._seconds_per_round = 0.0

    def fetch(self, view: View) -> Iterator[Batch]:
        """Read the recipes and jobs of each customer, busy customers first, until the poll's time is up.

        An error of one customer, recipe or job does not end the poll; it is raised at the end.
        """
        began, failed, any_read = view.now, 0, False
        self._failing.start_poll()
        with self._failing.read(LIST_OF_CUSTOMERS, view):
            # Customers are removed after they were missing in several lists, so each list is used only once.
            if self._customers.refresh(view.now):
                yield from self._vanished_customers(view)
        open_runs: dict[str, dict[str, list[OpenRun]]] = {}
        for run in view.open_runs():
            open_runs.setdefault(run.scope, {}).setdefault(run.job_id, []).append(run)
        for number, customer in enumerate(self._ordered(open_runs.keys(), began)):
            if (number and view.out_of_time()) or failed >= MAX_FAILURES:
                break
            part, scope = part_of(customer), customer.customer_id
            if self._failing.skips(part, view.now):
                continue
            self._read_at[scope] = began
            poll = CustomerPoll(self._api, view, customer, open_runs.get(scope, {}), self._requested)
            yield from self._read_customer(customer, poll, view, any_read=any_read)
            if part not in self._failing.errors:
                any_read, failed = True, 0
                continue
            failed += 1
            if any_read and self._failing.is_overdue(part, view.now):
                yield self._unreadable(customer)
        self._seconds_per_round = self._waited(began, view.now)
        # If no customer could be read, the source as a whole is unreadable.
        if self._failing.errors and not any_read:
            raise next(reversed(self._failing.errors.values()))
        self._failing.raise_errors(map(part_of, self._customers.known), view.now)

    def _read_customer(self, customer: Customer, poll: CustomerPoll, view: View, *, any_read: bool) -> Iterator[Batch]:
        """Read a customer, or report that it may not be read. `any_read`: whether another customer could be read."""
        part, scope = part_of(customer), customer.customer_id
        try:
            with self._failing.read(part, view, raising=REFUSALS):
                yield from poll.read(self._customers.listing)
                (self._unfinished.discard if poll.complete else self._unfinished.add)(scope)
                self._refused.discard(scope)
        except REFUSALS as error:
            yield self._refusal(customer, error, any_read=any_read)
            self._failing.succeeded(part)

    def _ordered(self, busy: Collection[str], now: float) -> list[Customer]:
        """Return the customers in the order in which this poll reads them. `busy`: scopes with active jobs.

        First come customers that have waited too long, then customers with active or unread jobs, then all others, and
        last those that could not be read. In each group, the customer that has waited longest is first.
        """

        def rank(customer: Customer) -> tuple[int, float]:
            scope = customer.customer_id
            read_at = self._read_at.setdefault(scope, now)
            if scope in self._refused or self._failing.get(part_of(customer)) is not None:
                return 3, read_at
            if now - read_at > MAX_WAIT_INTERVALS * self._settings.poll_interval:
                return 0, read_at
            return (1 if scope in busy or scope in self._unfinished else 2), read_at

        return sorted(self._customers.known, key=rank)

    def _waited(self, began: float, now: float) -> float:
        """Return the seconds since the customer that has waited longest was read; 0 if this poll has read all."""
        readable = [each for each in self._customers.known if self._failing.get(part_of(each)) is None]
        oldest = min((self._read_at[each.customer_id] for each in readable), default=began)
        return now - oldest if oldest < began else 0.0

    def _refusal(self, customer: Customer, error: SourceError, *, any_read: bool) -> Batch:
        """Return the batch of a customer that may not be read. Raises the error if the token itself is refused."""
        if self._settings.mode == "developer":
            raise error
        if isinstance(error, AuthError) and not any_read:
            # This raises if the token itself is refused.
            self._customers.read_page()
        self._refused.add(customer.customer_id)
        return self._unreadable(customer)

    def _unreadable(self, customer: Customer) -> Batch:
        """Return the batch of an unreadable customer: the source's watermark ignores the customer."""
        return Batch(scope=customer.customer_id, readable=False, listing=self._customers.listing)

    def _vanished_customers(self, view: View) -> Iterator[Batch]:
        """Yield a batch per customer that the list no longer shows. After its scope, its checkpoints are removed."""
        known = {customer.customer_id for customer in self._customers.known}
        stored = {name.partition("/")[2] for name in view.checkpoints}
        for scope in sorted((view.scopes | stored) - known):
            checkpoints = {} if scope in view.scopes else {marks_key(scope): "", unreadable_key(scope): ""}
            yield Batch(scope=scope, exists=False, checkpoints=checkpoints)

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """Return the lines of a completed job."""
        return self._api.job(run.job_id, run.run_id, patience=patience)[1]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """Return the error text of a job, or of one of its steps."""
        return StepLog(stderr=parse_error(self._api.job_body(run.job_id, run.run_id, patience=patience), step_name))

    def probe(self) -> str:
        """Sign in and read the first page of managed users, or the recipes."""
        if self._settings.mode == "embedded":
            return f"signed in, {len(self._customers.read_page()[0])} managed users on the first page"
        return f"signed in, {len(self._api.recipes('')[0])} recipes"

    def seconds_per_round(self) -> float:
        """Return the seconds that it takes to read every customer once; 0 while every poll reads all customers."""
        return self._seconds_per_round


def part_of(customer: Customer) -> str:
    """Return the name of a customer in errors."""
    return f"customer {customer.customer_id}" if customer.customer_id else "recipes"


TYPE = SourceType(
    settings=WorkatoSettings,
    build=WorkatoSource,
    access=lambda settings: bearer_access(settings, settings.auth.api_token),
    identity=lambda settings: f"workato {settings.base_url} {settings.mode}",
    results=(Result.SUCCESS, Result.FAILURE, Result.UNKNOWN),
    has_attempts=True,
    has_steps=True,
    endpoints=(USERS, *(prefix + each for prefix in (CUSTOMER, "") for each in (RECIPES, JOBS, JOB))),
    reach=REACH,
    # The vendor's limits are per minute, and it documents no header that says when requests are allowed again.
    rate_limit_wait=MINUTE,
)
