"""How the simulated vendors differ, for comparisons with the truth, and how to poll them without rate limits."""

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

StepNaming = Callable[[int, AnyStep], str]
"""Returns the name under which the exporter counts the n-th step of a run; "" if it does not count the step."""

SKIP_AS_SUCCESS: Mapping[Result, Result] = {Result.SKIP: Result.SUCCESS}


def plain_name(_number: int, step: AnyStep) -> str:
    """Return the name that the vendor gives the step."""
    return step.name


def no_name(_number: int, _step: AnyStep) -> str:
    """Return "": the vendor reports no steps."""
    return ""


def numbered_name(number: int, step: AnyStep) -> str:
    """Return the step's line number and connector; "" for a step that did not start."""
    return "" if step.start is None else f"{number} connector/{step.name}"


class VendorTraits(msgspec.Struct, frozen=True, kw_only=True):
    """How a vendor differs from the others.

    Attributes:
        results: Results that the vendor reports as another result.
        never_started: Results of runs that never started, and so have no duration.
        step_name: Names steps as the exporter counts them.
        arguments: Arguments of the simulator that turn its rate limits off.
        settings: Settings of the source that the others do not need.
    """

    results: Mapping[Result, Result] = {}
    never_started: frozenset[Result] = frozenset()
    step_name: StepNaming = plain_name
    arguments: Mapping[str, Any] = {}
    settings: Mapping[str, object] = {}


UNLIMITED = 1_000_000_000

TRAITS: Mapping[str, VendorTraits] = {
    "northflank": VendorTraits(
        results=SKIP_AS_SUCCESS,
        step_name=no_name,
        arguments={"options": NorthflankOptions(requests_per_hour=UNLIMITED)},
    ),
    "workato": VendorTraits(
        results=SKIP_AS_SUCCESS,
        step_name=numbered_name,
        arguments={"options": WorkatoOptions(jobs_per_minute=0, recipes_per_minute=0, users_per_minute=0)},
        settings={"steps": "all"},
    ),
    "strait": VendorTraits(never_started=frozenset({Result.SKIP})),
}
"""Traits by vendor. A vendor that is not listed has the defaults."""


def traits_of(vendor: str) -> VendorTraits:
    """Return the traits of a vendor."""
    return TRAITS.get(vendor, VendorTraits())


def simulators(world: World) -> list[Simulator]:
    """Return simulators of all vendors that show the same world. They are not started yet."""
    return [kind(world, **traits_of(vendor).arguments) for vendor, kind in SIMULATORS.items()]
