"""The command `test-alert`: sends one alert to Alertmanager, as Prometheus would, and reports who receives it."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import yaml

from exporter.errors import CommandError

NAME = "JobrunTestAlert"
ALERT_DURATION = timedelta(minutes=5)
"""How long the alert fires. Then Alertmanager resolves it."""
MAX_WAIT_SECONDS = 10
"""How long to wait until Alertmanager shows the alert."""


def alert(severity: str, team: str, now: datetime) -> dict[str, object]:
    """Return the alert in the format of Alertmanager's API."""
    labels = {"alertname": NAME, "severity": severity, "job": "jobrun-exporter", "job_name": "test-alert"}
    labels |= {"source": "test", "project": "test"} | ({"team": team} if team else {})
    return {
        "labels": labels,
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
        CommandError: Alertmanager does not respond, refuses the alert, or sends it to nobody.
    """
    filters = [f'alertname="{NAME}"', f'severity="{severity}"', f'team="{team}"']
    with nullcontext(client) if client is not None else httpx.Client(timeout=10) as http:
        alerts = url.rstrip("/") + "/api/v2/alerts"
        _request(http, "POST", alerts, json=[alert(severity, team, datetime.fromtimestamp(clock(), UTC))])
        yield f"{url} accepted the test alert (severity={severity}{f', team={team}' if team else ''})."
        for _ in range(MAX_WAIT_SECONDS):
            if accepted := _request(http, "GET", alerts, params={"filter": filters}):
                yield from _receivers_of(accepted[0], _receivers_without_notifier(http, url))
                return
            sleep(1)
    raise CommandError(f"{url} does not show the alert; is it the address of an Alertmanager?")


def _request(client: httpx.Client, method: str, url: str, **more: object) -> list[dict[str, Any]]:
    try:
        response = client.request(method, url, **more)  # type: ignore[arg-type]  # `json` or `params`
        response.raise_for_status()
        return list(response.json()) if method == "GET" else []
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise CommandError(f"{method} {url} failed: {error}") from None


def _receivers_without_notifier(client: httpx.Client, url: str) -> set[str]:
    """Return the receivers that have no notifier."""
    try:
        status = client.get(url.rstrip("/") + "/api/v2/status").json()
        receivers = yaml.safe_load(status["config"]["original"])["receivers"]
        return {each["name"] for each in receivers if not any(name.endswith("_configs") for name in each)}
    except (httpx.HTTPError, yaml.YAMLError, ValueError, KeyError, TypeError):
        return set()  # hosted Alertmanagers hide their config


def _receivers_of(accepted: dict[str, Any], without_notifier: set[str]) -> Iterator[str]:
    """Yield sentences about the receivers of an alert. Raise CommandError if it is muted or sent to nobody."""
    names = [each["name"] for each in accepted["receivers"]]
    receivers = ", ".join(names)
    status: dict[str, list[str]] = accepted["status"]
    if status["silencedBy"] or status["inhibitedBy"]:
        raise CommandError(f"It goes to {receivers}, but is muted: see silences and inhibitions in Alertmanager.")
    if without_notifier.issuperset(names):
        raise CommandError(
            f"It goes to {receivers}, which sends nothing: give it slack_configs or the like in alertmanager.yml."
        )
    yield f"It goes to {receivers}. The message comes after group_wait, and [RESOLVED] about 5 minutes later."
    yield "If none comes, see Alertmanager's log and alertmanager_notifications_failed_total."
