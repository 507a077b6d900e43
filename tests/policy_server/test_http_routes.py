"""The typed HTTP routes: a chunk in msgpack, refusals in JSON, the status page and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server_process import PATIENCE_S, fetch
from serving import ServedPolicy, serving
from tiny_bundle import HORIZON, make_observation

from contracts import wire
from policy_server.access import AccessLimits
from policy_server.client import PolicyClient
from policy_server.metrics import BUCKETS_MS, STAGES, Gauges, ServerMetrics
from policy_server.policy import Policy
from policy_server.refusal import MEANINGS, Reason
from policy_server.status_page import nice_ceiling, render

MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
README = Path(__file__).resolve().parents[2] / "policy_server" / "README.md"


@pytest.fixture(scope="module")
def served(bundle_directory: Path) -> Iterator[ServedPolicy]:
    with serving(Policy.load(bundle_directory)) as server:
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            client.metadata()  # returns once it is warm
        yield server


def request(**options: object) -> wire.ActionRequest:
    return wire.ActionRequest(make_observation(), {"seed": 3, "steps": 2}, **options)


def reason(body: bytes) -> str:
    return json.loads(body)["reason_code"]


def test_http_and_websocket_give_the_same_chunk(served: ServedPolicy) -> None:
    body = wire.pack(wire.request_to_message(request()))
    code, reply = fetch(served.http + "/infer", body, MSGPACK)
    assert code == 200
    message = wire.unpack(reply)
    with PolicyClient(served.url, timeout_s=PATIENCE_S) as client:
        answer = client.infer(make_observation(), seed=3, steps=2)
    np.testing.assert_array_equal(wire.chunk_from_message(message).poses, answer.chunk.poses)
    assert set(message["server_timing"]) == set(STAGES) - {"total"}


def test_the_answer_may_be_sent_back_as_the_chunk_under_execution(served: ServedPolicy) -> None:
    body = wire.pack(wire.request_to_message(request()))
    answer = wire.unpack(fetch(served.http + "/infer", body, MSGPACK)[1])
    again = wire.request_to_message(request()) | {"previous": answer}
    code, reply = fetch(served.http + "/infer", wire.pack(again), MSGPACK)
    assert code == 200
    assert wire.chunk_from_message(wire.unpack(reply)).horizon == HORIZON
    with PolicyClient(served.url, timeout_s=PATIENCE_S) as client:
        previous = wire.chunk_from_message(answer)
        chunk = client.infer(make_observation(), previous=previous, delay=2).chunk
        assert chunk.horizon == HORIZON


@pytest.mark.parametrize(
    ("path", "body", "headers", "code", "expected"),
    [
        ("/infer", b"\xc1", MSGPACK, 400, Reason.BAD_MESSAGE),
        ("/infer", b"\x80", JSON, 400, Reason.BAD_MESSAGE),
        ("/infer", b"\x80", MSGPACK, 422, Reason.BAD_OBSERVATION),
        ("/infer", None, {}, 405, Reason.BAD_MESSAGE),
        ("/nothing", None, {}, 404, Reason.BAD_MESSAGE),
        ("/bundle", b"{}", JSON, 400, Reason.BAD_MESSAGE),
        ("/bundle", b"{", JSON, 400, Reason.BAD_MESSAGE),
        ("/bundle", b'{"bundle": "a\\u0000b"}', JSON, 400, Reason.BAD_MESSAGE),
        ("/bundle", b'{"bundle": "' + b"a" * 2**15 + b'"}', JSON, 400, Reason.BAD_MESSAGE),
        ("/bundle", b'{"bundle": "tiny"}', {"Content-Type": "text/plain"}, 400, Reason.BAD_MESSAGE),
        ("/metadata", None, {"Origin": "http://evil.example"}, 403, Reason.FORBIDDEN),
    ],
)
def test_refusals_have_a_code_and_a_status(
    served: ServedPolicy,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    code: int,
    expected: Reason,
) -> None:
    status, reply = fetch(served.http + path, body, headers)
    assert (status, reason(reply)) == (code, expected)


def test_schema_names_every_reason_of_infer(served: ServedPolicy) -> None:
    schema = json.loads(fetch(served.http + "/openapi.json")[1])
    responses = schema["paths"]["/infer"]["post"]["responses"]
    text = " ".join(response["description"] for response in responses.values())
    others = {Reason.BAD_BUNDLE, Reason.BUSY, Reason.TOO_MANY_CONNECTIONS}
    assert {name for name in Reason if f"{name}: " in text} == set(Reason) - others
    assert schema["components"]["schemas"]["Reason"]["enum"] == list(Reason)


def test_rate_limit_counts_an_address_on_both_doors(bundle_directory: Path) -> None:
    limits = AccessLimits(requests_per_second=1e-6, burst=3)
    with (
        serving(Policy.load(bundle_directory), limits=limits) as server,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        client.infer(make_observation())
        client.infer(make_observation())
        body = wire.pack(wire.request_to_message(request()))
        assert fetch(server.http + "/infer", body, MSGPACK)[0] == 200
        status, reply = fetch(server.http + "/infer", body, MSGPACK)
        assert (status, reason(reply)) == (429, "RATE_LIMITED")


def test_the_token_guards_every_route_that_tells_or_does_something(bundle_directory: Path) -> None:
    with serving(Policy.load(bundle_directory), token="secret") as server:
        for path in ("/", "/metadata", "/metrics"):
            assert fetch(server.http + path)[0] == 401
            assert fetch(server.http + path, headers={"Authorization": "Api-Key secret"})[0] == 200
        for path, kind in (("/infer", MSGPACK), ("/bundle", JSON)):
            status, reply = fetch(server.http + path, b"", kind)
            assert (status, reason(reply)) == (401, "UNAUTHORISED")
        assert fetch(server.http + "/healthz")[0] == 200


def test_metrics_count_what_happened(bundle_directory: Path) -> None:
    with (
        serving(Policy.load(bundle_directory)) as server,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        for _ in range(5):
            client.infer(make_observation())
        fetch(server.http + "/infer", b"\xc1", MSGPACK)
        text = fetch(server.http + "/metrics")[1].decode()
    assert 'policy_requests_total{outcome="OK"} 5.0' in text
    assert 'policy_requests_total{outcome="BAD_MESSAGE"} 1.0' in text
    assert 'policy_stage_milliseconds_bucket{le="+Inf",stage="total"} 5.0' in text
    assert "policy_connections 1.0" in text
    assert "process_resident_memory_bytes" in text
    assert re.search(r'policy_bundle_info\{.*name="tiny".*\} 1.0', text)


# --- the status page ---------------------------------------------------------------------------


def filled(answers: int) -> ServerMetrics:
    state = Gauges(True, False, 0, 2, 0, 0, 0, "<tiny>", "0123456789abcdef")
    metrics = ServerMetrics(lambda: state)
    for number in range(answers):
        metrics.answered(1e9 + number, dict.fromkeys(STAGES, 1.0 + number % 7))
    return metrics


@pytest.mark.parametrize("answers", [0, 1, 2, 500])
def test_page_shows_each_answer_and_escapes_names(answers: int) -> None:
    metrics = filled(answers)
    metrics.refused(Reason.QUEUE_FULL)
    page = render(metrics)
    assert page.count("<circle") == (answers if answers > 1 else 0)
    assert "&lt;tiny&gt;" in page
    assert "<tiny>" not in page
    assert "QUEUE_FULL" in page
    assert "$" not in page
    assert "prefers-color-scheme: dark" in page


def test_page_stands_on_its_own(served: ServedPolicy) -> None:
    status, page = fetch(served.http + "/")
    assert status == 200
    assert not re.search(rb"<script|https?://|src=", page)


def test_every_time_is_in_one_bucket() -> None:
    metrics = filled(30)
    for latency in metrics.stages.values():
        assert sum(latency.counts) == 30
        assert len(latency.counts) == len(BUCKETS_MS) + 1


def test_axes_end_at_round_numbers() -> None:
    assert [nice_ceiling(value) for value in (0.7, 1.0, 1.1, 33.0, 99.0)] == [1, 1, 2, 50, 100]


def test_the_readme_has_the_table_of_reason_codes() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    assert rows == [
        (code, str(meaning.http_status), meaning.text) for code, meaning in MEANINGS.items()
    ]
    assert list(MEANINGS) == list(Reason)
