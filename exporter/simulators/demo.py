"""The world of the demo: a dozen jobs with human names, most of them well, each trouble once."""

from collections.abc import Callable

from exporter.simulators.generated import GeneratedWorld, JobPlan, StepPlan

HOUR = 3600.0
MINUTE = 60.0
HISTORY = 7 * 24 * HOUR
"""How much of the past the demo has, in seconds at speed 1."""


def _line(*names: str) -> tuple[StepPlan, ...]:
    """Steps one after the other."""
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

PROD, STAGING = "com.acme-prod1", "com.acme-qa1"

PLANS = (
    JobPlan(name="webmodel", project=PROD, interval=HOUR, duration=18 * MINUTE, steps=PLAYBOOK),
    JobPlan(name="daily-orders", project=PROD, interval=6 * HOUR, duration=50 * MINUTE, steps=FAN),
    JobPlan(name="mobile-model", project=PROD, interval=2 * HOUR, duration=25 * MINUTE, steps=WIDE),
    JobPlan(name="sessions-incremental", project=PROD, interval=15 * MINUTE, duration=3 * MINUTE, steps=DBT),
    JobPlan(name="attribution", project=PROD, interval=4 * HOUR, duration=40 * MINUTE, steps=FAN, failing=0.3),
    JobPlan(name="marketing-costs", project=PROD, interval=30 * MINUTE, duration=6 * MINUTE, steps=DBT, failing=1.0),
    JobPlan(name="customer-360", project=PROD, interval=HOUR, duration=9 * MINUTE, steps=WIDE, slow_every=48),
    JobPlan(name="warehouse-cleanup", project=PROD, interval=2 * HOUR, duration=8 * MINUTE, steps=DBT, stuck_every=30),
    JobPlan(name="weekly-digest", project=PROD, interval=HOUR, duration=2 * MINUTE, steps=DBT, skipping=0.7),
    JobPlan(name="fraud-scores", project=PROD, interval=2 * HOUR, duration=10 * MINUTE, steps=DBT, queue=25 * MINUTE),
    JobPlan(name="webmodel", project=STAGING, interval=2 * HOUR, duration=6 * MINUTE, steps=PLAYBOOK, failing=0.1),
    JobPlan(name="new-data-check", project=STAGING, interval=30 * MINUTE, duration=MINUTE, steps=PLAYBOOK, no_op=0.6),
)  # fmt: skip


def demo_world(clock: Callable[[], float], speed: float = 1.0, seed: int = 0, id_digits: int = 64) -> GeneratedWorld:
    """The demo's world, with a past of a week at speed 1 and shorter at others."""
    birth = clock() - HISTORY / speed
    return GeneratedWorld(PLANS, seed=seed, speed=speed, birth=birth, id_digits=id_digits)
