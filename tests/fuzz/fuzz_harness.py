"""An exporter that gets corrupted responses in one poll, and checks of what must hold after it."""

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
from tests.fuzz.corrupting_transport import CorruptingTransport
from tests.fuzz.hostile_values import (
    CANARY,
    JsonPath,
    changed_bodies,
    paths_in,
    remove_value,
    repeat_key,
    replace_value,
    value_at,
)

ESCAPED = re.compile(r' # \{run_id="[^"\n]*\\.*')
"""Exemplars with escapes, which the client library's parser does not support."""

Change = Callable[[object, JsonPath, bytes], bytes]


class Case(msgspec.Struct, frozen=True):
    """A change of the responses of one endpoint in one poll.

    Attributes:
        change: `replace`, `repeat` or `remove` the value at `path`; or another `body`.
        raw: The new value.
        number: Index in `changed_bodies` of another body.
    """

    endpoint: str
    change: str
    path: JsonPath = ()
    raw: bytes = b""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.endpoint} {self.change} {'.'.join(map(str, self.path))} {self.raw[:80]!r} #{self.number}"

    def corrupt(self, endpoint: str, body: bytes) -> bytes:
        """Return the changed body. A body that does not have the path stays as it is."""
        if endpoint != self.endpoint or not body:
            return body
        if self.change == "body":
            return next(each for number, each in enumerate(changed_bodies(body)) if number == self.number)
        document = msgspec.json.decode(body)
        if self.path not in paths_in(document):
            return body
        return (
            remove_value(document, self.path)
            if self.change == "remove"
            else CHANGES[self.change](document, self.path, self.raw)
        )


CHANGES: dict[str, Change] = {"replace": replace_value, "repeat": repeat_key}


class FuzzedExporter:
    """An exporter with one vendor, before the poll that gets corrupted responses.

    `first`: whether that is its first poll.
    """

    def __init__(self, vendor: str, folder: Path, *, first: bool = False) -> None:
        self.bench = Bench(vendor, folder, wire=CorruptingTransport, steps="all")
        self.wire: CorruptingTransport = self.bench.wire  # type: ignore[assignment]  # it was made by CorruptingTransport
        if not first:
            self.bench.poll()
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

    def poll(self, corrupt: Callable[[str, bytes], bytes]) -> str:
        """Poll once with corrupted responses, except for the sign-in."""
        self.wire.seen.clear()
        self.wire.corrupt = corrupt
        outcome = self.bench.poll()
        self.wire.corrupt = lambda _, body: body
        return outcome

    def recover(self) -> None:
        """Restart with the same state and without corrupted responses."""
        self.bench.restart()
        self.bench.run(max(25 * MINUTE, self.bench.ability.quiet), every=5 * MINUTE)

    def counted(self) -> frozenset[str]:
        """Return the IDs of the counted runs, from the state."""
        with closing(sqlite3.connect(self.bench.state)) as state:
            query = f"SELECT run_id FROM runs WHERE mark = {CountState.COUNTED} AND result IS NOT NULL"  # noqa: S608  # a constant
            return frozenset(row[0] for row in state.execute(query))

    def check(self) -> None:
        """Check that the page is valid in both formats, that no poll failed, and that no customer data is shown."""
        self.bench.publisher.publish()
        page = self.bench.exposition.page
        assert page is not None
        text, openmetrics_page = bytes(page.text), bytes(page.openmetrics)
        samples = [
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        ]
        assert len(samples) == len(set(samples)), "a series is shown repeat_key"
        assert sum(
            1
            for family in openmetrics.text_string_to_metric_families(ESCAPED.sub("", openmetrics_page.decode()))
            for _ in family.samples
        )
        logs = self.bench.logs.getvalue()
        assert "poll failed" not in logs, logs[-3000:]
        for secret in (MARK, CANARY, *self.secrets()):
            assert secret not in logs, secret
        for secret in (MARK, *self.secrets()):
            assert secret not in text.decode(), secret
            assert secret not in openmetrics_page.decode(), secret

    def secrets(self) -> Iterator[str]:
        """Return the secrets in the config."""
        auth = self.bench.simulator.source_config("one")["auth"]
        assert isinstance(auth, dict)
        return (value for key, value in auth.items() if "id" not in key and "user" not in key)

    def total(self) -> float:
        """Return the counted runs on the page."""
        return sum(self.bench.samples(RUNS, "project", "job_name", "result").values())

    def close(self) -> None:
        self.bench.close()


def ids_in_other_rows(body: bytes, path: JsonPath, known: frozenset[str]) -> frozenset[str]:
    """Return which IDs of known runs are only in rows other than the row that the path leads to."""
    document = msgspec.json.decode(body)
    for at, key in enumerate(path):
        rows = value_at(document, path[:at])
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


def longest_bodies(seen: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Return the longest body of each endpoint, without that of the sign-in."""
    ordered = sorted(seen, key=lambda each: len(each[1]))
    return {endpoint: body for endpoint, body in ordered if "token" not in endpoint}


def choose_cases(seen: Sequence[tuple[str, bytes]], values: Sequence[bytes], number: int, seed: int) -> Iterator[Case]:
    """Yield random cases. Each path is used once before any path is used again."""
    rng = random.Random(seed)  # noqa: S311  # choice of cases
    value_cases: list[partial[Case]] = []
    body_cases: list[Case] = []
    for endpoint, body in longest_bodies(seen).items():
        value_cases += [partial(Case, endpoint, "replace", path) for path in paths_in(msgspec.json.decode(body))]
        body_cases += [Case(endpoint, "body", number=at) for at, _ in enumerate(changed_bodies(body))]
    while number > 0:
        rng.shuffle(value_cases)
        for make_case in value_cases[:number]:
            case = make_case(rng.choice(values))
            change = rng.choices(("replace", "repeat", "remove", "body"), (12, 2, 1, 3))[0]
            yield rng.choice(body_cases) if change == "body" else msgspec.structs.replace(case, change=change)
        number -= len(value_cases)
