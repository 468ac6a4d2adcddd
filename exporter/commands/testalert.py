"""The command `test-alert`: sends one alert to Alertmanager, as Prometheus would, and reports who receives it."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import httpx
import yaml

from exporter.errors import JobrunError

NAME = "JobrunTestAlert"
ALERT_DURATION = timedelta(minutes=5)
"""How long the alert fires. Then Alertmanager resolves it."""
MAX_WAIT_SECONDS = 10
"""How long to wait until Alertmanager shows the alert."""


class TestAlertError(JobrunError):
    """Alertmanager did not accept the alert, or sends it to nobody."""

    __test__ = False  # pytest collects classes with such names


def alert(severity: str, team: str, now: datetime) -> dict[str, object]:
    """Return the alert in the format of Alertmanager's API."""
    labels = {
        "alertname": NAME,
        "severity": severity,
        "team": team,
        "job": "jobrun-exporter",
        "source": "test",
        "project": "test",
        "job_name": "test-alert",
    }
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {
            "summary": "Job test/test-alert (test) failed in step nothing",
            "description": "This is a test of jobrun-exporter. Nothing is wrong. It ends by itself after 5 minutes.",
            "failed_step": "nothing",
            "runbook_url": "https://github.com/jobrun-exporter/jobrun-exporter/blob/main/docs/first-alert.md",
        },
        "startsAt": now.isoformat(),
        "endsAt": (now + ALERT_DURATION).isoformat(),
    }


def send(  # noqa: PLR0913  # clock, sleep and client are arguments, so that tests can replace them
    url: str,
    *,
    severity: str = "warning",
    team: str = "",
    client: httpx.Client | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Send the alert to an Alertmanager. Yield sentences about what happened.

    Raises:
        TestAlertError: Alertmanager does not respond, refuses the alert, or sends it to nobody.
    """
    with nullcontext(client) if client is not None else httpx.Client(timeout=10) as http:
        root = url.rstrip("/") + "/api/v2/alerts"
        _request(http, "POST", root, json=[alert(severity, team, datetime.fromtimestamp(clock(), UTC))])
        yield f"{url} accepted the test alert (severity={severity}{f', team={team}' if team else ''})."
        for _ in range(MAX_WAIT_SECONDS):
            accepted = _request(
                http,
                "GET",
                root,
                params={"filter": [f'alertname="{NAME}"', f'severity="{severity}"', f'team="{team}"']},
            )
            if accepted:
                yield from _receivers_of(accepted[0], _receivers_without_notifier(http, url))
                return
            sleep(1)
    raise TestAlertError(f"{url} does not show the alert; is it the address of an Alertmanager?")


def _request(client: httpx.Client, method: str, url: str, **more: object) -> list[dict[str, object]]:
    try:
        response = client.request(method, url, **more)  # type: ignore[arg-type]  # `json` or `params`
        response.raise_for_status()
        return list(response.json()) if method == "GET" else []
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise TestAlertError(f"{method} {url} failed: {error}") from None


def _receivers_without_notifier(client: httpx.Client, url: str) -> set[str]:
    """Return the receivers that have no notifier."""
    try:
        status = client.get(url.rstrip("/") + "/api/v2/status").json()
        receivers = yaml.safe_load(status["config"]["original"])["receivers"]
        return {each["name"] for each in receivers if not any(name.endswith("_configs") for name in each)}
    except (httpx.HTTPError, yaml.YAMLError, ValueError, KeyError, TypeError):
        return set()  # hosted Alertmanagers hide their config


def _receivers_of(accepted: dict[str, object], without_notifier: set[str]) -> Iterator[str]:
    """Yield sentences about the receivers of an alert. Raise TestAlertError if it is muted or sent to nobody."""
    names = [each["name"] for each in accepted["receivers"]]  # type: ignore[attr-defined]  # from the API
    receivers = ", ".join(names)
    status: dict[str, list[str]] = accepted["status"]  # type: ignore[assignment]  # from the API
    if status["silencedBy"] or status["inhibitedBy"]:
        raise TestAlertError(f"It goes to {receivers}, but is muted: see silences and inhibitions in Alertmanager.")
    if without_notifier.issuperset(names):
        raise TestAlertError(
            f"It goes to {receivers}, which sends nothing: give it slack_configs or the like in alertmanager.yml."
        )
    yield f"It goes to {receivers}. The message comes after group_wait, and [RESOLVED] about 5 minutes later."
    yield "If none comes, see Alertmanager's log and alertmanager_notifications_failed_total."
