"""CPU time of the rules about steps in a Prometheus with 1,000 jobs of 8 steps.

Usage: python -m benchmarks.steps [all]

The rules record only hours in which a step failed. Here one step of each job failed in each hour of a day. With `all`
each step failed, which costs most.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.e2e.processes import require_tool
from tests.e2e.scrapes import fetch
from tests.e2e.servers import Prometheus

RULES = Path(__file__).parents[1] / "prometheus/rules/jobrun-exporter.yml"
JOBS, STEPS, EVERY, DAY = 1000, 8, 240, 86400
CPU = "process_cpu_seconds_total "
HOURS = "source_project_job_name_result:jobrun_runs:increase1h"
OF_DAY = "source_project_job_name:jobrun_runs:increase1d"
BROKEN = "source_project_job_name_step_name:jobrun_step_root_failures:increase1h"


def samples(now, failing):
    """Yield OpenMetrics lines: recorded hours of a day, and the current page of the exporter."""
    for job in range(JOBS):
        labels = f'job="j",source="s",project="p{job % 10}",job_name="job-{job}"'
        series = [f'{HOURS}{{{labels},result="{result}"}} 1' for result in ("success", "failure", "error", "skip")]
        series += [f'{BROKEN}{{{labels},step_name="step-{step}"}} 1' for step in range(failing)]
        for each in series:
            yield from (f"{each} {timestamp}" for timestamp in range(now - DAY, now, EVERY))
        served = f'instance="a",{labels}'
        yield f"{OF_DAY}{{{labels}}} 72 {now}"
        yield f'jobrun_job_info{{{served},team="t",page="critical"}} 1 {now}'
        yield f'jobrun_last_failed_run_info{{{served},run_id="r{job}",run_url="u"}} 1 {now}'
    yield f'jobrun_source_watermark_timestamp_seconds{{job="j",instance="a",source="s"}} {now} {now}'


def backfill(folder, now, failing):
    """Write the samples as blocks, grouped by family as the format asks."""
    lines = sorted(samples(now, failing), key=lambda line: line.split("{")[0])
    text = folder / "samples"
    text.write_text("\n".join(lines) + "\n# EOF\n")
    command = [require_tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # ours
    text.unlink()


def spent(server):
    """Return the processor seconds of a server so far."""
    (line,) = (each for each in fetch(server.port, "/metrics")[2].decode().splitlines() if each.startswith(CPU))
    return float(line.removeprefix(CPU))


def main(failing):
    """Print the CPU time of each rule of the group `jobrun-steps`, the minimum of three."""
    with TemporaryDirectory() as place:
        folder, now = Path(place), int(time.time()) - 60
        backfill(folder, now, failing)
        server = Prometheus(folder, 9)
        try:
            assert server.ready(), server.log
            while not server.ask("query", query=f"count({BROKEN})", time=now):
                time.sleep(1)
            (group,) = (each for each in yaml.safe_load(RULES.read_text())["groups"] if each["name"] == "jobrun-steps")
            for rule in group["rules"]:
                seconds = []
                for _ in range(3):
                    begun = spent(server)
                    found = server.ask("query", query=f"count({rule['expr']})", time=now)
                    seconds.append(spent(server) - begun)
                count = found[0]["value"][1] if found else 0
                print(f"{rule.get('record') or rule['alert']}: {min(seconds):.2f} s, {count} series")
        finally:
            server.end()


if __name__ == "__main__":
    main(STEPS if "all" in sys.argv else 1)
