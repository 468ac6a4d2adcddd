"""What goes wrong: a table of troubles, each of which affects some or all sources for a while.

A trouble is a function of the harness and its dice that returns when and how it ends.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from exporter.simulators.disruptions import (
    Contradict,
    Disruption,
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
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.workato_rows import WorkatoShape, shown_id
from exporter.simulators.world import SimJob
from tests.chaos.crashable import Place
from tests.chaos.renamed import JOB
from tests.chaos.scenario_harness import ScenarioHarness
from tests.chaos.worlds import DenseWorld
from tests.contract.harness import DAY, HOUR, MINUTE


class Ongoing(msgspec.Struct, kw_only=True):
    """A trouble that lasts. `words`: the affected sources; `wrong_rows`: whether rows are wrong meanwhile."""

    name: str
    until: float
    words: Sequence[str]
    end: Callable[[], object]
    wrong_rows: bool = False


OLDEST_COPY = 5 * DAY

Struck = Ongoing | bool
"""What still lasts; or whether something happened and is over."""

Trouble = Callable[[ScenarioHarness, random.Random], Struck]


def polls_of(harness: ScenarioHarness, dice: random.Random, most: int) -> float:
    """Return the seconds of at least one and at most `most` polls."""
    return harness.plan.poll_interval * (dice.randint(1, most) + 0.5)


def some(harness: ScenarioHarness, dice: random.Random) -> Sequence[str]:
    """Return one source, or all of them."""
    return harness.words if dice.random() < 0.3 else (dice.choice(harness.words),)


# --- the process ---


def kill_between(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """Kill -9 between two polls, and some time without an exporter."""
    harness.die(down=away(dice))
    return True


def kill_inside(place: Place, most: int) -> Trouble:
    """Kill -9 at the n-th statement, commit or clock read from now on."""

    def strike(harness: ScenarioHarness, dice: random.Random) -> Struck:
        life = harness.life
        life.crashable.arm(place, dice.randint(1, most))

        def end() -> None:
            if harness.life is life and life.crashable.disarm():
                harness.die()

        until = harness.clock() + polls_of(harness, dice, 2)
        return Ongoing(name=f"kill at a {place}", until=until, words=(), end=end)

    return strike


def kill_starting(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """Kill -9, and again while the next process opens or reads its state."""
    harness.frail = "anything", dice.randint(1, 30)
    harness.die()
    return True


def restart(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """A clean restart."""
    harness.restart(down=away(dice))
    return True


def away(dice: random.Random) -> float:
    """Return how long nothing polls: mostly a moment, sometimes a night."""
    return dice.choice((0.0, 0.0, 1.0, 30.0, 10 * MINUTE, HOUR, 9 * HOUR)) * dice.random()


def long_outage(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """No exporter for longer than sources read back: what can no longer be read must be reported."""
    reach = harness.plan.lookback
    if harness.clock() + reach + 3 * DAY > harness.plan.end:
        return False
    harness.outages.append((harness.clock(), harness.clock() + reach + 2 * DAY))
    harness.restart(down=reach + dice.uniform(0, DAY))
    return True


def put_back(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """The state becomes an older copy, whose active runs all APIs still have."""
    copies = [copy for copy in harness.copies[-3:] if harness.clock() - copy[0] < OLDEST_COPY]
    if not copies:
        return False
    harness.put_back(*dice.choice(copies))
    return True


def copy_state(harness: ScenarioHarness, dice: random.Random) -> Struck:  # noqa: ARG001  # the interface of all troubles
    """Copy the state, to be restored later."""
    harness.copy_state()
    return True


def disk_full(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """The state cannot be written."""
    name = harness.disk.fill(by_limit=dice.random() < 0.3)
    until = harness.clock() + polls_of(harness, dice, 4)
    return Ongoing(name=name, until=until, words=harness.words, end=harness.disk.free)


def clock_jump(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """The exporter's own clock is wrong, ahead or behind."""
    harness.local.wrong = dice.choice((-1, 1)) * dice.choice((3.0, 40.0, 1000.0, HOUR, DAY, 40 * DAY)) * dice.random()

    def end() -> None:
        harness.local.wrong = 0.0

    return Ongoing(name="clock jump", until=harness.clock() + polls_of(harness, dice, 4), words=harness.words, end=end)


# --- the configuration ---


def reload(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """A reload with other settings of the same sources."""
    settings: tuple[dict[str, object], ...] = ({}, {"overlap": f"{int(harness.plan.overlap * 2)}s"}, {"settle": "2m"})
    harness.overrides = dice.choice(settings)
    harness.reload()
    return True


def source_removed(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """A source is removed from the configuration, and added again later."""
    if harness.absent:
        return False
    word = dice.choice(harness.words)
    harness.absent.add(word)
    harness.reload()

    def end() -> None:
        harness.absent.discard(word)
        harness.reload()

    until = harness.clock() + polls_of(harness, dice, 40)
    return Ongoing(name="source removed and added", until=until, words=(word,), end=end)


# --- the network and the APIs ---


def unreachable(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """APIs do not listen: connections are refused."""
    words = some(harness, dice)
    harness.listen(words, listening=False)

    def end() -> None:
        harness.listen(words, listening=True)

    longest = dice.choice((3, 3, 12, 60))
    return Ongoing(name="refused", until=harness.clock() + polls_of(harness, dice, longest), words=words, end=end)


def latency(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """Responses take seconds, so that the world changes while it is read."""
    harness.flowing.latency = dice.choice((0.3, 3.0, 15.0))

    def end() -> None:
        harness.flowing.latency = 0.0

    return Ongoing(name="latency", until=harness.clock() + polls_of(harness, dice, 6), words=harness.words, end=end)


def token_expiry(harness: ScenarioHarness, dice: random.Random) -> Struck:  # noqa: ARG001  # the interface of all troubles
    """Every token is revoked."""
    for simulator in harness.simulators.values():
        if isinstance(simulator, SnowplowSimulator):
            simulator.expire_tokens()
    harness.disturb(("snowplow",))
    return True


def may_answer_wrongly(harness: ScenarioHarness, word: str) -> bool:
    """Return whether overlapping windows repair a wrong answer that begins now.

    They do not repair one wrong answer right after another, nor one during a catch-up after hours of downtime.
    """
    now, plan = harness.clock(), harness.plan
    return now - harness.answered_wrongly[word] >= plan.overlap and now - harness.well[word] <= 2 * plan.poll_interval


def api_disruption(
    name: str, *disruptions: Disruption, most: int = 4, wrong_rows: bool = False, after: float = 0.0
) -> Trouble:
    """Return a trouble of all or some requests. `after`: seconds for which it still has an effect."""

    def strike(harness: ScenarioHarness, dice: random.Random) -> Struck:
        words = some(harness, dice)
        if wrong_rows and not all(may_answer_wrongly(harness, word) for word in words):
            return False
        disruption = dice.choice(disruptions)
        share = dice.choice((1.0, 1.0, 0.5, 0.2))
        lasts = polls_of(harness, dice, most)
        if wrong_rows:
            lasts = min(lasts, harness.plan.overlap / 2)
        if share == 1.0 and after:
            lasts += after
        if wrong_rows:  # ends in time even if nothing polls: nothing repairs a wrong answer to a catch-up
            disruption = msgspec.structs.replace(disruption, until=harness.clock() + lasts)
        placed = {word: list(at(word, disruption, share)) for word in words}
        for word, each in placed.items():
            harness.simulators[word].disruptions.add(*each)  # type: ignore[arg-type]  # one of the kinds that there are

        def end() -> None:
            for word, each in placed.items():
                injector = harness.simulators[word].disruptions
                injector.set(
                    disruption for disruption in injector.current() if not any(disruption is one for one in each)
                )

        return Ongoing(name=name, until=harness.clock() + lasts, words=words, end=end, wrong_rows=wrong_rows)

    return strike


LISTS: Mapping[str, Sequence[str | None]] = {
    "snowplow": ("runs",),
    "northflank": ("runs", "run"),
    "strait": ("runs", "run", "workflow_runs", "workflow_run"),
    "workato": ("jobs", "job"),
}
"""Endpoints that show runs. Lists of jobs are not among them: a job missing for a quarter of an hour ends."""


def at(word: str, disruption: Disruption, share: float) -> Iterable[Disruption]:
    """Yield a disruption for a vendor's endpoints."""
    endpoints = LISTS[word] if isinstance(disruption, Drop) else (None,)
    for endpoint in endpoints:
        yield msgspec.structs.replace(disruption, endpoint=endpoint, probability=share)


ONE_RUN: Mapping[str, Sequence[str]] = {
    "snowplow": ("run", "steps"),
    "northflank": ("run",),
    "strait": ("run", "workflow_run"),
    "workato": ("job",),
}
"""Endpoints of one run."""

ONE_JOB: Mapping[str, str] = {"northflank": "runs", "workato": "jobs"}
"""Endpoints that list the runs of one job, where a vendor has no list of all runs."""

USELESS = (Status(code=500), Status(code=403), Garbage(), Html(), Reset())
"""Failures of an API that concern one part."""


def poisoned_run(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """One run cannot be read by its ID, for longer than active runs are followed; all else works."""
    word, now = dice.choice(harness.words), harness.clock()
    runs = [run for run in harness.simulators[word].world.runs(now, now + 1.0) if run.created <= now]
    if not runs:
        return False
    run = dice.choice(sorted(runs, key=lambda run: (run.end is not None, run.run_id))[:3])
    error = msgspec.structs.replace(dice.choice(USELESS), path=run.run_id)
    errors = [msgspec.structs.replace(error, endpoint=endpoint) for endpoint in ONE_RUN[word]]
    harness.simulators[word].disruptions.add(*errors)
    for job in harness.truths[word].jobs.values():
        job.doubt(run.run_id)
    until = now + harness.plan.max_run_age + DAY
    return Ongoing(name="poisoned run", until=until, words=(), end=lifted(harness, word, errors))


def poisoned_job(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """The runs of one job cannot be listed for a day; those of all others can."""
    word, now = dice.choice(sorted(ONE_JOB)), harness.clock()
    job = dice.choice(harness.simulators[word].world.jobs())
    key = word, job.project, job.name
    if key in harness.poisoned or now + 2 * DAY > harness.plan.end:
        return False
    simulator = harness.simulators[word]
    path = f"/{job_path(word, job)}/{ONE_JOB[word]}"
    errors = [msgspec.structs.replace(dice.choice(USELESS), endpoint=ONE_JOB[word], path=path)]
    simulator.disruptions.add(*errors)
    harness.poisoned.add(key)

    def end() -> None:
        lifted(harness, word, errors)()
        harness.disturb((word,))
        harness.poisoned.discard(key)

    return Ongoing(name="poisoned job", until=now + dice.uniform(0.2, 1.0) * DAY, words=(), end=end)


def job_path(word: str, job: SimJob) -> str:
    """Return a job as its vendor's paths have it."""
    if word == "workato":
        return str(shown_id(job.job_id, WorkatoShape()))
    return quote(job.job_id, safe="")


def lifted(harness: ScenarioHarness, word: str, errors: Sequence[Disruption]) -> Callable[[], None]:
    """Return a function that removes these errors."""

    def end() -> None:
        injector = harness.simulators[word].disruptions
        injector.set(each for each in injector.current() if not any(each is one for one in errors))

    return end


def renamed(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """A job gets another name: an included or an excluded one."""
    words = [word for word in harness.words if harness.truths[word].renamed is not None and word not in harness.absent]
    if not words:
        return False
    word = dice.choice(words)
    job, world = harness.truths[word].renamed, harness.simulators[word].world
    assert job is not None
    assert isinstance(world, DenseWorld)
    watermark = harness.watch.value("jobrun_source_watermark_timestamp_seconds", source=word)
    world.rename(JOB, job.rename(harness.clock(), watermark))
    return True


def wrong_date(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """One response has a `Date` that is far from now."""
    harness.network.wrong_dates.append(dice.choice((-1, 1)) * dice.choice((HOUR, DAY, 30 * DAY, 400 * DAY)))
    return True


def log_lost(harness: ScenarioHarness, dice: random.Random) -> Struck:
    """The log has no reader, and nothing can be written to it."""
    harness.log.broken = dice.choice((BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")))

    def end() -> None:
        harness.log.broken = None

    return Ongoing(name="log lost", until=harness.clock() + polls_of(harness, dice, 6), words=(), end=end)


TROUBLES: Mapping[str, tuple[float, Trouble]] = {
    "kill -9 between polls": (4, kill_between),
    "kill -9 inside a transaction": (10, kill_inside("statement", 40)),
    "kill -9 right after a commit": (4, kill_inside("commit", 8)),
    "kill -9 while polling": (6, kill_inside("glance", 120)),
    "kill -9 while it starts": (2, kill_starting),
    "clean restart": (5, restart),
    "outage beyond the reach": (0.4, long_outage),
    "older copy put back": (0.7, put_back),
    "copy made": (1.5, copy_state),
    "disk full": (4, disk_full),
    "clock jump": (4, clock_jump),
    "reload": (2, reload),
    "source removed and added": (1.5, source_removed),
    "connections refused": (3, unreachable),
    "latency": (3, latency),
    "token revoked": (2, token_expiry),
    "401, 403": (2, api_disruption("401, 403", Status(code=401), Status(code=403))),
    "429 with Retry-After": (
        2,
        api_disruption(
            "429",
            Status(code=429, retry_after=30.0),
            Status(code=429, retry_after=1500.0, retry_after_form="date"),
            Status(code=429, retry_after=5.0, retry_after_form="garbage"),
            after=1500.0,
        ),
    ),
    "5xx": (3, api_disruption("5xx", Status(code=503), Status(code=500, body="html"), Status(code=502, body="empty"))),
    "reset": (2, api_disruption("reset", Reset(), Reset(abruptly=False))),
    "half answers": (2, api_disruption("half", Half(), Half(share=0.99))),
    "timeouts": (0.5, api_disruption("timeout", Hang(), Hang(seconds=50.0), Slow(chunk=2000, pause=20.0))),
    "wrong shapes": (
        3,
        api_disruption(
            "wrong shapes", Garbage(), Html(), Garbage(text="[[[[1]]]]"), Garbage(text="null"), Huge(mebibytes=1)
        ),
    ),
    "redirects": (1, api_disruption("redirect", Redirect(location="http://127.0.0.1:9/"))),
    "empty lists with 200": (2, api_disruption("empty lists", Drop(share=1.0), most=3, wrong_rows=True)),
    "rows omitted": (2, api_disruption("rows omitted", Drop(share=0.4), wrong_rows=True)),
    "rows twice": (2, api_disruption("rows twice", Duplicate(share=0.5), wrong_rows=True)),
    "contradicting rows": (
        3,
        api_disruption(
            "contradicting rows",
            Contradict(share=0.3),
            Contradict(share=0.3, copy="shorter", seconds=30),
            Contradict(share=1.0, copy="stale", seconds=600),
            wrong_rows=True,
        ),
    ),
    "one run cannot be read": (2, poisoned_run),
    "one job cannot be read": (1, poisoned_job),
    "renamed across the filter": (3, renamed),
    "one wrong date": (3, wrong_date),
    "log lost": (2, log_lost),
    "rows in disorder": (2, api_disruption("rows in disorder", Shuffle(), wrong_rows=True)),
    "stale rows": (
        2,
        api_disruption("stale rows", Stale(seconds=40), Stale(seconds=400), Stale(seconds=1500), wrong_rows=True),
    ),
    "late rows": (
        2,
        api_disruption("late rows", Late(seconds=600, share=0.3), Late(seconds=1500, share=0.1), wrong_rows=True),
    ),
}
"""Troubles by name: the relative frequency, and the function."""
