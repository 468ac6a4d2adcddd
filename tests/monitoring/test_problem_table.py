"""What the Overview says is wrong, with the rules, in worlds of a few series."""

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.words import CRITICAL, NOT_KNOWN, WELL
from tests.e2e.processes import needed
from tests.monitoring.dashboards import JSONS, filled, panels

RULES = Path(__file__).parents[2] / "prometheus/rules/jobrun-exporter.yml"
ALL = {"job": ".+", "show": "0"} | dict.fromkeys(("team", "source", "project", "job_name"), ".*")
MINUTES = 120
FAILED = {"jobrun_failing_since_timestamp_seconds": "3600", "jobrun_last_failure_timestamp_seconds": "3600"}


class World:
    """Series of two hours, a sample a minute; the end is now."""

    def __init__(self):
        self.series = {}

    def exporter(self, job="a", source="snowplow", *, up="1", until=MINUTES):
        """An exporter that reads one source."""
        target = {"job": job, "instance": f"{job}:9797"}
        self.add("up", target, "1", until)
        self.add("jobrun_exporter_build_info", target, "1", until)
        of_source = {**target, "source": source}
        self.add("jobrun_source_up", of_source, up, until)
        self.add("jobrun_source_watermark_timestamp_seconds", of_source, "0+60", until)
        self.add("jobrun_source_last_success_timestamp_seconds", of_source, "0+60", until)
        self.add("jobrun_source_poll_interval_seconds", of_source, "60", until)
        return of_source

    def job(self, of_source, name, *, streak=0, page="critical", team="data", run="r1", until=MINUTES, **metrics):
        """A job with its last run an hour ago, and other given values; the words of metrics leave out `jobrun_`."""
        labels = {**of_source, "project": "prod", "job_name": name}
        metrics = {"last_run_end_timestamp_seconds": "3600", "consecutive_failures": f"{streak}", **metrics}
        metrics |= {key.removeprefix("jobrun_"): value for key, value in FAILED.items()} if streak else {}
        for metric, values in metrics.items():
            self.add(f"jobrun_{metric}", labels, values, until)
        self.add("jobrun_job_info", {**labels, "team": team, "page": page}, "1", until)
        if streak:
            failed = {"run_id": run, "run_url": f"https://runs/{run}", "failed_step": "load"}
            self.add("jobrun_last_failed_run_info", {**labels, **failed}, "1", until)

    def add(self, name, labels, values, until):
        selector = ", ".join(f'{label}="{value}"' for label, value in labels.items())
        steps = f"+0x{until}" if "+" not in values and " " not in values else f"x{until}" if "+" in values else ""
        self.series[f"{name}{{{selector}}}"] = f"{values}{steps}" + (" stale" if until < MINUTES else "")


@pytest.fixture
def world():
    return World()


@pytest.fixture
def says(world, tmp_path):
    """Checks what the expression of a panel, counted by some labels, gives at the end of the world."""

    def check(title, by, *expected, rules=True, minute=MINUTES, **chosen):
        (panel,) = [panel for panel in panels(JSONS["jobrun-overview"]) if panel["title"] == title]
        expression = filled(panel["targets"][0]["expr"], **ALL | chosen)
        if by.endswith(", rank"):
            expression = f"floor({expression})"  # the fraction is for the order within a rank
        names = by.split(", ")
        samples = [
            {"labels": "{" + ", ".join(f'{n}="{v}"' for n, v in zip(names, row, strict=True) if v) + "}", "value": 1}
            for row in expected
        ]
        ranked = by.removesuffix(", rank")
        counted = f'count_values by ({ranked}) ("rank",' if ranked != by else f"count by ({by}) ("
        case = {"expr": f"{counted} {expression})", "eval_time": f"{minute}m", "exp_samples": samples}
        inputs = [{"series": series, "values": values} for series, values in world.series.items()]
        test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [case]}
        content = {"rule_files": [str(RULES)] if rules else [], "evaluation_interval": "1m", "tests": [test]}
        (tmp_path / "test.yml").write_text(yaml.safe_dump(content, width=100_000))
        command = [needed("promtool"), "test", "rules", str(tmp_path / "test.yml")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a tool of ours on a file of ours
        assert ran.returncode == 0, ran.stdout + ran.stderr

    return check


WRONG = "What is wrong"
WHAT = "severity, what, job_name"


def test_healthy_jobs_are_not_listed(world, says):
    world.job(world.exporter(), "well")
    says(WRONG, WHAT)


def test_a_job_has_one_row_with_its_most_urgent_problem_team_and_run(world, says):
    source = world.exporter()
    world.job(source, "billing", streak=5, run="0123456789ab", job_next_run_expected_timestamp_seconds="3600")
    world.job(source, "late", job_next_run_expected_timestamp_seconds="3600")
    says(
        WRONG,
        "severity, what, job_name, team, run, run_url, failed_step",
        ("critical", "failing repeatedly", "billing", "data", "01234567", "https://runs/0123456789ab", "load"),
        ("warning", "overdue", "late", "data", "", "", ""),
    )


def test_a_problem_is_never_more_severe_than_its_page_setting(world, says):
    source = world.exporter()
    world.job(source, "look", streak=5, page="warning")
    world.job(source, "toy", streak=5, page="none")
    says(WRONG, WHAT, ("warning", "failing repeatedly", "look"), ("z-info", "failing repeatedly", "toy"))


def test_a_run_that_waits_too_long_is_running_too_long(world, says):
    waiting = {"oldest_active_run_start_timestamp_seconds": "3600", "job_duration_budget_seconds": "600"}
    world.job(world.exporter(), "queue", **waiting)
    says(WRONG, WHAT, ("warning", "running too long", "queue"))


def test_a_disabled_job_is_listed(world, says):
    world.job(world.exporter(), "recipe", job_enabled=" ".join(["1"] * 100 + ["0"] * 21))
    says(WRONG, WHAT, ("z-info", "disabled", "recipe"))


def test_the_cause_of_a_missing_success_is_named_if_the_job_is_disabled(world, says):
    off = {"job_freshness_objective_seconds": "600", "last_success_timestamp_seconds": "3600"}
    world.job(world.exporter(), "recipe", job_enabled=" ".join(["1"] * 100 + ["0"] * 21), **off)
    says(WRONG, WHAT, ("critical", "disabled, no success", "recipe"))


@pytest.mark.parametrize(
    ("page", "severity", "of_each"),
    [("critical", "a-critical", "warning"), ("warning", "warning", "warning"), ("none", "z-info", "z-info")],
)
def test_jobs_that_fail_together_are_counted_and_have_the_severity_of_their_alert(world, says, page, severity, of_each):
    source = world.exporter()
    names = [f"job-{number}" for number in range(12)]
    failing = dict.fromkeys(("failing_since_timestamp_seconds", "last_failure_timestamp_seconds"), "_x110 6600x10")
    for name in names:
        world.job(source, name, page=page, consecutive_failures="0x109 1x10", **failing)
        run = {**source, "project": "prod", "job_name": name, "run_id": "r", "run_url": "", "failed_step": ""}
        world.add("jobrun_last_failed_run_info", run, "_x110 1x10", MINUTES)
    together = (severity, "12 jobs fail: snowplow", "")
    says(WRONG, WHAT, together, *((of_each, "last run failed", name) for name in names))


def test_an_exporter_without_a_job_is_never_shown_as_healthy(world, says):
    world.exporter()
    says(WRONG, WHAT, ("z-info", "no job is known", ""))


def test_a_job_has_one_row_even_if_two_steps_keep_failing(world, says):
    source = world.exporter()
    world.job(source, "billing")
    labels = {"project": "prod", "job_name": "billing", "team": "data", "page": "critical", "run_id": "r1"}
    recorded = {"job": source["job"], "source": source["source"], **labels}
    for step, failures in {"load": 4, "model": 5}.items():
        world.add("jobrun:step_failing:held", {**recorded, "step_name": step}, f"{failures}", MINUTES)
    says(WRONG, "what, job_name, failed_step", ("a step keeps failing", "billing", "model"))


def test_sources_of_two_teams_with_one_name_have_two_rows(world, says):
    world.job(world.exporter("a"), "billing", streak=5, team="red")
    world.job(world.exporter("b"), "billing", team="blue")
    says(WRONG, "job, job_name, team", ("a", "billing", "red"))
    says(WRONG, "job, job_name, team", team="blue")
    says("Jobs, the worst first", "job, job_name", ("a", "billing"), ("b", "billing"))


def test_an_unreadable_source_is_listed(world, says):
    world.job(world.exporter(up="0"), "unseen")
    says(WRONG, "severity, what, source", ("a-critical", "source cannot be read: snowplow", "snowplow"))


def test_tiles_are_green_only_if_all_is_known_and_healthy(world, says):
    read, unread = world.exporter("a"), world.exporter("b", up="0")
    world.job(read, "well", job_enabled="1")
    world.job(read, "billing", streak=5)
    world.job(read, "off", job_enabled="0")
    world.job(read, "never", last_run_end_timestamp_seconds="NaN stale")
    world.job(unread, "unseen")
    ranks = [("well", WELL), ("billing", CRITICAL), ("off", NOT_KNOWN), ("never", NOT_KNOWN), ("unseen", NOT_KNOWN)]
    says("Jobs, the worst first", "job_name, rank", *((name, f"{severity.rank}") for name, severity in ranks))


def test_a_missing_exporter_is_listed(says):
    says(WRONG, WHAT, ("a-critical", "no exporter is scraped", ""))
    says(WRONG, WHAT, ("a-critical", "no exporter is scraped", ""), rules=False)


def test_the_one_address_of_replicas_is_an_exporter_without_a_build(world, says):
    world.job(world.exporter(), "well")
    world.series = {name: values for name, values in world.series.items() if "build_info" not in name}
    says(WRONG, WHAT, job="a")


def test_missing_rules_are_listed(world, says):
    world.job(world.exporter(), "billing", streak=5)
    says(WRONG, WHAT, ("a-critical", "the rules are not evaluated", ""), rules=False)


def test_if_one_of_two_exporters_is_down_it_is_listed_and_known_problems_stay(world, says):
    world.job(world.exporter("a"), "well")
    world.job(world.exporter("b", until=90), "billing", streak=5, until=90)
    says(
        WRONG,
        "severity, what, job, job_name",
        ("a-critical", "source has no exporter: snowplow", "b", ""),
        ("critical", "failing repeatedly", "b", "billing"),
    )
