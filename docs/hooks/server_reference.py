"""Reference of the policy server: routes, reason codes and metrics, from its own description."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from policy_server.app import create_app
from policy_server.metrics import STAGES, Gauges, ServerMetrics
from policy_server.refusal import MEANINGS, Reason
from policy_server.service import PolicyService


def http() -> str:
    """Markdown: the routes from OpenAPI, and the reason codes."""
    # The routes are described without a policy behind them.
    app = create_app(cast(PolicyService, SimpleNamespace()))
    described = app.openapi()
    lines = [
        "# HTTP routes",
        "",
        "The same port speaks openpi's websocket protocol. `/openapi.json` has all of this for "
        "machines.",
        "",
        "| route | answer | |",
        "| --- | --- | --- |",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            text = operation["description"].replace("\n", " ")
            lines.append(f"| `{method.upper()} {path}` | {_answer(operation)} | {text} |")
    lines += [
        "",
        "## Reason codes",
        "",
        "Every request gets a chunk or one of these, on the websocket as the text "
        "`CODE: message`, over HTTP as JSON with this status.",
        "",
        "| code | status | meaning | worth another try |",
        "| --- | --- | --- | --- |",
    ]
    for reason, meaning in MEANINGS.items():
        again = "yes" if meaning.passing else "no"
        lines.append(f"| `{reason}` | {meaning.http_status} | {meaning.text} | {again} |")
    return "\n".join([*lines, ""])


def metrics() -> str:
    """Markdown: what `/metrics` gives Prometheus."""
    state = Gauges(True, False, 0, 0, 0, 0, 0, policy="", bundle_hash="")
    served = ServerMetrics(lambda: state)
    served.answered(0.0, dict.fromkeys(STAGES, 1.0))
    served.refused(Reason.DEADLINE)
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` of the policy server, in Prometheus' text format; with a token, if the "
        "server has one (`deploy/prometheus/prometheus.yml`). Beside these there are the usual "
        "`process_*` ones.",
        "",
        "| metric | kind | labels | |",
        "| --- | --- | --- | --- |",
    ]
    for family in served.collect():
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        name = family.samples[0].name if family.type != "histogram" else family.name
        cells = (
            f"`{name}`",
            family.type,
            ", ".join(f"`{n}`" for n in labels),
            family.documentation,
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Stages: " + ", ".join(f"`{stage}`" for stage in STAGES) + ".", ""]
    return "\n".join(lines)


def _answer(operation: dict[str, Any]) -> str:
    content = operation["responses"].get("200", {}).get("content", {})
    return ", ".join(f"`{kind}`" for kind in content)
