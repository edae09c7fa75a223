"""Linters on what ships beside the Python code. Each finds nothing."""

from __future__ import annotations

from support.deployed import DOCKER, ROOT, dockerfile, run


def test_the_dockerfile() -> None:
    run("hadolint", DOCKER / "Dockerfile")


def test_the_dockerfile_is_for_every_builder() -> None:
    """buildah learned heredocs late, and knows nothing of these flags; hadolint parses them all."""
    for feature in ("<<", "--link", "--parents", "--exclude", "--checksum"):
        assert feature not in dockerfile()


def test_compose_against_the_specification() -> None:
    files = sorted(DOCKER.glob("compose*.yaml"))
    assert len(files) == 2
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)


def test_yaml() -> None:
    run("yamllint", "--strict", "--config-file", DOCKER / ".yamllint.yaml", DOCKER)


def test_shell() -> None:
    run("shellcheck", *sorted((ROOT / "scripts").glob("*.sh")), *sorted(DOCKER.glob("*.sh")), ROOT / ".ci" / "run")
