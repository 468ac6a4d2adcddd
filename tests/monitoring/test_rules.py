"""The alerts and recording rules that come with the exporter, and the example configurations around them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.processes import needed
from tests.monitoring.expressions import Inference, UnknownNameError, series_labels

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "prometheus"
RULES_FILE = FOLDER / "rules/jobrun-exporter.yml"
GROUPS = yaml.safe_load(RULES_FILE.read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
RULE_TESTS = [test for path in TEST_FILES for test in yaml.safe_load(path.read_text())["tests"]]

JOB = frozenset({"source", "project", "job_name"})
OF_JOBS = {name for name, rule in ALERTS.items() if "job_name" in rule["expr"]}
ANNOTATIONS = {"summary", "description", "runbook_url", "dashboard_url"}
SEVERITIES = {"critical", "warning", "info"}

LEVELS = {
    "source_project_job_name": JOB,
    **{f"source_project_job_name_{name}": JOB | {name} for name in ("result", "le")},
}
"""The labels that the first part of a recorded name stands for."""

INFERENCE = Inference({**series_labels(), **{name: LEVELS[name.partition(":")[0]] for name in RECORDED}})


def run(*command):
    ran = subprocess.run([needed(command[0]), *map(str, command[1:])], capture_output=True, text=True, check=False)  # noqa: S603  # tools of ours on files of ours
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def in_rule_tests(kind):
    """All tests of a kind in the rule tests."""
    return [each for test in RULE_TESTS for each in test.get(kind, ())]


def expected_of(alert):
    """What tests expect of an alert: True where it fires, False where it does not."""
    expected = {bool(each["exp_alerts"]) for each in in_rule_tests("alert_rule_test") if each["alertname"] == alert}
    for each in in_rule_tests("promql_expr_test"):
        matcher = re.search(r'alertname=~?"([^"]+)"', each["expr"])
        if matcher and "firing" in each["expr"] and re.fullmatch(matcher[1], alert):
            expected.add(any(alert in sample["labels"] or matcher[1] == alert for sample in each["exp_samples"]))
    return expected


def recorded_test(record):
    """What tests expect of a recorded series: True where there is one, False where there is none."""
    return {bool(each["exp_samples"]) for each in in_rule_tests("promql_expr_test") if record in each["expr"]}


def sections(page):
    """Title → text of the second-level sections of a page."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_prometheus_takes_the_rules_as_they_are():
    assert f"{len(RULES)} rules found" in run("promtool", "check", "rules", RULES_FILE)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path):
    run("promtool", "test", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
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


@pytest.mark.parametrize("record", RECORDED)
def test_a_recording_rule_is_tested_for_a_value_and_for_none(record):
    assert recorded_test(record) == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_grave_it_is_and_where_to_go_on(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() >= ANNOTATIONS
    assert rule["annotations"]["runbook_url"].endswith(f"#{alert.lower()}")
    assert f"/d/{'jobrun-job' if alert in OF_JOBS else 'jobrun-exporter'}" in rule["annotations"]["dashboard_url"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_runbook(alert):
    text = sections(ROOT / "docs/runbooks.md")[alert]
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in text


def test_there_is_no_runbook_of_an_alert_that_is_not():
    assert {title for title in sections(ROOT / "docs/runbooks.md") if title.startswith("Jobrun")} == ALERTS.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_and_label_of_an_expression_exists(rule):
    labels = INFERENCE.labels(rule["expr"])
    texts = json.dumps(rule.get("annotations", {}))
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels
    if "record" in rule:
        assert labels == LEVELS[rule["record"].partition(":")[0]]


@pytest.mark.parametrize("alert", sorted(OF_JOBS))
def test_an_alert_of_a_job_names_the_job_and_its_team_and_outlives_a_restart(alert):
    rule = ALERTS[alert]
    assert {*JOB, "team"} <= INFERENCE.labels(rule["expr"])
    assert rule["keep_firing_for"] == "10m"


@pytest.mark.parametrize("alert", sorted(OF_JOBS))
def test_a_job_is_never_judged_by_the_clock(alert):
    assert "time()" not in ALERTS[alert]["expr"]


@pytest.mark.parametrize("alert", ALERTS)
def test_what_changes_from_run_to_run_is_no_label_of_an_alert(alert):
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
def test_a_name_that_does_not_exist_is_noticed(wrong):
    with pytest.raises(UnknownNameError):
        INFERENCE.labels(wrong)


def test_prometheus_takes_the_example_configuration():
    assert "SUCCESS" in run("promtool", "check", "config", FOLDER / "prometheus.yml")


def test_alertmanager_takes_the_example_configuration():
    assert "5 inhibit rules" in run("amtool", "check-config", FOLDER / "alertmanager.yml")


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "JobrunLastRunFailed", "source": "sp", "team": "data-platform"}, "data-platform"),
        ({"alertname": "JobrunOverdue", "source": "sp", "team": "analytics"}, "analytics"),
        ({"alertname": "JobrunOverdue", "source": "sp"}, "operators"),
        ({"alertname": "JobrunSourceDown", "source": "sp"}, "operators"),
        ({"alertname": "JobrunExporterAbsent"}, "operators"),
    ],
)
def test_an_alert_goes_to_the_team_that_looks_after_the_job(labels, receiver):
    pairs = [f"{name}={value}" for name, value in labels.items()]
    routed = run("amtool", "config", "routes", "test", f"--config.file={FOLDER / 'alertmanager.yml'}", *pairs)
    assert routed.split() == [receiver]


def muted_by(alert):
    """Alert → the labels in which it must agree with this one to be muted by it."""
    muted = {}
    for rule in yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]:
        if matches(rule["source_matchers"], alert):
            muted |= {each: tuple(rule.get("equal", ())) for each in ALERTS if matches(rule["target_matchers"], each)}
    return muted


def matches(matchers, alert):
    """Whether an alert's name is as all matchers say."""
    parts = [re.fullmatch(r'alertname (=~|!=|=) "?([^"]+)"?', matcher).groups() for matcher in matchers]
    return all((re.fullmatch(pattern, alert) is None) == (operator == "!=") for operator, pattern in parts)


def test_alerts_of_jobs_are_muted_while_their_source_is_not_read_and_no_others():
    assert muted_by("JobrunSourceStale") == dict.fromkeys(OF_JOBS, ("source",))
    assert muted_by("JobrunSourceDown").items() > dict.fromkeys(OF_JOBS, ("source",)).items()
    assert {alert for alert in muted_by("JobrunSourceDown") if "Exporter" in alert} == set()


def test_nothing_else_is_told_while_there_is_no_exporter():
    assert muted_by("JobrunExporterAbsent").keys() == ALERTS.keys() - {"JobrunExporterAbsent"}


def test_the_graver_alert_of_a_job_mutes_the_lesser():
    job = ("source", "project", "job_name")
    assert muted_by("JobrunFailingRepeatedly") == dict.fromkeys(["JobrunLastRunFailed", "JobrunStepFailing"], job)
    assert muted_by("JobrunNoRecentSuccess") == {"JobrunOverdue": job}
    assert muted_by("JobrunLastRunFailed") == {}


def test_the_rules_can_be_moved_to_another_folder(tmp_path):
    alone = Path(shutil.copy(RULES_FILE, tmp_path))
    run("promtool", "check", "rules", alone)
