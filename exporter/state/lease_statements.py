"""SQL statements for leases. All times are by the database's clock."""

from exporter.state.postgres_schema import HISTORY, TABLES

TTL = 15.0
"""Seconds after which a lease that was not renewed may be taken by another replica."""

LONGEST_SILENCE = 10.0
"""Seconds without a renewal after which a replica drops its leases. It is less than TTL, so no two replicas poll."""

SIZE_AGE = 60.0
"""Seconds after which one of the replicas measures the size of the state again. All replicas show its result."""

SINCE = f"clock_timestamp() - interval '{TTL} s'"

UNTIL = f"clock_timestamp() + interval '{TTL} s'"

INTACT = "leases.written = leases.xmin::text::bigint"
"""SQL condition that a row was not restored from a dump: it contains the number of the transaction that wrote it."""

KEEP_HISTORY = f"history = CASE WHEN {INTACT} THEN leases.history ELSE '' END, written = DEFAULT"
"""Part of each statement that changes a lease. It clears the history of a row from a dump, and makes INTACT true."""

EXTEND = f"""
UPDATE leases SET {KEEP_HISTORY}, version = leases.version + 1, stamp = ?, until = {UNTIL},
committed = clock_timestamp()
FROM unnest(?::text[], ?::bigint[], ?::bigint[]) AS mine (source, fence, version)
WHERE leases.source = mine.source AND leases.holder = ? AND leases.fence = mine.fence
AND leases.version = mine.version AND {HISTORY} >= ?
RETURNING leases.source, leases.version, extract(epoch FROM committed)
"""  # noqa: S608  # constants

RENEW = f"""
UPDATE leases SET {KEEP_HISTORY}, until = {UNTIL}, request_ages = mine.request_ages, recorded_at = clock_timestamp()
FROM unnest(?::text[], ?::text[]) AS mine (source, request_ages)
WHERE leases.source = mine.source AND leases.source IN
(SELECT source FROM leases WHERE source = ANY(?) AND holder = ? ORDER BY source FOR UPDATE SKIP LOCKED)
RETURNING leases.source, leases.fence
"""  # noqa: S608  # constants

NOTICE = f"""
UPDATE exporter SET history = {HISTORY}, noticed = clock_timestamp() WHERE history <> {HISTORY}
"""  # noqa: S608  # constants
"""Records the beginning of a new history after a failover."""

# After a failover no lease is free for LONGEST_SILENCE: a replica may still poll with a lease whose renewal was lost.
# `BETWEEN`, because the clock of the new server may be behind.
ALL_HAVE_NOTICED = f"""
SELECT history = {HISTORY} AND noticed NOT BETWEEN clock_timestamp() - interval '{LONGEST_SILENCE} s'
AND clock_timestamp() FROM exporter
"""  # noqa: S608  # constants

LOCK_FREE = f"""
SELECT source FROM leases WHERE source = ANY(?) AND (until < clock_timestamp() OR holder = '') AND {HISTORY} >= ?
AND (SELECT version FROM schema_version) = ? AND ({ALL_HAVE_NOTICED})
ORDER BY source FOR UPDATE SKIP LOCKED
"""  # noqa: S608  # constants

TAKE = f"""
UPDATE leases SET {KEEP_HISTORY}, holder = ?, fence = fence + 1, until = {UNTIL}
WHERE source = ANY(?)
RETURNING source, fence, version, request_ages, extract(epoch FROM clock_timestamp() - recorded_at)
"""  # noqa: S608  # constants

HAND_BACK = f"""
UPDATE leases SET {KEEP_HISTORY}, holder = '', until = clock_timestamp(),
request_ages = mine.request_ages, recorded_at = clock_timestamp()
FROM unnest(?::text[], ?::bigint[], ?::text[]) AS mine (source, fence, request_ages)
WHERE leases.source = mine.source AND holder = ? AND leases.fence = mine.fence
"""  # noqa: S608  # constants

RECORD_HISTORY = f"""
UPDATE leases SET history = ?, written = DEFAULT
FROM unnest(?::text[], ?::bigint[], ?::bigint[]) AS mine (source, fence, version)
WHERE leases.source = mine.source AND leases.holder = ? AND leases.fence = mine.fence
AND leases.version >= mine.version AND {INTACT}
"""  # noqa: S608  # constants

MARK_REWOUND = """
UPDATE leases SET history = '', written = DEFAULT WHERE source = ANY(?) AND history <> '' RETURNING source
"""

REVOKE = f"UPDATE leases SET {KEEP_HISTORY}, holder = '', fence = fence + 1"  # noqa: S608  # constants
"""Ends all leases. The fence then refuses commits of replicas that had them."""

READ_ALL = f"""
SELECT source, holder, fence, version, stamp, holder = '' OR until < clock_timestamp(),
CASE WHEN {INTACT} THEN history ELSE '' END,
extract(epoch FROM committed), {HISTORY},
(SELECT count(*) FROM replicas WHERE seen > {SINCE}), (SELECT size FROM exporter), (SELECT version FROM schema_version),
(SELECT history = {HISTORY} FROM exporter), (SELECT xmin::text::bigint FROM exporter)
FROM leases ORDER BY source
"""  # noqa: S608  # constants

BEAT = """
INSERT INTO replicas (name, seen, served) VALUES (?, clock_timestamp(), ?)
ON CONFLICT (name) DO UPDATE SET seen = clock_timestamp(), served = excluded.served
"""

SIZE = f"(SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(ARRAY{[*TABLES]}) AS name)"  # noqa: S608  # constants

MEASURE = f"""
UPDATE exporter SET measured = clock_timestamp(), size = {SIZE}
WHERE measured < clock_timestamp() - interval '{SIZE_AGE} s'
"""  # noqa: S608  # constants
