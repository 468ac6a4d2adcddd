"""An exporter that gets spoiled responses in one poll, and checks of what must hold after that."""

import json
import random
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporter.counting.classify import CountState
from exporter.simulators.world import MARK
from tests.contract.harness import HOUR, JOBS, MINUTE, RUNS, Bench
from tests.fuzz.hostile_values import CANARY, inside, places, planted, twice, whole, without
from tests.fuzz.hostile_values import Path as Place
from tests.fuzz.in_process_vendor import InProcessVendor

ESCAPED = re.compile(r' # \{run_id="[^"\n]*\\.*')
"""Exemplars with escapes, which the client library's parser does not support."""

Change = Callable[[object, Place, bytes], bytes]


class Case(msgspec.Struct, frozen=True):
    """How the responses of one endpoint are changed in one poll. Without a place, `number` is an index of `whole`."""

    endpoint: str
    change: str
    place: Place = ()
    raw: bytes = b""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.endpoint} {self.change} {'.'.join(map(str, self.place))} {self.raw[:80]!r} #{self.number}"

    def spoil(self, endpoint: str, body: bytes) -> bytes:
        """Return the delivered body; a body without the place stays as it is."""
        if endpoint != self.endpoint or not body:
            return body
        if self.change == "whole":
            return next(each for number, each in enumerate(whole(body)) if number == self.number)
        document = msgspec.json.decode(body)
        if self.place not in places(document):
            return body
        return (
            without(document, self.place)
            if self.change == "without"
            else CHANGES[self.change](document, self.place, self.raw)
        )


CHANGES: dict[str, Change] = {"planted": planted, "twice": twice}


class FuzzedExporter:
    """One vendor, one state, one spoiled poll. `first`: the first poll is the spoiled one."""

    def __init__(self, vendor: str, folder: Path, *, first: bool = False) -> None:
        self.bench = Bench(vendor, folder, wire=InProcessVendor, steps="all")
        self.wire: InProcessVendor = self.bench.wire  # type: ignore[assignment]  # it was made by InProcessVendor
        if not first:
            self.bench.poll()
            self.add_runs()
            self.bench.clock.advance(30 * MINUTE)
        else:
            self.add_runs()
            self.bench.clock.advance(30 * MINUTE)

    def add_runs(self) -> None:
        """Add six runs that complete and one that does not, of three jobs."""
        now = self.bench.clock()
        for number, job in enumerate(2 * JOBS[:3]):
            failed = {"result": "failure", "error_type": "Boom"} if number % 2 else {"result": "success"}
            start = now + MINUTE * (number + 1)
            steps = [] if job == JOBS[2] else ["load", "model"]
            self.bench.world.run(job, start=start, duration=90.0, steps=steps, **failed)
        self.bench.world.run(JOBS[0], start=now + MINUTE, duration=12 * HOUR)

    def poll(self, spoil: Callable[[str, bytes], bytes]) -> str:
        """Poll once with spoiled responses, except for the sign-in."""
        self.wire.seen.clear()
        self.wire.spoil = spoil
        outcome = self.bench.poll()
        self.wire.spoil = lambda _, body: body
        return outcome

    def recover(self) -> None:
        """Restart with the same state and without spoiled responses."""
        self.bench.restart()
        self.bench.run(max(25 * MINUTE, self.bench.ability.quiet), every=5 * MINUTE)

    def counted(self) -> frozenset[str]:
        """Return IDs of the counted runs."""
        with closing(sqlite3.connect(self.bench.state)) as state:
            query = f"SELECT run_id FROM runs WHERE mark = {CountState.COUNTED} AND result IS NOT NULL"  # noqa: S608  # a constant
            return frozenset(row[0] for row in state.execute(query))

    def check(self) -> None:
        """Check that the page is valid in both formats and holds no customer data."""
        self.bench.publisher.publish()
        page = self.bench.exposition.page
        assert page is not None
        text, rich = bytes(page.text), bytes(page.openmetrics)
        samples = [
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        ]
        assert len(samples) == len(set(samples)), "a series is shown twice"
        assert sum(
            1
            for family in openmetrics.text_string_to_metric_families(ESCAPED.sub("", rich.decode()))
            for _ in family.samples
        )
        logs = self.bench.logs.getvalue()
        assert "poll failed" not in logs, logs[-3000:]
        for secret in (MARK, CANARY, *self.secrets()):
            assert secret not in logs, secret
        for secret in (MARK, *self.secrets()):
            assert secret not in text.decode(), secret
            assert secret not in rich.decode(), secret

    def secrets(self) -> Iterator[str]:
        """Return the configured values."""
        auth = self.bench.simulator.source_config("one")["auth"]
        assert isinstance(auth, dict)
        return (value for key, value in auth.items() if "id" not in key and "user" not in key)

    def total(self) -> float:
        """Return the counted runs on the page."""
        return sum(self.bench.samples(RUNS, "project", "job_name", "result").values())

    def close(self) -> None:
        self.bench.close()


def others(body: bytes, place: Place, known: frozenset[str]) -> frozenset[str]:
    """Return IDs of the known runs in rows other than the one that holds a place."""
    document = msgspec.json.decode(body)
    for at, key in enumerate(place):
        rows = inside(document, place[:at])
        if isinstance(rows, list):
            others = [_texts(row) & known for row in rows]
            own = others.pop(int(key))
            return frozenset[str]().union(*others) - own
    return frozenset()


def _texts(value: object) -> frozenset[str]:
    values = value.values() if isinstance(value, dict) else ()
    return frozenset(each for each in values if isinstance(each, str))


def is_json(raw: bytes) -> bool:
    """Return whether a value by itself is valid JSON."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return b"NaN" not in raw and b"Infinity" not in raw


def largest(seen: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Return the longest body of each endpoint, without the sign-in."""
    ordered = sorted(seen, key=lambda each: len(each[1]))
    return {endpoint: body for endpoint, body in ordered if "token" not in endpoint}


def cases(seen: Sequence[tuple[str, bytes]], values: Sequence[bytes], number: int, seed: int) -> Iterator[Case]:
    """Return cases: every place comes before any place comes again, with values in a shuffled order."""
    chance = random.Random(seed)  # noqa: S311  # choice of cases
    turns: list[partial[Case]] = []
    wholes: list[Case] = []
    for endpoint, body in largest(seen).items():
        turns += [partial(Case, endpoint, "planted", place) for place in places(msgspec.json.decode(body))]
        wholes += [Case(endpoint, "whole", number=at) for at, _ in enumerate(whole(body))]
    while number > 0:
        chance.shuffle(turns)
        for turn in turns[:number]:
            case = turn(chance.choice(values))
            change = chance.choices(("planted", "twice", "without", "whole"), (12, 2, 1, 3))[0]
            yield chance.choice(wholes) if change == "whole" else msgspec.structs.replace(case, change=change)
        number -= len(turns)
