"""Another bundle takes over: between two requests, or not at all."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from server_process import PATIENCE_S, fetch
from serving import GatedPolicy, serving
from tiny_bundle import make_observation, save_bundle, tiny_manifest

from contracts.bundle import write_manifest
from policy_server.bundle_host import BundleHost
from policy_server.client import PolicyClient
from policy_server.policy import Policy
from policy_server.refusal import PolicyRefused, Reason

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_bundle(tmp_path_factory.mktemp("bundles") / "other", dynamic_steps=False)
    write_manifest(directory, replace(tiny_manifest(), name="other"))
    return directory


def load(name: str) -> Policy:
    return Policy.load(Path(name))


def change(http: str, bundle: object) -> tuple[int, dict[str, str]]:
    code, body = fetch(http + "/bundle", json.dumps({"bundle": bundle}).encode(), JSON)
    return code, json.loads(body)


def test_clients_go_on_while_bundles_change(bundle_directory: Path, other_bundle: Path) -> None:
    policies = {str(path): load(str(path)) for path in (bundle_directory, other_bundle)}
    first = policies[str(bundle_directory)]
    stop, seen, failures = threading.Event(), set(), []

    def ask(url: str) -> None:
        with PolicyClient(url, timeout_s=PATIENCE_S) as client:
            try:
                while not stop.is_set():
                    client.infer(make_observation())
                    seen.add(client.metadata()["policy"])
            except Exception as error:
                failures.append(error)

    with serving(first, load) as server:
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            client.metadata()  # comes once the first bundle is warm
        threads = [threading.Thread(target=ask, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for path in (other_bundle, bundle_directory, other_bundle):
                before = server.service.host.policy.bundle_hash
                code, answer = change(server.http, str(path))
                assert (code, answer["previous_bundle_hash"]) == (200, before)
                assert answer["bundle_hash"] == policies[str(path)].bundle_hash
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            assert client.metadata()["policy"] == "other"
    assert not failures
    assert "tiny" in seen


def test_a_client_learns_of_the_other_bundle(bundle_directory: Path, other_bundle: Path) -> None:
    with (
        serving(load(str(bundle_directory)), load) as server,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        client.infer(make_observation())
        assert client.metadata()["policy"] == "tiny"
        change(server.http, str(other_bundle))
        client.infer(make_observation())
        assert client.metadata()["policy"] == "other"


def test_a_damaged_bundle_is_refused_and_the_old_one_serves(
    bundle_directory: Path, tmp_path: Path
) -> None:
    save_bundle(tmp_path)
    graph = bytearray((tmp_path / "backbone.onnx").read_bytes())
    graph[len(graph) // 3] ^= 4
    (tmp_path / "backbone.onnx").write_bytes(graph)
    with serving(load(str(bundle_directory)), load) as server:
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            before = client.metadata()["bundle_hash"]
            code, answer = change(server.http, str(tmp_path))
            assert (code, answer["reason_code"]) == (422, "BAD_BUNDLE")
            assert "hash" in answer["message"]
            client.infer(make_observation())
            assert client.metadata()["bundle_hash"] == before
        assert server.service.metrics.gauges().swaps == 0


class Failing(Policy):
    """Fails from its `good` batches on."""

    good = 0

    def infer_batch(self, requests):
        self.good -= 1
        if self.good < 0:
            raise MemoryError("no memory left on the device")
        return super().infer_batch(requests)


def failing(directory: Path, good: int) -> Policy:
    policy = Failing.load(directory)
    policy.good = good
    return policy


def test_a_bundle_that_cannot_warm_up_never_serves(bundle_directory: Path) -> None:
    old = load(str(bundle_directory))
    host = BundleHost(old, lambda name: failing(bundle_directory, good=1))
    with pytest.raises(PolicyRefused, match="no memory left") as refused:
        host.swap("any")
    assert refused.value.reason_code is Reason.BAD_BUNDLE
    assert host.policy is old
    assert not host.loading


def test_a_bundle_that_fails_its_first_batch_is_rolled_back(bundle_directory: Path) -> None:
    old = load(str(bundle_directory))
    with (
        serving(old, lambda name: failing(bundle_directory, good=2)) as server,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        client.metadata()
        assert change(server.http, "any")[0] == 200
        client.infer(make_observation())
        assert server.service.host.policy is old
        assert server.service.metrics.gauges().rollbacks == 1


def test_only_one_bundle_is_loaded_at_a_time(bundle_directory: Path) -> None:
    gated = GatedPolicy.load(bundle_directory)
    host = BundleHost(load(str(bundle_directory)), lambda name: gated)
    thread = threading.Thread(target=host.swap, args=("slow",))
    thread.start()
    try:
        while not gated.batches:
            time.sleep(0.005)
        with pytest.raises(PolicyRefused) as refused:
            host.swap("another")
        assert refused.value.reason_code is Reason.BUSY
    finally:
        gated.gate.set()
        thread.join()
    assert host.policy is gated


def test_the_bundle_says_which_instructions_it_knows(tmp_path: Path) -> None:
    save_bundle(tmp_path)
    manifest = tiny_manifest()
    known = {**manifest.provenance, "instructions": ["pick up the cup"]}
    write_manifest(tmp_path, replace(manifest, provenance=known))
    observation = make_observation()
    with (
        serving(load(str(tmp_path))) as server,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        with pytest.raises(PolicyRefused, match="pick up the cup") as refused:
            client.infer(observation)
        assert refused.value.reason_code is Reason.UNKNOWN_INSTRUCTION
        client.infer(replace(observation, instruction="pick up the cup"))
