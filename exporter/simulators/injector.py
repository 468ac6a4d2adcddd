"""Selects the disruption that affects a request."""

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
    WrongAnswer,
)
from exporter.simulators.message import Request

Kind = TypeVar("Kind", bound=Disruption)


class Injector:
    """The active disruptions. A seed makes their random choices repeatable."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._random = random.Random(seed)
        self._clock = clock
        self._lock = threading.Lock()
        self._disruptions: list[AnyDisruption] = []

    def set(self, disruptions: Iterable[AnyDisruption]) -> None:
        """Replace the active disruptions."""
        with self._lock:
            self._disruptions = list(disruptions)

    def add(self, *disruptions: AnyDisruption) -> None:
        """Add disruptions."""
        with self._lock:
            self._disruptions += disruptions

    def clear(self) -> None:
        """Remove all disruptions."""
        self.set(())

    def current(self) -> Sequence[AnyDisruption]:
        """Return the active disruptions. `count` is the number of requests that a disruption will still affect."""
        with self._lock:
            return tuple(self._disruptions)

    def answer_disruption(self, request: Request) -> AnswerDisruption | None:
        """Return the first disruption that replaces the response."""
        return next(iter(self._selected(request, AnswerDisruption, at_most=1)), None)

    def delivery_disruption(self, request: Request) -> DeliveryDisruption | None:
        """Return the first disruption of the response's delivery."""
        return next(iter(self._selected(request, DeliveryDisruption, at_most=1)), None)

    def wrong_answers(self, request: Request) -> list[WrongAnswer]:
        """Return all wrong answers for a response, in the order in which they were set."""
        return self._selected(request, WrongAnswer)

    def contradictions(self, request: Request) -> list[Contradict]:
        """Return all contradictions for a response."""
        return self._selected(request, Contradict)

    def random(self) -> random.Random:
        """Return a random generator for one response, seeded by the injector's generator."""
        with self._lock:
            return random.Random(self._random.getrandbits(64))

    def _selected(self, request: Request, kind: type[Kind], at_most: int | None = None) -> list[Kind]:
        if not self._disruptions:
            return []
        now = self._clock()
        selected: list[Kind] = []
        with self._lock:
            for disruption in tuple(self._disruptions):
                if isinstance(disruption, kind) and self._affects(disruption, request, now):
                    self._count_down(disruption)
                    selected.append(disruption)
                    if len(selected) == at_most:
                        break
        return selected

    def _affects(self, disruption: Disruption, request: Request, now: float) -> bool:
        matches = disruption.endpoint in (None, request.endpoint, request.template) and disruption.path in request.path
        return matches and disruption.active(now) and self._random.random() < disruption.probability

    def _count_down(self, disruption: AnyDisruption) -> None:
        if disruption.count is None:
            return
        place = self._disruptions.index(disruption)
        if disruption.count > 1:
            self._disruptions[place] = msgspec.structs.replace(disruption, count=disruption.count - 1)
        else:
            del self._disruptions[place]
