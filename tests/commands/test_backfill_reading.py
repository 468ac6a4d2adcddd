"""What `backfill` keeps of the rows that a source yields."""

from contextlib import closing
from itertools import count

import yaml

from exporter.assembly import Clocks
from exporter.commands.backfill.cutoff import Cutoff
from exporter.commands.backfill.reading import PastReader
from exporter.config import loads
from exporter.model import Batch, Job, Result, Run, State
from exporter.sources import KNOWN_NAMES
from exporter.sources.source import Source

NOW = 1_700_000_000.0


class CompletesMeanwhile(Source):
    """Shows a run as active in its list and then, by ID, as completed without an end."""

    def fetch(self, view):  # noqa: ARG002  # the interface
        for fields in ({"state": State.EXECUTING}, {"result": Result.FAILURE}):
            run = Run(run_id="r", job_id="j", start=NOW - 100, **fields)
            yield Batch(jobs=[Job(job_id="j", name="j")], runs=[run], through=NOW - 60)

    def probe(self):
        return ""


def test_a_run_that_completes_without_an_end_while_its_source_is_read_counts():
    source = {"name": "s", "type": "strait", "auth": {"api_key": "k"}}
    config = loads(yaml.safe_dump({"sources": [source]}), {}, KNOWN_NAMES)
    times = count(NOW)
    clocks = Clocks(clock=lambda: next(times), monotonic=lambda: 0.0, sleep=lambda _: False)
    with closing(PastReader(config, Cutoff(None, NOW - 3600), clocks, lambda _: None)) as reader:
        reader.assembly.sources["s"] = CompletesMeanwhile(reader.assembly.clients["s"])
        past = reader.read("s")
        assert [row.run.result for row in past.store.runs("s", ["r"]).values()] == [Result.FAILURE]
