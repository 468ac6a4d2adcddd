"""A pool of connections to PostgreSQL, and sessions that run SQL with question marks on them.

Each transaction has its own settings, so that an external pooler may give each transaction another connection.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from exporter.errors import AuthError, StateError

Value = TypeVar("Value")

Rows = list[tuple[Any, ...]]

CONNECT_TIMEOUT = 3
"""Seconds to wait for each host, unless the URL sets another time."""

PATIENCE = 10.0
"""Seconds to wait for a response. The connection is then closed, because a frozen server sends no error."""

LONG_PATIENCE = 3600.0
"""The same for migrations and copies."""

SETTINGS = (
    "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '8s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '10s'"
)
"""Limits how long a frozen replica keeps a row locked, and how long others wait for it.

A transaction that waits for a row holds the ledger's lock, so no page is rendered meanwhile.
"""

# Roles and databases may have other defaults. With SERIALIZABLE, transactions of different sources could conflict. But
# a default of READ ONLY is respected: it protects a database whose disk is almost full, or that is being moved.
WRITING = f"BEGIN ISOLATION LEVEL READ COMMITTED; {SETTINGS}"
READING = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {SETTINGS}"

OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)

logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # callers of the pool report its errors


MIGRATING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)
COPYING = MIGRATING.replace("READ COMMITTED", "REPEATABLE READ")
"""Begin transactions that may take long, but do not wait long for locks."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits forever."""

    patience = PATIENCE

    @classmethod
    def connect(cls, conninfo: str = "", *, pool: "Pool", **kwargs: Any) -> Self:  # type: ignore[override]  # noqa: ANN401, ARG003  # of the driver
        """Connect with the pool's current URL. If that fails, the pool keeps the error."""
        pool.failure = None
        try:
            return super().connect(pool.current_url(), **kwargs)
        except psycopg.Error as error:
            pool.failure = error
            raise

    def wait(self, gen: PQGen[Value], interval: float = 0.1, timeout: float | None = None) -> Value:
        """Wait for the server, but not for longer than `patience`."""
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # a late response would be taken for that of the next statement
            raise


class Session:
    """Runs statements on one connection, with a question mark for each value."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a statement."""
        parameters = [*map(_to_postgres, values)] or None
        # Binary, because in text a role's `extra_float_digits` may round times.
        cursor = self._connection.execute(query.replace("?", "%s").encode(), parameters, binary=True)
        return [tuple(map(_from_postgres, row)) for row in cursor] if cursor.description else []

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> None:
        """Run a statement for each row of values."""
        values = [[*map(_to_postgres, row)] for row in rows]
        if values:
            self._connection.cursor().executemany(query.replace("?", "%s").encode(), values)


def _to_postgres(value: Any) -> Any:  # noqa: ANN401  # values of many types
    """Return a value for PostgreSQL. Its texts cannot contain NUL, but a vendor's ID may, so NUL is escaped."""
    if isinstance(value, str) and ("\0" in value or "\1" in value):
        return value.replace("\1", "\1\1").replace("\0", "\1\2")
    if isinstance(value, list):
        return [*map(_to_postgres, value)]
    return None if value != value else value  # noqa: PLR0124  # NaN stands for NULL, see `schema.NULL`


def _from_postgres(value: Any) -> Any:  # noqa: ANN401  # as above
    if isinstance(value, str) and "\1" in value:
        return "\1".join(part.replace("\1\2", "\0") for part in value.split("\1\1"))
    return value


DEFAULTS = {
    "connect_timeout": CONNECT_TIMEOUT,
    "tcp_user_timeout": 8000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "application_name": "jobrun-exporter",
}
"""Parameters of the driver that a URL may override. They find a dead network within seconds."""


class Pool:
    """Connections to one database. Thread-safe: each session has its own connection.

    Args:
        url: Address of the database, including credentials.
        read_url: Reads the URL again before each connection, because its password may change; None if it never changes.

    Raises:
        StateError: On each use, if the database cannot be reached or refuses a statement.
    """

    def __init__(self, url: str, read_url: Callable[[], str | None] | None = None) -> None:
        self.name = describe_url(url)
        self._url, self._read_url = url, read_url
        self.failure: psycopg.Error | None = None  # of the last attempt to connect
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            connection_class=Connection,
            kwargs=parameters(url) | {"pool": self},
            min_size=1,
            max_size=8,
            timeout=_longest_connect(url),
            reconnect_timeout=2.0,
            max_idle=60.0,
            open=True,
        )

    def current_url(self) -> str:
        """Return the URL, perhaps with a new password."""
        # The URL of another database is ignored until a restart, because that database has other records.
        with contextlib.suppress(AuthError):
            url = self._read_url() if self._read_url is not None else None
            if url is not None and self.is_at(url):
                self._url = url
        return self._url

    def is_at(self, url: str) -> bool:
        """Return whether a URL names this database, perhaps with another user and password."""
        return describe_url(url) == self.name

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise errors of the driver as StateError, without the URL, which may contain a password."""
        try:
            yield
        except psycopg.Error as raised:
            # The pool's own error only says that no connection was free in time.
            error = (isinstance(raised, PoolTimeout) and self.failure) or raised
            lines = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
            raise StateError(f"{self.name}: {lines[0]}") from raised

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Return a session in which each statement is its own transaction."""
        with self.translate_errors(), self._borrow() as connection:
            yield Session(connection)

    def execute(self, query: str, values: Any = (), /) -> Rows:  # noqa: ANN401  # values of many types
        """Run a statement in its own transaction."""
        with self.session() as session:
            return session.execute(query, values)

    def executemany(self, query: str, rows: Any, /) -> None:  # noqa: ANN401, ARG002  # as above
        """Raise StateError: rows are written only in a transaction."""
        raise StateError(f"{self.name}: cannot write outside of a transaction")

    @contextmanager
    def transaction(self, begin: str = WRITING) -> Iterator[Session]:
        """Return a session whose statements are committed together. An exception rolls all of them back."""
        with self.translate_errors(), self._borrow() as connection:
            connection.patience = LONG_PATIENCE if begin in {MIGRATING, COPYING} else PATIENCE
            connection.execute(begin.encode())
            yield Session(connection)
            self._commit(connection)

    def _commit(self, connection: Connection) -> None:
        try:
            answer = connection.execute(b"COMMIT").statusmessage
        except psycopg.Error as error:
            raise StateError(f"{self.name}: no response to COMMIT; it may have been committed") from error
        if answer != "COMMIT":
            raise StateError(f"{self.name}: the transaction was rolled back")

    @contextmanager
    def _borrow(self) -> Iterator[Connection]:
        connection = self._pool.getconn()
        connection.patience = PATIENCE
        try:
            yield connection
        finally:
            if connection.info.transaction_status in OPEN:
                with contextlib.suppress(psycopg.Error):
                    connection.execute(b"ROLLBACK")
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.close()
                self._pool.drain()  # the server has probably closed the others, too
            self._pool.putconn(connection)

    def reconnect(self) -> None:
        """Close the open connections. The next use opens new ones."""
        self._pool.drain()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close(timeout=1.0)


def problem_of_url(url: str) -> str:
    """Return why a URL cannot name a database; "" if it can."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        return "is not a valid URL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    if _may_show_password(parts):
        return "has special characters in its user or password: percent-encode them (@ is %40, / is %2F)"
    if not all(number.isdecimal() for _, number in _hosts(parts) if number):
        return "has a port that is not a number: postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    return "" if parts.get("dbname") else "must name a database: postgresql://USER@HOST/DATABASE"


def describe_url(url: str) -> str:
    """Return a URL without user and password; only "postgresql" if they cannot be found for certain."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        return "postgresql"
    if _may_show_password(parts):
        return "postgresql"
    hosts = [f"{name}:{number}" if number else name for name, number in _hosts(parts)]
    return f"postgresql://{','.join(hosts)}/{parts.get('dbname') or ''}"


def _may_show_password(parts: Mapping[str, Any]) -> bool:
    # In `u:p@ss@host/db` the host is taken for `ss@host`, and in `u:p/ss@host/db` the database for `ss@host/db`.
    return any("@" in str(parts.get(name) or "") for name in ("host", "hostaddr", "port", "dbname"))


def _hosts(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the hosts of a URL, each with its port; "" for the default port."""
    host = str(parts.get("host") or parts.get("hostaddr") or "localhost")
    names, numbers = host.split(","), str(parts.get("port") or "").split(",")
    return [(name, numbers[index] if index < len(numbers) else numbers[-1]) for index, name in enumerate(names)]


def _longest_connect(url: str) -> float:
    """Return the maximum seconds to connect, if only the last host of a URL responds."""
    given = conninfo_to_dict(url)
    seconds = str(given.get("connect_timeout", ""))
    return float(len(_hosts(given)) * max(CONNECT_TIMEOUT, int(seconds) if seconds.isdecimal() else 0))


def parameters(url: str) -> dict[str, Any]:
    """Return the driver's parameters for a URL: connect to the primary, and notice a dead network."""
    given = conninfo_to_dict(url)
    chosen = {name: value for name, value in DEFAULTS.items() if name not in given}
    # Without `client_encoding`, the database, role or environment could set an encoding that lacks characters.
    required = {"autocommit": True, "prepare_threshold": None, "client_encoding": "UTF8"}
    if given.get("target_session_attrs") != "primary":  # other values would allow a standby after a failover
        required["target_session_attrs"] = "read-write"
    return chosen | required
