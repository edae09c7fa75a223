"""compose.yaml: hardened, on loopback unless told, and whole."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest

from support.deployed import DOCKER, load

SERVICES: dict[str, dict[str, Any]] = load(DOCKER / "compose.yaml")["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    for port in service["ports"]:
        assert re.match(r"127\.0\.0\.1:|\$\{PUBLISH:-127\.0\.0\.1:", port), port


def test_what_is_mounted_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"] if mount.startswith("./")]
    assert len(mounts) == 4
    assert all((DOCKER / mount.split(":")[0]).exists() for mount in mounts)


def test_every_variable_is_in_the_example() -> None:
    text = "".join((DOCKER / name).read_text("utf-8") for name in ("compose.yaml", "compose.gpu.yaml"))
    arguments = SERVICES["critic-rm"]["build"]["args"]  # those without a value are read from the environment too
    used = {*re.findall(r"\$\{(\w+)", text), *arguments}
    example = (DOCKER / ".env.example").read_text("utf-8")
    assert used == set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))


def test_grafana_lets_nobody_in_without_a_password() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_compose_itself_takes_it(files: tuple[str, ...]) -> None:
    options = [part for name in files for part in ("--file", str(DOCKER / name))]
    keys = {"CRITICRM_API_KEYS": "key", "GRAFANA_ADMIN_PASSWORD": "word"}
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", *options, "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **keys}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
