"""Cost of a poll of Snowplow compared with decoding its response: known runs, an unchanged response, new runs.

Usage: python -m benchmarks.poll [RUNS]
"""

import datetime as dt
import json
import sys

import msgspec

from benchmarks.measure import REPEATS, Figure, minimum_cost, print_table, relative_cost
from benchmarks.vendor import body, polled_sources, rows, stamp
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


def reference_cost(answer, times=REPEATS):
    """Return the CPU seconds of decoding a response into the fields that are used."""
    return minimum_cost(lambda: lambda: DECODER.decode(answer), times)


def measure(count=EVENT_LIMIT + 1):
    """Yield the figures. A response with more runs than the API's limit of events is not requested again."""
    with polled_sources() as one:
        known = one.pass_hour(count)
        one.poll()

        running = rows(1, one.now, state="RUNNING")[0]

        def one_changed():
            """Prepare a response in which one known run changed; return the poll."""
            one.now += 1
            one.api.body = body([*known, {**running, "startTime": stamp(one.now)}])
            return one.poll

        def all_new():
            one.api.body = body([*one.pass_hour(count), {**running, "startTime": stamp(one.now)}])
            return one.poll

        def typed():
            return DECODER.decode(one.api.body)

        def ten_polls():
            """Poll ten times, because decoding the reference before each single poll would leave a cold cache."""
            for _ in range(10):
                one.poll()

        one_changed()()
        answer, milliseconds = one.api.body, reference_cost(one.api.body) * 1e3
        loads = relative_cost(lambda: lambda: json.loads(answer), typed)
        with_known = relative_cost(one_changed, typed)
        unchanged = relative_cost(lambda: ten_polls, typed) / 10
        before = one.counted()
        new = relative_cost(all_new, typed)
        assert one.counted() - before == REPEATS * count
    note = f"{len(answer) / 1e6:.1f} MB, typed decode {milliseconds:.1f} ms"
    yield Figure(group=GROUP, what="json.loads", value=loads, note=note)
    yield Figure(group=GROUP, what="unchanged answer", value=unchanged, target=0.15)
    yield Figure(group=GROUP, what="all known, one of them changed", value=with_known, target=1.5)
    each = f"about {new * milliseconds / count * 1e3:.0f} us per run"
    yield Figure(group=GROUP, what="all new, in one transaction", value=new, target=15, note=each)


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
