"""Promise 3: a new series shows 0 long enough, and to somebody, before it shows its value."""

from exporter.metrics.zero_first import ZeroFirst

RUNS = (("job", 1), "jobrun_runs_total", "error")
DURATION = (("job", 1), "jobrun_run_duration_seconds", "error")
OTHER = (("source", "s"), "jobrun_source_unmapped_status_total", "PAUSED")


def test_a_series_is_due_after_its_time_and_a_scrape(holds, clock):
    holds.shown(3, [RUNS])
    holds.scraped(3)
    clock.now += 119.9
    assert holds.due() == []
    clock.now += 0.1
    assert holds.due() == [RUNS]


def test_without_a_scrape_a_series_waits_forever(holds, clock):
    holds.shown(3, [RUNS])
    clock.now += 1e6
    assert holds.due() == []


def test_a_scrape_of_an_older_page_does_not_count(holds, clock):
    holds.shown(3, [RUNS])
    holds.scraped(2)
    clock.now += 1e6
    assert holds.due() == []


def test_a_scrape_of_a_later_page_counts_at_any_time(holds, clock):
    holds.shown(3, [RUNS])
    clock.now += 1e6
    holds.scraped(9)
    assert holds.due() == [RUNS]


def test_a_slow_client_of_an_old_page_undoes_nothing(holds, clock):
    holds.shown(3, [RUNS])
    holds.scraped(4)
    holds.scraped(1)
    clock.now += 120
    assert holds.due() == [RUNS]


def test_a_series_stays_due_until_it_is_removed(holds, clock):
    holds.shown(1, [RUNS, OTHER])
    holds.scraped(1)
    clock.now += 120
    assert sorted(holds.due()) == sorted(holds.due()) == sorted([RUNS, OTHER])
    holds.forget([RUNS])
    assert holds.due() == [OTHER]
    holds.forget([OTHER, RUNS])
    assert holds.due() == []
    assert len(holds) == 0


def test_each_page_has_its_own_time(holds, clock):
    holds.shown(1, [RUNS])
    clock.now += 60
    holds.shown(2, [OTHER])
    holds.scraped(2)
    clock.now += 60
    assert holds.due() == [RUNS]
    clock.now += 60
    assert holds.due() == [RUNS, OTHER]


def test_a_pending_counter_waits_for_a_histogram_that_is_added_later(holds, clock):
    holds.shown(1, [RUNS])
    holds.scraped(1)
    clock.now += 100
    holds.shown(2, [DURATION])
    holds.scraped(2)
    clock.now += 119
    assert holds.due() == []
    clock.now += 1
    assert set(holds.due()) == {RUNS, DURATION}


def test_a_histogram_and_its_counter_on_one_page_are_due_together(holds, clock):
    for order in ([RUNS, DURATION], [DURATION, RUNS]):
        holds.shown(1, order)
        holds.scraped(1)
        clock.now += 120
        assert set(holds.due()) == {RUNS, DURATION}
        holds.forget(order)


def test_a_histogram_whose_counter_is_exposed_is_pending_alone(holds, clock):
    holds.shown(1, [RUNS])
    holds.forget([RUNS])
    holds.shown(2, [DURATION])
    holds.scraped(2)
    clock.now += 120
    assert holds.due() == [DURATION]


def test_a_histogram_leaves_counters_of_other_labels_alone(holds, clock):
    success = (("job", 1), "jobrun_runs_total", "success")
    holds.shown(1, [success])
    clock.now += 60
    holds.shown(2, [DURATION])
    holds.scraped(2)
    clock.now += 60
    assert holds.due() == [success]


def test_with_a_time_of_zero_no_series_is_pending(clock):
    holds = ZeroFirst(0, clock)
    holds.shown(1, [RUNS])
    assert holds.due() == [RUNS]
