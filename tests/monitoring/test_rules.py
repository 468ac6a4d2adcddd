"""The alerts and recording rules that come with the exporter, and the example configurations around them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from alerting.__main__ import GROUPS as RULE_GROUPS
from alerting.__main__ import text
from alerting.model import Alert
from exporter.commands.assets import with_labels
from exporter.snapshot.conditions import KINDS
from tests.e2e.processes import require_tool
from tests.e2e.servers import VERSIONS, program
from tests.monitoring.expression_labels import Inference, UnknownNameError, series_labels

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "prometheus"
RULES_FILE = FOLDER / "rules/jobrun-exporter.yml"
GROUPS = yaml.safe_load(RULES_FILE.read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
RULE_TESTS = [test for path in TEST_FILES for test in yaml.safe_load(path.read_text())["tests"]]

JOB = frozenset({"job", "source", "project", "job_name"})
OF_JOBS = {name for name, rule in ALERTS.items() if "$labels.job_name" in rule["annotations"]["summary"]}
ANNOTATIONS = {"summary", "description", "runbook_url"}
SEVERITIES = {"critical", "warning", "info", "none"}
RUN = frozenset({"run_id", "run_url", "failed_step", "error_type"})
JOB_ALERT_LABELS = JOB | {"team", "page"}

LEVELS = {
    "source_project_job_name": JOB,
    **{f"source_project_job_name_{name}": JOB | {name} for name in ("result", "le", "step_name")},
    "job_source": frozenset({"job", "source"}),
    "job_instance_source": frozenset({"job", "instance", "source"}),
}
"""The labels that the first part of a recorded name stands for; all have `job` too."""

CONDITIONS = {
    "last_run_failed": JOB_ALERT_LABELS | RUN,
    "failing_repeatedly": JOB_ALERT_LABELS | RUN,
    "run_stuck": JOB_ALERT_LABELS | {"state"},
    "job_disabled": JOB_ALERT_LABELS | {"stop_cause"},
    "step_failing": JOB_ALERT_LABELS | {"step_name", "run_id", "run_url"},
    "many_jobs_failing_of_source": {"job", "source"},
    "many_jobs_failing_of_project": {"job", "source", "project"},
    "source_unmapped_status": {"job", "source", "status"},
    **dict.fromkeys(
        ("no_recent_success", "overdue", "run_slow", "failure_recovered", "failure_ratio_high"), JOB_ALERT_LABELS
    ),
}
"""The labels of recorded conditions; those of sources have the source's alone."""

OTHER_LEVELS = {"failing": JOB | {"instance"}, "jobs_of_project": frozenset({"job", "source", "project"})}


def recorded_labels(name):
    level, metric, _ = name.split(":", 2)
    if level != "jobrun":
        return LEVELS[level]
    if metric in OTHER_LEVELS:
        return OTHER_LEVELS[metric]
    return frozenset(CONDITIONS.get(metric, {"job", "source"}))


OTHERS = {
    "ALERTS": JOB_ALERT_LABELS | {"alertname", "alertstate", "severity", "step_name"},
    "up": frozenset({"job", "instance"}),
    "process_start_time_seconds": frozenset({"job", "instance"}),
    "jobrun_run_duration_seconds": JOB | {"instance", "result"},
    "jobrun_job_info": series_labels()["jobrun_job_info"] | {f"exported_{name}" for name in JOB},
}
"""Series of Prometheus itself, a histogram stored as a native one, and labels that Prometheus has renamed."""

INFERENCE = Inference({**series_labels(), **OTHERS, **{name: recorded_labels(name) for name in RECORDED}})
WINDOWS = [name for name in RECORDED if re.search(r"jobrun_runs:|_bucket:|:p[59]", name)]


def run(tool, *arguments):
    command = [require_tool(tool), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # known tools on known files
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def in_rule_tests(kind):
    """Return all tests of a kind in the rule tests."""
    return [each for test in RULE_TESTS for each in test.get(kind, ())]


def expected_of(alert):
    """Return what tests expect of an alert: True for firing, False for not firing."""
    expected = {bool(each["exp_alerts"]) for each in in_rule_tests("alert_rule_test") if each["alertname"] == alert}
    for each in in_rule_tests("promql_expr_test"):
        matcher = re.search(r'alertname=~?"([^"]+)"', each["expr"])
        if matcher and "firing" in each["expr"] and re.fullmatch(matcher[1], alert):
            expected.add(any(alert in sample["labels"] or matcher[1] == alert for sample in each["exp_samples"]))
    return expected


def recorded_test(record):
    """Return what tests expect of a recorded series: True for a value, False for none."""
    return {bool(each["exp_samples"]) for each in in_rule_tests("promql_expr_test") if record in each["expr"]}


def sections(page):
    """Return the text of each second-level section of a page, by title."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_prometheus_accepts_the_rules():
    assert f"{len(RULES)} rules found" in run("promtool", "check", "rules", RULES_FILE)


def test_the_rules_file_is_generated_by_the_table_of_rules():
    assert RULES_FILE.read_text() == text(), "stale: python -m alerting"
    assert ALERTS.keys() == KINDS.keys()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_the_rules_pass_their_promtool_tests(path, version):
    run(program("promtool", version), "test", "rules", path)


@pytest.mark.parametrize("path", [*TEST_FILES, *(FOLDER / "tests/newest").glob("*.yml")], ids=lambda path: path.stem)
def test_each_promtool_test_says_in_which_order_all_groups_are_evaluated(path):
    # Otherwise promtool takes a random order, and a test of what one group records for another passes only sometimes.
    assert sorted(yaml.safe_load(path.read_text())["group_eval_order"]) == sorted(group["name"] for group in GROUPS)


@pytest.mark.parametrize("name", ["busy", "durations", "expectations", "failures", "many", "steps"])
def test_alerts_of_jobs_carry_the_labels_of_objectives_as_they_carry_the_team(name, tmp_path):
    cases = (FOLDER / f"tests/{name}.yml").read_text()
    carried = re.sub(r"(team: )(\w+)", r"\1\2, cost_center: \2", cases)
    carried = re.sub(r'(team=)("\w+")', r"\1\2, cost_center=\2", carried)
    assert carried != cases

    for folder, file, content in (
        ("rules", "jobrun-exporter.yml", with_labels(RULES_FILE.read_text(), ["cost_center"])),
        ("tests", "cases.yml", carried),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(content)
    run("promtool", "test", "rules", tmp_path / "tests/cases.yml")


@pytest.mark.parametrize("path", sorted((FOLDER / "tests/newest").glob("*.yml")), ids=lambda path: path.stem)
def test_the_rules_work_with_native_histograms(path):
    run(program("promtool", "newest"), "test", "rules", path)


@pytest.mark.parametrize("alert", sorted(ALERTS.keys() - {"JobrunWatchdog"}))
def test_an_alert_is_tested_for_firing_and_for_not_firing(alert):
    assert expected_of(alert) == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_the_whole_text_of_an_alert_is_tested(alert):
    texts = [
        each["exp_annotations"]
        for test in in_rule_tests("alert_rule_test")
        if test["alertname"] == alert
        for each in test["exp_alerts"]
    ]
    assert texts
    assert all(text.keys() >= ANNOTATIONS for text in texts)


def test_every_text_stays_a_text_for_receivers_that_parse_it_as_yaml():
    annotations = [each["exp_annotations"] for test in in_rule_tests("alert_rule_test") for each in test["exp_alerts"]]
    prose = [texts[name] for texts in annotations for name in ("summary", "description")]
    assert len(prose) > 50
    assert [words for words in prose if yaml.safe_load(words) != words] == []


@pytest.mark.parametrize("record", WINDOWS)
def test_a_recording_rule_is_tested_with_and_without_a_value(record):
    assert recorded_test(record) == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_severity_and_links(alert):
    rule = ALERTS[alert]
    assert set(re.findall(r"critical|warning|info|none", rule["labels"]["severity"])) & SEVERITIES
    assert rule["annotations"].keys() >= ANNOTATIONS
    assert rule["annotations"]["runbook_url"].startswith("https://")
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks.md#{alert.lower()}")


@pytest.mark.parametrize("alert", sorted(ALERTS.keys() - {"JobrunExporterAbsent"}))  # it is about all scrape jobs
def test_a_dashboard_opens_with_the_scrape_job_of_the_alert(alert):
    (rule,) = (each for group in RULE_GROUPS for each in group.rules if isinstance(each, Alert) and each.name == alert)
    link = rule.links.get("dashboard_url", "")
    if link and "job" in INFERENCE.labels(ALERTS[alert]["expr"]):
        assert re.search(r"[?&]var-job=\{\{ urlquery \$labels\.job \}\}", link)


def test_no_rule_needs_external_labels():
    assert "externalLabels" not in RULES_FILE.read_text()
    assert "external_labels" not in (FOLDER / "prometheus.yml").read_text()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_runbook(alert):
    text = sections(ROOT / "docs/runbooks.md")[alert]
    assert re.findall(r"^\*\*(\w+)\*\*", text, re.MULTILINE) == ["Means", "Look", "Do", "Ends"]


def queries():
    """Return the queries of the runbooks."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs/runbooks.md").read_text(), flags=re.DOTALL)
    quoted = (" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text))
    return sorted({each for each in quoted if re.match(r"[\w(][^:]*$", each) and re.search(r"\bjobrun_|\bup\b", each)})


def test_prometheus_accepts_every_query_of_the_runbooks(tmp_path):
    assert len(queries()) > 40
    rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run("promtool", "check", "rules", file)


@pytest.mark.parametrize("query", queries())
def test_every_metric_and_label_of_a_runbook_exists(query):
    INFERENCE.labels(query)


def test_every_runbook_has_its_alert():
    assert {title for title in sections(ROOT / "docs/runbooks.md") if title.startswith("Jobrun")} == ALERTS.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_and_label_of_an_expression_exists(rule):
    labels = INFERENCE.labels(rule["expr"])
    texts = json.dumps(rule.get("annotations", {}))
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels
    if "record" in rule:
        assert labels == recorded_labels(rule["record"])


@pytest.mark.parametrize("alert", sorted(OF_JOBS))
def test_an_alert_of_a_job_names_the_job_and_its_team_and_outlives_a_restart(alert):
    rule = ALERTS[alert]
    assert INFERENCE.labels(rule["expr"]) >= JOB_ALERT_LABELS
    assert rule["keep_firing_for"] in ("5m", "10m")


@pytest.mark.parametrize("alert", ALERTS)
def test_no_restart_of_prometheus_ends_an_alert(alert):
    # Prometheus restores a `for` of 10 minutes or more; Alertmanager resolves an alert after 3 to 4 minutes without it.
    wait = ALERTS[alert].get("for", "0m")
    assert wait in ("0m", "1m", "2m") or wait.endswith("h") or int(wait.removesuffix("m")) >= 10


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_no_job_alert_depends_on_the_clock_of_prometheus(condition):
    assert "time()" not in RECORDED[f"jobrun:{condition}:held"]["expr"].replace("_over_time()", "")


@pytest.mark.parametrize("alert", ALERTS)
def test_no_alert_has_a_label_that_changes_from_run_to_run(alert):
    rule = ALERTS[alert]
    changing = {"run_id", "run_url", "failed_step", "error_type"} & INFERENCE.labels(rule["expr"])
    assert {name: rule["labels"].get(name) for name in changing} == dict.fromkeys(changing, "")


@pytest.mark.parametrize(
    "wrong",
    [
        "jobrun_nothing_total",
        'jobrun_runs_total{status="failure"}',
        "sum by (step_name) (jobrun_runs_total)",
        "jobrun_runs_total + jobrun_source_up",
        "jobrun_runs_total * on (source, project, job_name) group_left (team) jobrun_job_enabled",
        "max by (team) (jobrun_runs_total * on (source, step_name) group_left () jobrun_source_up)",
        "histogram_quantile(0.5, jobrun_runs_total)",
    ],
)
def test_an_unknown_metric_name_is_noticed(wrong):
    with pytest.raises(UnknownNameError):
        INFERENCE.labels(wrong)


def test_prometheus_accepts_the_example_configuration():
    assert "SUCCESS" in run("promtool", "check", "config", FOLDER / "prometheus.yml")


@pytest.mark.parametrize("version", VERSIONS)
def test_alertmanager_accepts_the_example_configuration(version):
    said = run(program("amtool", version), "check-config", FOLDER / "alertmanager.yml")
    assert "0 inhibit rules" in said  # the end of an inhibited alert is lost
    assert "1 templates" in said


@pytest.mark.parametrize("alert", sorted(ALERTS.keys() - OF_JOBS - {"JobrunManyJobsFailing", "JobrunWatchdog"}))
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_an_alert_that_is_not_about_jobs_goes_to_the_operators(alert, severity):
    pairs = [f"alertname={alert}", f"severity={severity}"]
    routed = run("amtool", "config", "routes", "test", f"--config.file={FOLDER / 'alertmanager.yml'}", *pairs)
    assert routed.split() == ["operators-page" if severity == "critical" else "operators"]


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (
            {"alertname": "JobrunFailingRepeatedly", "severity": "critical", "team": "data-platform"},
            "data-platform-page",
        ),
        ({"alertname": "JobrunFailingRepeatedly", "severity": "warning", "team": "data-platform"}, "data-platform"),
        ({"alertname": "JobrunOverdue", "severity": "warning", "team": "analytics"}, "analytics"),
        ({"alertname": "JobrunOverdue", "severity": "warning"}, "tickets"),
        ({"alertname": "JobrunManyJobsFailing", "severity": "critical"}, "operators-page"),
        ({"alertname": "JobrunManyJobsFailing", "severity": "critical", "team": "analytics"}, "analytics-page"),
        ({"alertname": "JobrunRunSlow", "severity": "info", "team": "unknown"}, "tickets"),
        ({"alertname": "JobrunSourceDown", "severity": "critical"}, "operators-page"),
        ({"alertname": "JobrunSourceTruncated", "severity": "info"}, "operators"),
        ({"alertname": "JobrunObjectiveMatchesNothing", "severity": "warning"}, "operators"),
        ({"alertname": "JobrunExporterAbsent", "severity": "critical"}, "operators-page"),
        ({"alertname": "JobrunWatchdog", "severity": "none"}, "watchdog"),
    ],
)
def test_an_alert_is_routed_to_its_team_by_severity(labels, receiver):
    pairs = [f"{name}={value}" for name, value in labels.items()]
    routed = run("amtool", "config", "routes", "test", f"--config.file={FOLDER / 'alertmanager.yml'}", *pairs)
    assert routed.split() == [receiver]


def test_the_rules_can_be_moved_to_another_folder(tmp_path):
    alone = Path(shutil.copy(RULES_FILE, tmp_path))
    run("promtool", "check", "rules", alone)
