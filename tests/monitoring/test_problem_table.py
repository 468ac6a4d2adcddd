"""What dashboards and rules show for a few given series."""

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.words import CRITICAL, FEW_RUNS, NO_RUN, NOT_KNOWN, UNKNOWN_JOB, WELL
from tests.e2e.processes import require_tool
from tests.monitoring.dashboard_files import JSONS, filled, panels

RULES = Path(__file__).parents[2] / "prometheus/rules/jobrun-exporter.yml"
ALL = {"job": ".+", "show": "0"} | dict.fromkeys(("team", "source", "project", "job_name"), ".*")
MINUTES = 120
FAILED = {"jobrun_failing_since_timestamp_seconds": "3600", "jobrun_last_failure_timestamp_seconds": "3600"}


class World:
    """Series of two hours up to now, with one sample per minute."""

    def __init__(self):
        self.series = {}

    def exporter(self, job="a", source="snowplow", *, up="1", until=MINUTES):
        """Return an exporter that reads one source."""
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
        """Return a job whose last run was an hour ago, and other values; names of metrics have no `jobrun_`."""
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
    """Check the result of a panel's expression, counted by some labels, at the end of the series."""

    def check(title, by, *expected, rules=True, minute=MINUTES, of="overview", query="A", **chosen):  # a case
        (panel,) = [panel for panel in panels(JSONS[f"jobrun-{of}"]) if panel["title"] == title]
        (target,) = [target for target in panel["targets"] if target["refId"] == query]
        expression = filled(target["expr"], **ALL | chosen)
        if by.endswith(", rank"):
            expression = f"floor({expression})"  # the fraction orders problems within a rank
        names = by.strip(", ").split(", ")
        samples = [
            {"labels": "{" + ", ".join(f'{n}="{v}"' for n, v in zip(names, row, strict=True) if v) + "}", "value": 1}
            for row in expected
        ]
        ranked = by.removesuffix(", rank")
        counted = f'count_values by ({ranked}) ("rank",' if ranked != by else f"count by ({by}) ("
        case = {"expr": f"{counted} {expression})", "eval_time": f"{minute}m", "exp_samples": samples}
        # Samples are loaded up to the last case only.
        end = {"expr": "vector(1)", "eval_time": f"{MINUTES}m", "exp_samples": [{"labels": "{}", "value": 1}]}
        inputs = [{"series": series, "values": values} for series, values in world.series.items()]
        test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [case, end]}
        content = {"rule_files": [str(RULES)] if rules else [], "evaluation_interval": "1m", "tests": [test]}
        (tmp_path / "test.yml").write_text(yaml.safe_dump(content, width=100_000))
        command = [require_tool("promtool"), "test", "rules", str(tmp_path / "test.yml")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a known tool on a known file
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


# --- graphs whose last step began before now ---

BILLING = {"source": "snowplow", "project": "prod", "job_name": "billing"}
LAST_STEP = {"minute": 105, "__interval": "15m", "__rate_interval": "16m"}
"""Grafana asks for the times of whole steps: the last quarter of an hour before now is a step that began at 105."""


@pytest.fixture
def just_failed(world):
    """Return a job whose last run failed 5 minutes ago."""
    source = world.exporter()
    world.job(source, "billing", consecutive_failures="0x114 1x6")
    job = {**source, "project": "prod", "job_name": "billing"}
    world.add("jobrun_runs_total", {**job, "result": "failure"}, "0x114 1x6", MINUTES)
    world.add("jobrun_step_root_failures_total", {**job, "step_name": "load"}, "0x114 1x6", MINUTES)
    for status, values in {"success": "1x114 0x6", "failure": "0x114 1x6"}.items():
        world.add("jobrun_last_run_status", {**job, "status": status}, values, MINUTES)


@pytest.mark.usefixtures("just_failed")
@pytest.mark.parametrize(
    ("title", "by", "expected"),
    [
        ("Completed runs by result", "result, rank", ("failure", "1")),
        ("Which step failed first", "step_name, rank", ("load", "1")),
        ("Results, active runs and problems", ", rank", ("7",)),
    ],
)
def test_a_graph_of_a_job_shows_the_failures_since_its_last_step_began(says, title, by, expected):
    says(title, by, expected, of="job", **BILLING, **LAST_STEP)


@pytest.mark.usefixtures("just_failed")
def test_a_graph_of_the_overview_shows_the_failures_since_its_last_step_began(says):
    says("Completed runs by result", "result, rank", ("failure", "1"), **LAST_STEP)
    says("The longest streaks of failures", "job_name, rank", ("billing", "1"), **LAST_STEP)


# --- why a number is missing ---


def test_the_first_number_of_a_job_says_why_the_dashboard_is_empty(world, says):
    says("Status", ", rank", ("NaN",), of="job", **BILLING)
    world.exporter()
    says("Status", ", rank", (f"{UNKNOWN_JOB}",), of="job", **BILLING)


def test_a_panel_says_why_a_success_ratio_is_missing(world, says):
    success = {"of": "job", "query": "E", **BILLING}
    source = world.exporter()
    says("When", ", rank", ("NaN",), **success)
    world.job(source, "new", last_run_end_timestamp_seconds="NaN stale")
    says("When", ", rank", (f"{NO_RUN}",), **success | {"job_name": "new"})
    world.job(source, "billing")
    says("When", ", rank", (f"{FEW_RUNS}",), **success)


def test_a_panel_says_why_an_error_budget_is_missing(world, says):
    source = world.exporter()
    says("At a glance", ", rank", ("NaN",), query="D")
    world.job(source, "billing")
    says("At a glance", ", rank", (f"{FEW_RUNS}",), query="D")


def test_an_exporter_without_jobs_is_neither_healthy_nor_unhealthy(world, says):
    source = world.exporter()
    world.add("jobrun_source_jobs", source, "0", MINUTES)
    world.add("jobrun_source_unobserved_seconds_total", source, "0", MINUTES)
    for query, value in {"A": "0", "B": "NaN", "D": "NaN"}.items():
        says("At a glance", ", rank", (value,), of="exporter", query=query)


def test_a_source_that_is_down_is_reported_even_without_jobs(world, says):
    world.add("jobrun_source_jobs", world.exporter(up="0"), "0", MINUTES)
    says("At a glance", ", rank", ("1",), of="exporter", query="B")


@pytest.mark.parametrize(("page", "mark"), [("critical", " (pages)"), ("warning", "")])
def test_a_streak_is_critical_only_if_it_pages(world, says, page, mark):
    world.job(world.exporter(), "billing", streak=5, page=page)
    says("Status", "is, rank", (mark, "5"), of="job", query="D", **BILLING)
    says("Status", "is, rank", (mark, "3600"), of="job", query="E", **BILLING)
