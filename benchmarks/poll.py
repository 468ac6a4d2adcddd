"""Cost of a poll of Snowplow compared with decoding its response: known runs, an unchanged response, new runs.

Usage: python -m benchmarks.poll [RUNS]
"""

import datetime as dt
import json
import sys

import msgspec

from benchmarks.measure import REPEATS, Figure, compared_with, least, show
from benchmarks.vendor import body, polling, rows, stamp
from exporter.sources.snowplow.source import EVENT_LIMIT

GROUP = "poll of 10 k runs: CPU as a multiple of a typed decode"


class Typed(msgspec.Struct, rename="camel"):
    """The fields that are used, with parsed times."""

    run_id: str
    job_name: str
    environment: str
    state: str
    start_time: dt.datetime
    duration: dt.timedelta


DECODER = msgspec.json.Decoder(list[Typed])


def yardstick(answer, times=REPEATS):
    """Return the CPU seconds of decoding a response into the fields that are used."""
    return least(lambda: lambda: DECODER.decode(answer), times)


def measure(count=EVENT_LIMIT + 1):
    """Yield the figures. A response with more runs than the API's limit of events is not requested again."""
    with polling() as one:
        known = one.hour(count)
        one.poll()

        running = rows(1, one.now, state="RUNNING")[0]

        def one_changed():
            """Prepare a response in which one known run changed; return the poll."""
            one.now += 1
            one.api.body = body([*known, {**running, "startTime": stamp(one.now)}])
            return one.poll

        def all_new():
            one.api.body = body([*one.hour(count), {**running, "startTime": stamp(one.now)}])
            return one.poll

        def typed():
            return DECODER.decode(one.api.body)

        def ten_polls():
            """Poll ten times, because decoding the reference before each single poll would leave a cold cache."""
            for _ in range(10):
                one.poll()

        one_changed()()
        answer, milliseconds = one.api.body, yardstick(one.api.body) * 1e3
        loads = compared_with(lambda: lambda: json.loads(answer), typed)
        with_known = compared_with(one_changed, typed)
        unchanged = compared_with(lambda: ten_polls, typed) / 10
        before = one.counted()
        new = compared_with(all_new, typed)
        assert one.counted() - before == REPEATS * count
    note = f"{len(answer) / 1e6:.1f} MB, typed decode {milliseconds:.1f} ms"
    yield Figure(group=GROUP, what="json.loads", value=loads, note=note)
    yield Figure(group=GROUP, what="unchanged answer", value=unchanged, target=0.15)
    yield Figure(group=GROUP, what="all known, one of them changed", value=with_known, target=1.5)
    each = f"about {new * milliseconds / count * 1e3:.0f} us a run"
    yield Figure(group=GROUP, what="all new, in one transaction", value=new, target=15, note=each)


if __name__ == "__main__":
    show(measure(*map(int, sys.argv[1:2])))
