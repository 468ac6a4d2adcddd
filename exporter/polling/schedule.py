"""Schedules polls: each source at its interval, less often while its polls fail. Polls of a source never overlap."""

import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from exporter.client.budget import Stopped
from exporter.polling.poll import Poller

STAGGER = 0.25
"""Seconds between the first polls of sources that are added together."""

THREADS = 10_000
"""Maximum number of threads, larger than any number of sources. A thread is created only if none is idle."""

MIN_JUMP = 5.0
"""Jump of the local clock, in seconds, after which all sources are polled at once."""


class Every(BaseTrigger):  # type: ignore[misc]  # the library ships no types
    """Triggers polls at an interval, and skips missed ones."""

    # The library's own trigger computes each missed time. If the clock jumps by a week and polls come every second,
    # that takes minutes. Meanwhile nothing is polled.

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first time after now, in whole intervals after the previous one."""
        previous = previous_fire_time or now
        missed = max(0, (now - previous) // self._interval)
        return previous + (missed + 1) * self._interval


class ScheduledSource:
    """A source's poller and its interval in seconds. A poll holds the lock `idle` while it runs."""

    def __init__(self, name: str, poller: Poller, interval: float) -> None:
        self.name = name
        self.poller = poller
        self.interval = interval
        self.current_interval = interval
        self.idle = threading.Lock()


class PollSchedule:
    """Runs polls in threads.

    Args:
        clock: Unix seconds.
        monotonic: A clock that never jumps, in seconds.
    """

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._sources: dict[str, ScheduledSource] = {}
        self._numbers = count()
        self._clock = clock
        self._monotonic = monotonic
        self._offset = clock() - monotonic()
        self._log = structlog.get_logger()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(THREADS)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._missed, EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Start to poll."""
        self._scheduler.start()

    def add(self, sources: Iterable[ScheduledSource]) -> None:
        """Poll these sources too. New sources and failing ones are polled at once, STAGGER seconds apart."""
        now = self._now()
        keys = {source: key for key, source in self._sources.items()}
        failed = [source for source in keys if source.poller.failures and not source.idle.locked()]
        due = [source for source in sources if source not in keys or source in failed]
        for number, source in enumerate(due):
            first_poll = now + timedelta(seconds=number * STAGGER)
            if source in keys:
                self._scheduler.modify_job(keys[source], next_run_time=first_poll)
                continue
            # Numbered, because the last poll of a removed source with the same name may still run.
            key = f"{source.name} {next(self._numbers)}"
            self._sources[key] = source
            self._scheduler.add_job(self._poll, Every(source.interval), args=[key], id=key, next_run_time=first_poll)

    def keep(self, sources: Collection[ScheduledSource], grace: float) -> bool:
        """Poll only these sources. Wait `grace` seconds for polls of the others; return False if one still runs."""
        dropped = {key: source for key, source in list(self._sources.items()) if source not in sources}
        for key in dropped:
            with suppress(JobLookupError):  # `stop` removes all jobs
                self._scheduler.remove_job(key)
            del self._sources[key]
        return self._wait(dropped.values(), grace)

    def stop(self, grace: float) -> bool:
        """Stop polling. Wait `grace` seconds for running polls; return False if one still runs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        return self._wait(self._sources.values(), grace)

    def _wait(self, sources: Iterable[ScheduledSource], grace: float) -> bool:
        until = self._monotonic() + grace
        for source in list(sources):  # a copy, because a replica's thread may still add and remove sources
            if not source.idle.acquire(timeout=max(0.0, until - self._monotonic())):
                return False
            source.idle.release()
        return True

    @property
    def alive(self) -> bool:
        """Return whether the scheduler's thread is alive."""
        thread = getattr(self._scheduler, "_thread", None)  # the flag `running` stays set after the thread dies
        return bool(self._scheduler.running and thread is not None and thread.is_alive())

    def tick(self) -> None:
        """Poll all sources now if the local clock, which the scheduler uses, has jumped. Called twice per second."""
        offset = self._clock() - self._monotonic()
        if abs(offset - self._offset) < MIN_JUMP:
            return
        self._log.warning("local clock jumped; polling all sources now", seconds=round(offset - self._offset))
        self._offset = offset
        for job in self._scheduler.get_jobs():
            with suppress(JobLookupError):  # a reload has removed it
                job.modify(next_run_time=self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _poll(self, key: str) -> None:
        if (source := self._sources.get(key)) is None:
            return
        with source.idle:
            try:
                source.poller.poll()
            except Stopped:
                return
        if not self._scheduler.running or key not in self._sources:
            return
        interval = source.poller.wait()
        if interval != source.current_interval:
            source.current_interval = interval
            with suppress(JobLookupError):  # a reload has removed it
                self._scheduler.reschedule_job(key, trigger=Every(interval))

    def _missed(self, event: JobEvent) -> None:
        """Count a poll that came due while the previous one was running."""
        source = self._sources.get(event.job_id)
        if source is not None:
            source.poller.skip()
