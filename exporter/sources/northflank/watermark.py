"""Computes the time up to which all completed runs of a project have been read."""

from collections.abc import Iterator

from exporter.sources.failing import FailingParts
from exporter.sources.northflank.jobs import Project, TrackedJob
from exporter.sources.view import View


class Watermarks:
    """Computes the watermarks of projects.

    Args:
        settle: Seconds that the watermark stays behind the time of a read.
    """

    def __init__(self, failing: FailingParts, settle: float) -> None:
        self._failing = failing
        self._settle = settle

    def included(self, project: Project, view: View) -> list[TrackedJob]:
        """Return the jobs that the config includes."""
        return [job for job in project.jobs.values() if view.wanted(job.row.name)]

    def of(
        self, project: Project, view: View, slug: str = "", read: float | None = None, listed: float | None = None
    ) -> float | None:
        """Return the time up to which a project is read: its list of jobs, and every included job.

        `slug` and `read`: a job, and the time of its read, if the caller commits that read now. `listed`: time of the
        list of jobs, if the caller commits it now.
        """
        included = self.included(project, view)
        jobs = self._awaited(included, view)
        if included and not jobs:
            return None
        overdue = listed is None and self._failing.is_overdue(project.part, view.now)
        times = [] if overdue else [project.listed if listed is None else listed]
        times += [read if job.row.slug == slug else job.checkpoint.read for job in jobs]
        times += [time for job in jobs for time in self._unlisted_runs(job, view.now)]
        known = [time for time in times if time is not None]
        return min(known) - self._settle if known and len(known) == len(times) else None

    def unreadable(self, project: Project, view: View) -> bool:
        """Return whether no included job of a project, or not even its list, could be read for a while."""
        included = self.included(project, view)
        if included:
            return not self._awaited(included, view)
        return self._failing.is_overdue(project.part, view.now)

    def _awaited(self, jobs: list[TrackedJob], view: View) -> list[TrackedJob]:
        # The watermark does not wait for a job that has failed for long. When it can be read again, it is read from the
        # time in its checkpoint.
        return [job for job in jobs if not self._failing.is_overdue(job.part, view.now)]

    def _unlisted_runs(self, job: TrackedJob, now: float) -> Iterator[float | None]:
        for run_id, state in job.unlisted_open_runs.items():
            if not self._failing.is_overdue(f"run {run_id}", now):
                yield state.read
