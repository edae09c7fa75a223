"""The image: what goes into it, who runs it, and what it is told."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from criticrm_server.settings import Settings
from support.deployed import DOCKER, OVERLAYS, ROOT, dockerfile, image_environment, load, overlay

UID = 10001


def test_all_that_the_wheel_is_made_of_reaches_the_builder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *(package.split("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]),
        *re.findall(r"^COPY (scripts/\S+)", dockerfile(), re.MULTILINE),
    }
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == needed


def test_both_targets_run_as_the_same_user_who_owns_the_cache() -> None:
    stages = re.split(r"^FROM ", dockerfile(), flags=re.MULTILINE)
    targets = [stage for stage in stages if re.match(r"runtime AS (cpu|gpu)\n", stage)]
    assert [re.findall(r"^USER (.*)$", stage, re.MULTILINE) for stage in targets] == [[f"{UID}:{UID}"]] * 2
    assert f"--uid {UID}" in dockerfile()
    assert image_environment()["HOME"] == "/cache"
    assert "VOLUME /cache" in dockerfile()


def test_signals_reach_the_server() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", dockerfile(), re.MULTILINE)
    assert json.loads(entry) == ["criticrm"]  # in exec form


def test_every_setting_in_these_files_is_one() -> None:
    """A variable that is misspelt here would be ignored in silence."""
    known = {f"CRITICRM_{name.upper()}" for name in Settings.model_fields} | {"CRITICRM_CACHE"}
    files = [path for path in DOCKER.rglob("*") if path.is_file() and path.suffix != ".json"]
    found = {(path, name) for path in files for name in re.findall(r"\bCRITICRM_[A-Z_]+", path.read_text("utf-8"))}
    assert len(found) > 10
    assert {(path.relative_to(ROOT), name) for path, name in found if name not in known} == set()


def settings(environment: dict[str, str]) -> Settings:
    """As the server would read them; anything but these files' own is the default's."""
    values = {n.removeprefix("CRITICRM_").lower(): v for n, v in environment.items() if n.startswith("CRITICRM_")}
    return Settings.model_validate({"api_keys": "key", **values})


def test_the_image_listens_where_it_can_be_reached_and_asks_for_a_key() -> None:
    given = settings(image_environment())
    assert (given.host, given.port) == ("0.0.0.0", 8000)
    assert "EXPOSE 8000" in dockerfile()
    assert "API_KEYS" not in dockerfile()


def test_compose_gives_the_drain_its_time() -> None:
    service = load(DOCKER / "compose.yaml")["services"]["critic-rm"]
    drain = settings({"CRITICRM_DRAIN_TIMEOUT_S": str(service["environment"]["CRITICRM_DRAIN_TIMEOUT_S"])})
    assert float(service["stop_grace_period"].removesuffix("s")) >= drain.drain_timeout_s + 5 + 10


def test_kubernetes_gives_the_drain_its_time() -> None:
    for name in OVERLAYS:
        manifests = {manifest["kind"]: manifest for manifest in overlay(name)}
        pod = manifests["Deployment"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        sleep = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
        given = settings(image_environment() | manifests["ConfigMap"]["data"])
        assert pod["terminationGracePeriodSeconds"] >= sleep + given.drain_timeout_s + 5 + 10
        assert container["ports"][0]["containerPort"] == given.port
        assert pod["securityContext"]["runAsUser"] == UID
        gpus = container["resources"]["limits"].get("nvidia.com/gpu", 1)
        assert gpus == given.tensor_parallel_size


def test_nothing_of_this_machine_is_in_these_files() -> None:
    for path in (*DOCKER.rglob("*"), ROOT / ".dockerignore"):
        if path.is_file():
            assert str(Path.home()) + "/" not in path.read_text("utf-8").replace("/root/.cache/pip", ""), path
