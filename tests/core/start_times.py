"""Start times of many kinds of jobs, and what is learned from them."""

import random
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from exporter.learning.cadence import DAY, cadence

SPRING, AUTUMN = "2024-03-01", "2024-10-01"
"""The month that begins here has a change to or from daylight saving time."""

EVERY_DAY, WORKDAYS = range(7), range(5)


def at_times(days, times, *, jitter=60.0, zone="Europe/Berlin", first=SPRING, on=EVERY_DAY, seed=1):
    """Return starts at times of the day in a zone, with random delays."""
    dice, midnight = random.Random(seed), datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone))
    moments = [
        midnight + timedelta(days=day, hours=int(time[:2]), minutes=int(time[3:]))
        for day in range(days)
        for time in times
        if (midnight + timedelta(days=day)).weekday() in on
    ]
    return sorted(poll_context.timestamp() + dice.uniform(0, jitter) for poll_context in moments)


def each(distance, count, *, jitter=30.0, start=1_709_000_000.0, seed=1):
    """Return starts at equal distances, with random delays."""
    dice = random.Random(seed)
    return [start + number * distance + dice.uniform(0, jitter) for number in range(count)]


def by_chance(a_day, days, seed):
    """Return starts of a job that events trigger."""
    dice, poll_context, starts = random.Random(seed), 1_709_000_000.0, []
    while poll_context < 1_709_000_000.0 + days * DAY:
        poll_context += dice.expovariate(a_day / DAY)
        starts.append(poll_context)
    return starts


def alarms(starts):
    """Return starts that came later than what the starts before them had taught."""
    late = []
    for number in range(2, len(starts) - 1):
        learned = cadence(starts[max(0, number - 499) : number + 1])
        if learned is not None and starts[number + 1] > learned.latest(starts[number]):
            late.append(starts[number + 1])
    return late


def days_until_known(starts):
    """Return the days from the first start until something is learned, None if nothing is."""
    for number in range(2, len(starts)):
        if cadence(starts[: number + 1]) is not None:
            return (starts[number] - starts[0]) / DAY
    return None
