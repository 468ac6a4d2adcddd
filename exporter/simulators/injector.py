"""Which fault strikes which request."""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from exporter.simulators.faults import AnswerFault, AnyFault, Contradict, DeliveryFault, Fault, Lie
from exporter.simulators.message import Request

Kind = TypeVar("Kind", bound=Fault)


class Injector:
    """Holds the faults in force and draws from them with a generator of its own, so that a seed repeats a test."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._random = random.Random(seed)
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: list[AnyFault] = []

    def set(self, faults: Iterable[AnyFault]) -> None:
        """These faults and no others are in force from now on."""
        with self._lock:
            self._faults = list(faults)

    def add(self, *faults: AnyFault) -> None:
        """These faults too."""
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """All is well."""
        self.set(())

    def current(self) -> Sequence[AnyFault]:
        """The faults in force, each `count` being what is left of it; spent ones are gone."""
        with self._lock:
            return tuple(self._faults)

    def answer_fault(self, request: Request) -> AnswerFault | None:
        """The first fault that replaces this request's answer."""
        return next(iter(self._struck(request, AnswerFault, at_most=1)), None)

    def delivery_fault(self, request: Request) -> DeliveryFault | None:
        """The first fault that harms this answer's delivery."""
        return next(iter(self._struck(request, DeliveryFault, at_most=1)), None)

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
        if not self._faults:
            return []
        now = self._clock()
        struck: list[Kind] = []
        with self._lock:
            for fault in tuple(self._faults):
                if isinstance(fault, kind) and self._strikes(fault, request, now):
                    self._spend(fault)
                    struck.append(fault)
                    if len(struck) == at_most:
                        break
        return struck

    def _strikes(self, fault: Fault, request: Request, now: float) -> bool:
        concerned = fault.endpoint in (None, request.endpoint, request.template) and fault.path in request.path
        return concerned and fault.active(now) and self._random.random() < fault.probability

    def _spend(self, fault: AnyFault) -> None:
        if fault.count is None:
            return
        place = self._faults.index(fault)
        if fault.count > 1:
            self._faults[place] = msgspec.structs.replace(fault, count=fault.count - 1)
        else:
            del self._faults[place]
