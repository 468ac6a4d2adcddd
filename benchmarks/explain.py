"""Cost of the command `explain`, compared with reading the job's runs from the state.

Usage: python -m benchmarks.explain [RUNS]
"""

import io
import sys

from benchmarks.measure import Figure, cost, print_table, relative_cost
from benchmarks.vendor import polled_sources
from exporter.commands.explain.explain import explain
from exporter.queries.reader import reader_of

GROUP = "explain: CPU as a multiple of reading the runs"
SELECTORS = {
    "a counter": 'jobrun_runs_total{result="success"}',
    "a sum": "jobrun_run_duration_seconds_sum",
    "all buckets": "jobrun_run_duration_seconds_bucket",
}
REPEATS = 3


def measure(runs=40_000):
    with polled_sources() as one:
        one.pass_hour(runs, jobs=1)
        one.poll()
        [job] = one.ledger.jobs_of("source-0")
        state = one.assembly.config.state.model_copy(update={"path": str(one.path)})
        config = one.assembly.config.model_copy(update={"state": state})

        def read():
            with reader_of(one.path, None).state() as stored:
                assert len(stored.runs_of(job.key)) == runs

        seconds = cost(read)
        for what, selector in SELECTORS.items():
            ratio = relative_cost(lambda selector=selector: lambda: explained(config, selector), read, REPEATS)
            note = f"about {ratio * seconds:.1f} s for {runs:,} runs of one job"
            yield Figure(group=GROUP, what=what, value=ratio, note=note)


def explained(config, selector):
    out = io.StringIO()
    assert explain(config, selector, out, out) == 0
    assert "not the same" not in out.getvalue()


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
