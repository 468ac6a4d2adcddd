"""Messages to three services, sent by real Alertmanagers with the templates that users load."""

import io
import json
import os
import re
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path

import pytest
import yaml
from aiosmtpd.controller import Controller

from exporter import cli
from tests.e2e.processes import HOST, eventually, free_port
from tests.e2e.scrapes import fetch
from tests.e2e.servers import VERSIONS, Alertmanager, program, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

TEMPLATES = Path(__file__).parents[2] / "prometheus" / "templates" / "*.tmpl"
DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"
START = "2026-11-28T01:40:00Z"

ANNOTATIONS = {
    "summary": "Job prod/load (sp) failed in step copy",
    "description": (
        "The last run of prod/load (sp) failed in step copy, and no run has succeeded since. The failed run is r1."
    ),
    "run_id": "r1",
    "run_url": "https://jobruns.example.com/runs/sp/r1",
    "failed_step": "copy",
    "runbook_url": "https://example.com/runbooks.md#jobrunlastrunfailed",
    "runs_url": "https://jobruns.example.com/runs?source=sp",
    "dashboard_url": "https://grafana.example.com/d/jobrun-job?var-source=sp",
}
LABELS = {
    "alertname": "JobrunLastRunFailed",
    "job": "jobs",
    "severity": "critical",
    "team": "data",
    "source": "sp",
    "project": "prod",
    "job_name": "load",
}


def alert(number=0, start=START):
    job = f"load {number}" if number else "load"
    summary = ANNOTATIONS["summary"].replace("load", job)
    return {
        "labels": LABELS | {"job_name": job},
        "annotations": ANNOTATIONS | {"summary": summary},
        "startsAt": start,
        "endsAt": "2099-01-01T00:00:00Z",
    }


def settings(url):
    """Return all kinds of receivers of the example, at one address."""
    title, text = '{{ template "jobrun.title" . }}', '{{ template "jobrun.text" . }}'
    empty = dict.fromkeys(("firing", "resolved", "num_firing", "num_resolved"), "")
    everything = {
        "name": "all",
        "slack_configs": [
            {
                "api_url": f"{url}slack",
                "channel": "#data",
                "send_resolved": True,
                "title": title,
                "title_link": '{{ template "jobrun.link" . }}',
                "text": '{{ template "jobrun.slack.text" . }}',
                "color": '{{ template "jobrun.color" . }}',
            }
        ],
        "pagerduty_configs": [
            {
                "url": f"{url}pagerduty",
                "routing_key": "key",
                "client": "jobrun-exporter",
                "client_url": '{{ template "jobrun.link" . }}',
                "description": title,
                "severity": '{{ template "jobrun.severity" . }}',
                "details": {"alerts": text, **empty},
            }
        ],
        "opsgenie_configs": [
            {
                "api_url": f"{url}opsgenie/",
                "api_key": "key",
                "message": title,
                "description": text,
                "priority": '{{ template "jobrun.priority" . }}',
            }
        ],
    }
    route = {"receiver": "all", "group_by": ["alertname"], "group_wait": "300ms", "group_interval": "1s"}
    return {"templates": [str(TEMPLATES)], "route": route, "receivers": [everything]}


@pytest.fixture(params=VERSIONS)
def sent(request, tmp_path):
    """Send alerts; return what Slack, PagerDuty and Opsgenie received."""
    with ExitStack() as stack:
        sink = stack.enter_context(receiver())
        server = Alertmanager(tmp_path / "alertmanager", settings(sink.url), version=request.param)
        stack.callback(server.end)
        assert server.ready(), server.log

        def send(*alerts):
            server.post(*alerts)
            assert eventually(lambda: len(sink.notifications) >= 3, seconds=20), server.log
            words = ("attachments", "payload", "message")
            got = {word: next(each for each in sink.notifications if word in each) for word in words}
            return re.sub(r"http://[^/\s|<>]+:\d+/#", "ALERTMANAGER/#", json.dumps(got))

        yield lambda *alerts: json.loads(send(*alerts))


class Mailbox:
    """Takes mails, as a mail server would.

    Attributes:
        mails: What came, in order.
    """

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  # aiosmtpd requires this name
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def mailbox():
    """Start a mail server on loopback; yield its address and its mails."""
    box = Mailbox()
    server = Controller(box, hostname=HOST, port=free_port())
    server.start()
    yield f"{HOST}:{server.port}", box
    server.stop()


SILENCE = (
    "ALERTMANAGER/#/silences/new?filter=%7Balertname%3D%22JobrunLastRunFailed%22%2Cjob%3D%22jobs%22%2Cjob_name%3D%22load%22%2C"
    "project%3D%22prod%22%2Cseverity%3D%22critical%22%2Csource%3D%22sp%22%2Cteam%3D%22data%22%7D"
)
TITLE = "[critical] Job prod/load (sp) failed in step copy"
TEXT = f"""\
Job prod/load (sp) failed in step copy
The last run of prod/load (sp) failed in step copy, and no run has succeeded since. The failed run is r1.
Source sp, project prod, job load, team data, scrape job jobs
Since 2026-11-28 01:40 UTC
Step copy
Run https://jobruns.example.com/runs/sp/r1
Runs https://jobruns.example.com/runs?source=sp
Runbook https://example.com/runbooks.md#jobrunlastrunfailed
Dashboard https://grafana.example.com/d/jobrun-job?var-source=sp
Silence {SILENCE}"""
SLACK = f"""\
*Job prod/load (sp) failed in step copy*
The last run of prod/load (sp) failed in step copy, and no run has succeeded since. The failed run is r1.
Source sp, project prod, job load, team data, scrape job jobs. Since 2026-11-28 01:40 UTC. Step copy
<https://jobruns.example.com/runs/sp/r1|Run>  <https://jobruns.example.com/runs?source=sp|Runs>  \
<https://example.com/runbooks.md#jobrunlastrunfailed|Runbook>  \
<https://grafana.example.com/d/jobrun-job?var-source=sp|Dashboard>  <{SILENCE}|Silence>"""


def test_one_alert_has_its_problem_place_start_and_links(sent):
    got = sent(alert())
    slack = got["attachments"]["attachments"][0]
    assert (slack["title"], slack["title_link"], slack["color"]) == (TITLE, ANNOTATIONS["run_url"], "danger")
    assert slack["text"] == SLACK
    assert (got["payload"]["payload"]["summary"], got["payload"]["payload"]["severity"]) == (TITLE, "critical")
    assert got["payload"]["payload"]["custom_details"]["alerts"] == TEXT
    assert (got["payload"]["client"], got["payload"]["client_url"]) == ("jobrun-exporter", ANNOTATIONS["run_url"])
    assert (got["message"]["message"], got["message"]["description"]) == (TITLE, TEXT)
    assert got["message"]["priority"] == "P1"


PLACES = {
    "All exporters": {},
    "All exporters, scrape job jobs": {"job": "jobs"},
    "Exporter a:9797, scrape job jobs": {"job": "jobs", "instance": "a:9797"},
    "Source sp, scrape job jobs": {"job": "jobs", "source": "sp"},
    "Source sp, project prod, scrape job jobs": {"job": "jobs", "source": "sp", "project": "prod"},
}
"""Labels of alerts that are not about a job, by the text that describes their place."""


def test_an_alert_about_no_job_says_what_it_is_about(sent):
    now = datetime.now(UTC).isoformat()
    labels = {"alertname": "JobrunX", "severity": "critical"}
    got = sent(*(alert(start=now) | {"labels": labels | place} for place in PLACES.values()))
    lines = got["message"]["description"].splitlines()
    assert [place for place in PLACES if place not in lines] == []
    assert [place for place in PLACES if f"\n{place}. Since " not in got["attachments"]["attachments"][0]["text"]] == []


def test_ten_of_many_alerts_are_shown_and_the_rest_is_counted(sent):
    # Alertmanager waits for more of a group only where its alerts are new.
    now = datetime.now(UTC).isoformat()
    got = sent(*(alert(number, now) for number in range(1, 35)))
    text = got["message"]["description"]
    assert got["message"]["message"].endswith(" and 33 more")
    assert text.count("Since ") == 10
    assert text.endswith("\n\nand 24 more")
    assert got["attachments"]["attachments"][0]["text"].endswith("\n\nand 24 more")
    assert isinstance(got["payload"]["payload"]["custom_details"]["alerts"], str)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mail_has_the_title_as_its_subject_and_the_text_as_its_body(version, mailbox, tmp_path):
    address, box = mailbox
    mail = {
        "to": "data@example.com",
        "from": "alertmanager@example.com",
        "smarthost": address,
        "require_tls": False,
        "send_resolved": True,
        "headers": {"Subject": '{{ template "jobrun.title" . }}'},
        "html": "",
        "text": '{{ template "jobrun.text" . }}',
    }
    route = {"receiver": "mail", "group_wait": "300ms", "group_interval": "1s"}
    settings = {"templates": [str(TEMPLATES)], "route": route, "receivers": [{"name": "mail", "email_configs": [mail]}]}
    server = Alertmanager(tmp_path / "alertmanager", settings, version=version)
    try:
        assert server.ready(), server.log
        server.post(alert())
        assert eventually(lambda: box.mails, seconds=20), server.log
        server.post(alert() | {"endsAt": datetime.now(UTC).isoformat()})
        assert eventually(lambda: len(box.mails) > 1, seconds=20), server.log
    finally:
        server.end()
    firing, resolved = box.mails[:2]
    assert (firing["Subject"], firing["To"]) == (TITLE, "data@example.com")
    texts = ["\n".join(each.get_body(("plain",)).get_content().splitlines()) for each in (firing, resolved)]
    assert re.sub(r"http://[^/\s]+:\d+/#", "ALERTMANAGER/#", texts[0]) == TEXT
    assert resolved["Subject"] == TITLE.replace("[critical]", "[resolved]")
    assert texts[1] == f"Resolved\n{ANNOTATIONS['summary']}"


def intervals():
    """Return the time interval of the docs, but for the whole week instead of Sunday morning."""
    section = DOCS.read_text().split("## Planned maintenance")[1]
    shown = yaml.safe_load(re.findall(r"```yaml\n(time_intervals:.*?)```", section, re.DOTALL)[0])["time_intervals"]
    (times,) = shown[0]["time_intervals"]
    times |= {"weekdays": ["sunday:saturday"], "times": [{"start_time": "00:00", "end_time": "24:00"}]}
    return shown


@pytest.mark.parametrize("version", VERSIONS)
def test_planned_maintenance_by_a_time_interval_mutes_only_the_routes_that_name_it(version, tmp_path):
    muted = {"receiver": "muted", "matchers": ["team = data"], "mute_time_intervals": ["sunday-maintenance"]}
    route = {"receiver": "others", "group_by": ["..."], "group_wait": "100ms", "group_interval": "500ms"}
    with receiver() as sink:
        hooks = [{"name": name, "webhook_configs": [{"url": f"{sink.url}{name}"}]} for name in ("others", "muted")]
        settings = {"route": route | {"routes": [muted]}, "receivers": hooks, "time_intervals": intervals()}
        server = Alertmanager(tmp_path / "alertmanager", settings, version=version)
        try:
            assert server.ready(), server.log
            other = alert(1)
            other["labels"] |= {"team": "other"}
            server.post(alert())
            server.post(other)
            assert eventually(lambda: sink.received()["JobrunLastRunFailed", "load 1"], seconds=20), server.log
            server.post(other | {"endsAt": datetime.now(UTC).isoformat()})
            assert eventually(lambda: sink.received("resolved")["JobrunLastRunFailed", "load 1"], seconds=20), (
                server.log
            )
        finally:
            server.end()
        assert sink.received()["JobrunLastRunFailed", "load"] == 0


SILENCED = {
    "JobrunLastRunFailed": {"team": "data-platform", "source": "snowplow-prod", "project": "com.acme-prod1"},
    "JobrunOverdue": {"team": "x", "job_name": "load-orders"},
    "JobrunSourceDown": {"source": "s"},
    "JobrunSourceGone": {"source": "S"},
    "JobrunRunStuck": {"job_name": "J"},
}


class Shell:
    """Runs commands for a person's Alertmanager with another one.

    Attributes:
        server: The other one, which has the alerts of `SILENCED`.
    """

    def __init__(self, folder, version):
        one = {"route": {"receiver": "one"}, "receivers": [{"name": "one"}]}
        self.server = Alertmanager(folder / "alertmanager", one, version=version)
        (folder / "amtool").symlink_to(program("amtool", version))
        self._environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def run(self, commands):
        """Return what commands print that end well."""
        moved = ["/bin/sh", "-ec", commands.replace("localhost:9093", f"{HOST}:{self.server.port}")]
        return subprocess.run(moved, env=self._environ, check=True, capture_output=True, text=True).stdout

    def silences(self):
        """Return the number of silences of each alert."""
        found = json.loads(fetch(self.server.port, "/api/v2/alerts")[2])
        return {each["labels"]["alertname"]: len(each["status"]["silencedBy"]) for each in found}


@pytest.fixture(params=VERSIONS)
def shell(request, tmp_path):
    shell = Shell(tmp_path, request.param)
    try:
        assert shell.server.ready(), shell.server.log
        shell.server.post(*({"labels": {"alertname": name, **labels}} for name, labels in SILENCED.items()))
        yield shell
    finally:
        shell.server.end()


def test_the_commands_for_maintenance_silence_what_they_say_and_end_it(shell):
    section = DOCS.read_text().split("## Planned maintenance")[1].split("## ")[0]
    silence, end = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    shell.run(silence)
    others = {"JobrunOverdue": 1, "JobrunSourceDown": 1, "JobrunSourceGone": 1, "JobrunRunStuck": 0}
    assert shell.silences() == {"JobrunLastRunFailed": 2, **others}
    assert "JobrunLastRunFailed" not in shell.run(f"{silence.splitlines()[0]}\n{end}")  # still silenced by its project
    assert shell.silences() == {"JobrunLastRunFailed": 1, **others}


def test_the_silences_of_the_runbooks_match_what_they_say(shell):
    blocks = re.findall(r"```sh\n *(amtool .*?)```", (DOCS.parent / "runbooks.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        shell.run(block)
    assert {name for name, count in shell.silences().items() if count} == {"JobrunRunStuck", "JobrunSourceGone"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failure_after_a_silence_in_which_the_one_before_ended_is_reported_when_messages_are_repeated(
    version, tmp_path
):
    route = {"receiver": "one", "group_wait": "100ms", "group_interval": "500ms", "repeat_interval": "15s"}
    with receiver() as sink:
        settings = {"route": route, "receivers": [{"name": "one", "webhook_configs": [{"url": sink.url}]}]}
        server = Alertmanager(tmp_path / "alertmanager", settings, version=version)
        address = f"--alertmanager.url=http://{HOST}:{server.port}"
        try:
            assert server.ready(), server.log
            server.post(alert())
            failed = ("JobrunLastRunFailed", "load")
            assert eventually(lambda: sink.received()[failed] == 1), server.log
            add = ["silence", "add", "job_name=load", "--duration=4s", "--comment=upgrade", "--author=test", address]
            subprocess.run([program("amtool", version), *add], check=True)
            server.post(alert() | {"endsAt": datetime.now(UTC).isoformat()})
            time.sleep(6)
            server.post(alert(start=datetime.now(UTC).isoformat()))
            time.sleep(2)
            assert (sink.received()[failed], sink.received("resolved")[failed]) == (1, 0)
            assert eventually(lambda: sink.received()[failed] == 2), server.log
        finally:
            server.end()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_test_alert_reaches_the_receiver_of_its_team_and_says_so(version, tmp_path):
    with receiver() as sink:
        teams = {"receiver": "data", "matchers": ["team = data", "severity = critical"]}
        route = {"receiver": "others", "group_wait": "300ms", "routes": [teams]}
        hooks = [{"name": name, "webhook_configs": [{"url": f"{sink.url}{name}"}]} for name in ("others", "data")]
        server = Alertmanager(tmp_path / "alertmanager", {"route": route, "receivers": hooks}, version=version)
        try:
            assert server.ready(), server.log
            address, out = f"http://{HOST}:{server.port}", io.StringIO()
            flags = [f"--alertmanager-url={address}", "--team=data", "--severity=critical"]
            assert cli.main(["test-alert", *flags], cli.Console(out, io.StringIO(), {})) == 0
            assert "It goes to data." in out.getvalue()
            assert eventually(lambda: sink.received()["JobrunTestAlert", "test-alert"] == 1, seconds=20)
        finally:
            server.end()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_test_alert_to_a_receiver_that_sends_nothing_is_an_error(version, tmp_path):
    empty = {"route": {"receiver": "tickets"}, "receivers": [{"name": "tickets"}]}
    server = Alertmanager(tmp_path / "alertmanager", empty, version=version)
    try:
        assert server.ready(), server.log
        flags, err = [f"--alertmanager-url=http://{HOST}:{server.port}"], io.StringIO()
        assert cli.main(["test-alert", *flags], cli.Console(io.StringIO(), err, {})) == 1
        assert "It goes to tickets, which sends nothing" in err.getvalue()
    finally:
        server.end()


def test_a_test_alert_without_a_receiver_is_an_error():
    err = io.StringIO()
    assert cli.main(["test-alert", f"--alertmanager-url=http://{HOST}:9"], cli.Console(io.StringIO(), err, {})) == 1
    assert f"POST http://{HOST}:9/api/v2/alerts failed" in err.getvalue()
