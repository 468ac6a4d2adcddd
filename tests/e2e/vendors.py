"""What the simulated vendors tell each in its own way, and what their sources need to be polled without limits."""

from collections.abc import Callable, Mapping

import msgspec

from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.simulators.northflank import NorthflankOptions
from exporter.simulators.server import Simulator
from exporter.simulators.workato import WorkatoOptions
from exporter.simulators.world import SimStep, World

Named = Callable[[int, SimStep], str]
"""The name of a run's n-th step; "" if it is not told."""

ALIKE: Mapping[Result, Result] = {Result.SKIP: Result.SUCCESS}


def as_named(_number: int, step: SimStep) -> str:
    """All steps are told."""
    return step.name


def never(_number: int, _step: SimStep) -> str:
    """Runs have no steps."""
    return ""


def by_line(number: int, step: SimStep) -> str:
    """Steps that ran are told, with the number of their line."""
    return "" if step.start is None else f"{number} connector/{step.name}"


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor.

    Attributes:
        results: Results that look like another.
        unstarted: Results of runs that never started, and so have no duration.
        step: The names of steps.
        arguments: With which the simulator is made: without limits of requests.
        settings: Changes to the source's configuration.
    """

    results: Mapping[Result, Result] = {}
    unstarted: frozenset[Result] = frozenset()
    step: Named = as_named
    arguments: Mapping[str, object] = {}
    settings: Mapping[str, object] = {}


UNLIMITED = 1_000_000_000

VENDORS: Mapping[str, Vendor] = {
    "northflank": Vendor(
        results=ALIKE, step=never, arguments={"options": NorthflankOptions(requests_per_hour=UNLIMITED)}
    ),
    "workato": Vendor(
        results=ALIKE,
        step=by_line,
        arguments={"options": WorkatoOptions(jobs_per_minute=0, recipes_per_minute=0, users_per_minute=0)},
        settings={"steps": "all"},
    ),
    "strait": Vendor(unstarted=frozenset({Result.SKIP})),
}
"""By word; one that is not here is as the defaults of `Vendor` say."""


def vendor(word: str) -> Vendor:
    """What is to be known of a vendor."""
    return VENDORS.get(word, Vendor())


def simulators(world: World) -> list[Simulator]:
    """Every simulated vendor, each with its own look at one world; not yet started."""
    return [kind(world, **vendor(word).arguments) for word, kind in SIMULATORS.items()]
