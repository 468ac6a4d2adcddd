import isodate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.times import YEAR, parse_timestamp, parse_vendor_duration

NEW_YEAR = 1704067200.0


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01T00:00:00Z",
        "2024-01-01t00:00:00z",
        " 2024-01-01T00:00:00Z ",
        "2024-01-01T00:00Z",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00",
        "2024-01-01",
        "20240101T000000Z",
        "2024-01-01T02:00:00+02:00",
        "2024-01-01T02:00:00+0200",
        "2024-01-01T02:00:00+02",
        "2023-12-31T18:30:00-05:30",
        "1704067200",
        "1704067200000",
        "1704067200.0",
        1704067200,
        1704067200.0,
        1704067200000,
        1704067200000000,
        1704067200000000000,
        "1704067200000000",
        "1704067200000000000",
        "2024-01-01T00:00:00Z[UTC]",
        "2024-01-01T00:00:00.000Z[Etc/UTC]",
        "2024-01-01T01:00:00+01:00[Europe/Berlin]",
        "2024-01-01T01:00:00[Europe/Berlin]",
        "2024-01-01 01:00:00 Europe/Berlin",
        "2024-01-01T01:00+01:00[Europe/Berlin]",
        "2024-01-01 00:00:00 UTC",
        "2024-01-01 00:00:00.000 utc",
        "2024-01-01T00:00:00 GMT",
        "2024-01-01T00:00:00UTC",
        "2024-01-01 00:00:00 +0000",
        "2024-01-01 02:00:00 +02:00",
        "2024-01-01 00:00:00.000 +0000 UTC",
        "2024/01/01 00:00:00",
        "2023-12-31T24:00:00Z",
        "2023-12-31T24:00Z",
        "2023-12-31 24:00:00.000",
        "20231231T240000Z",
        "2023-12-31T23:59:60Z",
        "2023-12-31T23:59:60.000Z[UTC]",
        "Mon, 01 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 02:00:00 +0200",
        "Monday, 01-Jan-24 00:00:00 GMT",
        "Mon Jan  1 00:00:00 2024",
        "Mon Jan 01 00:00:00 UTC 2024",
    ],
)
def test_a_time_is_parsed_in_every_style(text):
    assert parse_timestamp(text) == NEW_YEAR


@pytest.mark.parametrize("digits", range(1, 10))
def test_fractions_have_up_to_nine_digits(digits):
    fraction = "123456789"[:digits]
    for mark in ".,":
        timestamp = parse_timestamp(f"2024-01-01T00:00:00{mark}{fraction}Z")
        assert timestamp == pytest.approx(NEW_YEAR + float(f"0.{fraction}"), abs=1.1e-6)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        "\ud800",
        "2024-02-30T00:00:00Z",
        "2024-01-01T25:00:00Z",
        "2024-01-01T24:00:01Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:00 CET",
        "2024-01-01T00:00:00[Nowhere/Land]",
        "2024-01-01T00:00:00[../../etc/passwd]",
        "Mon, 01 Jan 2024 00:00:00 CET",
        "Mon, 01 Foo 2024 00:00:00 GMT",
        "Mon, 00:00:00 GMT",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1970-01-01T00:00:00Z",
        0,
        -5,
        "-5",
        1e300,
        float("inf"),
        float("nan"),
        10**400,
        True,
        "9" * 400,
    ],
    ids=repr,
)
def test_an_invalid_time_is_parsed_as_none(value):
    assert parse_timestamp(value) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT5025.1S", 5025.1),
        ("P1DT60S", 86460.0),
        ("PT1M", 60.0),
        ("PT1H2M3S", 3723.0),
        ("PT0S", 0.0),
        ("P1W", 604800.0),
        ("P1W1D", 691200.0),
        ("P1D", 86400.0),
        ("P1.5D", 129600.0),
        ("PT0.5H", 1800.0),
        ("PT1.123456789S", 1.123456789),
        ("+PT5S", 5.0),
        ("-PT5S", 0.0),
        ("P1Y", YEAR),
        ("P1M", YEAR / 12),
        ("P1Y2M3DT4H", YEAR * 14 / 12 + 3 * 86400 + 4 * 3600),
        ("P0001-01-01T00:00:00", YEAR * 13 / 12 + 86400),
        ("PT1,5S", 1.5),
        ("P0,5D", 43200.0),
        ("90", 90.0),
        ("1.5", 1.5),
        (90, 90.0),
        (1.5, 1.5),
        (-3, 0.0),
        ("-3", 0.0),
        (0, 0.0),
        ("00:05:03", 303.0),
        ("0:00:02.5", 2.5),
        ("36:00:00", 129600.0),
        ("1m", 60.0),
        ("1h30m", 5400.0),
        ("1h2m3.5s", 3723.5),
        ("250ms", 0.25),
        ("60 seconds", 60.0),
        ("1 second", 1.0),
        ("5 minutes 3 seconds", 303.0),
        ("1 hour, 2 minutes and 3 seconds", 3723.0),
        ("2 days", 172800.0),
        ("5s", 5.0),
    ],
)
def test_a_duration_is_parsed_in_every_style(text, seconds):
    assert parse_vendor_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT-5S", 0.0), ("PT1H-30M", 1800.0), ("P1DT-1H", 82800.0), ("pt5s", 5.0)]
)
def test_styles_that_isodate_refuses_are_parsed(text, seconds):
    with pytest.raises(isodate.ISO8601Error):
        isodate.parse_duration(text)
    assert parse_vendor_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["PT", "-PT"])
def test_a_duration_without_a_number_is_none_though_isodate_makes_it_zero(text):
    assert isodate.parse_duration(text).total_seconds() == 0
    assert parse_vendor_duration(text) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "\ud800",
        "P",
        "T5S",
        "5 parsecs",
        "5:03",
        "00:05:03:07",
        "5m and a bit",
        "m5",
        "PT5",
        "PT5S5S",
        "PT5X",
        "PT1e400S",
        "PT" + "9" * 50 + "S",
        "9" * 400,
        "P99999999999999Y",
        float("inf"),
        float("nan"),
        10**400,
        1e300,
        True,
        "PT٣S",
    ],
    ids=repr,
)
def test_an_invalid_duration_is_parsed_as_none(value):
    assert parse_vendor_duration(value) is None


values = st.none() | st.text() | st.floats() | st.integers() | st.booleans()
styled = st.from_regex(
    r"[+-]?P(-?\d{1,12}[.,]?\d{0,3}[YMWD]){0,4}(T(-?\d{1,30}[.,]?\d{0,12}[HMS]){0,4})?", fullmatch=True
)
dated = st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{0,12})?)?([zZ]|[+-]\d\d:?\d\d)?", fullmatch=True)


@given(values | styled | dated)
def test_no_text_raises(value):
    timestamp, duration = parse_timestamp(value), parse_vendor_duration(value)
    assert timestamp is None or 0 < timestamp < 1e12
    assert duration is None or 0 <= duration <= 100 * YEAR
