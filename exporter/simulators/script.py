"""Short descriptions of runs, from which whole runs are built."""

import hashlib
from collections.abc import Sequence

import msgspec

from exporter.model import FAILING, Result
from exporter.simulators.world import MARK, SimRun, SimStep

DEFAULT_DURATION = 60.0


class StepScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A short description of a step. `dependencies`: None for the previous step. `result`: None if it never ends."""

    name: str
    duration: float | None = None
    result: Result | None = Result.SUCCESS
    dependencies: tuple[str, ...] | None = None
    no_op: bool = False


class RunScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A short description of a run.

    Attributes:
        run_id: "" for a generated ID of 64 hexadecimal digits.
        created: None for now.
        start: None for `queue` seconds after `created`.
        duration: Used if there is no `end`. Without both, the run ends with its last step, or after a minute.
        result: None if the run never completes.
        steps: A text is a step that succeeds. If the run fails and all steps succeed, the last step fails instead.
    """

    job: str
    project: str = "prod"
    job_id: str = ""
    run_id: str = ""
    created: float | None = None
    queue: float = 0.0
    start: float | None = None
    duration: float | None = None
    end: float | None = None
    result: Result | None = Result.SUCCESS
    steps: tuple[StepScript | str, ...] = ()
    attempts: int = 1
    error_type: str = ""
    version: int = 1


def make_run(script: RunScript, now: float, number: int) -> SimRun:
    """Return the run that a script describes. `number`: makes its ID unique."""
    start = script.start if script.start is not None else _created(script, now) + script.queue
    created = script.created if script.created is not None else start - script.queue
    steps = timeline(_step_scripts(script), start, script.duration)
    failed = script.result in FAILING
    job_id = script.job_id or f"{script.project}/{script.job}"
    return SimRun(
        run_id=script.run_id or hashlib.sha256(f"{job_id}/{created}/{number}".encode()).hexdigest(),
        job_id=job_id,
        project=script.project,
        job_name=script.job,
        created=created,
        start=start,
        end=_end(script, start, steps),
        result=script.result,
        steps=steps,
        attempts=script.attempts,
        error_type=script.error_type or ("step_failed" if failed else ""),
        title=f"Order of {MARK}",
        error=f"Could not load the row of {MARK}" if failed else "",
        version=script.version,
    )


def timeline(scripts: Sequence[StepScript], start: float, total: float | None = None) -> tuple[SimStep, ...]:
    """Return a run's steps. A step starts when its parents have succeeded; if one fails, the step is skipped.

    Steps without a duration share `total` seconds equally. A step must come after its parents.
    """
    share = (DEFAULT_DURATION if total is None else total) / max(len(scripts), 1)
    placed: dict[str, SimStep] = {}
    before: tuple[str, ...] = ()
    for script in scripts:
        names = before if script.dependencies is None else script.dependencies
        placed[script.name] = _placed(script, names, [placed[name] for name in names], start, share)
        before = (script.name,)
    return tuple(placed.values())


def _placed(
    script: StepScript, names: tuple[str, ...], parents: Sequence[SimStep], start: float, share: float
) -> SimStep:
    ends = [parent.end for parent in parents if parent.end is not None]
    if len(ends) < len(parents):
        return SimStep(name=script.name, dependencies=names)
    begin = max(ends, default=start)
    if any(parent.result is not Result.SUCCESS or parent.no_op for parent in parents):
        return SimStep(name=script.name, end=begin, result=Result.SKIP, dependencies=names)
    if script.result is Result.SKIP:
        return SimStep(name=script.name, end=begin, result=Result.SKIP, dependencies=names)
    length = share if script.duration is None else script.duration
    return SimStep(
        name=script.name,
        start=begin,
        end=None if script.result is None else round(begin + length, 3),
        result=script.result,
        dependencies=names,
        no_op=script.no_op,
    )


def _created(script: RunScript, now: float) -> float:
    return now if script.created is None else script.created


def _end(script: RunScript, start: float, steps: Sequence[SimStep]) -> float | None:
    if script.result is None:
        return None
    if script.end is not None:
        return script.end
    if script.duration is not None:
        return start + script.duration
    return max((step.end for step in steps if step.end is not None), default=start + DEFAULT_DURATION)


def _step_scripts(script: RunScript) -> list[StepScript]:
    """Return the steps as scripts. If all succeed but the run does not, the last step gets the run's result."""
    steps = [StepScript(name=step) if isinstance(step, str) else step for step in script.steps]
    if script.result is Result.SKIP:
        return [msgspec.structs.replace(step, result=Result.SKIP) for step in steps]
    all_succeed = all(step.result is Result.SUCCESS for step in steps)
    if steps and all_succeed and (script.result in FAILING or script.result is None):
        result = None if script.result is None else Result.FAILURE
        steps[-1] = msgspec.structs.replace(steps[-1], result=result)
    return steps
