"""The output of `backfill` for every vendor that shows past runs."""

import itertools
import re
from collections import Counter

import msgspec
import pytest
import yaml

from exporter.assembly import Clocks
from exporter.commands.backfill.backfill import write_past
from exporter.commands.backfill.options import BackfillOptions
from exporter.commands.backfill.samples import REPEAT
from exporter.config import loads
from exporter.counting.classify import CountState
from exporter.errors import CommandError, SourceError, StateError
from exporter.simulators.disruptions import Status
from exporter.sources import KNOWN_NAMES
from tests.contract.harness import DAY, HOUR, MINUTE, NOW, RUNS

PAST = 20 * HOUR


@pytest.fixture
def past_bench(bench):
    """Prepare a vendor with completed runs, an active one and a very old one."""
    for number in range(30):
        for job in ("job-0", "job-1"):
            bench.world.run(
                job,
                start=NOW - PAST + number * 35 * MINUTE,
                duration=90.0 + 7 * number,
                result="failure" if number % 5 == 2 else "success",
                steps=("load", "model"),
            )
    bench.world.run("job-2", start=NOW - 2 * HOUR, duration=3 * HOUR)
    return bench


def write(bench, folder, *, state=None, name="past.om", **wanted):
    """What the command writes, as samples by series: name, labels → times and values."""
    block = {**bench.simulator.source_config("one"), **bench.settings}
    text = yaml.safe_dump({"sources": [block], "state": {"path": str(state or bench.state)}, "objectives": OBJECTIVES})
    config = loads(text, {}, KNOWN_NAMES)
    outside = Clocks(clock=bench.local, monotonic=bench.clock, sleep=bench._sleep)
    progress = []
    summary = write_past(config, BackfillOptions(output=folder / name, **wanted), outside, progress.append)
    return summary, (folder / name).read_text(), progress


SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+) ([\d.]+)")
PAIR = re.compile(r'(\w+)="([^"]*)"')
OBJECTIVES = [
    {
        "match": {"job_name": "job-0"},
        "freshness": "1h",
        "duration_budget": "10m",
        "team": "data",
        "labels": {"tier": "gold"},
    }
]


def series(text):
    """Parse by hand: the client library takes samples of a histogram at several times for duplicates."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, pairs, value, timestamp = SAMPLE.findall(line)[0]
            found.setdefault((name, *sorted(PAIR.findall(pairs))), []).append((float(timestamp), float(value)))
    return found


def rises(text, name=RUNS):
    """Return the sum of all increases by project, job and result."""
    sums = Counter()
    for (family, *labels), samples in series(text).items():
        if family == name:
            label = dict(labels)
            steps = [max(0.0, after - before) for (_, before), (_, after) in itertools.pairwise(samples)]
            sums[label["project"], label["job_name"], label["result"]] += int(sum(steps))
    return {key: count for key, count in sums.items() if count}


def test_completions_up_to_the_first_poll_and_no_others_are_written(past_bench, tmp_path):
    past_bench.poll()
    past_bench.run(70 * MINUTE)
    summary, text, _ = write(past_bench, tmp_path)

    assert rises(text) == past_bench.truth(0.0, past_bench.born)
    assert summary.runs == sum(past_bench.truth(0.0, past_bench.born).values()) == 60
    assert rises(text, "jobrun_run_duration_seconds_count") == rises(text), "histograms begin at 0 too"
    assert past_bench.truth() == past_bench.counted(), "the rest is the daemon's"
    assert text.endswith("# EOF\n")


def test_the_series_are_continuous_in_order_and_end_where_the_daemon_begins(past_bench, tmp_path):
    past_bench.poll()
    _, text, _ = write(past_bench, tmp_path)
    found = series(text)
    assert found
    for (name, *_), samples in found.items():
        timestamps = [timestamp for timestamp, _ in samples]
        assert timestamps == sorted(set(timestamps)), name
        if "_seconds_bucket" not in name and name.startswith("jobrun_runs"):
            assert max(after - before for before, after in itertools.pairwise(timestamps)) <= REPEAT
            assert timestamps[-1] == pytest.approx(past_bench.born, abs=0.001)
            assert samples[0][1] == 0


def test_a_run_that_completed_a_moment_before_the_first_poll_is_in_the_past(past_bench, tmp_path):
    past_bench.world.run("job-0", start=NOW - 3, duration=1.0, result="success")
    past_bench.poll()
    summary, text, progress = write(past_bench, tmp_path)
    assert summary.runs == 61
    assert sum(rises(text).values()) == 61
    assert any("the daemon has just started to count" in line for line in progress)
    past_bench.run(10 * MINUTE)
    assert past_bench.truth() == past_bench.counted(), "the rest is the daemon's"


def test_samples_have_the_labels_of_the_daemons_series_and_the_requested_ones(past_bench, tmp_path):
    past_bench.poll()
    past_bench.run(70 * MINUTE)
    _, text, _ = write(past_bench, tmp_path, labels={"job": "jobruns", "instance": "there:9797"})
    written = {name for name, *_ in series(text)}
    live = {tuple(sorted(key)) for key in past_bench.samples(RUNS, "source", "project", "job_name")}
    past = {
        tuple(sorted(value for label, value in labels if label in ("source", "project", "job_name")))
        for name, *labels in series(text)
        if name == RUNS
    }
    assert past <= live
    assert all(("job", "jobruns") in labels and ("instance", "there:9797") in labels for _, *labels in series(text))
    assert {"jobrun_last_run_status", "jobrun_consecutive_failures", "jobrun_active_runs"} <= written
    assert "jobrun_last_failed_run_info" not in written
    budgets = [key for key in series(text) if key[0] == "jobrun_job_duration_budget_seconds"]
    assert len(budgets) == 1, "as configured"


def test_a_run_active_at_the_first_poll_is_shown_as_running_and_counted_by_the_daemon(past_bench, tmp_path):
    past_bench.poll()
    past_bench.run(2 * HOUR)
    _, text, _ = write(past_bench, tmp_path)
    (running,) = [
        samples
        for (name, *labels), samples in series(text).items()
        if name == "jobrun_active_runs" and ("job_name", "job-2") in labels and ("state", "executing") in labels
    ]
    assert running[-1] == (pytest.approx(past_bench.born, abs=0.001), 1)
    assert not any(job == "job-2" for _, job, _ in rises(text))
    assert [job for _, job, _ in past_bench.counted()].count("job-2") == 1


def test_without_a_state_an_end_time_is_required(past_bench, tmp_path):
    with pytest.raises(StateError, match="run the daemon first, or give --until"):
        write(past_bench, tmp_path, state=tmp_path / "none.db")
    until = NOW - 5 * HOUR
    _, text, _ = write(past_bench, tmp_path, state=tmp_path / "none.db", until=until)
    assert rises(text) == past_bench.truth(0.0, until)
    assert not (tmp_path / "none.db").exists()


def test_the_earlier_of_the_states_and_the_given_end_time_is_used(past_bench, tmp_path):
    past_bench.poll()
    past_bench.run(HOUR)
    for number, until in enumerate((NOW - 5 * HOUR, past_bench.clock())):
        _, text, _ = write(past_bench, tmp_path, until=until, name=f"{number}.om")
        assert rises(text) == past_bench.truth(0.0, min(until, past_bench.born))


def test_no_file_is_overwritten_or_left_half_written(past_bench, tmp_path):
    past_bench.poll()
    (tmp_path / "past.om").write_text("precious")
    with pytest.raises(CommandError, match="exists"):
        write(past_bench, tmp_path)
    assert (tmp_path / "past.om").read_text() == "precious"
    with pytest.raises(CommandError, match="future"):
        write(past_bench, tmp_path, until=past_bench.clock() + HOUR, name="other")


def test_a_label_that_objectives_already_have_is_refused(past_bench, tmp_path):
    with pytest.raises(CommandError, match="tier"):
        write(past_bench, tmp_path, labels={"tier": "silver", "job": "jobruns"})
    assert list(tmp_path.glob("*.om")) == []


def test_an_unusable_folder_is_reported_before_anything_is_requested(past_bench, tmp_path):
    past_bench.poll()
    past_bench.simulator.log.clear()
    with pytest.raises(CommandError, match="does not exist; make it"):
        write(past_bench, tmp_path / "nowhere")
    assert not past_bench.simulator.log.counts()


def test_a_source_that_cannot_be_read_writes_nothing(past_bench, tmp_path):
    past_bench.poll()
    past_bench.simulator.disruptions.add(Status(code=500))
    with pytest.raises(SourceError):
        write(past_bench, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("past")] == []


def test_runs_that_the_api_no_longer_lists_are_written_from_the_state(past_bench, tmp_path):
    past_bench.poll()
    expected = past_bench.truth(0.0, past_bench.born)
    past_bench.clock.advance(20 * DAY)
    _, text, _ = write(past_bench, tmp_path)
    assert rises(text) == expected


def test_the_state_is_not_changed(past_bench, tmp_path):
    past_bench.poll()
    before = past_bench.ledger.store().load()
    write(past_bench, tmp_path)
    assert past_bench.ledger.store().load() == before
    assert past_bench.poll() == "success"


def test_a_second_job_of_a_name_gets_the_name_that_the_state_gave_it(past_bench, tmp_path):
    past_bench.poll()
    ledger = past_bench.ledger
    with ledger.lock, ledger.store().transaction():
        job = next(job for job in ledger.committed.jobs.values() if job.name == "job-1")
        ledger.store().put_jobs([msgspec.structs.replace(job, name="job-1 #remembered")])
    _, text, _ = write(past_bench, tmp_path)
    assert {job for _, job, _ in rises(text)} == {"job-0", "job-1 #remembered"}


def test_a_run_that_the_daemon_counts_is_not_written_although_it_ended_before_the_baseline(past_bench, tmp_path):
    past_bench.poll()
    store = past_bench.ledger.store()
    row = next(row for row in store.baseline_runs("one") if row.run.result == "failure")
    counted = msgspec.structs.replace(row, mark=CountState.COUNTED)
    with past_bench.ledger.lock, store.transaction():
        store.put_runs("one", [counted])
    summary, text, _ = write(past_bench, tmp_path)
    assert summary.runs == sum(rises(text).values()) == sum(past_bench.truth(0.0, past_bench.born).values()) - 1


def test_no_sample_is_in_the_future_if_the_apis_clock_is_ahead(past_bench, tmp_path):
    past_bench.local.wrong = -90.0
    past_bench.poll()
    _, text, _ = write(past_bench, tmp_path)
    latest = max(timestamp for samples in series(text).values() for timestamp, _ in samples)
    assert latest == pytest.approx(past_bench.born - 90, abs=2)
    assert rises(text) == past_bench.truth(0.0, past_bench.born)


@pytest.mark.able("steps")
def test_the_progress_of_steps_is_logged_and_not_in_the_output(make, tmp_path):
    bench = make(requests_per_minute=60, steps="all")
    for number in range(100):
        bench.world.run("job-0", start=NOW - 2 * HOUR + number * MINUTE, duration=30.0, steps=("load",))
    bench.poll()
    _, text, progress = write(bench, tmp_path)
    lines = [line for line in progress if line.endswith(" left")]
    assert 3 <= len(lines) <= 20, "every 10 of about 200 seconds"
    steps = re.compile(r"one: steps of (\d+) of 100 runs \((\d+) %\), about (?:(\d)m)?(?:\d+s)? left")
    numbers = [[int(number or 0) for number in steps.findall(line)[0]] for line in lines]
    assert numbers == sorted(numbers, key=lambda line: line[0])
    for done, percent, minutes in numbers:
        assert percent == done
        assert abs((100 - done) / 30 - minutes) <= 2, "at half of 60 requests a minute"
    assert progress[-1] == "writing 100 completed runs of 1 jobs"
    assert " left" not in text


def test_the_progress_of_runs_is_logged_while_they_are_fetched(make, tmp_path):
    bench = make(requests_per_minute=4)
    bench.busy(HOUR)
    bench.poll()
    progress = write(bench, tmp_path, until=NOW)[2]
    assert any(re.fullmatch(r"one: \d+ runs read", line) for line in progress)


def test_half_of_the_budget_is_used(make, tmp_path):
    bench = make(requests_per_minute=8)
    bench.world.run("job-0", start=NOW - HOUR, duration=60.0)
    bench.poll()
    bench.clock.advance(10 * MINUTE)
    bench.simulator.log.clear()
    begun = bench.clock()
    write(bench, tmp_path)
    minutes = (bench.clock() - begun) / MINUTE
    assert 1 <= sum(bench.simulator.log.counts().values()) <= 4 + 4 * minutes
