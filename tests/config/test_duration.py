import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.duration import MAX_DURATION, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("90s", 90),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1w", 604800),
        ("1y", 365 * 86400),
        ("500ms", 0.5),
        ("1h30m100ms", 5400.1),
        ("PT1H", 3600),
        ("PT1H30M", 5400),
        ("PT0.5S", 0.5),
        ("PT0S", 0),
        ("P1D", 86400),
        ("P1DT12H", 129600),
        ("P2W", 1209600),
    ],
)
def test_a_duration_is_parsed_in_both_styles(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "60", "1.5h", "-1m", "+1m", "1m1h", "1m1m", "1 h", " 1h", "1H", "1h\n", "h", "ms", "\u0663s"),
        *("P", "PT", "P1", "P1Y", "P1M", "-PT1H", "PT-1H", "PT1H1H", "P1H", "PT1D", "P1.2.3D", "PT\u0661H", "P1DT"),
        "9" * 400 + "y",
    ],
)
def test_an_invalid_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["101y", "999999999999999y", "P40000D"])
def test_durations_over_100_years_are_refused(text):
    with pytest.raises(ValueError, match="longer than 100 years"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=int(MAX_DURATION) * 1000))
def test_a_formatted_duration_is_parsed_back(milliseconds):
    seconds = milliseconds / 1000

    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(alphabet="PTYMWDHSymwdhs0123456789.-", max_size=12))
def test_any_text_is_a_duration_or_refused(text):
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_DURATION
