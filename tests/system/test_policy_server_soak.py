"""The soak of `policy_server_soak.py`, an hour there and a few seconds here."""

from __future__ import annotations

from pathlib import Path

from policy_server_soak import soak
from server_process import running_server
from tiny_bundle import save_bundle

SECONDS, RATE = 15.0, 20.0


def test_no_error_and_no_growing_memory(tmp_path: Path) -> None:
    bundle = save_bundle(tmp_path / "tiny")
    arguments = ("--bundle", str(bundle), "--port", "0", "--log-file", str(tmp_path / "log"))
    with running_server(*arguments) as server:
        result = soak(server, SECONDS, RATE, clients=4)
        answered = server.metric('policy_requests_total{outcome="OK"}')
    assert result.errors == 0, result
    assert result.requests == answered
    # A loaded machine may not ask as often as it should; a leak would show all the same.
    assert result.requests >= 20
    assert result.memory_growth < 0.1, result
