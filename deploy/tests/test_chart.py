"""The Helm chart, rendered by Helm itself: what Kubernetes and the Prometheus operator would get."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

from exporter import __version__
from exporter.config import loads
from exporter.sources import KNOWN_NAMES

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/jobrun-exporter"
VARIANTS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.25", "1.31", "1.35")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
OPERATORS = {"ServiceMonitor": ServiceMonitor, "PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}
WORKLOADS = ("StatefulSet", "Deployment")

Values = dict[str, Any]
Objects = dict[str, dict[str, Any]]


def values(variant: str, **changes: object) -> Values:
    loaded: Values = yaml.safe_load((CHART / "ci" / f"{variant}-values.yaml").read_text())
    return {**loaded, **changes}


def files(values: Values, release: str = "jobs") -> Mapping[str, str]:
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        texts: Mapping[str, str] = chart.render(values, name=release, namespace="monitoring")
    return texts


def rendered(values: Values, release: str = "jobs") -> Objects:
    """Return the objects that the chart makes of values, by kind and name."""
    texts = files(values, release)
    documents = [yaml.safe_load_all(text) for name, text in texts.items() if name.endswith(".yaml")]
    objects = [each for document in documents for each in document if each]
    assert len({(each["kind"], each["metadata"]["name"]) for each in objects}) == len(objects)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}


def the(kind: str, objects: Objects) -> dict[str, Any]:
    (found,) = [each for each in objects.values() if each["kind"] == kind]
    return found


def workload(objects: Objects) -> dict[str, Any]:
    (found,) = [each for each in objects.values() if each["kind"] in WORKLOADS]
    return found


def pod(objects: Objects) -> dict[str, Any]:
    return dict(workload(objects)["spec"]["template"])


def container(objects: Objects) -> dict[str, Any]:
    (found,) = pod(objects)["spec"]["containers"]
    return dict(found)


def volumes(objects: Objects) -> dict[str, Any]:
    """Return the volumes by mount path."""
    claims = workload(objects)["spec"].get("volumeClaimTemplates", [])
    known = {each["name"]: each for each in pod(objects)["spec"]["volumes"]}
    known |= {each["metadata"]["name"]: each for each in claims}
    return {mount["mountPath"]: known[mount["name"]] for mount in container(objects)["volumeMounts"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_lint_finds_no_problem(variant):
    verdict = helm_python.lint(str(CHART), values(variant), strict=True)

    assert verdict["errors"] == []
    assert [each["error"] for each in verdict["messages"]] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_fits_the_schemas_of_kubernetes(variant, version):
    for each in rendered(values(variant)).values():
        if each["kind"] in OPERATORS:
            OPERATORS[each["kind"]].model_validate(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pod_meets_the_restricted_pod_security_standard(variant):
    objects = rendered(values(variant))
    spec = pod(objects)["spec"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(each.keys() - {"name"})) for each in spec["volumes"]} <= {"configMap", "secret", "emptyDir"}


def test_one_process_keeps_its_state_on_its_own_volume():
    objects = rendered(values("minimal"))

    assert the("StatefulSet", objects)["spec"]["replicas"] == 1
    claim = volumes(objects)["/var/lib/jobrun-exporter"]["spec"]
    assert claim == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


@pytest.mark.parametrize(
    ("persistence", "volume"),
    [
        ({"enabled": False}, {"name": "state", "emptyDir": {}}),
        ({"existingClaim": "kept"}, {"name": "state", "persistentVolumeClaim": {"claimName": "kept"}}),
    ],
)
def test_the_state_can_be_elsewhere(persistence, volume):
    objects = rendered(values("minimal", persistence=persistence))

    assert volumes(objects)["/var/lib/jobrun-exporter"] == volume


@pytest.mark.parametrize("variant", ["minimal", "full"])
def test_the_exporter_accepts_the_rendered_config(variant, tmp_path):
    text = rendered(values(variant))["ConfigMap/jobs-jobrun-exporter"]["data"]["config.yaml"]
    secrets = tmp_path / "secrets"
    for path in ("jobrun-api-keys/northflank", "jobrun-snowplow/api_key", "jobrun-strait/api_key"):
        (secrets / path).parent.mkdir(parents=True, exist_ok=True)
        (secrets / path).write_text("k")

    loaded = loads(text.replace("/run/secrets", str(secrets)), {"SNOWPLOW_API_KEY_ID": "i"}, KNOWN_NAMES)

    assert [source.name for source in loaded.sources] == [each["name"] for each in values(variant)["config"]["sources"]]
    if variant == "full":
        assert loaded.metrics.max_series == 1_000_000


def test_replicas_share_a_database_whose_url_is_a_file_of_a_secret(tmp_path):
    objects = rendered(values("replicas"))
    deployment = the("Deployment", objects)["spec"]

    assert deployment["replicas"] == 3
    assert "volumeClaimTemplates" not in deployment
    assert "/var/lib/jobrun-exporter" not in volumes(objects)
    assert volumes(objects)["/run/state"]["secret"] == {
        "secretName": "jobrun-state",
        "items": [{"key": "url", "path": "url"}],
        "defaultMode": 0o440,
    }
    text = the("ConfigMap", objects)["data"]["config.yaml"]
    for path in ("/run/state/url", "/run/secrets/jobrun-api-keys/northflank"):
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).write_text("postgresql://db/jobrun")
    url = loads(text.replace("/run/", f"{tmp_path}/run/"), {}, KNOWN_NAMES).state.url
    assert url is not None
    assert url.reveal() == "postgresql://db/jobrun"


def test_prometheus_scrapes_the_service_of_replicas_as_one_target_and_each_pod_for_its_process_metrics():
    objects = rendered(values("replicas"))
    relabelings = the("ServiceMonitor", objects)["spec"]["endpoints"][0]["relabelings"]
    (of_pods,) = the("PodMonitor", objects)["spec"]["podMetricsEndpoints"]

    assert {each["targetLabel"]: each["replacement"] for each in relabelings if "targetLabel" in each} == {
        "__address__": "jobs-jobrun-exporter.monitoring.svc:9797",
        "instance": "jobs-jobrun-exporter",
    }
    assert {"action": "labeldrop", "regex": "pod|container|node"} in relabelings
    assert of_pods["path"] == "/metrics/replica"
    assert of_pods["honorLabels"] is True
    assert of_pods["relabelings"][0] == {"targetLabel": "job", "replacement": "jobrun-replicas"}
    assert the("Service", objects)["spec"]["publishNotReadyAddresses"] is False


def test_one_replica_at_a_time_is_evicted_and_they_are_spread_over_nodes():
    objects = rendered(values("replicas"))
    spread = pod(objects)["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]

    assert the("PodDisruptionBudget", objects)["spec"]["maxUnavailable"] == 1
    assert spread[0]["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert [each for each in rendered(values("replicas", replicas=1)).values() if "Disruption" in each["kind"]] == []
    assert pod(rendered(values("replicas", affinity={"nodeAffinity": {}})))["spec"]["affinity"] == {"nodeAffinity": {}}


def test_replicas_may_connect_to_their_database():
    egress = the("NetworkPolicy", rendered(values("replicas")))["spec"]["egress"]

    assert {"ports": [{"port": 5432, "protocol": "TCP"}]} in egress


def test_secrets_are_files_by_reference_and_never_values():
    objects = rendered(values("full"))

    assert volumes(objects)["/run/secrets/jobrun-strait"]["secret"] == {
        "secretName": "jobrun-strait",
        "defaultMode": 0o440,
    }
    assert volumes(objects)["/etc/jobrun-exporter-web"]["secret"]["secretName"] == "jobrun-web"
    assert "--web.config.file=/etc/jobrun-exporter-web/web.yaml" in container(objects)["args"]
    assert [each for each in objects.values() if each["kind"] == "Secret"] == []


def test_the_pod_restarts_only_if_the_config_changes():
    one, same, other = values("full"), values("full"), values("full")
    other["config"] = copy.deepcopy(other["config"])
    other["config"]["sources"][0]["requests_per_minute"] = 31
    sums = [pod(rendered(each))["metadata"]["annotations"]["checksum/config"] for each in (one, same, other)]

    assert sums[0] == sums[1] != sums[2]


def test_probes_request_health_and_readiness_and_behind_a_password_connect_to_the_port():
    open_, closed = container(rendered(values("minimal"))), container(rendered(values("full")))

    assert open_["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "http", "scheme": "HTTP"}
    assert open_["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    assert [closed[each].get("httpGet") for each in PROBES] == [None] * 3
    assert [closed[each]["tcpSocket"] for each in PROBES] == [{"port": "http"}] * 3


def test_the_chart_has_the_rules_of_this_version_without_the_disabled_ones():
    own = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "prometheus/rules").glob("*.yml"))]
    expected = [
        {**group, "rules": [rule for rule in group["rules"] if rule.get("alert") != "JobrunRunSlow"]}
        for each in own
        for group in each["groups"]
    ]
    assert expected

    assert the("PrometheusRule", rendered(values("full")))["spec"]["groups"] == expected


def test_the_chart_has_the_dashboards_of_this_version():
    objects = rendered(values("full"))
    found = {
        key: value for each in objects.values() for key, value in each.get("data", {}).items() if key.endswith(".json")
    }
    files = {path.name: path for path in (ROOT / "grafana").glob("*.json")}

    assert files
    assert {name: json.loads(text) for name, text in found.items()} == {
        name: json.loads(path.read_text()) for name, path in files.items()
    }
    assert max(len(text) for text in found.values()) < 262_144, (
        "kubectl apply keeps a copy in an annotation of this size"
    )


def test_series_outlive_their_pod_and_have_the_scrape_job_that_the_rules_expect():
    monitor = the("ServiceMonitor", rendered(values("full")))["spec"]

    assert monitor["endpoints"][0]["relabelings"][0] == {
        "sourceLabels": ["__meta_kubernetes_pod_name"],
        "targetLabel": "instance",
    }
    assert monitor["endpoints"][0]["honorLabels"] is True  # the operator adds a label `endpoint`
    service = the("Service", rendered(values("full")))
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "jobrun-exporter"
    assert service["spec"]["selector"].items() <= pod(rendered(values("full")))["metadata"]["labels"].items()
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_two_releases_share_no_object():
    one, other = rendered(values("full"), "a"), rendered(values("full"), "b")

    assert one.keys().isdisjoint(other.keys())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"config": {"sources": []}}, "sources"),
        ({"config": {"sources": [{"name": "a"}]}}, "type"),
        ({"config": {"sources": [{"name": "a", "type": "strait"}], "state": {"path": "/elsewhere"}}}, "state"),
        ({"replicas": 2}, "state.postgres.existingSecret"),
        ({"replicas": 0}, "replicas"),
        ({"state": {"postgres": {"existingSecret": "Jobs/url"}}}, "existingSecret"),
        ({"state": {"path": "/elsewhere"}}, "state"),
        ({"image": {"digest": "sha256:123"}}, "digest"),
        ({"persistence": {"accessModes": ["ReadWriteMany"]}}, "accessModes"),
        ({"persistence": {"size": "1 GB"}}, "size"),
        ({"serviceMonitor": {"interval": "30"}}, "interval"),
        ({"existingSecrets": "jobrun-api-keys"}, "existingSecrets"),
        ({"existingSecrets": ["Jobs/keys"]}, "existingSecrets"),
        ({"webConfig": {"scheme": "https"}}, "scheme"),
        ({"service": {"port": 0}}, "port"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(changes, complaint):
    with pytest.raises(helm_python.HelmError, match=complaint):
        rendered(values("minimal", **changes))


def test_the_default_values_are_refused_with_a_hint_at_the_demo():
    with pytest.raises(helm_python.HelmError, match=r"config\.sources is empty") as raised:
        rendered({})
    assert "--set demo=true" in str(raised.value)


@pytest.mark.parametrize(("variant", "kind"), [("full", "statefulset"), ("replicas", "deployment")])
def test_the_notes_name_the_workload_and_warn_only_if_its_state_is_lost(variant, kind):
    (notes,) = [text for name, text in files(values(variant)).items() if name.endswith("NOTES.txt")]
    (lost,) = [
        text
        for name, text in files(values(variant, persistence={"enabled": False})).items()
        if name.endswith("NOTES.txt")
    ]
    assert f"exec {kind}/jobs-jobrun-exporter" in notes
    assert ["WARNING" in notes, "WARNING" in lost] == [False, kind == "statefulset"]


@pytest.mark.parametrize("release", ["true", "123", "1e3", "null"])
def test_values_that_look_like_numbers_or_switches_stay_text(release):
    for each in rendered(values("full"), release).values():
        labels = each["metadata"]["labels"]
        assert all(isinstance(value, str) for value in labels.values())
        assert labels["app.kubernetes.io/instance"] == release
    named = rendered(values("full", fullnameOverride="true", serviceAccount={"name": "123"}), release)
    assert the("StatefulSet", named)["metadata"]["name"] == "true"
    assert the("StatefulSet", named)["spec"]["template"]["spec"]["serviceAccountName"] == "123"


def test_the_network_policy_allows_the_addresses_in_the_config():
    auth = {"api_key_file": "/run/secrets/x/y"}
    source = {"name": "a", "type": "strait", "auth": auth, "base_url": "http://strait:8080"}
    proxied = {**source, "name": "b", "base_url": "https://strait.example", "proxy_url": "http://u:p@proxy:3128"}
    unknown = {**source, "name": "c", "base_url": "${STRAIT_URL}"}
    config = {"sources": [source, proxied, unknown]}
    policy = the("NetworkPolicy", rendered(values("minimal", config=config, networkPolicy={"enabled": True})))
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 3128, 8080}


def test_the_chart_has_this_version_and_contains_rules_and_dashboards(tmp_path):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)

    archive = helm_python.package(str(CHART), destination=str(tmp_path))
    with helm_python.Chart.load_archive(Path(archive).read_bytes()) as packed:
        texts = packed.render(values("full"), name="jobs", namespace="monitoring")
    assert "JobrunOverdue" in texts["jobrun-exporter/templates/prometheusrule.yaml"]
    assert "jobrun-overview.json" in texts["jobrun-exporter/templates/dashboards.yaml"]
