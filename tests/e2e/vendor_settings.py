"""What each simulated vendor reports in its own way, and settings to poll it without limits."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.simulators.control import TrueStep
from exporter.simulators.northflank import NorthflankOptions
from exporter.simulators.server import Simulator
from exporter.simulators.workato import WorkatoOptions
from exporter.simulators.world import SimStep, World

AnyStep = SimStep | TrueStep

Named = Callable[[int, AnyStep], str]
"""Return the name of a run's n-th step, "" if it is not reported."""

ALIKE: Mapping[Result, Result] = {Result.SKIP: Result.SUCCESS}


def as_named(_number: int, step: AnyStep) -> str:
    """Return the name: all steps are reported."""
    return step.name


def never(_number: int, _step: AnyStep) -> str:
    """Return "": runs have no steps."""
    return ""


def by_line(number: int, step: AnyStep) -> str:
    """Return the name with the number of its line if the step ran."""
    return "" if step.start is None else f"{number} connector/{step.name}"


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor.

    Attributes:
        results: Results that it reports as another one.
        unstarted: Results of runs that never started, and so have no duration.
        step: The names of steps.
        arguments: Arguments of the simulator: no rate limits.
        settings: Changes to the source's configuration.
    """

    results: Mapping[Result, Result] = {}
    unstarted: frozenset[Result] = frozenset()
    step: Named = as_named
    arguments: Mapping[str, Any] = {}
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
"""Vendors by name; a missing one has the defaults of `Vendor`."""


def vendor(word: str) -> Vendor:
    """Return what is known of a vendor."""
    return VENDORS.get(word, Vendor())


def simulators(world: World) -> list[Simulator]:
    """Return simulators of all vendors over one world, not yet started."""
    return [kind(world, **vendor(word).arguments) for word, kind in SIMULATORS.items()]
