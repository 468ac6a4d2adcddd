"""Runs the commands of docs/first-alert.md one after the other, until the first message on a phone."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import source, write_config
from tests.e2e.processes import HOST, eventually, free_port
from tests.e2e.servers import VERSIONS, program, ready, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
STEPS = re.split(r"^\d\. ", (ROOT / "docs/first-alert.md").read_text(), flags=re.MULTILINE)[1:]
WAITING = {"30s": "1s", "1m": "1s", "2m": "2s", "5m": "3s"}
"""Waits in the files that users load, and the shorter waits in this test."""


def commands(step: int) -> list[str]:
    """Return the commands of a step, each on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", STEPS[step - 1], re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


class Shell:
    """Runs commands in a folder, as a user would, with ports of its own instead of the usual ones.

    Attributes:
        folder: Where they run.
        ports: Of the exporter, Alertmanager and Prometheus.
    """

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("9797", "9093", "9090")}
        self._servers: list[subprocess.Popen[bytes]] = []
        tools = folder / "bin"
        tools.mkdir()
        names = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager", "amtool": "amtool"}
        for name, found in names.items():
            (tools / name).symlink_to(program(found, version))
        (tools / "jobrun-exporter").write_text(f'#!/bin/sh\nexec {sys.executable} -m exporter "$@"\n')
        (tools / "jobrun-exporter").chmod(0o755)
        self._environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def moved(self, text: str) -> str:
        """Return a text with the usual ports replaced."""
        for usual, port in self.ports.items():
            text = text.replace(f"localhost:{usual}", f"{HOST}:{port}")
        return text

    def run(self, command: str) -> str:
        """Return the output of a command that ends well."""
        words = shlex.split(self.moved(command))
        command_line = [str(self.folder / "bin" / words[0]), *words[1:]]
        ran = subprocess.run(
            command_line, check=False, cwd=self.folder, env=self._environ, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def start(self, command: str, port: str, *options: str) -> None:
        """Start a server and wait until it is ready."""
        with (self.folder / "servers.log").open("ab") as log:
            words = [*shlex.split(self.moved(command)), f"--web.listen-address={HOST}:{self.ports[port]}", *options]
            server = subprocess.Popen(
                [self.folder / "bin" / words[0], *words[1:]],
                cwd=self.folder,
                env=self._environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._servers.append(server)
        assert ready(self.ports[port]), self.log

    @property
    def log(self) -> str:
        """Return the output of the servers."""
        return (self.folder / "servers.log").read_text()

    def end(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.wait(20)


@pytest.fixture(params=VERSIONS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """Return a user's shell in an empty folder."""
    shell = Shell(tmp_path, request.param)
    yield shell
    shell.end()


def with_short_waits(file: Path, *, moved: Shell) -> None:
    """Shorten the waits in a file, and replace its ports."""
    text = re.sub(
        r"((?:interval|wait|for|timeout): )(\d+[sm])", lambda m: m[1] + WAITING.get(m[2], m[2]), file.read_text()
    )
    file.write_text(moved.moved(text))


def test_six_steps_lead_from_nothing_to_the_first_message_on_a_phone(shell: Shell) -> None:
    assert len(STEPS) == 6
    world = ScriptedWorld()
    world.run("load", start=time.time() - 3600, duration=60.0)
    with SnowplowSimulator(world) as simulator, receiver() as phone:
        assert commands(1)[0] == "pip install ."
        shell.run(commands(1)[1])
        monitoring = shell.folder / "monitoring/prometheus"
        for file in (monitoring / "prometheus.yml", monitoring / "alertmanager.yml", *monitoring.glob("rules/*.yml")):
            with_short_waits(file, moved=shell)

        check, start = commands(2)
        state = {"path": str(shell.folder / "state.db")}
        zero_first = {"zero_first": "1s"}
        write_config(shell.folder, {"sources": [source(simulator)], "state": state, "metrics": zero_first})
        assert "config is valid" in shell.run(check)
        shell.start(start, "9797")

        filled = yaml.safe_load((monitoring / "alertmanager.yml").read_text())
        for each in filled["receivers"]:
            each["webhook_configs"] = [{"url": f"{phone.url}{each['name']}"}]
        (monitoring / "alertmanager.yml").write_text(yaml.safe_dump(filled))
        check, start = commands(3)
        shell.run(check)
        shell.start(start, "9093", "--cluster.listen-address=")

        for command, to in zip(commands(4), ("tickets", "operators-page"), strict=True):
            assert f"It goes to {to}." in shell.run(command)
        assert eventually(lambda: phone.received()["JobrunTestAlert", "test-alert"] == 2, seconds=20)

        (start,) = commands(5)
        # What fires before Prometheus has found Alertmanager is sent again a minute later, by default.
        shell.start(start, "9090", "--rules.alert.resend-delay=1s")

        (query,) = commands(6)
        assert eventually(lambda: "JobrunWatchdog" in shell.run(query), seconds=20), shell.log
        world.run("load", start=time.time(), duration=0.1, result="failure", steps=["copy"])
        assert eventually(lambda: phone.received()["JobrunLastRunFailed", "load"], seconds=40)
    annotations = phone.alert("JobrunLastRunFailed")["annotations"]
    assert annotations["summary"] == "Job prod/load (live) failed in step copy"
    assert annotations["runs_url"].startswith(f"http://{HOST}:{shell.ports['9797']}/runs?source=live")
