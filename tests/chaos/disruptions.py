"""The table of disruptions in simulated weeks: what goes wrong, how often, and how it ends."""

import random
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from exporter.simulators.disruptions import (
    Contradict,
    Drop,
    Duplicate,
    Garbage,
    Half,
    Hang,
    Html,
    Huge,
    Late,
    Redirect,
    Reset,
    Shuffle,
    Slow,
    Stale,
    Status,
)
from exporter.simulators.disruptions import Disruption as ApiDisruption
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.workato_rows import WorkatoShape, shown_id
from exporter.simulators.world import SimJob
from tests.chaos.crash_injector import CrashPoint
from tests.chaos.renamed_job import RENAMED_JOB_ID
from tests.chaos.scenario_harness import ScenarioHarness
from tests.chaos.worlds import DenseWorld
from tests.contract.harness import DAY, HOUR, MINUTE

OLDEST_COPY = 5 * DAY
"""Maximum age of a copy of the state that is restored: the APIs must still have the runs that it has as active."""


class OngoingDisruption(msgspec.Struct, kw_only=True):
    """A disruption that lasts.

    Attributes:
        until: When it ends.
        vendors: The affected sources.
        end: Ends it.
        wrong_rows: Whether the APIs of these sources show wrong rows until then.
    """

    until: float
    vendors: Sequence[str]
    end: Callable[[], object]
    wrong_rows: bool = False


Started = OngoingDisruption | bool
"""The disruption if it lasts. Otherwise whether it happened: it does not happen where it is impossible."""

StartDisruption = Callable[[ScenarioHarness, random.Random], Started]
"""Starts a disruption."""


def poll_seconds(harness: ScenarioHarness, rng: random.Random, most: int) -> float:
    """Return the duration of at least one and at most `most` polls."""
    return harness.plan.poll_interval * (rng.randint(1, most) + 0.5)


def choose_vendors(harness: ScenarioHarness, rng: random.Random) -> Sequence[str]:
    """Return one vendor, or all of them."""
    return harness.vendors if rng.random() < 0.3 else (rng.choice(harness.vendors),)


# --- the process ---


def kill_between_polls(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Kill the process between two polls. Start the next one after some downtime."""
    harness.kill(downtime=downtime(rng))
    return True


def kill_at(point: CrashPoint, most: int) -> StartDisruption:
    """Return a disruption that kills the process at the n-th statement, commit or clock read; n is at most `most`."""

    def start(harness: ScenarioHarness, rng: random.Random) -> Started:
        process = harness.process
        process.crash_injector.arm(point, rng.randint(1, most))

        def end() -> None:
            if harness.process is process and process.crash_injector.disarm():
                harness.kill()

        return OngoingDisruption(until=harness.clock() + poll_seconds(harness, rng, 2), vendors=(), end=end)

    return start


def kill_during_start(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Kill the process, and kill the next one while it opens or reads its state."""
    harness.next_crash = "any statement", rng.randint(1, 30)
    harness.kill()
    return True


def restart(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Stop the process cleanly. Start the next one after some downtime."""
    harness.restart(downtime=downtime(rng))
    return True


def downtime(rng: random.Random) -> float:
    """Return the seconds between two processes: mostly few, sometimes a night."""
    return rng.choice((0.0, 0.0, 1.0, 30.0, 10 * MINUTE, HOUR, 9 * HOUR)) * rng.random()


def long_outage(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Run no exporter for longer than `lookback`. It must report the time that it can no longer read."""
    reach = harness.plan.lookback
    if harness.clock() + reach + 3 * DAY > harness.plan.end:
        return False
    harness.outages.append((harness.clock(), harness.clock() + reach + 2 * DAY))
    harness.restart(downtime=reach + rng.uniform(0, DAY))
    return True


def copy_state(harness: ScenarioHarness, rng: random.Random) -> Started:  # noqa: ARG001  # the interface of all disruptions
    """Copy the state, so that it can be restored later."""
    harness.copy_state()
    return True


def restore_copy(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Replace the state by an older copy."""
    copies = [copy for copy in harness.state_copies[-3:] if harness.clock() - copy[0] < OLDEST_COPY]
    if not copies:
        return False
    harness.restore_copy(*rng.choice(copies))
    return True


def fill_disk(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Fill the disk, so that the state cannot be written."""
    harness.disk.fill(by_limit=rng.random() < 0.3)
    until = harness.clock() + poll_seconds(harness, rng, 4)
    return OngoingDisruption(until=until, vendors=harness.vendors, end=harness.disk.free)


def set_wrong_clock(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Move the exporter's local clock ahead or behind."""
    clock = harness.local_clock
    clock.wrong = rng.choice((-1, 1)) * rng.choice((3.0, 40.0, 1000.0, HOUR, DAY, 40 * DAY)) * rng.random()

    def end() -> None:
        clock.wrong = 0.0

    until = harness.clock() + poll_seconds(harness, rng, 4)
    return OngoingDisruption(until=until, vendors=harness.vendors, end=end)


# --- the config ---


def reload(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Reload with other settings of the same sources."""
    settings: tuple[dict[str, object], ...] = ({}, {"overlap": f"{int(harness.plan.overlap * 2)}s"}, {"settle": "2m"})
    harness.overrides = rng.choice(settings)
    harness.reload()
    return True


def remove_source(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Remove a source from the config, and add it again later."""
    if harness.unconfigured:
        return False
    vendor = rng.choice(harness.vendors)
    harness.unconfigured.add(vendor)
    harness.reload()

    def end() -> None:
        harness.unconfigured.discard(vendor)
        harness.reload()

    return OngoingDisruption(until=harness.clock() + poll_seconds(harness, rng, 40), vendors=(vendor,), end=end)


# --- the network and the APIs ---


def refuse_connections(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Let APIs refuse connections."""
    vendors = choose_vendors(harness, rng)
    harness.set_listening(vendors, listening=False)

    def end() -> None:
        harness.set_listening(vendors, listening=True)

    longest = rng.choice((3, 3, 12, 60))
    return OngoingDisruption(until=harness.clock() + poll_seconds(harness, rng, longest), vendors=vendors, end=end)


def add_latency(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Let responses take seconds, so that runs change while a poll reads them."""
    harness.api_clock.latency = rng.choice((0.3, 3.0, 15.0))

    def end() -> None:
        harness.api_clock.latency = 0.0

    until = harness.clock() + poll_seconds(harness, rng, 6)
    return OngoingDisruption(until=until, vendors=harness.vendors, end=end)


def revoke_tokens(harness: ScenarioHarness, rng: random.Random) -> Started:  # noqa: ARG001  # the interface of all disruptions
    """Revoke every token."""
    for simulator in harness.simulators.values():
        if isinstance(simulator, SnowplowSimulator):
            simulator.expire_tokens()
    harness.mark_disrupted(("snowplow",))
    return True


def may_answer_wrongly(harness: ScenarioHarness, vendor: str) -> bool:
    """Return whether overlapping windows repair a wrong answer that begins now.

    They do not repair a second wrong answer soon after another one, nor one to a poll that catches up after downtime.
    """
    now, plan = harness.clock(), harness.plan
    recent = now - harness.last_wrong_answer[vendor] < plan.overlap
    catching_up = now - harness.last_success[vendor] > 2 * plan.poll_interval
    return not recent and not catching_up


def disrupt_apis(
    *choices: ApiDisruption, most: int = 4, wrong_rows: bool = False, aftereffect: float = 0.0
) -> StartDisruption:
    """Return a disruption of all or some requests to one API or all.

    Args:
        choices: What the API may do; one is chosen.
        most: Maximum duration in polls.
        wrong_rows: Whether rows are wrong meanwhile.
        aftereffect: Seconds for which polls may fail after it has ended, if all requests were affected.
    """

    def start(harness: ScenarioHarness, rng: random.Random) -> Started:
        vendors = choose_vendors(harness, rng)
        if wrong_rows and not all(may_answer_wrongly(harness, vendor) for vendor in vendors):
            return False
        chosen = rng.choice(choices)
        share = rng.choice((1.0, 1.0, 0.5, 0.2))
        duration = poll_seconds(harness, rng, most)
        if wrong_rows:
            duration = min(duration, harness.plan.overlap / 2)
        if share == 1.0:
            duration += aftereffect
        if wrong_rows:
            # The simulator ends it in time even if nothing polls: overlapping windows would not repair
            # a wrong answer to the poll that catches up.
            chosen = msgspec.structs.replace(chosen, until=harness.clock() + duration)
        placed = {vendor: at_endpoints(vendor, chosen, share) for vendor in vendors}
        for vendor, disruptions in placed.items():
            harness.simulators[vendor].disruptions.add(*disruptions)  # type: ignore[arg-type]  # one of the kinds that there are

        return OngoingDisruption(
            until=harness.clock() + duration, vendors=vendors, end=remover(harness, placed), wrong_rows=wrong_rows
        )

    return start


RUN_ENDPOINTS: Mapping[str, Sequence[str]] = {
    "snowplow": ("runs",),
    "northflank": ("runs", "run"),
    "strait": ("runs", "run", "workflow_runs", "workflow_run"),
    "workato": ("jobs", "job"),
}
"""Endpoints that show runs, not jobs: a job that is missing for 15 minutes is taken as deleted."""


def at_endpoints(vendor: str, disruption: ApiDisruption, share: float) -> list[ApiDisruption]:
    """Return a disruption for a share of the requests to a vendor: to all endpoints, or for `Drop` to those of runs."""
    endpoints = RUN_ENDPOINTS[vendor] if isinstance(disruption, Drop) else (None,)
    return [msgspec.structs.replace(disruption, endpoint=endpoint, probability=share) for endpoint in endpoints]


def remover(harness: ScenarioHarness, placed: Mapping[str, Sequence[ApiDisruption]]) -> Callable[[], None]:
    """Return a function that removes these disruptions, given by vendor."""

    def remove() -> None:
        for vendor, disruptions in placed.items():
            injector = harness.simulators[vendor].disruptions
            # Equal disruptions of another start stay.
            injector.set(each for each in injector.current() if not any(each is one for one in disruptions))

    return remove


SINGLE_RUN_ENDPOINTS: Mapping[str, Sequence[str]] = {
    "snowplow": ("run", "steps"),
    "northflank": ("run",),
    "strait": ("run", "workflow_run"),
    "workato": ("job",),
}
"""Endpoints that show one run."""

JOB_RUNS_ENDPOINTS: Mapping[str, str] = {"northflank": "runs", "workato": "jobs"}
"""The endpoint that lists the runs of one job, where a vendor has no list of all runs."""

ENDPOINT_ERRORS = (Status(code=500), Status(code=403), Garbage(), Html(), Reset())
"""Errors of one endpoint."""


def make_run_unreadable(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Let requests for one run by its ID fail for longer than `max_run_age`."""
    vendor, now = rng.choice(harness.vendors), harness.clock()
    runs = [run for run in harness.simulators[vendor].world.runs(now, now + 1.0) if run.created <= now]
    if not runs:
        return False
    run = rng.choice(sorted(runs, key=lambda run: (run.end is not None, run.run_id))[:3])
    error = msgspec.structs.replace(rng.choice(ENDPOINT_ERRORS), path=run.run_id)
    errors = [msgspec.structs.replace(error, endpoint=endpoint) for endpoint in SINGLE_RUN_ENDPOINTS[vendor]]
    harness.simulators[vendor].disruptions.add(*errors)
    for job in harness.truths[vendor].jobs.values():
        job.mark_unreadable(run.run_id)
    until = now + harness.plan.max_run_age + DAY
    return OngoingDisruption(until=until, vendors=(), end=remover(harness, {vendor: errors}))


def make_job_unreadable(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Let requests for the runs of one job fail for up to a day."""
    vendor, now = rng.choice(sorted(JOB_RUNS_ENDPOINTS)), harness.clock()
    job = rng.choice(harness.simulators[vendor].world.jobs())
    key = vendor, job.project, job.name
    if key in harness.unreadable_jobs or now + 2 * DAY > harness.plan.end:
        return False
    endpoint = JOB_RUNS_ENDPOINTS[vendor]
    path = f"/{job_in_path(vendor, job)}/{endpoint}"
    errors = [msgspec.structs.replace(rng.choice(ENDPOINT_ERRORS), endpoint=endpoint, path=path)]
    harness.simulators[vendor].disruptions.add(*errors)
    harness.unreadable_jobs.add(key)
    remove = remover(harness, {vendor: errors})

    def end() -> None:
        remove()
        harness.mark_disrupted((vendor,))
        harness.unreadable_jobs.discard(key)

    return OngoingDisruption(until=now + rng.uniform(0.2, 1.0) * DAY, vendors=(), end=end)


def job_in_path(vendor: str, job: SimJob) -> str:
    """Return a job's ID as the vendor's paths contain it."""
    if vendor == "workato":
        return str(shown_id(job.job_id, WorkatoShape()))
    return quote(job.job_id, safe="")


def rename_job(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Rename a job to its next name: an excluded one if its name is included, and the other way round."""
    vendors = [
        vendor
        for vendor in harness.vendors
        if harness.truths[vendor].renamed is not None and vendor not in harness.unconfigured
    ]
    if not vendors:
        return False
    vendor = rng.choice(vendors)
    job, world = harness.truths[vendor].renamed, harness.simulators[vendor].world
    assert job is not None
    assert isinstance(world, DenseWorld)
    watermark = harness.page_auditor.value("jobrun_source_watermark_timestamp_seconds", source=vendor)
    world.rename(RENAMED_JOB_ID, job.rename(harness.clock(), watermark))
    return True


def send_wrong_date(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Send one response with a `Date` that is wrong by at least an hour."""
    harness.network.wrong_dates.append(rng.choice((-1, 1)) * rng.choice((HOUR, DAY, 30 * DAY, 400 * DAY)))
    return True


def break_log(harness: ScenarioHarness, rng: random.Random) -> Started:
    """Let every write to the log fail."""
    harness.log.write_error = rng.choice((BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")))

    def end() -> None:
        harness.log.write_error = None

    return OngoingDisruption(until=harness.clock() + poll_seconds(harness, rng, 6), vendors=(), end=end)


DISRUPTIONS: Mapping[str, tuple[float, StartDisruption]] = {
    "kill -9 between polls": (4, kill_between_polls),
    "kill -9 inside a transaction": (10, kill_at("transaction statement", 40)),
    "kill -9 right after a commit": (4, kill_at("commit", 8)),
    "kill -9 while polling": (6, kill_at("clock read", 120)),
    "kill -9 while it starts": (2, kill_during_start),
    "clean restart": (5, restart),
    "outage beyond the reach": (0.4, long_outage),
    "older copy put back": (0.7, restore_copy),
    "copy made": (1.5, copy_state),
    "disk full": (4, fill_disk),
    "clock jump": (4, set_wrong_clock),
    "reload": (2, reload),
    "source removed and added": (1.5, remove_source),
    "connections refused": (3, refuse_connections),
    "latency": (3, add_latency),
    "token revoked": (2, revoke_tokens),
    "401, 403": (2, disrupt_apis(Status(code=401), Status(code=403))),
    "429 with Retry-After": (
        2,
        disrupt_apis(
            Status(code=429, retry_after=30.0),
            Status(code=429, retry_after=1500.0, retry_after_form="date"),
            Status(code=429, retry_after=5.0, retry_after_form="garbage"),
            aftereffect=1500.0,
        ),
    ),
    "5xx": (3, disrupt_apis(Status(code=503), Status(code=500, body="html"), Status(code=502, body="empty"))),
    "reset": (2, disrupt_apis(Reset(), Reset(abruptly=False))),
    "half answers": (2, disrupt_apis(Half(), Half(share=0.99))),
    "timeouts": (0.5, disrupt_apis(Hang(), Hang(seconds=50.0), Slow(chunk=2000, pause=20.0))),
    "wrong shapes": (
        3,
        disrupt_apis(Garbage(), Html(), Garbage(text="[[[[1]]]]"), Garbage(text="null"), Huge(mebibytes=1)),
    ),
    "redirects": (1, disrupt_apis(Redirect(location="http://127.0.0.1:9/"))),
    "empty lists with 200": (2, disrupt_apis(Drop(share=1.0), most=3, wrong_rows=True)),
    "rows omitted": (2, disrupt_apis(Drop(share=0.4), wrong_rows=True)),
    "rows twice": (2, disrupt_apis(Duplicate(share=0.5), wrong_rows=True)),
    "contradicting rows": (
        3,
        disrupt_apis(
            Contradict(share=0.3),
            Contradict(share=0.3, copy="shorter", seconds=30),
            Contradict(share=1.0, copy="stale", seconds=600),
            wrong_rows=True,
        ),
    ),
    "one run cannot be read": (2, make_run_unreadable),
    "one job cannot be read": (1, make_job_unreadable),
    "renamed across the filter": (3, rename_job),
    "one wrong date": (3, send_wrong_date),
    "log lost": (2, break_log),
    "rows in disorder": (2, disrupt_apis(Shuffle(), wrong_rows=True)),
    "stale rows": (
        2,
        disrupt_apis(Stale(seconds=40), Stale(seconds=400), Stale(seconds=1500), wrong_rows=True),
    ),
    "late rows": (
        2,
        disrupt_apis(Late(seconds=600, share=0.3), Late(seconds=1500, share=0.1), wrong_rows=True),
    ),
}
"""Disruptions by name: how often each is chosen, relative to the others, and the function that starts it."""
