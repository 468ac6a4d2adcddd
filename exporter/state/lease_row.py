"""A lease as the database has it."""

from typing import Any

import msgspec

STEPS = " without steps"
"""Suffix of a history in which all runs of a source were read, but not all their steps."""

NEW = "new in "
"""Prefix of a history in which a source was created, and not read yet."""


class Row(msgspec.Struct, frozen=True):
    """A lease in the database.

    Attributes:
        source: The source's name.
        holder: The replica that has it; "" if none.
        fence: Number of times that the holder changed.
        version: Number of transactions of the source.
        stamp: Random number of the last transaction. After a failover another transaction may have the same version.
        free: Whether another replica may take it.
        history: The history of the database in which the source was last read completely, or created; "" for none.
        committed: Unix time of the source's last write, by the database's clock.
        current: The current history of the database.
        replicas: Number of running replicas.
        size: Size of the state in bytes, as a replica last measured it.
        schema: Version of the tables.
        noticed: Whether a replica has recorded that the current history began.
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

    @property
    def content(self) -> tuple[int, int]:
        """Return the fields that change with each transaction of the source."""
        return self.version, self.stamp

    @property
    def new(self) -> bool:
        """Return whether the source was created in the current history and never read, so nothing can be missing."""
        # If a failover lost its first commits, the row names an older history: it was created before the failover.
        return self.history == NEW + self.current

    @property
    def rewound(self) -> bool:
        """Return whether served commits may be missing. A complete poll in the current history reads them again."""
        return self.history not in {self.current, self.current + STEPS} and not self.new

    @property
    def steps_rewound(self) -> bool:
        """Return whether served steps may be missing. Steps are read after the runs."""
        return self.history != self.current and not self.new


def as_row(values: tuple[Any, ...]) -> Row:
    """Return a row of LOOK as a lease."""
    source, holder, fence, version, stamp, free, history, committed, *rest = values
    written = None if committed is None else float(committed)
    return Row(source, holder, fence, version, stamp, free, history, written, *rest)
