"""Alerts and dashboard ask for what the service really exposes: metrics, labels, error codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

import criticrm_model.errors
import criticrm_server.errors
from conftest import StartApp
from criticrm_model import CriticRMError
from criticrm_server.error_handlers import INTERNAL, INVALID_JSON, INVALID_REQUEST
from support.deployed import DOCKER, KUBERNETES, ROOT, load, run

MONITORING = DOCKER / "monitoring"
ALERTS: list[dict[str, Any]] = [rule for group in load(MONITORING / "alerts.yaml")["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "critic-rm.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPED = {"job", "instance"}  # labels that Prometheus adds

# vLLM's metrics, registered as its server does, without an engine.
_VLLM = """
import os, sys
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # it logs to standard output
from prometheus_client import generate_latest
from vllm import AsyncEngineArgs
from vllm.v1.metrics.loggers import PrometheusStatLogger
PrometheusStatLogger(AsyncEngineArgs(model=sys.argv[1], max_model_len=512).create_engine_config())
sys.stdout.write(generate_latest().decode())
"""


def queries() -> Iterator[tuple[str, str]]:
    """Where a query is from, and its text, with the dashboard's variables filled in."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$job", "critic-rm")
            yield panel["title"], text.replace("$instance", ".*")
    adapter = load(KUBERNETES / "components" / "autoscaling" / "prometheus-adapter.yaml")
    for rule in adapter["rules"]["custom"]:
        yield "prometheus-adapter", rule["seriesQuery"]


def selectors() -> list[tuple[str, promql_parser.VectorSelector]]:
    found: list[tuple[str, promql_parser.VectorSelector]] = []
    for place, text in queries():

        def visit(node: promql_parser.Expr, place: str = place) -> bool:
            if isinstance(node, promql_parser.VectorSelector):
                found.append((place, node))
            return True

        promql_parser.walk(promql_parser.parse(text), visit)
    return found


def labels_of(text: str) -> dict[str, set[str]]:
    """The labels of each sample of an exposition."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        name: {label for s in samples if s.name == name for label in s.labels} for name in {s.name for s in samples}
    }


def unknown(exposed: dict[str, set[str]], prefix: str) -> list[str]:
    faults = []
    for place, selector in selectors():
        if selector.name.startswith(prefix):
            if selector.name not in exposed:
                faults.append(f"{place}: no metric {selector.name}")
                continue
            labels = {matcher.name for matcher in selector.matchers.matchers} - SCRAPED - {"namespace", "pod"}
            faults += [f"{place}: {selector.name} has no label {label}" for label in labels - exposed[selector.name]]
    return faults


async def test_the_service_exposes_what_is_asked_for(start_app: StartApp) -> None:
    async with start_app() as app:
        await app.score(prompt="Q", responses=["A"])
        await app.score(prompt=1)
        exposed = labels_of((await app.client.get("/metrics")).text)
    names = {selector.name for _, selector in selectors()}
    assert {name for name in names if not name.startswith(("criticrm_", "process_", "vllm:"))} == {"up"}
    assert unknown(exposed, "criticrm_") + unknown(exposed, "process_") == []
    # Nothing that the service says of itself goes unseen.
    suffix = re.compile("_(bucket|count|sum|created|total)$")
    ours = {suffix.sub("", name) for name in exposed if name.startswith("criticrm_")}
    assert ours == {suffix.sub("", name) for name in names if name.startswith("criticrm_")}


@pytest.mark.integration
def test_vllm_exposes_what_is_asked_for(tiny_checkpoint: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _VLLM, tiny_checkpoint], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    exposed = labels_of(done.stdout)
    assert sum(name.startswith("vllm:") for name in exposed) > 20
    assert unknown(exposed, "vllm:") == []


def test_the_error_codes_asked_for_exist() -> None:
    kinds = [*vars(criticrm_model.errors).values(), *vars(criticrm_server.errors).values()]
    errors = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, CriticRMError)]
    codes = {error.code for error in errors} | {INVALID_REQUEST, INVALID_JSON, INTERNAL}
    asked = {
        code
        for _, selector in selectors()
        for matcher in selector.matchers.matchers
        if matcher.name == "code"
        for code in matcher.value.split("|")
    }
    assert len(asked) > 3
    assert asked <= codes


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_every_alert() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    headings = {line.lstrip("# ").lower() for line in runbook.splitlines() if line.startswith("#")}
    assert {rule["alert"].lower() for rule in ALERTS} <= headings


def test_prometheus_takes_its_files_and_the_rules_fire() -> None:
    run("promtool", "check", "config", MONITORING / "prometheus.yaml")
    run("promtool", "test", "rules", Path(__file__).with_name("alerts_test.yaml"))


def test_panels_have_room_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_finds_its_data_source() -> None:
    (source,) = load(MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    variable = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == "datasource")
    assert variable["query"] == source["type"] == "prometheus"
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in PANELS for target in panel["targets"])
    services = load(DOCKER / "compose.yaml")["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    (job,) = load(MONITORING / "prometheus.yaml")["scrape_configs"]
    assert job["static_configs"][0]["targets"][0].split(":")[0] in services
