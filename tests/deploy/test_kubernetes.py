"""The manifests: valid one by one and as the overlays build them, and hardened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from support.deployed import KUBERNETES, OVERLAYS, load, overlay

CUSTOM = ("monitoring.coreos.com/", "kustomize.config.k8s.io/")  # no schemas of Kubernetes' own
FILES = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "prometheus-adapter.yaml")
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


def validate(manifest: dict[str, Any]) -> None:
    if not manifest["apiVersion"].startswith(CUSTOM):
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_each_file_is_valid(path: Path) -> None:
    manifest = load(path)
    validate(manifest)
    for entry in manifest.get("resources", []) + manifest.get("components", []):
        assert (path.parent / entry).exists(), f"{path} names {entry}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid(name: str) -> None:
    manifests = overlay(name)
    for manifest in manifests:
        validate(manifest)
    kinds = [manifest["kind"] for manifest in manifests]
    assert len(kinds) == len(set(kinds))
    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ConfigMap"} <= set(kinds)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_of_one_piece(name: str) -> None:
    """What refers to something refers to what is there."""
    manifests = {manifest["kind"]: manifest for manifest in overlay(name)}
    deployment, service = manifests["Deployment"]["spec"], manifests["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    (container,) = deployment["template"]["spec"]["containers"]
    budget = manifests["PodDisruptionBudget"]["spec"]
    for selector in (service["selector"], deployment["selector"]["matchLabels"], budget["selector"]["matchLabels"]):
        assert selector.items() <= labels
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= ports
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert target == manifests["Deployment"]["metadata"]["name"]
    assert "replicas" not in deployment  # the autoscaler's to say
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    monitor = load(KUBERNETES / "components" / "monitoring" / "service-monitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= manifests["Service"]["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {port["name"] for port in service["ports"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_can_do_no_more_than_it_must(name: str) -> None:
    (deployment,) = [manifest for manifest in overlay(name) if manifest["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # What is written goes into volumes: the caches, sockets, shared memory.
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/cache", "/tmp", "/dev/shm"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
