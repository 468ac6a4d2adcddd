"""A new series shows 0 for long enough, and to at least one scrape, before it shows its value."""

from exporter.metrics.zero_first import ZeroFirst

RUNS = (("job", 1), "jobrun_runs_total", "error")
DURATION = (("job", 1), "jobrun_run_duration_seconds", "error")
OTHER = (("source", "s"), "jobrun_source_unmapped_status_total", "PAUSED")


def test_a_series_is_due_after_its_time_and_a_scrape(pending_series, clock):
    pending_series.shown(3, [RUNS])
    pending_series.scraped(3)
    clock.now += 119.9
    assert pending_series.due() == []
    clock.now += 0.1
    assert pending_series.due() == [RUNS]


def test_without_a_scrape_a_series_waits_forever(pending_series, clock):
    pending_series.shown(3, [RUNS])
    clock.now += 1e6
    assert pending_series.due() == []


def test_a_scrape_of_an_older_page_does_not_count(pending_series, clock):
    pending_series.shown(3, [RUNS])
    pending_series.scraped(2)
    clock.now += 1e6
    assert pending_series.due() == []


def test_a_scrape_of_a_later_page_counts_at_any_time(pending_series, clock):
    pending_series.shown(3, [RUNS])
    clock.now += 1e6
    pending_series.scraped(9)
    assert pending_series.due() == [RUNS]


def test_a_slow_client_of_an_old_page_undoes_nothing(pending_series, clock):
    pending_series.shown(3, [RUNS])
    pending_series.scraped(4)
    pending_series.scraped(1)
    clock.now += 120
    assert pending_series.due() == [RUNS]


def test_a_series_stays_due_until_it_is_removed(pending_series, clock):
    pending_series.shown(1, [RUNS, OTHER])
    pending_series.scraped(1)
    clock.now += 120
    assert sorted(pending_series.due()) == sorted(pending_series.due()) == sorted([RUNS, OTHER])
    pending_series.forget([RUNS])
    assert pending_series.due() == [OTHER]
    pending_series.forget([OTHER, RUNS])
    assert pending_series.due() == []
    assert len(pending_series) == 0


def test_each_page_has_its_own_time(pending_series, clock):
    pending_series.shown(1, [RUNS])
    clock.now += 60
    pending_series.shown(2, [OTHER])
    pending_series.scraped(2)
    clock.now += 60
    assert pending_series.due() == [RUNS]
    clock.now += 60
    assert pending_series.due() == [RUNS, OTHER]


def test_a_pending_counter_waits_for_a_histogram_that_is_added_later(pending_series, clock):
    pending_series.shown(1, [RUNS])
    pending_series.scraped(1)
    clock.now += 100
    pending_series.shown(2, [DURATION])
    pending_series.scraped(2)
    clock.now += 119
    assert pending_series.due() == []
    clock.now += 1
    assert set(pending_series.due()) == {RUNS, DURATION}


def test_a_histogram_and_its_counter_on_one_page_are_due_together(pending_series, clock):
    for order in ([RUNS, DURATION], [DURATION, RUNS]):
        pending_series.shown(1, order)
        pending_series.scraped(1)
        clock.now += 120
        assert set(pending_series.due()) == {RUNS, DURATION}
        pending_series.forget(order)


def test_a_histogram_whose_counter_is_exposed_is_pending_alone(pending_series, clock):
    pending_series.shown(1, [RUNS])
    pending_series.forget([RUNS])
    pending_series.shown(2, [DURATION])
    pending_series.scraped(2)
    clock.now += 120
    assert pending_series.due() == [DURATION]


def test_a_histogram_leaves_counters_of_other_labels_alone(pending_series, clock):
    success = (("job", 1), "jobrun_runs_total", "success")
    pending_series.shown(1, [success])
    clock.now += 60
    pending_series.shown(2, [DURATION])
    pending_series.scraped(2)
    clock.now += 60
    assert pending_series.due() == [success]


def test_with_a_time_of_zero_no_series_is_pending(clock):
    pending_series = ZeroFirst(0, clock)
    pending_series.shown(1, [RUNS])
    assert pending_series.due() == [RUNS]
