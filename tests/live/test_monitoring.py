"""The files for Prometheus and Grafana speak of metrics that there are, in sound queries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from stocktrace.live.health import PROBLEM_KINDS
from stocktrace.live.metrics import Metrics
from stocktrace.settings import Settings
from tests.live.test_metrics import busy, samples

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "stocktrace.json"
NAME = re.compile(r"\b(?:stocktrace|process)_[a-z_]+")


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries(dashboard: Any) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


@pytest.fixture
def exported(tmp_path: Path) -> set[str]:
    """The names of all samples of a scrape."""
    registry = CollectorRegistry()
    metrics = Metrics(Settings.load(data_dir=tmp_path))
    metrics(busy())
    registry.register(metrics)
    ProcessCollector(registry=registry)
    return {name for name, _ in samples(generate_latest(registry).decode())}


def test_every_metric_that_an_alert_or_a_panel_names_is_exported(
    dashboard: Any, exported: set[str]
) -> None:
    named = {name for query in queries(dashboard) for name in NAME.findall(query)}
    named |= {name for rule in rules() for name in NAME.findall(rule["expr"])}
    assert len(named) > 20
    assert named - exported == set()


def test_every_metric_is_on_a_panel_or_in_an_alert_or_listed_here(
    dashboard: Any, exported: set[str]
) -> None:
    text = " ".join([*queries(dashboard), *(rule["expr"] for rule in rules())])
    exported.discard("stocktrace_disk_free_inodes")  # btrfs has no limit
    assert {name for name in exported if name.startswith("stocktrace_") and name not in text} == {
        "stocktrace_notices_total",
        "stocktrace_parquet_files_total",
        "stocktrace_publishing_oldest_seconds",
        "stocktrace_reconnect_attempt",
        "stocktrace_session_elapsed_seconds",
        "stocktrace_tickers",
        "stocktrace_trades_published_total",
        "stocktrace_trades_unrequested_total",
    }


def test_alerts_name_existing_kinds_of_problems() -> None:
    asked = {
        kind for rule in rules() for kind in re.findall(r'problems{kind="(\w+)"', rule["expr"])
    }
    assert asked
    assert asked <= set(PROBLEM_KINDS)


def test_every_alert_has_a_summary_and_a_severity() -> None:
    for rule in rules():
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
    names = [rule["alert"] for rule in rules()]
    assert sorted(set(names)) == sorted(names)


def test_every_alert_is_covered_by_the_test_of_the_rules() -> None:
    text = (DEPLOY / "prometheus" / "alerts.test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"' not in text] == []


def test_the_panels_have_unique_ids_and_do_not_overlap(
    dashboard: Any,
) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells
        cells |= own
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def promtool(*words: str | Path) -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    done = subprocess.run(
        [tool, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_sample_and_the_alerts() -> None:
    promtool("check", "config", CONFIG)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", DEPLOY / "prometheus" / "alerts.test.yml")


def test_prometheus_accepts_every_query_of_the_dashboard(dashboard: Any, tmp_path: Path) -> None:
    expressions = [
        re.sub(r"\$\w+", ".*", query)
        for query in queries(dashboard)
        if query and not query.startswith("label_values")
    ]
    found = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": found}]}))
    assert f"{len(expressions)} rules found" in promtool("check", "rules", file)
