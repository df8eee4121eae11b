"""What kustomize makes of deploy/kubernetes: right by the schemas of Kubernetes, and in agreement with itself, the
settings and the command line."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import validate

from docworker.db.settings import Settings
from tests.deploy.keda import SCALED_OBJECT
from tests.support.commands import ask
from tests.support.metrics_page import metrics
from tests.support.project import PROJECT
from tests.support.promtool import promtool

KUBERNETES = PROJECT / "deploy" / "kubernetes"
BUILDS = ("base", "overlays/example")
RELEASES = ("1.30", "1.34")

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

Manifest = dict[str, Any]


@cache
def built(name: str) -> list[Manifest]:
    made = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def of_kind(build: str, *kinds: str) -> list[Manifest]:
    return [one for one in built(build) if one["kind"] in kinds]


def templates(build: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The pods of a build, by the names of what makes them."""
    for one in of_kind(build, "Deployment", "Job"):
        yield one["metadata"]["name"], one["spec"]["template"]


def secrets_of(template: Mapping[str, Any]) -> set[str]:
    """Those that are mounted, and those that the environment is taken from."""
    mounted = {one["secret"]["secretName"] for one in template["spec"]["volumes"] if "secret" in one}
    for one in template["spec"]["volumes"]:
        mounted |= {source["secret"]["name"] for source in one.get("projected", {}).get("sources", ())}
    named = (one["valueFrom"].get("secretKeyRef") for one in the_container(template).get("env", ()))
    return mounted | {one["name"] for one in named if one}


def from_maps(build: str, template: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The settings of a pod, each with the map that it is taken from and its value there."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(build, "ConfigMap")}
    container = the_container(template)
    names = [one["configMapRef"]["name"] for one in container["envFrom"]]
    given = {key: (name, value) for name in names for key, value in maps[name].items()}
    for one in container.get("env", ()):
        if (chosen := one["valueFrom"].get("configMapKeyRef")) is not None:
            given[one["name"]] = (chosen["name"], maps[chosen["name"]][chosen["key"]])
    return given


def the_container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    [container] = template["spec"]["containers"]
    return container  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("release", RELEASES)
def test_each_manifest_is_as_the_release_wants_it(build: str, release: str) -> None:
    for manifest in built(build):
        validate(manifest, release, strict=True)


@pytest.mark.parametrize("build", BUILDS)
def test_there_is_what_an_installation_needs(build: str) -> None:
    deployments = {one["metadata"]["name"] for one in of_kind(build, "Deployment")}
    processes = {"worker", "dispatcher", "beat"} | ({"api", "console"} if build != "base" else set())
    assert deployments == {f"docworker-{one}" for one in processes}
    assert {one["metadata"]["name"] for one in of_kind(build, "PodDisruptionBudget")} == deployments
    for kind in ("Job", "NetworkPolicy"):
        assert of_kind(build, kind)
    autoscalers = of_kind(build, "HorizontalPodAutoscaler")
    for one in autoscalers:
        target = one["spec"]["scaleTargetRef"]
        [worker] = [
            each
            for each in built(build)
            if each["metadata"]["name"] == target["name"] and each["kind"] == target["kind"]
        ]
        assert "replicas" not in worker["spec"], "applied again, it would undo what was scaled"
    assert bool(autoscalers) == (build != "base")


@pytest.mark.parametrize("build", BUILDS)
def test_settings_are_settings_and_come_from_maps_that_there_are(build: str) -> None:
    used = set()
    for name, template in templates(build):
        container = the_container(template)
        given = from_maps(build, template)
        used |= {source for source, _ in given.values()}
        assert {one.removeprefix("DOCWORKER_").lower() for one in given} <= Settings.model_fields.keys()
        for one in container.get("env", ()):
            assert one["name"].removeprefix("DOCWORKER_").lower() in Settings.model_fields
        files = {key: value for key, (_, value) in given.items() if value.startswith("/")}
        mounted = [one["mountPath"] for one in container["volumeMounts"]]
        for key, path in files.items():
            assert any(path == place or path.startswith(f"{place}/") for place in mounted), (name, key)
    assert used == {one["metadata"]["name"] for one in of_kind(build, "ConfigMap")}


ADDRESSES = {
    "docworker-worker": {"MASTER_URL", "REPLICA_URLS", "BROKER_URL"},
    "docworker-dispatcher": {"DISPATCHER_URL", "BROKER_URL"},
    "docworker-beat": {"DISPATCHER_URL", "BROKER_URL"},
    "docworker-migrate": {"OWNER_URL"},
    "docworker-api": {"MASTER_URL", "REPLICA_URLS"},
    "docworker-console": {"MASTER_URL", "REPLICA_URLS", "DISPATCHER_URL"},
}
SECRETS = {
    "docworker-worker": {"worker", "broker"},
    "docworker-dispatcher": {"dispatcher", "broker"},
    "docworker-beat": {"dispatcher", "broker"},
    "docworker-migrate": {"owner"},
    "docworker-api": {"worker", "api"},
    "docworker-console": {"worker", "dispatcher", "console"},
}


@pytest.mark.parametrize("build", BUILDS)
def test_each_has_the_addresses_it_needs_and_the_password_of_no_other_role(build: str) -> None:
    for name, template in templates(build):
        given = from_maps(build, template)
        urls = {key.removeprefix("DOCWORKER_") for key in given if key.endswith(("_URL", "_URLS"))}
        assert urls == ADDRESSES[name]
        assert secrets_of(template) == {f"docworker-{one}" for one in SECRETS[name]}


@pytest.mark.parametrize("build", BUILDS)
def test_secrets_and_the_volume_are_those_that_the_page_makes(build: str) -> None:
    page = (PROJECT / "docs" / "deploy.md").read_text()
    for _, template in templates(build):
        for secret in secrets_of(template):
            assert f"secret generic {secret} " in page
        for volume in template["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in page


@pytest.mark.parametrize("build", BUILDS)
def test_processes_are_asked_where_they_answer_and_stopped_when_their_jobs_have_ended(build: str) -> None:
    for name, template in templates(build):
        container = the_container(template)
        if name == "docworker-migrate":
            continue
        port, *answering = container["ports"]
        process = name.removeprefix("docworker-")
        if answering:
            assert [one["containerPort"] for one in answering] == [getattr(Settings(), f"{process}_port")]
            assert from_maps(build, template)[f"DOCWORKER_{process.upper()}_HOST"][1] == "0.0.0.0"
        assert port["containerPort"] == getattr(Settings(), f"{process}_metrics_port")
        paths = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
        assert {one["port"] for one in paths.values()} == {port["name"]}
        assert {probe: one["path"] for probe, one in paths.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert template["spec"]["terminationGracePeriodSeconds"] >= Settings().shutdown_timeout + 5


@pytest.mark.parametrize("build", BUILDS)
def test_nobody_is_root_or_writes_to_its_image_or_may_ask_kubernetes(build: str) -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    [user] = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    for _, template in templates(build):
        pod, container = template["spec"], the_container(template)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts.keys() == {one["name"] for one in pod["volumes"]}
        [state] = re.findall(r"DOCWORKER_STATE_DIRECTORY=(\S+)", dockerfile)
        assert mounts["state"] == state
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("build", BUILDS)
def test_selectors_select(build: str) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in templates(build)}
    for one in of_kind(build, "Deployment", "PodDisruptionBudget"):
        chosen = one["spec"]["selector"]["matchLabels"]
        matching = {name for name, given in labels.items() if chosen.items() <= given.items()}
        assert matching == {one["metadata"]["name"]}
    for one in of_kind(build, "Service"):
        chosen = one["spec"]["selector"]
        matching = {name for name, given in labels.items() if chosen.items() <= given.items()}
        assert matching == {one["metadata"]["name"]}
        [port] = one["spec"]["ports"]
        [pod] = [template for name, template in templates(build) if name in matching]
        assert port["targetPort"] in {each["name"] for each in the_container(pod)["ports"]}
    policies = {
        one["metadata"]["name"]: {
            name
            for name, given in labels.items()
            if one["spec"]["podSelector"].get("matchLabels", {}).items() <= given.items()
        }
        for one in of_kind(build, "NetworkPolicy")
    }
    own = {"docworker-worker", *(one["metadata"]["name"] for one in of_kind(build, "Service"))}
    assert policies == {"docworker": set(labels)} | {name: {name} for name in own}


@pytest.mark.parametrize("build", BUILDS)
def test_commands_are_commands(build: str) -> None:
    for _, template in templates(build):
        assert ask(*the_container(template)["args"], "--help").exit_code == 0


def test_the_metric_that_scales_is_exported_and_alerted_on() -> None:
    [autoscaler] = of_kind("overlays/example", "HorizontalPodAutoscaler")
    [metric] = autoscaler["spec"]["metrics"]
    name = metric["external"]["metric"]["name"]
    alerts = (PROJECT / "deploy" / "prometheus" / "alerts.yml").read_text()
    [limit] = re.findall(rf"{name}\) > (\d+)", alerts)
    assert int(metric["external"]["target"]["value"]) < int(limit), "there are more workers before anybody is woken"
    assert name in (PROJECT / "docs" / "deploy.md").read_text()


@pytest.fixture(scope="module")
def with_keda(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The base, scaled by KEDA."""
    directory = tmp_path_factory.mktemp("keda").resolve()
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERNETES / "base", directory)],
        "components": [os.path.relpath(KUBERNETES / "keda", directory)],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(overlay))
    return built(str(directory))


def test_keda_takes_what_is_asked_of_it(with_keda: list[Manifest]) -> None:
    [scaled] = [one for one in with_keda if one["kind"] == "ScaledObject"]
    keda = Draft202012Validator(SCALED_OBJECT)
    keda.validate(scaled)

    def refused(path: tuple[str | int, ...], value: Any) -> str:
        """What is wrong once `value` stands there."""
        broken = deepcopy(scaled)
        place = broken
        for step in path[:-1]:
            place = place[step]  # type: ignore[index]
        place[path[-1]] = value  # type: ignore[index]
        return " ".join(error.message for error in keda.iter_errors(broken))

    trigger: tuple[str | int, ...] = ("spec", "triggers", 0)
    assert "'minReplicas' was unexpected" in refused(("spec", "minReplicas"), 2)
    assert "60 is not of type" in refused((*trigger, "metadata", "threshold"), 60)
    assert "False is not one of" in refused((*trigger, "metadata", "ignoreNullValues"), False)
    assert "'url' was unexpected" in refused((*trigger, "metadata", "url"), "http://prometheus:9090")
    assert "'Average' is not one of" in refused((*trigger, "metricType"), "Average")
    assert "'query' is a required" in refused((*trigger, "metadata"), {"serverAddress": "http://a:1", "threshold": "1"})
    assert "does not match" in refused((*trigger, "metadata", "serverAddress"), "prometheus:9090")
    assert "should be non-empty" in refused(("spec", "triggers"), [])
    assert "'name' is a required" in refused(("spec", "scaleTargetRef"), {"kind": "Deployment"})
    assert "less than the minimum" in refused(("spec", "maxReplicaCount"), 0)
    assert "was expected" in refused(("apiVersion",), "keda.k8s.io/v1alpha1")


def test_keda_scales_as_the_autoscaler_does_by_a_query_that_prometheus_takes(
    with_keda: list[Manifest], tmp_path: Path
) -> None:
    made = {(one["kind"], one["metadata"]["name"]): one.get("spec", {}) for one in with_keda}
    scaled = made["ScaledObject", "docworker-worker"]
    target = scaled["scaleTargetRef"]
    assert "replicas" not in made[target["kind"], target["name"]], "applied again, it would undo what was scaled"
    [trigger] = scaled["triggers"]
    query = trigger["metadata"]["query"]
    assert set(re.findall(r"\bdocworker_\w+", query)) <= {name for one in metrics() for name in one.series}

    [other] = [one["spec"] for one in of_kind("overlays/example", "HorizontalPodAutoscaler")]
    [metric] = other["metrics"]
    assert metric["external"]["metric"]["name"] in query
    assert trigger["metricType"] == metric["external"]["target"]["type"]
    assert trigger["metadata"]["threshold"] == metric["external"]["target"]["value"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (other["minReplicas"], other["maxReplicas"])
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == other["behavior"]

    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "keda", "rules": [{"record": "query", "expr": query}]}]}))
    promtool("check", "rules", str(rules))
