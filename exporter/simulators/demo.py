"""The worlds of the demo. Each vendor has its own jobs and problems, and one vendor is healthy."""

import re
from collections.abc import Callable, Mapping

from exporter.simulators.generated import GeneratedWorld, JobPlan, StepPlan

HOUR = 3600.0
MINUTE = 60.0
HISTORY = 7 * 24 * HOUR
"""Length of the demo's past, in seconds at speed 1."""


def _line(*names: str) -> tuple[StepPlan, ...]:
    """Return steps that run one after the other."""
    return tuple(StepPlan(name) for name in names)


DBT = _line("git-clone-cache", "run-dbt")
PLAYBOOK = _line("check-lock", "run-base", "run-page-views", "run-sessions", "run-users", "run-complete")
FAN = (
    StepPlan("check-lock", 0.1),
    StepPlan("load events", 1.0, ("check-lock",)),
    StepPlan("load orders", 2.0, ("check-lock",)),
    StepPlan("load refunds", 0.5, ("check-lock",)),
    StepPlan("join", 1.0, ("load events", "load orders", "load refunds")),
    StepPlan("publish", 0.3, ("join",)),
)
WIDE = _line("extract", "clean", "deduplicate", "enrich", "model", "test", "publish", "notify")

PROD, QA = "com.acme-prod1", "com.acme-qa1"
SHOP, RISK = "acme-shop", "acme-risk"
ACME, GLOBEX = "acme", "globex"
QUIET_SINCE = HISTORY - 36 * HOUR
SWITCHED_OFF = HISTORY + 40 * MINUTE
"""At speed 60 this is 40 seconds after the demo starts, so that a user can watch it."""

PLANS: Mapping[str, tuple[JobPlan, ...]] = {
    "snowplow": (  # one job that always fails, one that fails now and then, one that is slow every other day
        JobPlan(name="webmodel", project=PROD, interval=HOUR, duration=18 * MINUTE, steps=PLAYBOOK),
        JobPlan(name="marketing-costs", project=PROD, interval=HOUR, duration=6 * MINUTE, steps=DBT, failing=1.0),
        JobPlan(name="attribution", project=PROD, interval=4 * HOUR, duration=40 * MINUTE, steps=FAN, failing=0.3),
        JobPlan(name="customer-360", project=PROD, interval=HOUR, duration=9 * MINUTE, steps=WIDE, slow_every=48),
        JobPlan(name="webmodel", project=QA, interval=2 * HOUR, duration=6 * MINUTE, steps=PLAYBOOK, no_op=0.6),
    ),
    "workato": (  # one recipe fails often and recovers; the vendor switches another off
        JobPlan(name="orders-to-erp", project=ACME, interval=30 * MINUTE, duration=3 * MINUTE, steps=DBT),
        JobPlan(name="leads-import", project=ACME, interval=HOUR, duration=2 * MINUTE, steps=DBT, skipping=0.2,
                failing=0.4),
        JobPlan(name="invoice-sync", project=GLOBEX, interval=30 * MINUTE, duration=4 * MINUTE, steps=DBT, failing=0.8,
                until=SWITCHED_OFF, switched_off=True),
    ),
    "northflank": (  # healthy
        JobPlan(name="sessions-incremental", project=SHOP, interval=15 * MINUTE, duration=3 * MINUTE, failing=0.0),
        JobPlan(name="search-index", project=SHOP, interval=HOUR, duration=12 * MINUTE, failing=0.0),
        JobPlan(name="daily-backup", project=SHOP, interval=6 * HOUR, duration=50 * MINUTE, failing=0.0),
    ),
    "strait": (  # one run never ends, one job waits long before it starts, one has stopped running, nobody knows why
        JobPlan(name="warehouse-cleanup", project=RISK, interval=2 * HOUR, duration=8 * MINUTE, steps=DBT,
                stuck_every=30),
        JobPlan(name="fraud-scores", project=RISK, interval=2 * HOUR, duration=10 * MINUTE, steps=DBT,
                queue=25 * MINUTE),
        JobPlan(name="chargebacks", project=RISK, interval=HOUR, duration=5 * MINUTE, steps=WIDE, failing=0.0),
        JobPlan(name="partner-feed", project=RISK, interval=2 * HOUR, duration=5 * MINUTE, steps=DBT, failing=0.0,
                until=QUIET_SINCE),
    ),
}  # fmt: skip
"""The jobs of each vendor."""

TEAMS = {PROD: "marketing", QA: "analytics", ACME: "operations", GLOBEX: "operations", SHOP: "shop", RISK: "risk"}
"""Project → the team that its jobs belong to."""


def demo_world(
    vendor: str, clock: Callable[[], float], speed: float = 1.0, seed: int = 0, id_digits: int = 64
) -> GeneratedWorld:
    """Return a vendor's world. Its past is a week at speed 1, and shorter at higher speeds."""
    birth = clock() - HISTORY / speed
    return GeneratedWorld(PLANS[vendor], seed=seed, speed=speed, birth=birth, id_digits=id_digits, clock=clock)


def objectives(speed: float) -> list[dict[str, object]]:
    """Return the demo's objectives at a speed. Only jobs with problems miss them."""

    def seconds(length: float, least: float = 1.0) -> str:
        return f"{max(least, round(length / speed)):.0f}s"

    return [
        {
            "match": {"source": vendor, "project": re.escape(plan.project), "job_name": re.escape(plan.name)},
            "every": seconds(plan.interval),
            "freshness": seconds(4 * plan.interval, least=360),
            "duration_budget": seconds(1.6 * plan.duration + 1.5 * plan.queue),
            "team": TEAMS[plan.project],
        }
        for vendor, plans in PLANS.items()
        for plan in plans
    ]
