"""A lease as stored in the database."""

from typing import Any

import msgspec

WITHOUT_STEPS = " without steps"
"""Suffix of `LeaseRow.history` if all runs of the source were read, but not all their steps."""

NEW_IN = "new in "
"""Prefix of `LeaseRow.history` if the source was created in that history, and was not read yet."""


class LeaseRow(msgspec.Struct, frozen=True):
    """A lease in the database. A *history* of a database ends with a failover, which begins a new one.

    Attributes:
        source: The source's name.
        holder: The replica that has the lease; "" if none has.
        fence: How often the holder changed.
        version: Number of transactions of the source.
        stamp: Random number of the last transaction: after a failover another transaction may get the same version.
        free: Whether another replica may take the lease.
        history: The history in which a poll last read the source completely; "" if commits may have been lost since.
        committed: Unix time of the source's last write, by the database's clock.
        current: The history now.
        replicas: Number of running replicas.
        size: Size of the state in bytes, as last measured.
        schema: Version of the tables.
        noticed: Whether a replica has recorded the beginning of the current history.
        exporter: Number of the transaction that last wrote the exporter's own record.
    """

    source: str
    holder: str
    fence: int
    version: int
    stamp: int
    free: bool
    history: str
    committed: float | None
    current: str
    replicas: int
    size: int
    schema: int
    noticed: bool
    exporter: int

    @property
    def content(self) -> tuple[int, int]:
        """Return the fields that each transaction of the source changes."""
        return self.version, self.stamp

    @property
    def new(self) -> bool:
        """Return whether the source was created in the current history and never read, so that no commit is missing."""
        return self.history == NEW_IN + self.current

    @property
    def rewound(self) -> bool:
        """Return whether commits may be missing whose values were served. The next complete poll reads them again."""
        return self.history not in {self.current, self.current + WITHOUT_STEPS} and not self.new

    @property
    def steps_rewound(self) -> bool:
        """Return whether steps may be missing whose values were served. Steps are read after the runs."""
        return self.history != self.current and not self.new


def as_lease(values: tuple[Any, ...]) -> LeaseRow:
    """Return a row of `lease_statements.READ_ALL` as a lease."""
    source, holder, fence, version, stamp, free, history, committed, *rest = values
    written = None if committed is None else float(committed)
    return LeaseRow(source, holder, fence, version, stamp, free, history, written, *rest)
