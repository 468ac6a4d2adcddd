"""Faster simulators for worlds to which no run is added. Their responses are the same, byte for byte.

A scenario requests ten thousand pages of ten thousand runs. These simulators find pages by bisection, and encode rows
of completed runs once. For responses with wrong rows, and for filters that the exporter does not use, they use the code
of the ordinary simulators.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol, overload

import msgspec

from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.simulators.message import Request
from exporter.simulators.northflank import NorthflankSimulator
from exporter.simulators.response_view import ResponseView, Seen
from exporter.simulators.server import Simulator
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.strait import OPEN_STATUSES, RETENTION, STATUSES_OF_WORKFLOWS, StraitSimulator
from exporter.simulators.strait_pages import cursor_of, limit_of
from exporter.simulators.strait_rows import RUN_STATUSES, WORKFLOW_STATUSES, Life, microseconds
from exporter.simulators.workato import WorkatoSimulator
from exporter.simulators.workato_rows import STATUSES, Tally
from exporter.simulators.world import SimJob, SimRun, World

ACTIVE_STATUSES = frozenset(
    {*OPEN_STATUSES, *STATUSES_OF_WORKFLOWS - set(WORKFLOW_STATUSES.values()), "pending", "running"}
)
"""Strait's statuses of active runs and workflow runs."""


class FixedWorld(World, Protocol):
    """A world to which no run is added."""

    all: Sequence[SimRun]


def runs_by_job(world: FixedWorld) -> dict[str, list[SimRun]]:
    """Return the runs of each job, in order of their creation."""
    found: dict[str, list[SimRun]] = {job.job_id: [] for job in world.jobs()}
    for run in world.all:
        found[run.job_id].append(run)
    return found


class RowCache:
    """Encoded rows of completed runs, which never change again."""

    def __init__(self) -> None:
        self._rows: dict[tuple[object, ...], msgspec.Raw] = {}

    def row(self, run: SimRun, now: float, make: Callable[[], object], *key: object) -> object:
        """Return the row of a run at a time, cached if possible. `key`: other values on which the row depends."""
        if run.end is None or run.end > now or run.result is None:
            return make()
        full_key = (run.run_id, run.created, *key)
        row = self._rows.get(full_key)
        if row is None:
            row = self._rows[full_key] = msgspec.Raw(msgspec.json.encode(make()))
        return row


class FastSnowplow(SnowplowSimulator):
    """Caches rows."""

    def __init__(self, world: FixedWorld, *arguments: object, **options: object) -> None:
        super().__init__(world, *arguments, **options)  # type: ignore[arg-type]  # as the caller passed them
        self._row_cache = RowCache()

    def _row(self, seen: Seen) -> object:
        return self._row_cache.row(seen.run, seen.now, lambda: super(FastSnowplow, self)._row(seen))


class LazyRuns(Sequence[Seen]):
    """The runs from an index of a list on, as a simulator shows them at a time. Each is created when it is used."""

    def __init__(self, runs: Sequence[SimRun], begin: int, now: float) -> None:
        self._runs, self._begin, self._now = runs, begin, now

    def __len__(self) -> int:
        return len(self._runs) - self._begin

    @overload
    def __getitem__(self, index: int) -> Seen: ...

    @overload
    def __getitem__(self, index: slice) -> list[Seen]: ...

    def __getitem__(self, index: int | slice) -> Seen | list[Seen]:
        if isinstance(index, int):
            return Seen(self._runs[range(self._begin, len(self._runs))[index]], self._now)
        return [self[each] for each in range(*index.indices(len(self)))]

    def __iter__(self) -> Iterator[Seen]:
        return (Seen(run, self._now) for run in islice(self._runs, self._begin, None))


class FastNorthflank(NorthflankSimulator):
    """Caches rows, and keeps the runs of each job in order."""

    def __init__(self, world: FixedWorld, *arguments: object, **options: object) -> None:
        super().__init__(world, *arguments, **options)  # type: ignore[arg-type]  # as the caller passed them
        self._row_cache = RowCache()
        self._newest = {
            job_id: sorted(runs, key=lambda run: run.start, reverse=True) for job_id, runs in runs_by_job(world).items()
        }

    def _row(self, seen: Seen) -> object:
        return self._row_cache.row(seen.run, seen.now, lambda: super(FastNorthflank, self)._row(seen))

    def _visible(self, job: SimJob, view: ResponseView, now: float) -> Sequence[Seen]:
        if not view.undistorted or self.options.order != "newest" or self.options.reach != math.inf:
            return super()._visible(job, view, now)
        runs = self._newest[job.job_id]
        return LazyRuns(runs, bisect_left(runs, -view.now, key=lambda run: -run.start), view.now)


class FastStrait(StraitSimulator):
    """Caches rows, and keeps runs in order of their first creation: per kind, and per kind and result."""

    def __init__(self, world: FixedWorld, *arguments: object, **options: object) -> None:
        super().__init__(world, *arguments, **options)  # type: ignore[arg-type]  # as the caller passed them
        self._row_cache = RowCache()
        self._workflows = {run.job_id for run in world.all if run.steps}
        self._first = min((run.created for run in world.all), default=0.0)
        self._by_id: dict[str, list[SimRun]] = {}
        for run in world.all:
            self._by_id.setdefault(run.run_id, []).append(run)
        ordered = sorted(self._by_id.values(), key=_sort_key)
        self._ordered = {kind: [one for one in ordered if self._is(one[0], workflow=kind)] for kind in (False, True)}
        self._ended = {
            (kind, result): [one for one in runs if any(run.result is result for run in one)]
            for kind, runs in self._ordered.items()
            for result in Result
        }

    def _is(self, run: SimRun, *, workflow: bool) -> bool:
        return (run.job_id in self._workflows) is workflow

    def _notice(self, view: ResponseView) -> None:
        """Do nothing: all workflows are known from the start."""

    def _row(self, life: Life, *, workflow: bool) -> object:
        def make() -> object:
            return super(FastStrait, self)._row(life, workflow=workflow)

        return self._row_cache.row(life.run, life.now, make, life.created)

    def _is_fast(self, view: ResponseView) -> bool:
        remembered = self._first > view.now - RETENTION
        return view.undistorted and remembered and not self.options.hidden and not self.options.rows.compensation

    def _lives_of(self, run_id: str, view: ResponseView) -> Sequence[Life]:
        if not self._is_fast(view):
            return super()._lives_of(run_id, view)
        life = _life(self._by_id.get(run_id, ()), view.now)
        return [] if life is None else [life]

    def _candidates(self, request: Request, view: ResponseView, *, workflow: bool) -> Iterable[Life]:
        if not self._is_fast(view):
            return super()._candidates(request, view, workflow=workflow)
        wanted, now = request.query.get("status", ""), view.now
        if wanted in ACTIVE_STATUSES:
            open_now = (run for run in self.world.runs(now, math.nextafter(now, math.inf)) if run.created <= now)
            ids = {run.run_id for run in open_now if self._is(run, workflow=workflow)}
            return [life for run_id in ids if (life := _life(self._by_id[run_id], now)) is not None]
        before = cursor_of(request)
        since = -math.inf if before is None else -before + 1
        runs = self._runs_of(wanted, workflow=workflow)
        lives = (_life(one, now) for one in islice(runs, bisect_left(runs, (since, ""), key=_sort_key), None))
        fits = (one for one in lives if one and wanted in ("", self._status(one, workflow=workflow)))
        return islice(fits, limit_of(request) + 1)

    def _runs_of(self, wanted: str, *, workflow: bool) -> Sequence[Sequence[SimRun]]:
        """Return runs that include all with a wanted status; each as its lives, because a run may be replayed."""
        if not wanted:
            return self._ordered[workflow]
        statuses = {**RUN_STATUSES, **WORKFLOW_STATUSES} if workflow else RUN_STATUSES
        results = [each for each in Result if statuses[each] == wanted] or [Result.FAILURE]
        return self._ended[workflow, results[0]]


def _sort_key(lives: Sequence[SimRun]) -> tuple[float, str]:
    """Return the sort key of a run in Strait's lists, newest first."""
    return -microseconds(lives[0].created), lives[0].run_id


def _life(lives: Sequence[SimRun], now: float) -> Life | None:
    """Return the latest life of a run that has begun at a time; None if none has."""
    latest = next((run for run in reversed(lives) if run.created <= now), None)
    return None if latest is None else Life(latest, now, lives[0].created)


class Recipe:
    """The jobs of a recipe in order of their creation, and what its counts at any time depend on."""

    def __init__(self, runs: Sequence[SimRun]) -> None:
        self.runs = sorted(runs, key=_job_sort_key)
        self.starts = sorted(run.start for run in runs)
        ended = [run for run in runs if run.end is not None and run.result is not None]
        self.ends = sorted(run.end or 0.0 for run in ended)
        self.successful_ends = sorted(run.end or 0.0 for run in ended if STATUSES.get(str(run.result)) == "succeeded")

    def disruption_counts(self, now: float) -> Tally:
        """Return the counts at a time."""
        started = bisect_right(self.starts, now)
        last = self.starts[started - 1] if started else None
        return Tally(bisect_right(self.ends, now), bisect_right(self.successful_ends, now), last)


class FastWorkato(WorkatoSimulator):
    """Caches rows, keeps the jobs of each recipe in order, and counts by bisection."""

    def __init__(self, world: FixedWorld, *arguments: object, **options: object) -> None:
        super().__init__(world, *arguments, **options)  # type: ignore[arg-type]  # as the caller passed them
        self._row_cache = RowCache()
        self._recipes_by_id = {job_id: Recipe(runs) for job_id, runs in runs_by_job(world).items()}
        self._first = min((run.created for run in world.all), default=0.0)

    def _row(self, seen: Seen, job: SimJob) -> object:
        return self._row_cache.row(seen.run, seen.now, lambda: super(FastWorkato, self)._row(seen, job))

    def _is_fast(self, view: ResponseView) -> bool:
        options = self.options
        kept = self._first > view.now - options.retention
        return view.undistorted and kept and options.order == "creation" and not options.rows.words

    def _tally(self, job: SimJob, view: ResponseView) -> Tally:
        if not self._is_fast(view):
            return super()._tally(job, view)
        return self._recipes_by_id[job.job_id].disruption_counts(view.now - self.options.counts_late)

    def _listing(self, request: Request, job: SimJob, view: ResponseView) -> tuple[Tally, int, list[Seen]]:
        status, now, recipe = request.query.get("status"), view.now, self._recipes_by_id[job.job_id]
        if not self._is_fast(view) or status not in (None, "pending") or "rerun_only" in request.query:
            return super()._listing(request, job, view)
        disruption_counts = recipe.disruption_counts(now)._replace(last=None)
        if status == "pending":
            runs = self.world.runs(now, math.nextafter(now, math.inf), job.job_id)
            seen = [one for one in view.see(runs) if not isinstance(one.run.at(now), Result)]
            seen.sort(key=self._sort_key, reverse=True)
            return disruption_counts, len(seen), self._page(request, seen)
        shown = bisect_right(recipe.runs, now, key=lambda run: run.created)
        return disruption_counts, shown, [Seen(run, now) for run in self._page_of(request, recipe.runs[:shown])]

    def _page_of(self, request: Request, runs: Sequence[SimRun]) -> Sequence[SimRun]:
        """Return a page of these runs, which are in order of creation, newest first."""
        size = self.options.page_size
        offset, until = self._offset(request), len(runs)
        if offset is not None and request.query.get("prev") == "true":
            since = bisect_right(runs, _job_sort_key(offset.run), key=_job_sort_key)
            return runs[since : since + size][::-1]
        if offset is not None:
            until = bisect_left(runs, _job_sort_key(offset.run), key=_job_sort_key)
        return runs[max(0, until - size) : until][::-1]


def _job_sort_key(run: SimRun) -> tuple[float, str]:
    return run.created, run.run_id


FAST_SIMULATORS: Mapping[str, type[Simulator]] = {
    "snowplow": FastSnowplow,
    "northflank": FastNorthflank,
    "strait": FastStrait,
    "workato": FastWorkato,
}
"""Faster simulators by vendor."""


def fast_simulator(vendor: str) -> type[Simulator]:
    """Return the class of a vendor's fastest simulator."""
    return FAST_SIMULATORS.get(vendor, SIMULATORS[vendor])
