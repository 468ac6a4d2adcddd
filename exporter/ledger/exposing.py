"""Exposes the values of pending series, in a transaction."""

from collections.abc import Collection, Iterable

from exporter.counting.records import Counted, JobState, SourceState, copy
from exporter.counting.series import Count, Distribution
from exporter.ledger.journal import Record
from exporter.ledger.ledger import Ledger
from exporter.ledger.status import expose_unobserved
from exporter.metrics.zero_first import Owner, Series


def expose(ledger: Ledger, series: Iterable[Series]) -> None:
    """Commit that these series are exposed. Scrapes have read them as 0."""
    with ledger.lock:
        changed: dict[Owner, Record] = {}
        for owner, family, labels in series:
            key = _record_key(owner)
            committed = _record(ledger, key)
            if committed is None:
                continue
            record = changed.get(key) or changed.setdefault(key, copy(committed))
            if isinstance(record, SourceState) and owner != key:
                expose_unobserved(record)
            else:
                _expose(record, family, labels)
        ledger.replace(changed.values())


def expose_sources(ledger: Ledger, names: Collection[str]) -> None:
    """Commit that all series of these sources are exposed, because a failover may have lost earlier such commits.

    Polls count most lost values again. Other counters, such as the number of polls, get this process's values.
    """
    with ledger.lock:
        jobs = [copy(job) for job in ledger.committed.jobs.values() if job.source in names]
        sources = [copy(ledger.committed.sources[name]) for name in names]
        for source in sources:
            source.raise_to(ledger.lost_counts.pop(source.name, Counted()))
        for record in (*jobs, *sources):
            record.expose()
        ledger.replace([*jobs, *sources, copy(ledger.committed.exporter)])


def may_expose(ledger: Ledger, owner: Owner) -> bool:
    """Return whether this process may write the record of a series' owner."""
    record = _record(ledger, _record_key(owner))
    source = record.source if isinstance(record, JobState) else getattr(record, "name", None)
    return source is None or ledger.owns(source)


def _record_key(owner: Owner) -> Owner:
    """Return the owner of the record that has an owner's series. The source's record has the unobserved seconds."""
    return ("source", str(owner[-1])) if owner[0] == "unobserved" else owner


def _record(ledger: Ledger, owner: Owner) -> Record | None:
    match owner:
        case ("job", int(key)):
            return ledger.committed.jobs.get(key)
        case ("source", str(name)):
            return ledger.committed.sources.get(name)
        case _:
            return ledger.committed.exporter


def _expose(record: Counted, family: str, labels: str) -> None:
    for table in (record.counts, record.distributions):
        found: Count | Distribution | None = table.get(family, {}).get(labels)
        if found is not None:
            found.released = True
