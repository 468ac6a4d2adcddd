"""Which fault strikes which request."""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from exporter.simulators.disruptions import (
    AnswerDisruption,
    AnyDisruption,
    Contradict,
    DeliveryDisruption,
    Disruption,
    Lie,
)
from exporter.simulators.message import Request

Kind = TypeVar("Kind", bound=Disruption)


class Injector:
    """Holds the faults in force and draws from them with a generator of its own, so that a seed repeats a test."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._random = random.Random(seed)
        self._clock = clock
        self._lock = threading.Lock()
        self._disruptions: list[AnyDisruption] = []

    def set(self, disruptions: Iterable[AnyDisruption]) -> None:
        """These faults and no others are in force from now on."""
        with self._lock:
            self._disruptions = list(disruptions)

    def add(self, *disruptions: AnyDisruption) -> None:
        """These faults too."""
        with self._lock:
            self._disruptions += disruptions

    def clear(self) -> None:
        """All is well."""
        self.set(())

    def current(self) -> Sequence[AnyDisruption]:
        """The faults in force, each `count` being what is left of it; spent ones are gone."""
        with self._lock:
            return tuple(self._disruptions)

    def answer_disruption(self, request: Request) -> AnswerDisruption | None:
        """The first fault that replaces this request's answer."""
        return next(iter(self._struck(request, AnswerDisruption, at_most=1)), None)

    def delivery_disruption(self, request: Request) -> DeliveryDisruption | None:
        """The first fault that harms this answer's delivery."""
        return next(iter(self._struck(request, DeliveryDisruption, at_most=1)), None)

    def lies(self, request: Request) -> list[Lie]:
        """All lies for this answer, in the order in which they were set."""
        return self._struck(request, Lie)

    def contradictions(self, request: Request) -> list[Contradict]:
        """All contradictions for this answer."""
        return self._struck(request, Contradict)

    def random(self) -> random.Random:
        """A generator for one answer, seeded by this one."""
        with self._lock:
            return random.Random(self._random.getrandbits(64))

    def _struck(self, request: Request, kind: type[Kind], at_most: int | None = None) -> list[Kind]:
        if not self._disruptions:
            return []
        now = self._clock()
        struck: list[Kind] = []
        with self._lock:
            for disruption in tuple(self._disruptions):
                if isinstance(disruption, kind) and self._strikes(disruption, request, now):
                    self._spend(disruption)
                    struck.append(disruption)
                    if len(struck) == at_most:
                        break
        return struck

    def _strikes(self, disruption: Disruption, request: Request, now: float) -> bool:
        concerned = (
            disruption.endpoint in (None, request.endpoint, request.template) and disruption.path in request.path
        )
        return concerned and disruption.active(now) and self._random.random() < disruption.probability

    def _spend(self, disruption: AnyDisruption) -> None:
        if disruption.count is None:
            return
        place = self._disruptions.index(disruption)
        if disruption.count > 1:
            self._disruptions[place] = msgspec.structs.replace(disruption, count=disruption.count - 1)
        else:
            del self._disruptions[place]
