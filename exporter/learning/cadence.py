"""Learns when a job usually starts from its past starts: pure functions on timestamps.

There are two kinds of cadence: the same times on the same weekdays (`weekly`), and equal intervals (`interval`). A job
that is started by events or people, or starts rarely, has none. Both functions use only the latest weeks, to learn a
changed schedule. They ignore a few outliers, so that an outage, a missed run or a manual run changes nothing.
"""

import bisect
from collections.abc import Sequence
from itertools import pairwise
from statistics import median, quantiles

import msgspec

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WEEK = 7 * DAY
MONDAY = 4 * DAY
"""A Unix time at which a week began, in UTC."""

MIN_GAP = 5 * MINUTE
"""A start that follows another one sooner than this is ignored: it may be a fan-out or a quick retry."""

NEAR = 65 * MINUTE
"""A start this close to a usual time belongs to it: daylight saving time shifts starts by an hour."""

SPAN = WEEK - 3 * HOUR
"""Minimum time from the first start to the last: about a week, because some APIs show a few minutes less."""

WINDOW = 28 * DAY
"""Starts older than this are ignored when usual times are learned."""

RARE = 110 * MINUTE
"""If a job usually starts less often than this, `weekly` is tried first; otherwise `interval`."""

MIN_INTERVALS, MIN_STARTS = 8, 3
"""Minimum number of intervals, and of starts near a usual time, to learn a cadence."""

MIN_PATIENCE = 10 * MINUTE
"""Minimum `Cadence.patience` of equal intervals."""


class Cadence(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """When a job usually starts.

    Attributes:
        times: Usual starts of a weekly cadence, in seconds since Monday 00:00 UTC, sorted.
        distance: Usual seconds between two starts, if `times` is empty.
        patience: How late a start may usually be, in seconds.
    """

    times: tuple[float, ...] = ()
    distance: float = 0.0
    patience: float

    def latest(self, after: float) -> float:
        """Return the time by which the job usually starts again after a start at `after`."""
        if not self.times:
            return after + self.distance + self.patience
        timestamp = after + NEAR
        week = timestamp - (timestamp - MONDAY) % WEEK
        place = bisect.bisect_right(self.times, timestamp - week)
        if place == len(self.times):
            place, week = 0, week + WEEK
        return week + self.times[place] + self.patience

    @property
    def longest(self) -> float:
        """Return the longest usual time between two starts, in seconds."""
        if not self.times:
            return self.distance
        return max(after - before for before, after in pairwise((*self.times, self.times[0] + WEEK)))


def cadence(starts: Sequence[float], activity: Sequence[float] = ()) -> Cadence | None:
    """Return the cadence of a job; None if it has none or too few starts are known.

    Args:
        starts: Times of its latest starts, sorted.
        activity: Times of completed runs in the last days, sorted. They are used if `starts` span less than a week.
    """
    known = _spaced(starts, MIN_GAP)
    if len(known) < MIN_STARTS:
        return None
    if activity and known[-1] - known[0] < SPAN:
        return interval(_spaced(activity, MIN_GAP)) if is_regular(_gaps(starts)) else None
    if median(_gaps(known)) < RARE:
        return interval(known) or weekly(known)
    return weekly(known) or interval(known)


def _spaced(starts: Sequence[float], gap: float) -> list[float]:
    """Return the starts without those that follow another one by less than `gap` seconds."""
    kept: list[float] = []
    for start in starts:
        if not kept or start - kept[-1] >= gap:
            kept.append(start)
    return kept


# --- equal distances ---


def interval(starts: Sequence[float]) -> Cadence | None:
    """Return the cadence of a job that starts at equal intervals all week; None if it does not."""
    recent = bisect.bisect_left(starts, starts[-1] - WEEK) - 1
    starts = _without_reruns(starts[max(0, min(recent, len(starts) - MIN_INTERVALS - 5)) :])
    gaps = _gaps(starts)
    if len(gaps) < MIN_INTERVALS or starts[-1] - starts[0] < SPAN or not is_regular(gaps):
        return None
    usual, longest = median(gaps), typical_maximum(gaps)
    if longest > 2 * usual:
        return None
    slack = max(MIN_PATIENCE, 0.1 * usual, NEAR if usual >= RARE else 0.0) + _spread(gaps)
    return Cadence(distance=usual, patience=longest - usual + slack)


def is_regular(gaps: Sequence[float]) -> bool:
    """Return whether most gaps are about equal. Gaps between random events are not."""
    if len(gaps) < MIN_INTERVALS:
        return False
    return _spread(gaps) <= 0.35 * median(gaps)


def typical_maximum(values: Sequence[float]) -> float:
    """Return the maximum without outliers: without the largest of 6 values, two of 20, or three of 60."""
    return sorted(values)[-1 - sum(len(values) >= enough for enough in (6, 20, 60))]


def _without_reruns(starts: Sequence[float]) -> list[float]:
    """Return the starts without those that follow another one much sooner than usual. If there are many, return all."""
    gaps = _gaps(starts)
    kept = _spaced(starts, 0.4 * median(gaps)) if gaps else starts
    return list(kept if len(kept) >= 0.8 * len(starts) else starts)


def _gaps(starts: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(starts)]


# --- usual times ---


class _UsualTime(msgspec.Struct, frozen=True):
    """A usual time of day. `starts`: its times on the job's weekdays, in seconds since Monday 00:00 UTC."""

    starts: tuple[float, ...]
    lateness: float


def weekly(starts: Sequence[float]) -> Cadence | None:
    """Return the cadence of a job that starts at the same times on the same weekdays; None if it does not."""
    starts = starts[bisect.bisect_left(starts, starts[-1] - WINDOW) :]
    near = min(NEAR, median(_gaps(starts)) / 2) if len(starts) > 1 else NEAR
    usual_times = [_usual_time(starts, center, near) for center in _cluster_centers(starts, near)]
    found = [time for time in usual_times if time is not None]
    times, lateness = _distinct(found)
    if not times or not _cover_latest([start for time in found for start in time.starts], starts):
        return None
    return Cadence(times=times, patience=lateness + NEAR)


def _cluster_centers(starts: Sequence[float], near: float) -> list[float]:
    """Return the times of day at which starts cluster, in seconds since midnight."""
    split = min(30 * MINUTE, near)
    times = sorted(start % DAY for start in starts)
    around = [*times, *(time + DAY for time in times)]
    # Begins after a gap, so that no cluster is cut at midnight.
    first = next((at + 1 for at, (one, other) in enumerate(pairwise(around)) if other - one > split), None)
    if first is None:
        return []
    clusters: list[list[float]] = []
    for time in around[first : first + len(times)]:
        if clusters and time - clusters[-1][-1] <= split:
            clusters[-1].append(time)
        else:
            clusters.append([time])
    fit = [cluster for cluster in clusters if len(cluster) >= MIN_STARTS and cluster[-1] - cluster[0] <= 3 * HOUR]
    return [median(cluster) % DAY for cluster in fit]


def _usual_time(starts: Sequence[float], center: float, near: float) -> _UsualTime | None:
    """Return a job's usual time near a time of day, `center`; None if the job does not start there regularly."""
    days = _days(starts, center, near)
    weekdays = _weekdays(days, doubtful=near < NEAR)
    wanted = [(timestamp, start) for timestamp, start in days if _weekday(timestamp) in weekdays]
    offsets = [start - timestamp for timestamp, start in wanted if start is not None]
    latest = [start is not None for _, start in wanted[-10:]]
    if len(offsets) < MIN_STARTS or sum(latest) < 0.7 * len(latest) or _has_ended(days):
        return None
    if _spread(offsets) > 0.7 * near:
        return None
    usual = median(offsets[-7:])
    lateness = max(0.0, typical_maximum(offsets) - usual)
    times = {(timestamp + usual - MONDAY) % WEEK for timestamp, _ in wanted[-7:]}
    return _UsualTime(tuple(sorted(times)), lateness)


def _days(starts: Sequence[float], center: float, near: float) -> list[tuple[float, float | None]]:
    """Return the time `center` on each day since the first start near it, and the start near that time, or None."""
    days: list[tuple[float, float | None]] = []
    timestamp = starts[0] - starts[0] % DAY + center - DAY
    while timestamp <= starts[-1] + near:
        nearest = _nearest(starts, timestamp)
        hit = nearest if abs(nearest - timestamp) <= near else None
        if days or hit is not None:
            days.append((timestamp, hit))
        timestamp += DAY
    if days and days[-1][1] is None and days[-1][0] > starts[-1] - near:
        days.pop()  # it may still start
    return days


def _has_ended(days: Sequence[tuple[float, float | None]]) -> bool:
    """Return whether the job has not started for three times its longest usual pause."""
    hits = [day for day, (_, start) in enumerate(days) if start is not None]
    return len(days) - 1 - hits[-1] >= 3 * typical_maximum([*_gaps(hits), 1])


def _nearest(starts: Sequence[float], timestamp: float) -> float:
    place = bisect.bisect_left(starts, timestamp)
    return min(starts[max(0, place - 1) : place + 1], key=lambda start: abs(start - timestamp))


def _weekdays(days: Sequence[tuple[float, float | None]], *, doubtful: bool) -> frozenset[int]:
    """Return the weekdays on which a job starts: on most of their last four dates.

    If only one week is known, it must have started on each day.
    """
    by_day: dict[int, list[bool]] = {}
    for timestamp, hit in days:
        by_day.setdefault(_weekday(timestamp), []).append(hit is not None)
    if len(by_day) < 7:
        return frozenset()
    if min(map(len, by_day.values())) < 2:
        return frozenset(by_day) if not doubtful and all(map(all, by_day.values())) else frozenset()
    return frozenset(day for day, hits in by_day.items() if sum(hits[-4:]) >= 0.6 * len(hits[-4:]))


def _weekday(timestamp: float) -> int:
    return int((timestamp - MONDAY) % WEEK // DAY)


def _spread(values: Sequence[float]) -> float:
    """Return the distance between the quartiles; between minimum and maximum if there are few values."""
    if len(values) < 4:
        return max(values) - min(values)
    first, _, third = quantiles(values, n=4)
    return third - first


def _distinct(found: Sequence[_UsualTime]) -> tuple[tuple[float, ...], float]:
    """Return times more than twice NEAR apart, so that each start belongs to one, and the largest lateness."""
    kept: list[_UsualTime] = []
    times: list[float] = []
    for time in sorted(found, key=lambda time: time.starts):
        if all(_distance(one, other) > 2 * NEAR for one in time.starts for other in times):
            kept.append(time)
            times += time.starts
    return tuple(sorted(times)), max((time.lateness for time in kept), default=0.0)


def _distance(one: float, other: float) -> float:
    """Return the seconds between two times of the week, at most half a week."""
    apart = abs(one - other)
    return min(apart, WEEK - apart)


def _cover_latest(times: Sequence[float], starts: Sequence[float]) -> bool:
    """Return whether most of the latest starts are near one of these times."""
    place = min(bisect.bisect_left(starts, starts[-1] - 2 * WEEK), max(0, len(starts) - 10))
    latest = starts[place:]
    close = sum(any(_distance((start - MONDAY) % WEEK, time) <= NEAR for time in times) for start in latest)
    return close >= 0.7 * len(latest)
