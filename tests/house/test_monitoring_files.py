"""Monitoring: dashboards and alerts ask for metrics that exist, and nothing listens beyond here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from policy_server.metrics import STAGES, Gauges, ServerMetrics
from policy_server.refusal import Reason

NODE_EXPORTER = {
    "node_cpu_seconds_total", "node_filesystem_avail_bytes", "node_filesystem_size_bytes",
    "node_load1", "node_memory_MemAvailable_bytes", "node_network_receive_bytes_total",
    "node_network_receive_drop_total", "node_timex_offset_seconds", "node_timex_sync_status",
}  # fmt: skip
OF_PROMETHEUS = {"up"}
WORDS = {
    "abs", "and", "avg", "by", "histogram_quantile", "increase", "max", "min", "on", "or", "rate",
    "sum", "vector",
}  # fmt: skip
DASHBOARDS = ("policy_server", "robot", "machines")


def dashboard(repository: Path, name: str) -> dict:
    return json.loads((repository / f"deploy/grafana/dashboards/{name}.json").read_text())


def expressions(repository: Path) -> list[str]:
    """Of every panel and every alert."""
    found = [
        target["expr"]
        for name in DASHBOARDS
        for panel in dashboard(repository, name)["panels"]
        for target in panel["targets"]
    ]
    alerts = yaml.safe_load((repository / "deploy/prometheus/alerts.yml").read_text())
    found += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(found) > 25
    return found


def served_metrics() -> dict[str, set[str]]:
    """Labels by metric, from the text that the policy server gives Prometheus."""
    metrics = ServerMetrics(
        lambda: Gauges(True, False, 0, 0, 0, 0, 0, policy="lab", bundle_hash="abc")
    )
    metrics.answered(0.0, dict.fromkeys(STAGES, 1.0))
    metrics.refused(Reason.DEADLINE)
    found: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()
            found[name] = set(re.findall(r"(\w+)=", labels or ""))
    return found


def robot_metrics(repository: Path) -> set[str]:
    """As roboalign.metrics_node and its collector name them, with Prometheus' suffixes."""
    folder = repository / "ros2_ws/src/roboalign/roboalign"
    gauges, counters = set(), set()
    for name in ("metrics_node", "robot_metrics"):
        text = (folder / f"{name}.py").read_text()
        counters |= set(re.findall(r"counter\(\s*\"(robot_\w+)", text))
        gauges |= set(re.findall(r"\"(robot_\w+)\"", text)) - counters
    assert "robot_queue_seconds" in gauges and "robot_policy_requests" in counters
    histogram = {f"robot_stage_milliseconds_{part}" for part in ("bucket", "sum", "count")}
    return gauges | histogram | {f"{name}_total" for name in counters}


def names_in(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[\w+\]|by \([^)]*\)", " ", expression)
    return set(re.findall(r"[A-Za-z_]\w*", bare)) - WORDS


def test_every_expression_asks_for_metrics_that_exist(repository: Path) -> None:
    known = set(served_metrics()) | robot_metrics(repository) | NODE_EXPORTER | OF_PROMETHEUS
    unknown = {name for text in expressions(repository) for name in names_in(text)} - known
    assert not unknown


def test_a_metric_that_does_not_exist_is_seen() -> None:
    assert names_in('sum by (stage) (rate(policy_no{stage="x"}[1m]))') == {"policy_no"}


def test_labels_are_those_of_the_metrics(repository: Path) -> None:
    served = served_metrics()
    pairs = [
        (name, label)
        for text in expressions(repository)
        for name, labels in re.findall(r"(policy_\w+)\{([^}]*)\}", text)
        for label in re.findall(r"(\w+)(?:=|!=)", labels)
    ]
    assert pairs
    assert not [(name, label) for name, label in pairs if label not in served[name]]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_use_the_provisioned_source_and_do_not_overlap(
    repository: Path, name: str
) -> None:
    folder = repository / "deploy/grafana/provisioning/datasources"
    sources = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    document = dashboard(repository, name)
    places: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        assert panel["datasource"]["uid"] == sources[0]["uid"]
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
    identifiers = [panel["id"] for panel in document["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_the_configuration_names_files_that_compose_mounts(repository: Path) -> None:
    folder = repository / "deploy/prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    files = [*config["rule_files"]]
    for job in config["scrape_configs"]:
        files += [name for sd in job.get("file_sd_configs", []) for name in sd["files"]]
    assert files and all((folder / name).is_file() for name in files)
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    secret = config["scrape_configs"][0]["authorization"]["credentials_file"]
    assert Path(secret).name in services["prometheus"]["secrets"]
    mounts = [volume.split(":") for volume in services["grafana"]["volumes"]]
    inside = {target: repository / source for source, target, *_ in mounts}
    provider = yaml.safe_load(
        (inside["/etc/grafana/provisioning"] / "dashboards/roboalign.yml").read_text()
    )
    path = inside[provider["providers"][0]["options"]["path"]]
    assert {file.stem for file in path.glob("*.json")} == set(DASHBOARDS)
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (path / Path(home).name).is_file()


def test_monitoring_listens_on_loopback_only(repository: Path) -> None:
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    for name in ("prometheus", "node-exporter"):
        listen = [w for w in services[name]["command"] if w.startswith("--web.listen-address=")]
        assert len(listen) == 1 and "=127.0.0.1:" in listen[0], name
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_every_containers_log_is_rotated(repository: Path) -> None:
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
