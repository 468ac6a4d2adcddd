import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from exporter import logs
from exporter.config.secret import MASK, Secret
from exporter.errors import NetworkError
from exporter.logs import MAX_KINDS, Throttle

NOW = 1_700_000_000.25


@pytest.fixture
def lines():
    """Starts logging into memory; puts the process's logging back after the test."""
    kept = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()

    def read():
        return stream.getvalue().removesuffix("\n").split("\n")

    def start(level="info", form="logfmt"):
        logs.configure(logs.LogOptions(level, form), stream, lambda: NOW)
        return read

    yield start
    logging.root.handlers, logging.root.level = kept[0], kept[1]
    structlog.reset_defaults()


def test_an_event_is_one_line_of_logfmt(lines):
    read = lines()

    structlog.get_logger().info(
        "poll done", source="a", runs=3, late=False, share=0.5, nothing=None, note='say "x"\nnow'
    )

    assert read() == [
        (
            'ts=2023-11-14T22:13:20.250Z level=info msg="poll done" source=a runs=3 late=false share=0.5 nothing= '
            'note="say \\"x\\"\\nnow"'
        )
    ]


def test_an_event_is_one_line_of_json(lines):
    read = lines(form="json")

    structlog.get_logger().warning("poll failed", source="a", count=3, note="a\nb\u2028c")

    assert json.loads(read_all(read)) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "msg": "poll failed",
        "source": "a",
        "count": 3,
        "note": "a\nb\u2028c",
    }


def read_all(read):
    return "\n".join(read())


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_events_below_the_level_are_omitted(lines, level, shown):
    read = lines(level)
    logger = structlog.get_logger()

    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)("event")

    assert [line.split()[1] for line in read()] == [f"level={word}" for word in shown]


def test_libraries_log_warnings_and_errors_at_any_level(lines):
    read = lines("debug")

    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/?key=word")
    logging.getLogger("library.part").warning("missed by %s", 3)
    logging.getLogger("uvicorn.error").critical("no port")

    assert read() == [
        'ts=2023-11-14T22:13:20.250Z level=warning msg="missed by 3" logger=library.part',
        'ts=2023-11-14T22:13:20.250Z level=error msg="no port" logger=uvicorn.error',
    ]


def test_a_library_message_with_a_format_error_is_shown_unformatted(lines):
    read = lines()

    logging.getLogger("a").warning("%d of them", "x")
    logging.getLogger("a").warning("%(k)s", {"k": "v"})

    assert [line.partition(" msg=")[2] for line in read()] == ['"%d of them" logger=a', "v logger=a"]


def test_the_text_of_a_foreign_exception_is_never_shown(lines):
    read = lines()
    error = ValueError("body of the answer")

    structlog.get_logger().error("failed", reason=error)
    logging.getLogger("a").warning("failed: %s", error)
    logging.getLogger("a").warning(error)
    try:
        raise error
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("a").exception("failed")

    shown = read()
    assert len(shown) == 5
    assert all("ValueError" in line and "body" not in line for line in shown)
    assert "test_logs.py:" in shown[3]


def test_our_own_errors_are_shown_with_their_text(lines):
    read = lines()

    structlog.get_logger().error("failed", error=NetworkError("connection refused"))

    assert read()[0].endswith('error="NetworkError: connection refused"')


def test_secrets_are_masked_anywhere_in_an_event(lines):
    read = lines()
    logs.mask([Secret("pass/w=rd 1")])
    logger = structlog.get_logger()

    logger.info("the pass/w=rd 1", a=["x", {"k": "a pass/w=rd 1"}], b=NetworkError("by pass/w=rd 1 it"))
    logger.info("in a URL: pass/w%3Drd%201, pass%2Fw%3Drd%201, pass%2Fw%3Drd+1")
    logging.getLogger("a").warning("a %s", "pass/w=rd 1")
    logger.info("as a key", **{"pass/w=rd 1": 1})

    shown = read_all(read)
    assert "w=rd" not in shown
    assert "w%3Drd" not in shown
    assert shown.count(MASK) == 7


def test_a_secret_from_a_file_is_masked_before_and_after_a_change(lines, tmp_path):
    read = lines()
    file = tmp_path / "key"
    file.write_text("the first word\n")
    logs.mask([Secret(file=file), Secret(file=tmp_path / "missing")])
    logger = structlog.get_logger()

    logger.info("the first word")
    file.write_text("another one\n")
    logger.info("the first word, another one")

    assert [line.partition(" msg=")[2] for line in read()] == [f"{MASK}", f'"{MASK}, {MASK}"']


@given(st.text(min_size=1, max_size=20), st.text(max_size=10), st.text(max_size=10))
def test_no_text_around_a_secret_unmasks_it(word, before, after):
    redactor = logs.Redactor()
    redactor.add([Secret(f"<{word}>".rstrip("\r\n"))])

    event = redactor(None, "info", {"msg": f"{before}<{word}>{after}", "other": [(f"<{word}>",)]})

    assert event["msg"] == f"{before}{MASK}{after}" or f"<{word}>" in before + after
    assert event["other"] == [[MASK]]


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.none() | st.floats() | st.booleans(), max_size=4))
def test_an_event_is_always_one_line(event):
    for render in logs.RENDERERS.values():
        assert len(str(render(None, "info", event)).split("\n")) == 1


def test_configuring_again_replaces_the_configuration(lines):
    lines()
    read = lines(form="json")

    logging.getLogger("a").warning("once")

    assert len(read()) == 1


@pytest.fixture
def moving():
    """Start logging with a clock that a test moves. Return the clock and a function that reads the lines."""
    kept = logging.root.handlers[:], logging.root.level
    stream, now = io.StringIO(), [NOW]
    logs.configure(logs.LogOptions(), stream, lambda: now[0])
    yield now, lambda: [line.partition(" level=")[2] for line in stream.getvalue().splitlines()]
    logging.root.handlers, logging.root.level = kept[0], kept[1]
    structlog.reset_defaults()


def test_a_library_logs_one_line_per_kind_and_minute(moving):
    now, read = moving
    for number in range(213):
        logging.getLogger("asyncio").error("accept() failed on <socket fd=%d>", number)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert read() == [
        'error msg="accept() failed on <socket fd=0>" logger=asyncio',
        'warning msg="Invalid HTTP request received." logger=uvicorn.error',
    ]
    now[0] += 61
    logs.report_suppressed()
    assert read()[2:] == [
        'warning msg="accept() failed on <socket fd=0>" logger=asyncio more="and 212 more in the last minute"'
    ]


def test_a_continuing_flood_logs_its_count_once_per_minute(moving):
    now, read = moving
    for _ in range(600):
        logging.getLogger("a").warning("flood")
        now[0] += 1
    assert len(read()) == 10
    assert read()[1] == 'warning msg=flood logger=a more="and 59 more in the last minute"'


def test_after_a_minute_without_lines_a_line_is_logged_at_once(moving):
    now, read = moving
    for _ in range(3):
        logging.getLogger("a").warning("rare")
        now[0] += 61
    logs.report_suppressed()
    assert read() == ["warning msg=rare logger=a"] * 3


def test_a_clock_set_back_does_not_silence_a_kind(moving):
    now, read = moving
    for _ in range(2):
        logging.getLogger("a").warning("event")
        now[0] -= 3600
    assert len(read()) == 2


def test_different_messages_do_not_fill_the_memory():
    throttle = Throttle(lambda: 0.0)
    for number in range(3 * MAX_KINDS):
        throttle.admits("a", "x" * number)
    assert len(throttle._periods) <= MAX_KINDS


def test_our_own_lines_are_all_written(moving):
    _, read = moving
    for _ in range(3):
        structlog.get_logger().info("poll", source="a")
    assert len(read()) == 3


class ClosedStream(io.StringIO):
    """A stream whose reader has gone away."""

    error = BrokenPipeError()

    def write(self, _text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "disk full"), ValueError("closed")])
def test_an_unwritable_log_loses_only_lines(lines, error):
    lines()
    stream = ClosedStream()
    stream.error = error
    logs.configure(logs.LogOptions(), stream, lambda: NOW)
    structlog.get_logger().warning("poll")
    logging.getLogger("library").warning("odd")


def test_only_the_exporter_logs_polls_that_the_scheduler_skips(lines):
    read = lines()
    logging.getLogger("apscheduler.scheduler").warning("Execution of job skipped")
    assert read() == [""]
