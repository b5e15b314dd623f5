"""What is deployed beside touchline: alerts and dashboard, held against the metrics that there really are."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import validator_for  # type: ignore[import-untyped]

from engines.bundle import BundleName
from streamer.metrics import Metrics

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "touchline.json"
PAGE = ROOT / "docs" / "monitoring.md"
RULES = (PROMETHEUS / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
OF_PROMETHEUS = {"ALERTS": {"alertname", "alertstate"}, "up": set[str]()}
OF_THE_TARGET = {"job", "instance", "stream", "le"}


def promtool(*arguments: object, stdin: bytes | None = None) -> str:
    """Run promtool; return what it says, or fail with it."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def exposition() -> str:
    """The metrics of a run in which nothing has happened yet."""
    metrics = Metrics()
    metrics.describe("1.2.3", BundleName("demo", "abc"), {"Goal": 4.5}, {"Goal": 4.5})
    for stage in ("head", "publish"):
        metrics.stage.labels(stage)
    return metrics.text().decode()


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give those that show something."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def expressions(dashboard: dict[str, Any]) -> list[str]:
    """Return the panels' PromQL, with intervals in place of Grafana's variables."""
    found = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "1m").replace("$__range", "1h") for expr in found]


def series(exposition: str) -> dict[str, dict[str, set[str]]]:
    """Return what there is: name → label → values."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", exposition, re.M):
        kept = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            kept.setdefault(label, set()).add(value)
    return found


def asked_for(text: str) -> set[tuple[str, str]]:
    """Return the selectors in PromQL: names, and what stands in their braces."""
    return set(re.findall(r"\b((?:touchline|process)_\w+|ALERTS|up)\b(?:\{([^}]*)\})?", text))


def test_promtool_finds_nothing_to_mend_in_metrics_that_nothing_has_happened_to(exposition: str) -> None:
    assert promtool("check", "metrics", stdin=exposition.encode()) == ""


def test_the_scrape_configuration_is_valid(tmp_path: Path) -> None:
    copy = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, copy)
    (copy / "touchline.token").write_text("secret\n")
    assert "SUCCESS" in promtool("check", "config", copy / "prometheus.yml")


def test_every_alert_fires_for_what_is_sick_and_not_for_what_is_well() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "rules_test.yml")


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tests, page = (PROMETHEUS / "rules_test.yml").read_text(), PAGE.read_text()
    assert len(ALERTS) == len(set(ALERTS)) > 10
    for alert in ALERTS:
        assert f'alertname="{alert}"' in tests, alert
        assert f"`{alert}`" in page, alert
    for part in ("for: ", "labels: {severity: ", "summary: ", "description: "):
        assert RULES.count(f"  {part}") == len(ALERTS), part


def test_every_expression_of_the_dashboard_is_promql(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(expressions(dashboard))]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)


def test_alerts_and_dashboard_ask_only_for_what_there_is(dashboard: dict[str, Any], exposition: str) -> None:
    there_is = series(exposition)
    variables = " ".join(json.dumps(variable["query"]) for variable in dashboard["templating"]["list"])
    asked = asked_for("\n".join([RULES, variables, *expressions(dashboard)]))
    assert len(asked) > 40
    for name, matchers in asked:
        if name.startswith("process_") and sys.platform != "linux":
            continue  # the client library has them on Linux only
        assert name in there_is or name in OF_PROMETHEUS, name
        for label, operator, wanted in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers):
            if label in OF_THE_TARGET | OF_PROMETHEUS.get(name, set()):
                continue
            values = there_is[name].get(label, set())
            assert set(wanted.split("|")) <= values, f"{name}: {label}{operator}{wanted!r} not in {sorted(values)}"


def test_grafana_understands_every_field_of_the_dashboard(dashboard: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "schemas" / "grafana-dashboard.json").read_text())
    validator = validator_for(schema)(schema)
    errors = [f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(dashboard)]
    assert not errors
    dashboard = json.loads(json.dumps(dashboard))
    next(panels(dashboard))["options"]["colourMode"] = "value"
    assert not validator.is_valid(dashboard), "the schema lets anything pass"


def test_every_panel_says_what_it_shows_in_which_unit_and_from_where(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0, panel["title"]


def test_no_panel_covers_another(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_has_our_prefix_and_is_explained(exposition: str) -> None:
    page = PAGE.read_text()
    names = re.findall(r"^# TYPE (\w+) ", exposition, re.M)
    assert len(names) > 30
    for name in names:
        assert name.startswith(("touchline_", "process_")), name
        assert f"`{name}`" in page, name
