import pytest

from exporter.pages.formatting import age, duration, full_time, plural, visible, web_link
from exporter.times import format_utc

DAY = 86400.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0ms"),
        (0.3204, "320ms"),
        (0.9999, "1s"),
        (4.24, "4.2s"),
        (9.97, "10s"),
        (45.4, "45s"),
        (59.6, "1m"),
        (725, "12m 5s"),
        (3599.7, "1h"),
        (3 * 3600 + 5 * 60, "3h 5m"),
        (DAY - 20, "1d"),
        (2 * DAY + 4 * 3600, "2d 4h"),
        (400 * DAY, "400d"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("far", "text"),
    [(0.4, "now"), (-0.4, "now"), (40, "40s ago"), (-300, "in 5m"), (7200, "2h ago"), (3 * DAY, "3d ago")],
)
def test_an_age_has_one_unit(far, text):
    assert age(1000.0, 1000.0 + far) == text


def test_a_time_is_written_in_utc():
    assert format_utc(1_763_800_000.9) == "2025-11-22T08:26:40Z"
    assert full_time(1_763_800_000.9) == "2025-11-22 08:26:40 UTC"


@pytest.mark.parametrize("timestamp", [1e18, -1e18, float("1e300")])
def test_a_time_outside_of_the_calendar_breaks_nothing(timestamp):
    assert full_time(timestamp).endswith("UTC")


def test_control_characters_become_visible_symbols():
    assert visible("a\nb\tc\x00d\x7f") == "a␊b␉c␀d␡"
    assert visible("Aufträge مرحبا 🎉") == "Aufträge مرحبا 🎉"


def test_no_text_can_change_the_direction_of_the_text_after_it():
    assert visible("a\u202eb\u2066c\u2069") == "a\ufffdb\ufffdc\ufffd"


@pytest.mark.parametrize("url", ["https://console.example.com/a?b=c", "http://localhost:8080/x"])
def test_links_to_web_addresses_are_kept(url):
    assert web_link(url) == url


@pytest.mark.parametrize(
    "url", ["", "javascript:alert(1)", "JaVaScRiPt://x/%0aalert(1)", "data:text/html,x", "//evil", "/path", "http://["]
)
def test_other_links_are_dropped(url):
    assert web_link(url) == ""


def test_a_noun_is_singular_for_one_and_plural_otherwise():
    assert (plural(1, "job"), plural(0, "job"), plural(1200, "success", "successes")) == (
        "1 job",
        "0 jobs",
        "1,200 successes",
    )
