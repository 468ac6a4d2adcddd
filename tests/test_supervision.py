"""What the service manager receives, over a real socket and with a moved clock."""

import pytest

from exporter.supervision import MAX_ALIVE_INTERVAL, Manager, Supervision
from tests.service_manager import Supervisor

PID = 4711
EXTENDED = {"EXTEND_TIMEOUT_USEC": "60000000"}
ALIVE = {"WATCHDOG": "1"}


@pytest.fixture(params=["path", "abstract"])
def supervisor(request, tmp_path):
    with Supervisor(tmp_path if request.param == "path" else None) as supervisor:
        yield supervisor


class HeartbeatHarness:
    """A heartbeat and its clock."""

    def __init__(self, supervisor, watchdog="30000000"):
        self.now = 100.0
        environ = {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": watchdog, "WATCHDOG_PID": str(PID)}
        self.supervision = Supervision(Manager(environ, PID), lambda: self.now)
        self._supervisor = supervisor

    def beat(self, seconds=0.0, *, healthy=True, ready=True, status=""):
        """Beat after a pause in seconds; return the messages that the manager received."""
        self.now += seconds
        self.supervision.beat(healthy=healthy, ready=ready, status=status)
        return self._supervisor.heard()


def test_readiness_is_reported_once(supervisor):
    heart = HeartbeatHarness(supervisor)

    assert {"READY": "1"} not in heart.beat(ready=False)
    assert heart.beat() == [{"READY": "1"}]
    assert {"READY": "1"} not in heart.beat(60) + heart.beat(60, ready=False) + heart.beat(60)


def test_a_long_startup_is_extended_while_it_makes_progress(supervisor):
    heart = HeartbeatHarness(supervisor)

    assert heart.beat(ready=False) == [EXTENDED]
    assert heart.beat(9, ready=False) == []
    assert heart.beat(1, ready=False) == [EXTENDED]
    assert heart.beat(60, ready=False, healthy=False) == []


def test_a_long_startup_is_extended_without_a_watchdog(supervisor):
    heart = HeartbeatHarness(supervisor, watchdog="")

    assert heart.beat(ready=False) == [EXTENDED]
    assert heart.beat(MAX_ALIVE_INTERVAL, ready=False) == [EXTENDED]
    assert heart.beat(MAX_ALIVE_INTERVAL) == [{"READY": "1"}]
    assert heart.beat(MAX_ALIVE_INTERVAL) == []


def test_the_watchdog_is_notified_three_times_per_timeout(supervisor):
    heart = HeartbeatHarness(supervisor)
    heart.beat()

    assert [heart.beat(5) for _ in range(6)] == [[], [ALIVE]] * 3


def test_the_watchdog_is_not_notified_while_polls_are_stuck(supervisor):
    heart = HeartbeatHarness(supervisor)
    heart.beat()

    assert heart.beat(60, healthy=False) == []
    assert heart.beat(0.5) == [ALIVE]


def test_a_status_is_sent_when_it_changes_as_one_line(supervisor):
    heart = HeartbeatHarness(supervisor)
    heart.beat()

    assert heart.beat(status="failing: a\nREADY=1") == [{"STATUS": "failing: a READY=1"}]
    assert heart.beat(status="failing: a\nREADY=1") == []
    assert heart.beat(status="polling") == [{"STATUS": "polling"}]


def test_a_reload_is_reported_with_its_start_and_its_end(supervisor):
    heart = HeartbeatHarness(supervisor)
    heart.beat()

    with heart.supervision.reloading():
        assert supervisor.heard() == [{"RELOADING": "1", "MONOTONIC_USEC": "100000000"}]
    assert supervisor.heard() == [{"READY": "1"}]


def test_a_reload_during_startup_does_not_report_readiness(supervisor):
    heart = HeartbeatHarness(supervisor)
    heart.beat(ready=False)

    with heart.supervision.reloading():
        pass

    assert supervisor.heard() == []


def test_the_shutdown_is_reported(supervisor):
    HeartbeatHarness(supervisor).supervision.stopping()

    assert supervisor.heard() == [{"STOPPING": "1", "STATUS": "stopping"}]


def test_an_unsent_message_is_sent_again(tmp_path):
    with Supervisor(tmp_path) as deaf:
        heart = HeartbeatHarness(deaf)
        deaf.close()
        (tmp_path / "notify").unlink()
        heart.supervision.beat(healthy=True, ready=True, status="polling")

    with Supervisor(tmp_path) as listening:
        heart.supervision.beat(healthy=True, ready=True, status="polling")
        assert listening.heard() == [{"READY": "1"}, {"STATUS": "polling"}, ALIVE]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "4711"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "4712"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_timeout_is_read_from_the_environment(environ, seconds):
    assert Manager(environ, PID).watchdog == seconds


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_no_message_is_sent_or_retried(environ):
    assert Manager(environ, PID).notify(READY=1)
