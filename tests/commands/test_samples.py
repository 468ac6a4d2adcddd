import pytest

from exporter.commands.backfill.options import parse_label
from exporter.commands.backfill.replay import zero
from exporter.commands.backfill.samples import REPEAT, Samples, SeriesGroup, repeated, stamped
from exporter.counting.names import RUN_DURATION, RUNS
from exporter.metrics.families import FAMILIES

FAMILY = {family.name: family for family in FAMILIES}


def timestamps(changes, end, repeat=REPEAT):
    return [timestamp for timestamp, _ in repeated(changes, end, repeat)]


def test_an_unchanged_value_is_repeated_at_least_every_five_minutes_until_the_end():
    assert timestamps([(0.0, b"a 0\n")], 1000.0) == [0, 240, 480, 720, 960, 1000]
    assert timestamps([(0.0, b"a 0\n")], 0.0) == [0]
    assert REPEAT < 300


def test_a_change_is_preceded_by_the_old_value_one_minute_before():
    assert timestamps([(0.0, b"a 0\n"), (600.0, b"a 1\n")], 700.0) == [0, 240, 480, 540, 600, 700]
    assert timestamps([(0.0, b"a 0\n"), (60.0, b"a 1\n")], 60.0) == [0, 60]


def test_a_removed_series_is_not_repeated_until_it_returns():
    assert timestamps([(0.0, b"a 0\n"), (300.0, b""), (900.0, b"a 2\n")], 960.0) == [0, 240, 900, 960]


def test_the_last_of_two_values_of_one_timestamp_is_written():
    assert list(repeated([(0.0, b"a 0\n"), (0.0, b"a 1\n")], 0.0, REPEAT)) == [(0.0, b"a 1\n")]


def test_all_lines_of_a_unit_get_the_same_timestamp():
    assert stamped(b"a 1.0\nb 2.0\n", 60.0) == b"a 1.0 60\nb 2.0 60\n"
    assert stamped(b"a 1.0\n", 60.1234) == b"a 1.0 60.123\n"
    assert zero(b'a{b="c d"} 1.0\nb 2.0\n') == b'a{b="c d"} 0.0\nb 0.0\n'


def test_families_and_series_are_grouped_no_matter_when_they_first_appeared(request, tmp_path):
    samples = Samples({"job": "x"})
    request.addfinalizer(samples.close)
    assert samples.prefix('source="s"') == 'source="s",job="x"'
    for timestamp in (0.0, 60.0):
        for family in (RUN_DURATION, RUNS):
            for line in (b'n{le="1"} ', b'm{le="1"} '):
                lines = line + str(timestamp).encode() + b"\n"
                samples.add(SeriesGroup.of(FAMILY[family], lines), timestamp, lines, 60.0)
    count, size = samples.write(tmp_path / "out")
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line for line in lines if line.startswith("# TYPE")] == [
        "# TYPE jobrun_runs counter",
        "# TYPE jobrun_run_duration_seconds histogram",
    ]
    assert lines[2:6] == ['n{le="1"} 0.0 0', 'n{le="1"} 60.0 60', 'm{le="1"} 0.0 0', 'm{le="1"} 60.0 60']
    assert lines[-1] == "# EOF"
    assert (count, size) == (8, (tmp_path / "out").stat().st_size)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("text", ["job", "=x", "1a=x", "a-b=x", "__name=x", "source=x", "le=x", "result=x", "run_id=x"])
def test_invalid_extra_labels_are_refused(text):
    with pytest.raises(ValueError, match="label"):
        parse_label(text)


def test_a_label_value_may_be_any_text():
    assert parse_label("instance=a:1=b") == ("instance", "a:1=b")
    assert parse_label("job=") == ("job", "")
