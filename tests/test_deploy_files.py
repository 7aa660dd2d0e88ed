# SPDX-License-Identifier: Apache-2.0
"""The manifests in deploy/: what they ask of the server must be what the server offers."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest
import tomllib
from freqfusion_runtime.commands import serve
from places import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "kubernetes"


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, as Kubernetes' strict decoding has it."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"key twice in line {node.start_mark.line + 1}: {keys}"
        return super().construct_mapping(node, deep)


def documents() -> dict[str, dict]:
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), UniqueKeys):
            found[document["kind"]] = document
    return found


DOCUMENTS = documents()
POD = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
PODS = {"Deployment": POD, "ServingRuntime": DOCUMENTS["ServingRuntime"]["spec"]}


def parsed_arguments(container: dict) -> argparse.Namespace:
    command, *arguments = container["args"]
    assert command == "serve"
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    serve.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_all_kinds_are_there():
    assert set(DOCUMENTS) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "Kustomization",
        "ServingRuntime",
        "InferenceService",
    }
    for kind, document in DOCUMENTS.items():
        assert document["apiVersion"], kind
        assert kind == "Kustomization" or re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
    for name in DOCUMENTS["Kustomization"]["resources"]:
        assert (FOLDER / name).is_file()


@pytest.mark.parametrize("kind", PODS)
def test_the_server_takes_the_arguments(kind):
    pod, container = PODS[kind], PODS[kind]["containers"][0]
    settings = serve.settings_of(parsed_arguments(container))
    assert settings.host == "0.0.0.0"
    ports = {port["containerPort"] for port in container["ports"]}
    assert settings.port in ports
    assert ports <= {settings.port, settings.grpc_port}
    assert settings.threads == int(container["resources"]["limits"]["cpu"])
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024
    assert settings.max_memory_mb <= memory / 2
    grace = (
        pod.get("terminationGracePeriodSeconds")
        or DOCUMENTS["InferenceService"]["spec"]["predictor"]["terminationGracePeriodSeconds"]
    )
    assert grace > settings.drain_delay_s + settings.drain_timeout_s


@pytest.mark.parametrize("kind", PODS)
def test_probes_ask_what_is_answered_without_a_key(kind):
    container = PODS[kind]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        port = container[probe]["httpGet"]["port"]
        assert named.get(port, port) == serve.settings_of(parsed_arguments(container)).port
    # Readiness must end before listening does, or requests still come to a closed port.
    readiness = container["readinessProbe"]
    drain = parsed_arguments(container).drain_delay_s
    assert readiness["periodSeconds"] * readiness.get("failureThreshold", 3) < drain


@pytest.mark.parametrize("kind", PODS)
def test_nothing_runs_as_root_or_writes_to_the_image(kind):
    pod, container = PODS[kind], PODS[kind]["containers"][0]
    both = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert both["runAsNonRoot"] is True
    assert both["runAsUser"] >= 10000
    assert both["readOnlyRootFilesystem"] is True
    assert both["allowPrivilegeEscalation"] is False
    assert both["capabilities"] == {"drop": ["ALL"]}
    assert both["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    assert all(mount.get("readOnly") or path == "/tmp" for path, mount in mounts.items())
    for amount in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][amount])


def test_the_parts_name_each_other():
    deployment, service = DOCUMENTS["Deployment"], DOCUMENTS["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert DOCUMENTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {port["name"] for port in POD["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    scaler = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # it would fight the autoscaler at every apply
    assert scaler["minReplicas"] > DOCUMENTS["PodDisruptionBudget"]["spec"]["minAvailable"]
    runtime, model = DOCUMENTS["ServingRuntime"], DOCUMENTS["InferenceService"]["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = {(entry["name"], entry["version"]) for entry in runtime["spec"]["supportedModelFormats"]}
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert runtime["spec"]["containers"][0]["name"] == "kserve-container"


def test_the_image_is_built_from_what_is_there():
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    user = next(line[1] for line in words if line and line[0] == "USER")
    assert user == f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    for script in re.findall(r"scripts/\w+\.py", " ".join(lines)):
        assert (DEPLOY.parent / script).is_file()
    exposed = {int(port) for line in words if line and line[0] == "EXPOSE" for port in line[1:]}
    assert exposed == {port["containerPort"] for port in POD["containers"][0]["ports"]}


def pinned() -> dict[str, str]:
    """Package -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_the_image_installs_what_was_tested_and_nothing_else(name):
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if not line.startswith("#")]
    locked = {}
    for line in lines:
        package, version, hashes = re.fullmatch(r"([\w.-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", line).groups()
        locked[canonical(package)] = version
        assert hashes
    assert locked.items() <= pinned().items()
    if name == "requirements.txt":
        needed = {canonical(re.match(r"[\w.-]+", line)[0]) for line in requirements("cpu", "serve")}
        assert needed <= locked.keys()
    assert re.search(rf"--require-hashes --requirement \S*{name}", (DEPLOY / "Dockerfile").read_text())


def test_what_was_tested_is_allowed():
    specifiers = pytest.importorskip("packaging.specifiers", reason="packaging is not installed")
    for line in requirements("cpu", "export", "evaluate", "serve"):
        name, wanted = re.match(r"([\w.-]+)(?:\[\w+\])?([^;]*)", line).groups()
        assert specifiers.SpecifierSet(wanted).contains(pinned()[canonical(name)]), line


def test_the_notices_of_others_go_along():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(settings["license-files"]) == {"LICENSE", "NOTICE"}
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "UNICODE LICENSE V3" in notice
    assert "Copyright (c) Microsoft Corporation" in notice
